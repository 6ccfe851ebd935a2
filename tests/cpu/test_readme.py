"""README tells the truth: figures are the recorded ones, code runs, links lead somewhere."""

import re
from pathlib import Path

import pytest
import torch

from tests.helpers import Collect, latents_for
from vdkit import decode_async
from vdkit.present.readme import BEGIN, END, MAIN, PICTURE, recorded_block, with_block

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def code_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_figures_are_the_recorded_ones():
    assert with_block(README, recorded_block(ROOT)) == README, "run `make readme`"
    assert (ROOT / "results" / MAIN / PICTURE).stat().st_size > 10_000


def test_the_markers_are_needed_once():
    with pytest.raises(ValueError, match="once each"):
        with_block(README.replace(END, ""), "")
    assert README.count(BEGIN) == 1


def test_the_five_lines_of_python_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (first, *_) = code_blocks("python")
    small = first.replace('"wan2.1"', '"tiny-wan"').replace("161x480x832", "9x16x16")
    assert small != first and len([line for line in first.splitlines() if line]) == 5
    exec(small, {})
    assert (tmp_path / "clip.rgb").stat().st_size == 9 * 16 * 16 * 3
    assert len(capsys.readouterr().out.split()) == 3


def test_the_example_decoder_plugs_in():
    (example,) = [block for block in code_blocks("python") if "class MyDecoder" in block]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    scope = {"torch": torch, "MyState": lambda latents: latents}
    exec(example.replace('"cuda", 0', '"cpu"').replace("float16", "float32"), scope)
    decoder = scope["MyDecoder"]()

    def model(state, start, stop):
        frames = state[:, :3, start:stop].repeat_interleave(4 if start else 1, 2)
        return frames.repeat_interleave(8, 3).repeat_interleave(8, 4).clamp(-1, 1)

    decoder.model = model
    sink = Collect()
    decode_async(decoder, latents_for(decoder), sink, progress=False)
    assert sink.frames == 17


def test_commands_exist():
    from vdkit.__main__ import build_parser

    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z]+)", README)) <= set(targets)
    commands = re.findall(r"\.venv/bin/vdkit (.*?)(?:  #|\n)", README)
    for command in commands:
        build_parser().parse_args(command.split())
    assert commands


def test_links_and_the_tree_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
    tree = README.split("## The house")[1].split("```")[1]
    for name in re.findall(r"\b([a-z_]+(?:/|\.py))", tree):
        assert (ROOT / name).exists() or (ROOT / "vdkit" / name).exists(), name
