"""The tutorial runs from its first cell to its last, and what is kept of it has its pictures."""

import pathlib

import nbclient
import nbformat
import pytest
from conftest import ROOT

TUTORIAL = ROOT / "docs" / "tutorial.ipynb"


def pictures(notebook: nbformat.NotebookNode) -> list[int]:
    """The cells that show a picture."""
    return [
        place
        for place, cell in enumerate(notebook.cells)
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
    ]


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: pathlib.Path) -> None:
    kept = nbformat.read(TUTORIAL, as_version=4)
    fresh = nbformat.from_dict(kept)
    for cell in fresh.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(fresh, timeout=600, kernel_name="python3", resources=where).execute()
    assert pictures(fresh) == pictures(kept) and len(pictures(kept)) >= 3
    assert (tmp_path / "runs" / "tutorial" / "chosen" / "network.json").exists()
