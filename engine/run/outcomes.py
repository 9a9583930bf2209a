"""How the samples of a run came out against what was asked of them: told at its end, not left for the manifest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .ledger import SampleRecord
from .writer import NO_TUMOUR

VOLUME_TOLERANCE = 0.2  # of the requested volume
NAMED = 5  # ids that are kept of each kind


@dataclass
class Outcomes:
    """Counts over the records of a run; memory does not grow with them."""

    samples: int = 0
    failed: int = 0
    without_tumour: int = 0  # of those that failed: their masks are empty
    off_volume: int = 0  # tumours farther from the requested volume than `VOLUME_TOLERANCE`
    named: dict[str, list[str]] = field(default_factory=lambda: {"without_tumour": [], "off_volume": []})

    @staticmethod
    def of(records: Iterable[SampleRecord]) -> Outcomes:
        """The outcomes of these records."""
        found = Outcomes()
        for record in records:
            found.add(record)
        return found

    def add(self, record: SampleRecord) -> None:
        """Count one sample."""
        self.samples += 1
        if record.fault is not None:
            self.failed += 1
            if record.fault == NO_TUMOUR:
                self.without_tumour += 1
                self._name("without_tumour", record)
            return
        got = record.measured["volume_ml"]  # 0 where a lesion was taken out
        if got and abs(got / record.requested["volume_ml"] - 1) > VOLUME_TOLERANCE:
            self.off_volume += 1
            self._name("off_volume", record)

    def told(self) -> list[str]:
        """What a user should know of the samples, a line each; empty where all came out as asked."""
        lines = []
        if self.without_tumour:
            lines.append(
                f"{self.without_tumour} of {self.samples} failed because no tumour came out: "
                f"{self._listed('without_tumour')}; ask for tumours like the training cases, or have them drawn again "
                "by --reject"
            )
        if self.off_volume:
            lines.append(
                f"{self.off_volume} of {self.samples} miss the requested volume by more than "
                f"{VOLUME_TOLERANCE:.0%}: {self._listed('off_volume')}; manifest.csv has the figures, "
                "--reject draws such samples again"
            )
        return lines

    def _name(self, kind: str, record: SampleRecord) -> None:
        if len(self.named[kind]) < NAMED:
            self.named[kind].append(record.id)

    def _listed(self, kind: str) -> str:
        names, count = self.named[kind], getattr(self, kind)
        return ", ".join(names) + (f" and {count - len(names)} more" if count > len(names) else "")
