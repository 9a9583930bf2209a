"""A bundle whose denoiser never ends, with a manifest that agrees: what a hostile or broken bundle may hold."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from sbldm.engine.bundle.load import Bundle

GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n,c,d,h,w] sample, float[n] timestep, float[n,k] condition, float[n] condition_mask)
    => (float[n,c,d,h,w] prediction) {
        trips = Constant<value_int=9223372036854775807>()
        one = Constant<value_int=1>()
        go = Cast<to=9>(one)
        prediction = Loop(trips, go, sample) <body = b (int64 i, bool on, float[n,c,d,h,w] x)
            => (bool still, float[n,c,d,h,w] y) { still = Identity(on) y = Identity(x) }>
    }"""


def endless_bundle(bundle: Bundle, target: Path) -> Path:
    """A copy of a bundle at `target` whose denoiser loops for ever."""
    import onnx

    shutil.copytree(bundle.path, target)
    manifest = json.loads((target / "bundle.json").read_text())
    data = onnx.parser.parse_model(GRAPH).SerializeToString()
    for name in manifest["files"]:
        if name.startswith("denoiser") and name.endswith(".onnx"):
            (target / name).write_bytes(data)
            manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (target / "bundle.json").write_text(json.dumps(manifest))
    return target
