"""Commands and backends are imported by name; front ends of OpenVINO, bundles and presets are files."""

from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec

from PyInstaller.utils.hooks import collect_data_files, collect_dynamic_libs, collect_submodules, copy_metadata

BACKENDS = ("onnxruntime", "openvino")
RECORDED = (*BACKENDS, "onnxruntime-gpu", "sbldm-engine", "numpy", "scipy", "scikit-image", "nibabel", "isal")

hiddenimports = [name for name in BACKENDS if find_spec(name)]
hiddenimports += collect_submodules("sbldm.cli", filter=lambda name: "pyinstaller" not in name)
binaries = collect_dynamic_libs("openvino", search_patterns=["lib*.so*"]) if find_spec("openvino") else []
datas = collect_data_files("sbldm")
for distribution in RECORDED:
    try:
        datas += copy_metadata(distribution)
    except PackageNotFoundError:
        continue
