"""Worker processes: which GPU each takes, and a sample that kills whatever makes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import BackendUnavailableError
from sbldm.engine.run import workers
from sbldm.engine.run.description import Resolved, describe
from sbldm.engine.run.ledger import LedgerIndex
from sbldm.engine.run.request import GenerateRequest
from sbldm.engine.run.workers import Group, WorkerPool, WorkerSetup
from sbldm.engine.telemetry import Telemetry
from sbldm.kernels.launcher import GpuUnavailableError

VICTIM = 3


def devices(bundle: Bundle, kind: str, asked: str, count: int) -> list[str]:
    resolved = Resolved("onnxruntime", kind, "fp32", 1, 1, "isal-1")
    run = describe(bundle, GenerateRequest(bundle=bundle, count=1).options(), resolved, {}, None)
    pool = WorkerPool(WorkerSetup(bundle.path, Path("out"), run, asked, None), count, lambda _: None, Telemetry())
    return [setup.device for setup in pool.setups]


def test_workers_share_the_gpus_out_unless_one_is_named(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "gpu_count", lambda: 2)
    for asked in ("cuda", "auto"):  # a resumed run on CUDA need not say so again
        assert devices(tiny_bundle, "cuda", asked, 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert devices(tiny_bundle, "cuda", "cuda:1", 2) == ["cuda:1", "cuda:1"]
    assert devices(tiny_bundle, "cpu", "auto", 2) == ["auto", "auto"]


def test_no_gpu_is_an_unavailable_backend(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> int:
        raise GpuUnavailableError("the NVIDIA driver sees no GPU")

    monkeypatch.setattr(workers, "gpu_count", none)
    with pytest.raises(BackendUnavailableError, match="sees no GPU"):
        devices(tiny_bundle, "cuda", "cuda", 2)


class Murderous(WorkerPool):
    """Kills each process that is given the victim, once it is ready."""

    def _hand_out(self, groups: Iterator[Group]) -> None:
        super()._hand_out(groups)
        for worker in self._workers:
            if worker.ready and any(VICTIM in group for group in worker.groups):
                worker.process.kill()


def test_a_sample_whose_processes_die_is_given_up_alone(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice in its batch and once alone; its neighbour in the batch is made, and so is all the rest."""
    out, metrics = tmp_path / "out", tmp_path / "m.prom"
    asked = ["generate", "--bundle", str(tiny_bundle.path), "--threads", "1", "--count", "6", "--steps", "1", "--quiet"]
    asked += ["--batch-size", "2", "--out", str(out), "--metrics-file", str(metrics)]
    monkeypatch.setattr("sbldm.engine.run.job.WorkerPool", Murderous)
    assert main([*asked, "--workers", "2"]) == 5
    faults = {record.sample: record.fault for record in LedgerIndex.of(out).records(range(6))}
    assert {sample for sample, fault in faults.items() if fault} == {VICTIM}
    assert "died" in str(faults[VICTIM])
    assert "sbldm_workers_lost_total 3" in metrics.read_text()
    assert main([*asked, "--resume"]) == 0
