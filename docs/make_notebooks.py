"""Run the notebooks of examples/notebooks and keep what they show: `python docs/make_notebooks.py`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

NOTEBOOKS = Path(__file__).parents[1] / "examples" / "notebooks"


def executed(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook as it looks after it was run in `folder`; CellExecutionError where a cell fails."""
    book = nbformat.read(notebook, as_version=4)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # for the cells of a shell
    with tempfile.TemporaryDirectory() as sockets:  # no port is opened
        client = NotebookClient(
            book,
            timeout=900,
            startup_timeout=300,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
        )
        client.execute(env={**os.environ, "PATH": path})
    for cell in book.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/jpeg", None)  # the picture is there as PNG, too
    book.metadata = nbformat.from_dict({"kernelspec": book.metadata["kernelspec"], "language_info": {"name": "python"}})
    return book


def main() -> None:
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(notebook, Path(folder)), notebook)


if __name__ == "__main__":
    main()
