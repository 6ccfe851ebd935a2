"""Execute notebooks in place, as they are to be committed: `make notebooks`, on a GPU.

    python tools/execute_notebooks.py                            # all
    python tools/execute_notebooks.py notebooks/04_explorer.ipynb ...

A notebook that fails is left as it was. Live widgets are left out of the saved outputs: a page on
the web cannot run them, and each has a picture below it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import execute as execute_notebook

HERE = Path(__file__).parents[1] / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(path: Path) -> None:
    """Run ``path`` from top to bottom in a fresh kernel and write it back."""
    notebook = nbformat.read(path, as_version=4)
    how = {"timeout": 600, "kernel_name": "python3", "record_timing": False}
    execute_notebook(notebook, cwd=str(HERE), store_widget_state=False, **how)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(WIDGET, None)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else sorted(HERE.glob("*.ipynb")):
        begun = time.monotonic()
        execute(path)
        print(f"{path.name}: {time.monotonic() - begun:.0f} s", flush=True)
