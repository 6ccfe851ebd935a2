"""README tells the truth: figures are the recorded ones, code runs, links lead somewhere."""

import json
import re
import shlex
import shutil
from pathlib import Path

import nbformat
import pytest

import vdkit
from tests.helpers import Collect, latents_for
from tools.readme import BEGIN, END, MAIN, PAGE, PICTURE, main, with_block
from vdkit import decode_async

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def code_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_figures_are_the_recorded_ones(tmp_path):
    """`make readme`, on a README without figures, writes what is committed."""
    (tmp_path / "results").mkdir()
    for folder in (ROOT / "results").glob("2*"):
        (tmp_path / "results" / folder.name).symlink_to(folder)
    (tmp_path / "results" / MAIN).unlink()  # a picture is drawn into it
    shutil.copytree(ROOT / "results" / MAIN, tmp_path / "results" / MAIN)
    (tmp_path / "README.md").write_text(with_block(README, f"{BEGIN}\n{END}"))
    main(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == README, "run `make readme`"
    assert (tmp_path / PAGE).read_text() == (ROOT / PAGE).read_text(), "run `make readme`"
    assert (tmp_path / "results" / MAIN / PICTURE).stat().st_size > 10_000
    assert (ROOT / "results" / MAIN / PICTURE).stat().st_size > 10_000


def test_every_recorded_folder_with_figures_is_on_the_page():
    page = (ROOT / PAGE).read_text()
    names = ("variants.json", "sweep.json", "aa.json", "profile.json")
    folders = [path.parent.name for name in names for path in (ROOT / "results").glob(f"2*/{name}")]
    assert folders and [name for name in folders if name not in page] == []


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
    assert len(eval(capsys.readouterr().out)) == 5


def test_the_examples_plug_into_the_explorer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classes = "".join(block for block in code_blocks("python") if "class " in block)
    plain, own = (block for block in code_blocks("python") if "vdkit.explore(" in block)
    start = 'shown = vdkit.explore(device="cpu", calibrate=False, '
    for code in (plain, own):
        scope = {}
        exec(classes + code.replace("vdkit.explore(", start), scope)
    shown = scope["shown"]  # the last one; an explorer closes the one before
    shown.controls.rounds.value = 1
    shown.run(wait_s=60)
    (run,) = shown.session.runs
    assert (run.setting.decoding.decoder, run.setting.decoding.sink) == ("mine", "brightness")
    shown.close()


def test_commands_exist():
    from vdkit.__main__ import build_parser

    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z]+)", README)) <= set(targets)
    lines = "".join(code_blocks("bash"))
    commands = re.findall(r"^(?:\.venv/bin/)?vdkit (.*?)(?:  #|\n)", lines, re.MULTILINE)
    for command in commands:
        build_parser().parse_args(shlex.split(command))
    assert len(commands) > 10
    listed = set(re.findall(r"`([a-z]+)`", README.split("| command |")[1].split("\n\n")[0]))
    (all_commands,) = (a.choices for a in build_parser()._actions if a.dest == "command")
    assert listed == set(all_commands)


def test_the_table_of_notebooks_asks_their_questions():
    asked = dict(re.findall(r"\]\((notebooks/\S+\.ipynb)\) \| (.*?\?) \|", README))
    titles = {
        f"notebooks/{path.name}": nbformat.read(path, as_version=4).cells[0].source.splitlines()[0]
        for path in (ROOT / "notebooks").glob("*.ipynb")
    }
    assert {f"# {question}" for question in asked.values()} == set(titles.values())
    assert asked == {name: title.removeprefix("# ") for name, title in titles.items()}


def test_what_to_cite_is_this_version():
    card = (ROOT / "CITATION.cff").read_text()
    title = re.search(r"title += \{(.*)\}", README).group(1)
    assert re.findall(r"^version: (.*)$", card, re.MULTILINE) == [vdkit.__version__]
    assert re.findall(r"version += \{(.*)\}", README) == [vdkit.__version__]
    assert f'title: "{title}"' in card and "The vdkit developers" in card


def slug(heading):
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", ["README.md", PAGE])
def test_links_lead_somewhere(page):
    file = ROOT / page
    for target in re.findall(r"\]\(([^)]+)\)", file.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        there = file.parent / name if name else file
        assert there.exists(), target
        if anchor:
            text = re.sub(r"```.*?```", "", there.read_text(), flags=re.DOTALL)
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            assert anchor in map(slug, headings), target


def test_the_tree_is_the_house():
    tree = README.split("## The house")[1].split("```")[1]
    for name in re.findall(r"\b([a-z_]+(?:/|\.py))", tree):
        assert (ROOT / name).exists() or (ROOT / "vdkit" / name).exists(), name
    words = set(re.findall(r"\w+", tree))
    for path in (ROOT / "vdkit").rglob("*.py"):
        if path.name != "__init__.py" and path.parent.name != "cli":
            assert path.stem in words, f"{path} is not in README's tree"
