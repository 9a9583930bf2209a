"""Samples for training code: a map data set, a stream for PyTorch's DataLoader, MONAI dictionaries, TorchIO subjects.

None of these packages is imported before it is needed: `StreamDataset` comes into being at its first use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Unpack

import numpy as np

from .bundle.load import DEFAULT_BUNDLE
from .bundle.manifest import INT16_SCALE
from .conditions.table import ConditionsLike
from .errors import UsageError
from .generator import Generator, Sample
from .run.arguments import DatasetArguments, MachineArguments, python_call
from .run.request import require_fields

Item = dict[str, Any]


class SyntheticDataset:
    """A map data set: item k is sample k as `{"image", "label", "affine", "index", "requested"}`.

    Needs no torch, but is what PyTorch's `DataLoader` and MONAI's `Dataset` take as data. It may be pickled; each
    worker process loads the bundle for itself at its first item.

    Args:
        count: number of samples.
        transform: applied to each item.
        options: of `Generator.load` (`backend`, `device`, `precision`, `threads`) and of `Generator.generate`.

    Raises:
        UsageError: an argument does not exist or is mistyped; what only the bundle tells is told at the first item.
    """

    @python_call(DatasetArguments)
    def __init__(
        self,
        count: int,
        *,
        bundle: str | os.PathLike[str] = DEFAULT_BUNDLE,
        conditions: ConditionsLike = None,
        transform: Callable[[Item], Any] | None = None,
        **options: Unpack[DatasetArguments],
    ) -> None:
        require_fields(count=count, conditions=conditions, **options)
        self._count, self._transform = int(count), transform
        machine = MachineArguments.__annotations__.keys() & options.keys()
        self._load: Item = {"bundle": bundle, **{name: options[name] for name in machine}}
        self._asked: Item = {"conditions": conditions, **{n: v for n, v in options.items() if n not in machine}}
        self._generator: Generator | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        if not -self._count <= index < self._count:
            raise IndexError(f"sample {index} of {self._count}")
        if self._generator is None:
            self._generator = Generator.load(**self._load)
        item = to_item(self._generator.sample(index % self._count, **self._asked))
        return item if self._transform is None else self._transform(item)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_generator": None}


def to_item(sample: Sample) -> Item:
    """Arrays of a sample: image (modality, x, y, z) float32 0..1, label (1, x, y, z) uint8, affine (4, 4)."""
    return {
        "image": sample.image.astype(np.float32) / np.float32(INT16_SCALE),
        "label": sample.label[None],
        "affine": sample.affine,
        "index": sample.index,
        "requested": sample.requested,
    }


def monai_item(item: Item) -> Item:
    """An item whose image and label are MONAI MetaTensors with their affine; UsageError without MONAI."""
    try:
        from monai.data.meta_tensor import MetaTensor
    except ImportError as error:
        raise UsageError('MONAI is not installed: pip install "sbldm-engine[train]"') from error
    return {**item, **{key: MetaTensor(item[key], affine=item["affine"]) for key in ("image", "label")}}


def torchio_subject(item: Item) -> Any:
    """An item as a TorchIO Subject of a ScalarImage and a LabelMap; UsageError without TorchIO."""
    try:
        import torch
        import torchio
    except ImportError as error:
        raise UsageError("TorchIO is not installed: pip install torchio") from error
    return torchio.Subject(
        image=torchio.ScalarImage(tensor=torch.from_numpy(item["image"]), affine=item["affine"]),
        label=torchio.LabelMap(tensor=torch.from_numpy(np.ascontiguousarray(item["label"])), affine=item["affine"]),
        index=item["index"],
    )


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
        """A `SyntheticDataset` as a stream: of n DataLoader workers, worker w makes the samples w, w + n, ..."""

        def __init__(self, data: SyntheticDataset) -> None:
            self._data = data

        def __iter__(self) -> Iterator[Any]:
            worker = get_worker_info()
            first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
            for index in range(first, len(self._data), step):
                yield self._data[index]

        def __len__(self) -> int:
            return len(self._data)

    StreamDataset.__module__, StreamDataset.__qualname__ = __name__, "StreamDataset"
    return StreamDataset
