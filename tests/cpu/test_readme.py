"""README tells the truth: figures are the recorded ones, code runs, links lead somewhere."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import av
import nbformat
import pytest

import vdkit
from tests.helpers import Collect, latents_for
from tools.readme import MAIN, PAGE, PARTS, PICTURE, Recorded, main, markers, with_part
from vdkit import decode_async
from vdkit.predict.fit import fit_costs
from vdkit.record.runs import git_state

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
    bare = README
    for name in PARTS:
        bare = with_part(bare, name, "")
    (tmp_path / "README.md").write_text(bare)
    main(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == README, "run `make readme`"
    assert (tmp_path / PAGE).read_text() == (ROOT / PAGE).read_text(), "run `make readme`"
    assert (tmp_path / "results" / MAIN / PICTURE).stat().st_size > 10_000
    assert (ROOT / "results" / MAIN / PICTURE).stat().st_size > 10_000


def test_every_recording_is_on_the_page():
    page, made = (ROOT / PAGE).read_text(), Recorded(ROOT)
    folders = [*made.all, *made.sweeps]
    assert len(folders) > 30 and [name for name in folders if f"({name})" not in page] == []


def test_the_markers_are_needed_once():
    for name in PARTS:
        with pytest.raises(ValueError, match="once each"):
            with_part(README.replace(markers(name)[1], ""), name, "")
    assert README.count("written by `make readme`") == len(PARTS)


def test_the_range_over_sessions_holds_the_headline():
    """The figure beside the headline is of these sessions, the one that is shown among them."""
    low, high, n = re.search(r"\*\*([\d.]+) to ([\d.]+) over (\d+) sessions\*\*", README).groups()
    headline = Recorded(ROOT)[MAIN].ratio("sync", "async").value
    assert float(low) - 0.005 <= headline <= float(high) + 0.005 and int(n) > 1


def test_readme_is_read_in_one_sitting():
    assert len(README.splitlines()) <= 250
    assert re.findall(r"[\d.]+ times|[\d.]+x faster", README) == []


def test_the_five_lines_of_python_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (first, *_) = code_blocks("python")
    small = first.replace('"wan2.1"', '"tiny-wan"').replace("161x480x832", "9x16x16")
    assert small != first and len([line for line in first.splitlines() if line]) == 5
    exec(small, {})
    with av.open(str(tmp_path / "clip.mp4")) as file:
        assert [frame.width for frame in file.decode(video=0)] == [16] * 9
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


def test_the_generation_example_runs():
    """In a sentence: what it names is there and fits together."""
    (code,) = re.findall(r"`made = (generate_latents\(.*?\))` gives", README)
    small = code.replace('background")', 'background", 9, 32, 48, steps=3, progress=False)')
    assert small != code
    scope = {name: getattr(vdkit, name) for name in ("generate_latents", "load_pipeline")}
    made = eval(small, scope)
    assert [stage.seconds > 0 for stage in made.stages] == [True] * len(made.stages)
    assert made.latents.shape[2] == 3


def test_the_table_example_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in code_blocks("python") if "document_of(recording).tables" in block)
    exec(code, {})
    mean_s, ratio = map(float, capsys.readouterr().out.split())
    assert round(mean_s, 4) == 3.6493 and round(ratio, 3) == 1.146
    assert sorted(p.suffix for p in (tmp_path / "report").iterdir()) == [".csv", ".md", ".tex"]


def test_the_sentence_about_prediction_holds():
    chunk_1, chunk_2 = (
        vdkit.read_recording(next((ROOT / "results").glob(name)))
        for name in ("*c942496_aws-float16", "*ed2f46d_aws-chunk-2")
    )
    recording, costs = chunk_1, fit_costs(chunk_1, chunk_2)
    (call,) = re.findall(r"`vdkit\.predict\.(predict\(.*?\)\))`", README)
    scope = {"costs": costs, "recording": recording, "DecodeConfig": vdkit.DecodeConfig}
    exec("from vdkit.predict import predict, video_info", scope)
    made = eval(call, scope)
    assert 3.3 < made.run.latency_s < 3.8 and made.utilization_percent["run"] > 90
    (call,) = re.findall(r"`(recommend_from\(.*?\)\))`", README)
    (folder,) = (ROOT / "results").glob("*_sweep-14-threads")
    scope = {name: getattr(vdkit, name) for name in ("recommend_from", "read_sweep", "Limits")}
    assert eval(call, scope | {"folder": folder}).config.chunk_size in (1, 2, 4)


def test_the_examples_of_a_decoder_and_a_sink_run(tmp_path, monkeypatch, capsys):
    """As they stand: defined, measured, shown; then in the explorer."""
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in code_blocks("python") if "class MyDecoder" in block)
    decoder_lines = code.split("class MyDecoder")[1].split("class Brightness")[0].splitlines()
    assert len([line for line in decoder_lines if line.strip()]) <= 10
    scope = {}
    exec(code, scope)
    assert set(scope["recording"].arms) == {"sync", "async", "compute_only"}
    assert "async (chunked)" in capsys.readouterr().out
    decoder, sink = scope["MyDecoder"](), Collect()
    decode_async(decoder, latents_for(decoder), sink, progress=False)
    assert sink.frames == 17
    measure = scope["Brightness"]()
    decode_async(decoder, latents_for(decoder), measure, progress=False)
    assert len(measure.means) == 5
    (call,) = re.findall(r"`vdkit\.explore\((decoder=.*)\)`", README)
    shown = eval(f'vdkit.explore(device="cpu", calibrate=False, {call})', scope | {"vdkit": vdkit})
    shown.controls.rounds.value = 1
    shown.run(wait_s=60)
    (run,) = shown.session.runs
    assert (run.setting.decoding.decoder, run.setting.decoding.sink) == ("mine", "own")
    shown.close()


def test_what_readme_writes_leaves_the_code_clean(tmp_path):
    """What its snippets write into a clone does not count as changed code; changed code does."""

    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.invalid")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / "vdkit"
    package.mkdir()
    (package / "one.py").write_text("x = 1\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    for name in re.findall(
        r"[\w/]+\.(?:rgb|json\.gz|mp4|html|png)\b", "".join(code_blocks("\\w+"))
    ):
        if not name.startswith("data/"):
            (tmp_path / name).write_bytes(b"made")
    commit, dirty = git_state(package)
    assert len(commit) == 40 and dirty is False
    (package / "two.py").touch()
    assert git_state(package)[1] is True
    (package / "two.py").unlink()
    (package / "one.py").write_text("x = 2\n")
    assert git_state(package)[1] is True
    copied = tmp_path / "lib" / "vdkit"  # as an install, in a checkout that does not know it
    copied.mkdir(parents=True)
    assert git_state(copied) == (None, None)


def test_commands_exist():
    from vdkit.cli import build_parser

    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z]+)", README)) <= set(targets)
    lines = "".join(code_blocks("bash"))
    commands = re.findall(r"^(?:\.venv/bin/)?vdkit (.*?)(?:  #|\n)", lines, re.MULTILINE)
    for command in commands:
        build_parser().parse_args(shlex.split(command))
    assert len(commands) >= 9
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
    assert re.findall(r"^version: (.*)$", card, re.MULTILINE) == [vdkit.__version__]
    assert "The vdkit developers" in card and "CITATION.cff" in README


def slug(heading):
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", PAGE])
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
    """Every folder of the package stands in the picture, and every name in it is there."""
    tree = (ROOT / "CONTRIBUTING.md").read_text().split("## The house")[1].split("```")[1]
    for name in re.findall(r"(?<![\w/.])([a-z_]+(?:/|\.py))", tree):
        assert (ROOT / name).exists() or list((ROOT / "vdkit").rglob(name)) or name in (
            "cpu/", "gpu/", "notebook/", "browser/", "goldens/", "mutants/",
        ), name  # fmt: skip
    for path in (ROOT / "vdkit").iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert f"{path.name}/" in tree, path.name


def test_contributing_names_what_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"`([a-z_/]+\.(?:py|md|json))`", text):
        there = [ROOT / name, ROOT / "vdkit" / name, ROOT / "tests" / "cpu" / name]
        assert name in ("recording.json", "table.md") or any(path.exists() for path in there), name
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z]+)", text)) <= {*targets, "it"}
