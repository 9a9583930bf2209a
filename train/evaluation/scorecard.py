"""The evaluation as tables for people, ordered as the scorecard for synthetic medical data asks.

Zamzmi et al., Communications Engineering 4:130 (2025), doi 10.1038/s44172-025-00450-1: congruence, coverage,
constraint, completeness, compliance, comprehension, consistency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .distribution import PRDC
from .report import Row, Table, interval, section, show
from .segmenter import REGIONS
from .structure import BANDS

Figures = Mapping[str, Any]
SIDES = ("figure", "samples", "real", "samples / real")


def table(figures: Figures) -> str:
    """The figures as Markdown tables, a section each of the seven Cs; what was not measured is said at the end.

    Numbers in brackets are 95 % intervals.
    """
    parts = [
        section("Compared", _compared(figures)),
        section("Congruence", _congruence(figures), "How near the samples are to real cases, as a distribution."),
        section("Coverage", _coverage(figures), "How much of the variety of real cases the samples have."),
        section("Constraint", _constraint(figures), "What samples have to obey: anatomy, their own mask, the request."),
        section("Completeness", _completeness(figures), "Whether what a case needs is there."),
        section("Compliance", _compliance(figures), "Whether training cases can be told from the samples."),
        section("Comprehension", _comprehension(figures), "How the samples were made."),
        section("Consistency", _consistency(figures), "Whether quality holds across groups of samples."),
        section("Reconstruction", [Table(("figure", "coarse", "refined"), _reconstruction(figures))]),
    ]
    text = "\n\n".join(part for part in parts if part)
    missing = [f"- {name}: {why}" for name, why in figures.get("not_measured", {}).items()]
    return text + ("\n\n## Not measured\n\n" + "\n".join(missing) if missing else "") + "\n"


def _compared(figures: Figures) -> list[Table]:
    inputs = figures["inputs"]
    rows: list[Row] = [(side, str(inputs[side]["cases"])) for side in ("real", "synthetic", "train") if inputs[side]]
    equal: Sequence[str] = inputs.get("equal_to_real") or ()
    if equal:
        rows.append((f"samples with the images of a real case, such as {equal[0]}", str(len(equal))))
    return [Table(("side", "cases"), rows)]


def _congruence(figures: Figures) -> list[Table]:
    tables = [_distribution(figures, ("mmd", "precision", "density"))]
    if "texture" not in figures:
        return tables
    fine = figures["texture"]["fine_structure"]
    contrast = figures["texture"]["grey_white"]
    return [
        *tables,
        Table(("figure", "value"), _fid(figures["fid"]), "Fréchet distance"),
        Table(SIDES, [_sides(modality, found) for modality, found in fine.items()], "Fine structure over spread"),
        Table(
            SIDES,
            [_sides(f"{modality}, {band}", contrast[modality][band]) for modality in contrast for band in BANDS],
            "White less grey matter over the brain's mean, by band",
        ),
        Table(
            ("tissue", *figures["inputs"]["modalities"]),
            [(tissue, *map(interval, found.values())) for tissue, found in figures["intensities"].items()],
            "Intensities: Wasserstein distance, share of the range",
        ),
        Table(
            ("characteristic", "distance", "in real deviations"),
            [_characteristic(name, found) for name, found in figures["characteristics"].items()],
            "Tumour characteristics: Wasserstein distance",
        ),
    ]


def _coverage(figures: Figures) -> list[Table]:
    if "ms_ssim" not in figures:
        return []
    sides = [figures["ms_ssim"][side] for side in ("synthetic", "real")]
    told = [interval(None if side is None else {**side, "value": side["mean"]}) for side in sides]
    return [
        _distribution(figures, ("recall", "coverage")),
        Table(("figure", "samples", "real"), [("MS-SSIM of pairs", *told)], "Diversity (lower is more diverse)"),
    ]


def _constraint(figures: Figures) -> list[Table]:
    if "anatomy" not in figures:
        return []
    titles = {
        "inside_brain": "tumour inside the brain",
        "largest_piece": "tumour in its largest piece",
        "corners": "largest value in the field's corners",
        "background": "voxels outside of the brain that are not 0",
    }
    anatomy: list[Row] = []
    for name, title in titles.items():
        found = figures["anatomy"][name]
        cells = [cell for side in ("synthetic", "real") for cell in (interval(found[side]), show(found[side]["worst"]))]
        anatomy.append((title, *cells))
    coherence = figures.get("coherence", {})
    ratios = [(name.replace("_", " "), interval(found)) for name, found in coherence.items() if name != "mask_change"]
    changes = [_sides("mask change along z over in plane", coherence["mask_change"])] if coherence else []
    agreement = figures.get("agreement") or {}
    regions = [
        (region.upper(), *(interval(agreement[region][side]) for side in ("synthetic", "real", "ratio", "swapped")))
        for region in REGIONS
        if region in agreement
    ]
    errors = figures.get("adherence_errors", {})
    return [
        Table(("figure", "samples", "worst", "real", "worst"), anatomy, "Anatomy"),
        Table(("Dice", "samples", "unseen real", "samples / real", "swapped masks"), regions,
              f"Image and mask, by a segmenter trained on {'real cases' if figures['inputs']['real'] else 'phantoms'}"),
        Table(("figure", "samples / real"), ratios, "Slice-to-slice differences"),
        Table(SIDES, changes),
        Table(("condition", "r", "bias", "scatter", "mean absolute error", "samples"),
              [_adherence(name, errors[name], found) for name, found in figures.get("adherence", {}).items()],
              "Conditions: measured less requested"),
    ]  # fmt: skip


def _completeness(figures: Figures) -> list[Table]:
    usable = figures["inputs"].get("usable")
    return (
        []
        if usable is None
        else [Table(("figure", "value"), [("samples with all images and a mask", interval(usable))])]
    )


def _compliance(figures: Figures) -> list[Table]:
    found = figures.get("memorisation")
    if found is None:
        return []
    rows: list[Row] = [("samples that are copies", _listed(found))]
    if found["held_out"] is not None:
        rows += [
            (f"closeness, {title}", f"median {show(found[side]['median'])}, most {show(found[side]['most'])}")
            for side, title in (("synthetic", "samples"), ("held_out", "held-out cases"))
        ]
    rows.append(("membership attack, area under the curve (.5 tells nothing)", interval(found["membership"])))
    planted = found["planted"] or {}
    return [
        Table(("figure", "value"), rows, "Copies of training cases (closeness above 1)"),
        Table(("planted copies", "share found"), [(kind, interval(share)) for kind, share in planted.items()]),
    ]


def _comprehension(figures: Figures) -> list[Table]:
    run = figures["inputs"].get("run")
    if run is None:
        return []
    rows: list[Row] = [(name, show(run[name])) for name in ("bundle", "sampler", "steps", "eta", "guidance", "seed")]
    rows += [("precision", f"{run['backend']}, {run['precision']}"), ("command", f"`{run['command']}`")]
    other = figures["inputs"].get("deviations") or []
    rows += [("not the bundle's default", line) for line in other]
    return [Table(("what", "value"), rows)]


def _consistency(figures: Figures) -> list[Table]:
    groups: Sequence[Figures] = figures.get("consistency") or []
    rows = [
        (f"{show(group['from_ml'])} to {show(group['to_ml'])}", interval(group["dice"]), str(group["dice"]["n"]))
        for group in groups
    ]
    return [Table(("tumour, ml", "Dice of the whole tumour", "samples"), rows, "Agreement of image and mask by volume")]


def _reconstruction(figures: Figures) -> list[Row]:
    found = figures.get("reconstruction")
    if found is None:
        return []
    refined = found["refined"] or {}
    rows: list[Row] = [
        (name.replace("_", " "), interval(value), interval(refined.get(name)))
        for name, value in found["coarse"].items()
    ]
    return rows + [(f"Dice {name.upper()}", interval(value), "-") for name, value in found["dice"].items()]


def _distribution(figures: Figures, names: Sequence[str]) -> Table:
    rows: list[Row] = []
    for source, found in figures.get("distribution", {}).items():
        for name in names:
            title = f"kernel MMD, {source}" if name == "mmd" else f"{name}, {source}"
            assert name == "mmd" or name in PRDC
            rows.append((title, interval(found[name]["synthetic"]), interval(found[name]["floor"]), str(found["n"])))
    return Table(("figure", "samples", "real to real", "cases of a side"), rows)


def _fid(found: Any) -> list[Row]:
    if isinstance(found, str):
        return []
    if found["distance"] is None:
        return [("FID", found["reason"])]
    return [(f"FID {modality}", show(value)) for modality, value in found["distance"].items()]


def _sides(title: str, found: Figures) -> Row:
    return title, interval(found["synthetic"]), interval(found["real"]), interval(found["ratio"])


def _characteristic(name: str, found: Figures) -> Row:
    low, high = found["interval"]
    return name, interval({"value": found["distance"], "low": low, "high": high}), show(found["in_deviations"])


def _adherence(name: str, errors: Figures, found: Figures) -> Row:
    scale, title = (100.0, f"{name}, %") if errors["relative"] else (1.0, name)
    cells = [interval(_scaled(errors[key], scale)) for key in ("bias", "scatter", "absolute")]
    return title, interval(errors["r"]), *cells, str(found["samples"])


def _scaled(found: Figures, scale: float) -> Figures:
    return {key: None if found[key] is None else scale * found[key] for key in ("value", "low", "high")}


def _listed(found: Figures) -> str:
    copies = ", ".join(one["sample"] for one in found["memorised"] or ())
    if found["reason"] is None:
        return copies or "none"
    return f"{copies}; others are not told: {found['reason']}" if copies else f"not told: {found['reason']}"
