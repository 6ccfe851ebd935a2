"""Every notebook: executed here from top to bottom, and committed with a GPU's outputs."""

import base64
import io
import os
import re
import wave
from pathlib import Path

import av
import nbformat
import numpy as np
import pytest
import torch
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SMALL = {
    "01": "frames, height, width, steps, vram_lengths = 9, 32, 48, 4, ()",
    "02": 'decoder_source, latents_spec, runs, profiled = "tiny-wan", "random:17x16x16", 2, 1',
    "03": 'decoder_source, latents_spec, runs, profiled = "tiny-wan", "random:17x16x16", 2, 1',
    "04": 'decoder, size, latent_frames, rounds = "tiny-wan", "16x16", 5, 1',
    "05": 'decoder_source, latents_spec, runs = "tiny-wan", "random:9x16x16", 1',
    "06": 'decoder_source, latents_spec, runs = "tiny-wan", "random:9x16x16", 1',
    "07": "images, audio = (thin, 'random:2x16x16'), ('thin-mimi', 'random:.5s')\n"
    "full_size, runs, probed = False, 1, ['thin-flux']\n"
    "seen, heard = 'random:13x32x32', 'random:.8s'",
    "08": 'decoder_source, latents_spec, runs = "tiny-wan", "clips:9x48x64", 1\n'
    "variants, encoders = ('diffusers',), 2",
    "09": 'clips, window, overlaps = "clips:17x16x32", 3, (1, 2)\n'
    'category, clip_size = "static", (9, 32, 32)\n'
    "steps, frames, height, width, long = 2, 9, 32, 48, 2",
    "10": 'decoder_source, latents, videos, counts = "tiny-wan", "random:5x16x16", 4, (1, 2)\n'
    "engine, probed = 'processes', 13",
    "11": "size = 17, 32, 32",
}
"""Parameters by number of the notebook: the same cells on little work."""
OF_A_CPU = {"07", "09", "10", "11"}
"""Those that no GPU has executed yet."""


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(scope="module")
def kernel():
    """One for all notebooks, which clear it first: most of a fresh one's time goes into imports."""
    manager = KernelManager(kernel_name="python3")
    yield manager
    if manager.has_kernel:
        manager.shutdown_kernel(now=True)


def pictures(cell):
    """How many the cell shows."""
    return sum("image/png" in output.get("data", {}) for output in cell.get("outputs", ()))


def assert_pictures(notebook):
    """Every cell that plots shows exactly one picture, and there is at least one."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    plots = [cell for cell in code if "plot_" in cell.source or ".snapshot()" in cell.source]
    for cell in plots:
        assert pictures(cell) == 1, cell.source
    assert plots


def test_there_are_eleven_and_each_leads_to_the_next():
    numbers = [path.stem[:2] for path in NOTEBOOKS]
    assert numbers == ["01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11"]
    for path, following in zip(NOTEBOOKS, NOTEBOOKS[1:] + NOTEBOOKS[:1], strict=True):
        assert f"({following.name})" in "".join(
            cell.source for cell in nbformat.read(path, as_version=4).cells
        )


def first_words(notebook):
    """The first output of a notebook that is text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return next(output.text for output in outputs if output.output_type == "stream")


def test_runs_on_this_machine(path, kernel, device):
    if path.stem[:2] == "04" and os.environ.get("VDKIT_REQUIRE_BROWSER") == "1":
        pytest.skip("tests/browser/test_explorer.py runs it")
    notebook = nbformat.read(path, as_version=4)
    committed = [pictures(cell) for cell in notebook.cells]
    notebook.cells[1].source += f"\n{SMALL[path.stem[:2]]}"
    before = nbformat.v4.new_code_cell("%reset -f")
    notebook.cells.insert(0, before)
    where = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, km=kernel, timeout=120, resources=where).execute()
    notebook.cells.remove(before)
    assert_pictures(notebook)
    assert [pictures(cell) for cell in notebook.cells] == committed
    assert "No GPU" in first_words(notebook) or torch.cuda.is_available()


def test_committed_with_outputs(path):
    assert path.stat().st_size < 1_000_000
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert_pictures(notebook)
    assert not [output for output in outputs if output.get("name") == "stderr"]
    on_a_cpu = path.stem[:2] in OF_A_CPU
    assert ("NVIDIA" in first_words(notebook)) != on_a_cpu
    assert ("No GPU" in first_words(notebook)) == on_a_cpu
    assert not [output for output in outputs if "widget-view" in str(output.get("data", {}).keys())]


def test_media_are_in_the_page():
    """The seventh: a player with the samples, and an MP4 with both streams, as long as it says."""
    notebook = nbformat.read(NOTEBOOKS[6], as_version=4)
    pages = [
        output["data"]["text/html"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "base64" in output.get("data", {}).get("text/html", "")
    ]
    sound, clip = (base64.b64decode(re.search('base64,([^"]+)"', page)[1]) for page in pages)
    with wave.open(io.BytesIO(sound)) as file:
        assert 0 <= file.getnframes() - file.getframerate() < 2048  # rounded up to whole latents
        assert 100 < np.abs(np.frombuffer(file.readframes(-1), np.int16)).max() < 2**13
    with av.open(io.BytesIO(clip)) as file:
        video, audio = (float(one.duration * one.time_base) for one in file.streams)
        frames = sum(1 for _ in file.decode(video=0))
    (said,) = (
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "with sound" in output.get("text", "")
    )
    assert said.startswith(f"{frames} frames of ") and f"'h264': {round(video, 3)}" in said
    assert video - audio < 0.1


def test_thin(path):
    notebook = nbformat.read(path, as_version=4)
    assert len(notebook.cells) <= 15
    assert "parameters" in notebook.cells[1].metadata.get("tags", [])
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 10
            assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE)
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert len(set(re.findall(r"(?:from|import) vdkit\.(\w+)", source))) <= 1
    assert not re.search(r"/(home|root|work)/", str(notebook))
