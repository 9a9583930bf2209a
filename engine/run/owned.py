"""Which names in a run's directory are the run's own: nothing else there is ever written, replaced or removed."""

from __future__ import annotations

from pathlib import Path

from ..folder import Folder, temporary_of
from ..locks import LOCK_SUFFIX
from ..output.layouts import DatasetFacts
from .audit import AUDIT_NAME
from .description import RUN_NAME, RunDescription
from .ledger import LEDGER_PATTERN
from .manifest import MANIFEST_CSV
from .preview import PREVIEW_NAME

REPORT_NAME = "report.html"
_BESIDE = frozenset({RUN_NAME, MANIFEST_CSV, PREVIEW_NAME, REPORT_NAME, AUDIT_NAME})


class OwnNames:
    """Accepts the names that a run may give to files, relative to its directory in POSIX form."""

    def __init__(self, run: RunDescription) -> None:
        self._count, self._layout = run.options.count, run.layout()
        facts = DatasetFacts((), run.bundle.id, run.bundle.sha256, "", run.origin)
        self._known = _BESIDE | self._layout.dataset_files(facts).keys()

    def __call__(self, name: str) -> bool:
        """Whether the run owns this name."""
        return name in self._known or is_ledger(name) or is_lock(name) or self.sample_of(name) is not None

    def sample_of(self, name: str) -> int | None:
        """The sample of the run that has a file of this name; None where none has."""
        sample = self._layout.sample_of(name)
        return sample if sample is not None and sample < self._count else None


def run_folder(directory: Path, run: RunDescription) -> Folder:
    """A run's directory, open for the files of this run alone; those made from a patient are for their owner."""
    return Folder(directory, OwnNames(run), private=run.is_derived)


def is_ledger(name: str) -> bool:
    """Whether a name is that of a ledger of a whole run or of one of its shards."""
    found = LEDGER_PATTERN.fullmatch(name)
    if found is None:
        return False
    index, count = found.groups()
    return index is None or int(index) < int(count)


def is_lock(name: str) -> bool:
    """Whether a name lies in the lock folder of a ledger, or of the audit trail."""
    locked, found, _ = name.partition(LOCK_SUFFIX)
    return bool(found) and (is_ledger(locked) or locked == AUDIT_NAME)


def comes_before_the_run(name: str) -> bool:
    """Whether a run may leave a file of this name before its run.json is in place."""
    return name in (AUDIT_NAME, AUDIT_NAME + LOCK_SUFFIX) or temporary_of(name) in (RUN_NAME, AUDIT_NAME)
