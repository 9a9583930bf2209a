"""Commands and backends are imported by name; bundles, kernels and presets are files; versions come from metadata."""

from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, copy_metadata

BACKENDS = ("onnxruntime", "openvino")
RECORDED = (*BACKENDS, "onnxruntime-gpu", "sbldm-engine", "numpy", "scipy", "scikit-image", "nibabel", "isal")

hiddenimports = [name for name in BACKENDS if find_spec(name)]
hiddenimports += collect_submodules("sbldm.cli", filter=lambda name: "pyinstaller" not in name)
datas = collect_data_files("sbldm")
for distribution in RECORDED:
    try:
        datas += copy_metadata(distribution)
    except PackageNotFoundError:
        continue
