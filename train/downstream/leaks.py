"""Cases that are on two sides of the comparison, found by what is in them, whatever they are called."""

from __future__ import annotations

from collections.abc import Mapping

from ...engine.errors import InvalidInputError
from ...engine.screen import counted
from ..data.cohort import MAX_FAULTS_SHOWN, Cohort
from ..data.twins import contents


def refuse_leaks(test: Cohort, training: Mapping[str, Cohort]) -> None:
    """Compare images and masks of test cases with those of the training sides (option -> its cases).

    A mask that is equal voxel for voxel is the same patient, or a case that was made around a test patient's mask.

    Raises:
        InvalidInputError: naming each test case that is in training.
    """
    seen = {digest: name for name, digests in _digests(test) for digest in digests}
    leaked = []
    for option, cohort in training.items():
        for name, digests in _digests(cohort):
            found = next((seen[digest] for digest in digests if digest in seen), None)
            if found is not None:
                leaked.append(f"  {found} of --test is {name} of {option}, or has its mask or images")
    if not leaked:
        return
    more = [f"  and {len(leaked) - MAX_FAULTS_SHOWN} more"] if len(leaked) > MAX_FAULTS_SHOWN else []
    listed = "\n".join(leaked[:MAX_FAULTS_SHOWN] + more)
    raise InvalidInputError(f"test cases are in training:\n{listed}\nleave them out of one side")


def told_of_copies(real: Cohort, synthetic: Cohort) -> str | None:
    """What synthetic cases have the images of a real one: they are no synthetic data. None where there are none."""
    seen = {image: name for name, (image, _) in _digests(real)}
    same = [(name, seen[image]) for name, (image, _) in _digests(synthetic) if image in seen]
    if not same:
        return None
    name, other = same[0]
    return f"--synthetic: {counted(len(same), 'case')} with the images of a case of --real, such as {name}, of {other}"


def _digests(cohort: Cohort) -> list[tuple[str, tuple[str, str]]]:
    """Name, and hashes of the prepared images and mask, of each case."""
    return [(entry.name, contents(entry)) for entry in cohort.entries]
