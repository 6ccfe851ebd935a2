"""Every notebook: executed here from top to bottom, and committed with a GPU's outputs."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def assert_pictures(notebook):
    """Every cell that plots shows exactly one picture, and there is at least one."""
    plots = [cell for cell in notebook.cells if "plot_" in cell.source]
    for cell in plots:
        assert len([o for o in cell.outputs if "image/png" in o.get("data", {})]) == 1, cell.source
    assert plots


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_runs_on_this_machine(path, device):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=120, kernel_name="python3")
    client.execute(cwd=str(path.parent))
    assert_pictures(notebook)


def test_committed_with_outputs(path):
    assert path.stat().st_size < 1_000_000
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert_pictures(notebook)
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert "NVIDIA" in str(outputs), "the committed outputs are those of a GPU"


def test_thin(path):
    notebook = nbformat.read(path, as_version=4)
    assert len(notebook.cells) <= 15
    assert "parameters" in notebook.cells[1].metadata.get("tags", [])
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 10
            assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE)
    assert not re.search(r"/(home|root|work)/", str(notebook))
