"""Bundles whose denoiser takes long or for ever, with a manifest that agrees: hostile or broken ones."""

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
_PRODUCTS = 300  # of 1200 x 1200, 3.5 GFLOP each


def endless_bundle(bundle: Bundle, target: Path) -> Path:
    """A copy of a bundle at `target` whose denoiser loops for ever, within one node of its graph."""
    return _with_denoiser(bundle, target, GRAPH)


def slow_bundle(bundle: Bundle, target: Path) -> Path:
    """A copy of a bundle at `target` whose denoiser computes 1 TFLOP in nodes of little time each."""
    products = "\n".join(f"m{k + 1} = MatMul(m{k}, m0)" for k in range(_PRODUCTS))
    head = GRAPH[: GRAPH.index("trips")]
    body = f"""side = Constant<value_ints=[1200,1200]>() mean = ReduceMean<keepdims=0>(sample)
        m0 = Expand(mean, side)
        {products}
        zero = ReduceMean<keepdims=0>(m{_PRODUCTS}) prediction = Add(sample, zero) }}"""
    return _with_denoiser(bundle, target, head + body)


def _with_denoiser(bundle: Bundle, target: Path, graph: str) -> Path:
    import onnx

    shutil.copytree(bundle.path, target)
    manifest = json.loads((target / "bundle.json").read_text())
    data = onnx.parser.parse_model(graph).SerializeToString()
    for name in manifest["files"]:
        if name.startswith("denoiser") and name.endswith(".onnx"):
            (target / name).write_bytes(data)
            manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (target / "bundle.json").write_text(json.dumps(manifest))
    return target
