"""What a release consists of: the hashed lock of a folder of wheels, its bill of materials, the licences of all parts.

parts.py lock WHEELS EXTRAS    prints the lock: name==version --hash=sha256:...
parts.py bill SBOM WHEELS      adds the wheels' hashes and what no package is to a CycloneDX bill; prints the licences
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OURS = "sbldm-engine"
_MOST = 200  # characters of a name; what is longer is a text
_TEXT_ALONE = re.compile(r"declared license (file|of)\b.*", re.DOTALL)  # a licence without a name, as the bill calls it


def normalised(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def hashes(wheels: Path) -> dict[str, tuple[str, str]]:
    """Name -> (version, sha256) of every wheel."""
    found = {}
    for wheel in sorted(wheels.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        found[normalised(name)] = version, hashlib.sha256(wheel.read_bytes()).hexdigest()
    return found


def lock(wheels: Path, extras: str) -> str:
    """Requirements that name every wheel with its hash; ours with its extras."""
    lines = []
    for name, (version, sha256) in hashes(wheels).items():
        asked = f"{name}[{extras}]" if name == OURS and extras else name
        lines.append(f"{asked}=={version} --hash=sha256:{sha256}\n")
    return "".join(lines)


def other_parts() -> list[dict[str, Any]]:
    """What is shipped inside our package and was not written here, or is no program."""
    assets = ROOT / "engine" / "report" / "assets"
    (viewer,) = assets.glob("niivue-*.umd.js")
    version = viewer.name.removeprefix("niivue-").removesuffix(".umd.js")
    anatomies = ROOT / "engine" / "anatomy" / "anatomies.npz"
    parts = [
        _part("library", "@niivue/niivue", version, viewer, "BSD-2-Clause", purl=f"pkg:npm/%40niivue/niivue@{version}"),
        _part("data", "SynthSeg label maps, cropped and resampled", "66342c1", anatomies, "Apache-2.0"),
    ]
    for built_in in re.findall(r"^=+ (\S.*)$", (assets / "niivue-LICENSES.txt").read_text("utf-8"), re.MULTILINE)[1:]:
        parts.append(_part("library", f"{built_in}, inside of NiiVue", version, viewer, "see niivue-LICENSES.txt"))
    for manifest in sorted((ROOT / "engine" / "bundles").glob("*/bundle.json")):
        content = json.loads(manifest.read_bytes())
        parts.append(
            _part("machine-learning-model", content["id"], content["provenance"]["date"], manifest,
                  content["provenance"]["licence"])
        )  # fmt: skip
    return parts


def first_line(wheel: Path) -> str:
    """The first line of the licence texts in a wheel; empty where it has none."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if re.search(r"\.dist-info/(licenses/)?(LICEN[CS]E|COPYING)[^/]*$", name, re.IGNORECASE):
                return next((line.strip() for line in archive.read(name).decode().splitlines() if line.strip()), "")
    return ""


def complete(bill: dict[str, Any], wheels: Path) -> list[tuple[str, str, str]]:
    """Add wheels' hashes and the other parts to a bill; (name, version, licence) of all, sorted.

    Raises:
        SystemExit: a part has no licence, or an installed package is no wheel of this folder.
    """
    files = {normalised(wheel.name.split("-")[0]): wheel for wheel in wheels.glob("*.whl")}
    found, faults = hashes(wheels), []
    root, packages = bill["metadata"]["component"], bill["components"]
    for package in (root, *packages):
        name = normalised(package["name"])
        version, sha256 = found.get(name, (None, None))
        if version != package["version"]:
            faults.append(f"{name} {package['version']}: installed, but no wheel of {wheels}")
            continue
        package["hashes"] = [{"alg": "SHA-256", "content": sha256}]
        if not licence(package) and (text := first_line(files[name])):
            package.setdefault("licenses", []).append({"license": {"name": text}})
    bill["components"] = sorted([*packages, *other_parts()], key=lambda part: part["name"].lower())
    rows = [(part["name"], part["version"], licence(part)) for part in (root, *bill["components"])]
    faults += [f"{name} {version}: names no licence" for name, version, named in rows if not named]
    if faults:
        sys.exit("\n".join(faults))
    return rows


def licence(part: dict[str, Any]) -> str:
    """What a part of a bill says its licence is; empty where it names none."""
    named = []
    for entry in part.get("licenses", []):
        one = entry.get("license", {})
        text = entry.get("expression") or one.get("id") or one.get("name", "")
        if _TEXT_ALONE.fullmatch(text):
            text = one.get("text", {}).get("content", "") if "of" in text.split()[:3] else ""
        if 0 < len(text) <= _MOST:
            named.append(text.removeprefix("License :: OSI Approved :: "))
    return ", ".join(dict.fromkeys(named))


def _part(kind: str, name: str, version: str, file: Path, licensed: str, **more: str) -> dict[str, Any]:
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return {
        "type": kind, "bom-ref": f"{name}@{version}", "name": name, "version": version,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
        "licenses": [{"license": {"name": licensed}}],
        "properties": [{"name": "sbldm:file", "value": file.relative_to(ROOT).as_posix()}], **more,
    }  # fmt: skip


def main(arguments: list[str]) -> None:
    """See the top of the file."""
    command, first, second = arguments
    if command == "lock":
        print(lock(Path(first), second), end="")
        return
    bill = json.loads(Path(first).read_bytes())
    rows = complete(bill, Path(second))
    Path(first).write_text(json.dumps(bill, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print("# Licences of all parts\n\nTexts: in each wheel's dist-info, and in sbom.cdx.json.\n")
    print("| part | version | licence |\n| --- | --- | --- |")
    for row in rows:
        print("|", " | ".join(cell.replace("|", r"\|") for cell in row), "|")


if __name__ == "__main__":
    main(sys.argv[1:])
