"""Samples for training code: a map data set, a stream for PyTorch's DataLoader, MONAI dictionaries, TorchIO subjects.

None of these packages is imported before it is needed: `StreamDataset` comes into being at its first use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Unpack

from .bundle.load import DEFAULT_BUNDLE
from .conditions.table import ConditionsLike
from .errors import UsageError
from .generator import Generator
from .run.arguments import DatasetArguments, MachineArguments, python_call
from .run.request import require_fields
from .sample import Faulty, FaultySampleError, Item, Sample, monai_item, require_faulty, torchio_subject

__all__ = ["Item", "SyntheticDataset", "monai_item", "to_item", "torchio_subject"]


class SyntheticDataset:
    """A map data set: item k is sample k as `{"image", "label", "affine", "index", "requested"}`.

    Needs no torch, but is what PyTorch's `DataLoader` and MONAI's `Dataset` take as data. It may be pickled; each
    worker process loads the bundle for itself at its first item.

    Args:
        count: number of samples.
        transform: applied to each item.
        bundle, require_signature: see `Generator.load`.
        options: of `Generator.load` (`backend`, `device`, `precision`, `threads`) and of `Generator.generate`.

    A faulty sample is no item: it raises FaultySampleError, which `StreamDataset` can be told to skip.

    Raises:
        UsageError: an argument does not exist or is mistyped; what only the bundle tells is told at the first item.
    """

    @python_call(DatasetArguments)
    def __init__(
        self,
        count: int,
        *,
        bundle: str | os.PathLike[str] = DEFAULT_BUNDLE,
        require_signature: str | os.PathLike[str] | None = None,
        conditions: ConditionsLike = None,
        transform: Callable[[Item], Any] | None = None,
        **options: Unpack[DatasetArguments],
    ) -> None:
        require_fields(count=count, conditions=conditions, **options)
        self._count, self._transform = int(count), transform
        machine = MachineArguments.__annotations__.keys() & options.keys()
        self._load: Item = {
            "bundle": bundle,
            "require_signature": require_signature,
            **{name: options[name] for name in machine},
        }
        self._asked: Item = {"conditions": conditions, **{n: v for n, v in options.items() if n not in machine}}
        self._generator: Generator | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        if not -self._count <= index < self._count:
            raise IndexError(f"sample {index} of {self._count}")
        if self._generator is None:
            self._generator = Generator.load(**self._load)
        item = self._generator.sample(index % self._count, **self._asked).to_item()
        return item if self._transform is None else self._transform(item)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_generator": None}


def to_item(sample: Sample) -> Item:
    """`Sample.to_item`, for code that takes functions."""
    return sample.to_item()


def __getattr__(name: str) -> Any:
    if name != "StreamDataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = _stream_dataset()
    return globals()[name]


def _stream_dataset() -> type:
    try:
        from torch.utils.data import IterableDataset, get_worker_info
    except ImportError as error:
        raise UsageError('PyTorch is not installed: pip install "sbldm-engine[train]"') from error

    class StreamDataset(IterableDataset):
        """A `SyntheticDataset` as a stream: of n DataLoader workers, worker w makes the samples w, w + n, ...

        `faulty`: a sample with a fault ends the stream by FaultySampleError (`raise`), or is left out (`skip`).
        """

        def __init__(self, data: SyntheticDataset, faulty: Faulty = "raise") -> None:
            require_faulty(faulty, ("raise", "skip"))
            self._data, self._faulty = data, faulty

        def __iter__(self) -> Iterator[Any]:
            worker = get_worker_info()
            first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
            for index in range(first, len(self._data), step):
                try:
                    item = self._data[index]
                except FaultySampleError:
                    if self._faulty == "raise":
                        raise
                    continue
                yield item

        def __len__(self) -> int:
            return len(self._data)

    StreamDataset.__module__, StreamDataset.__qualname__ = __name__, "StreamDataset"
    return StreamDataset
