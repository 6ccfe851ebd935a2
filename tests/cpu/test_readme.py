"""README tells the truth: figures are the recorded ones, code runs, links lead somewhere."""

import json
import re
import shlex
from pathlib import Path

import pytest

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


def test_the_profile_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in code_blocks("python") if "profile_run" in block)
    for frames, windows in ((33, ["run", "steady", "two chunks"]), (5, ["run"])):
        small = code.replace('"wan2.1"', '"tiny-wan"').replace("161x480x832", f"{frames}x16x16")
        exec(small, {})
        out = capsys.readouterr().out
        assert "launch late" in out and all(name in out for name in windows)
        (tmp_path / "async.json.gz").unlink()


def test_the_generation_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in code_blocks("python") if "generate_latents" in block)
    small = code.replace("frames=33, steps=20", "9, 32, 48, steps=3")
    assert small != code
    exec(small, {})
    assert capsys.readouterr().out.count("-noise ") == 3
    assert (tmp_path / "square.mp4").stat().st_size > 500


def test_the_table_example_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in code_blocks("python") if "benchmark_table" in block)
    exec(code, {})
    assert "async (chunked)" in capsys.readouterr().out
    assert sorted(p.suffix for p in (tmp_path / "report").iterdir()) == [".csv", ".md", ".tex"]


def test_the_prediction_example_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in code_blocks("python") if "fit_costs" in block)
    exec(code, {})
    latency_s, windows = capsys.readouterr().out.split(maxsplit=1)
    assert 3.6 < float(latency_s) < 3.8 and "steady" in windows
    assert (tmp_path / "predicted.png").stat().st_size > 1000


def test_the_events_of_the_recorded_comparison_are_those_it_says():
    (file,) = (ROOT / "results").glob("*analyze-vs-hta/result_hta.json")
    trace = json.loads(file.read_text())["trace"]
    assert (
        f"{trace['events']:,} events" in README
        and f"({trace['source']['events']:,} events)" in README
    )
    assert trace["copies"] == 2


def test_the_examples_of_a_decoder_and_a_sink_plug_in(capsys):
    decoder_code, sink_code = [b for b in code_blocks("python") if "class " in b]
    body = [line for line in decoder_code.split("class MyDecoder")[1].splitlines() if line.strip()]
    assert len(body) <= 10
    scope = {}
    exec(decoder_code + sink_code, scope)
    decoder = scope["MyDecoder"]()
    sink = Collect()
    decode_async(decoder, latents_for(decoder), sink, progress=False)
    assert sink.frames == 17
    decode_async(decoder, latents_for(decoder), scope["Brightness"](), progress=False)
    assert capsys.readouterr().out.count("np.float64") == 5


def test_commands_exist():
    from vdkit.__main__ import build_parser

    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z]+)", README)) <= set(targets)
    commands = re.findall(r"\.venv/bin/vdkit (.*?)(?:  #|\n)", README)
    for command in commands:
        build_parser().parse_args(shlex.split(command))
    assert commands


def test_links_and_the_tree_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
    tree = README.split("## The house")[1].split("```")[1]
    for name in re.findall(r"\b([a-z_]+(?:/|\.py))", tree):
        assert (ROOT / name).exists() or (ROOT / "vdkit" / name).exists(), name
