"""A bundle as a MONAI bundle: `configs/`, `models/`, `docs/` and LICENSE, as MONAI's specification lays them out.

`models/` is the engine's own bundle, byte for byte, in place of a PyTorch checkpoint: `configs/inference.json` lets
MONAI call the engine (`engine/monai_workflow.py`), so the samples are those of `sbldm-engine generate`.
https://docs.monai.io/en/latest/mb_specification.html
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.bundle.card import CARD_NAME
from ..engine.bundle.load import Bundle, load_bundle
from ..engine.bundle.manifest import INT16_SCALE, MANIFEST_NAME, BundleManifest
from ..engine.versions import installed
from .staging import staged_directory

if TYPE_CHECKING:
    from .bundle import ExportOptions

MODELS = "models"
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
OLDEST = {"monai_version": "1.5.0", "pytorch_version": "2.6.0", "numpy_version": "2.0.0"}
"""What `configs/` was tried with; MONAI takes later ones."""

_TARGETS = "sbldm.engine"
_OPTIONS = (  # of `DirectoryRun`; each may be set on MONAI's command line, null is the engine's default
    "count", "conditions", "seed", "steps", "sampler", "eta", "guidance", "reject", "attempts", "backend", "device",
    "precision", "threads", "batch_size", "workers", "layout", "names", "name_by", "grid", "samples", "resume",
    "strict",
)  # fmt: skip
_SAMPLING = ("seed", "steps", "sampler", "eta", "guidance", "reject", "attempts")

_README = """# {id} as a MONAI bundle

Synthetic brain MRI with tumour masks from tumour characteristics. MONAI reads `configs/`; the networks in `models/` are
a bundle of sbldm-engine (ONNX, no PyTorch weights) and run on its engine:

```
pip install "sbldm-engine[cpu]" monai fire
export ORT_DISABLE_TELEMETRY=1   # MONAI loads ONNX Runtime before the engine can switch its reports off
python -m monai.bundle run --config_file configs/inference.json --count 3 --seed 1 --output_dir synthetic
python -m monai.bundle verify_metadata --meta_file configs/metadata.json --filepath schema.json
```

from this folder; from another, give `--bundle_root` too. `--conditions cond.csv` makes one case a row. The files are
those of `sbldm-engine generate --bundle models --count 3 --seed 1 --out synthetic`, byte for byte. Options:
{options}.

The licence of the weights is `{licence}` (LICENSE). What follows is the model card.

---

"""


def write_monai_bundle(bundle: Bundle, out: Path) -> None:
    """Write a MONAI bundle of a verified bundle to `out`, whole or not at all.

    Raises:
        UsageError: `out` holds files or cannot be written.
    """
    with staged_directory(out) as staging:
        for name in (MANIFEST_NAME, *bundle.manifest.files):
            copy = staging / MODELS / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / name, copy)
        _describe(bundle, staging)


def export_monai_bundle(
    checkpoint: Path, out: Path, options: ExportOptions, report: Callable[[str], None] = lambda _: None
) -> Bundle:
    """`export.bundle.export_bundle` into the folder `models` of a new MONAI bundle; raises what that raises."""
    from .bundle import export_bundle

    with staged_directory(out) as staging:
        _describe(export_bundle(checkpoint, staging / MODELS, options, report), staging)
    return load_bundle(out / MODELS)


def _describe(bundle: Bundle, root: Path) -> None:
    """Write all but the networks."""
    (root / "configs").mkdir()
    _write_json(root / "configs" / "metadata.json", metadata(bundle))
    _write_json(root / "configs" / "inference.json", inference())
    (root / "docs").mkdir()
    (root / "docs" / "README.md").write_text(_readme(bundle), encoding="utf-8")
    (root / "LICENSE").write_text(_licence(bundle.manifest), encoding="utf-8")


def metadata(bundle: Bundle) -> dict[str, Any]:
    """The content of `configs/metadata.json`, see `SCHEMA`."""
    manifest = bundle.manifest
    made = f"{manifest.provenance.date.replace('-', '.')}+{bundle.sha256[:12]}"
    return {
        "schema": SCHEMA,
        "version": made,
        "changelog": {made: f"exported as {manifest.id}"},
        **OLDEST,
        "required_packages_version": {"sbldm-engine": installed("sbldm-engine") or manifest.provenance.code_version},
        "supported_apps": {},
        "name": manifest.id,
        "task": "Synthetic brain MRI with tumour masks from tumour characteristics",
        "description": f"Slice-based latent diffusion, preset {manifest.preset}: a case a row of tumour "
        f"characteristics, modalities {', '.join(manifest.modalities)}, with its mask. ONNX networks, computed by "
        "sbldm-engine.",
        "authors": "the authors of the weights; see docs/README.md",
        "copyright": f"licence of the weights: {manifest.provenance.licence}",
        "data_source": manifest.provenance.data,
        "data_type": "nibabel",
        "intended_use": manifest.intended_use,
        "references": ["https://arxiv.org/abs/2406.05421", "https://doi.org/10.1016/j.compmedimag.2025.102532"],
        "network_data_format": {"inputs": {"conditions": _conditions(manifest)}, "outputs": _outputs(manifest)},
    }


def inference() -> dict[str, Any]:
    """The content of `configs/inference.json`: MONAI's names, and every option of `DirectoryRun`."""
    machine = {name: f"$@{name} or 'auto'" for name in ("backend", "device", "precision")} | {"threads": "@threads"}
    return {
        "bundle_root": ".",
        "model_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/output'",
        "dataset_dir": "@output_dir",
        **dict.fromkeys(_OPTIONS),
        "seed": 0,
        "attempts": 4,
        "device": "auto",
        "network_def": {
            "_target_": f"{_TARGETS}.generator.Generator.load",
            "bundle": "@model_dir",
            **machine,
        },
        "inferer": "$@network_def.generate",
        "dataset": {
            "_target_": f"{_TARGETS}.adapters.SyntheticDataset",
            "count": "$@count or 1",
            "bundle": "@model_dir",
            "conditions": "@conditions",
            **machine,
            **_referred(*_SAMPLING),
        },
        "evaluator": {
            "_target_": f"{_TARGETS}.monai_workflow.DirectoryRun",
            "bundle": "@model_dir",
            "out": "@output_dir",
            **_referred(*_OPTIONS),
        },
        "run": "$@evaluator.run()",
    }


def _referred(*names: str) -> dict[str, str]:
    return {name: f"@{name}" for name in names}


def _conditions(manifest: BundleManifest) -> dict[str, Any]:
    columns = [column.name for column in manifest.condition_columns]
    return {
        "type": "tuples",
        "format": "a row of tumour characteristics, by name in a CSV; empty cells are drawn",
        "num_channels": len(columns),
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": _numbered(columns),
    }


def _outputs(manifest: BundleManifest) -> dict[str, Any]:
    common = {"type": "image", "modality": "MR", "spatial_shape": list(manifest.grid.shape), "is_patch_data": False}
    image = {
        "format": "magnitude",
        "num_channels": len(manifest.modalities),
        "dtype": "int16",
        "value_range": [0, INT16_SCALE],
        "channel_def": _numbered(manifest.modalities),
    }
    label = {
        "format": "segmentation",
        "num_channels": 1,
        "dtype": "uint8",
        "value_range": [0, len(manifest.labels) - 1],
        "channel_def": _numbered(manifest.labels),
    }
    return {"image": common | image, "label": common | label}


def _numbered(names: list[str] | tuple[str, ...]) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(names)}


def _readme(bundle: Bundle) -> str:
    manifest = bundle.manifest
    options = ", ".join(f"`{name}`" for name in _OPTIONS)
    head = _README.format(id=manifest.id, licence=manifest.provenance.licence, options=options)
    card = bundle.path / CARD_NAME
    return head + (card.read_text(encoding="utf-8") if CARD_NAME in manifest.files else f"{manifest.intended_use}\n")


def _licence(manifest: BundleManifest) -> str:
    return (
        f"Weights in models/ ({manifest.id}): {manifest.provenance.licence}\n"
        f"Trained on: {manifest.provenance.data}\n"
        "Configuration in configs/ and text in docs/: Apache-2.0, https://www.apache.org/licenses/LICENSE-2.0\n"
    )


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
