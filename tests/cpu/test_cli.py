"""The command line, as a user meets it."""

import errno
import itertools
import json
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from unittest.mock import MagicMock

import pytest

import vdkit.record
from vdkit import DecodeConfig, load_decoder, load_latents, read_recording, save_latents
from vdkit.__main__ import main
from vdkit.cli import ALL_MODES, PRESETS, build_parser
from vdkit.models.latents import latents_metadata
from vdkit.models.loading import EXAMPLE
from vdkit.predict import video_info
from vdkit.present.document import MARKER

ROOT = Path(__file__).parents[2]
(HTA,) = (ROOT / "results").glob("*analyze-vs-hta")
RUN = max((ROOT / "results").glob("2*/result.json")).parent
BENCH = next((ROOT / "results").glob("*c942496_aws-float16"))
QUICK = ["bench", "--device", "cpu", "--latents", "random:9x16x16", "--runs", "2", "--warmup", "0"]


def test_bench_records_and_ends_in_one_line_of_json(tmp_path, capsys):
    out = tmp_path / "results"
    status = main([*QUICK, "--modes", "sync,async", "--out", str(out), "--label", "quick"])
    assert status == 0
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    (folder,) = out.iterdir()
    assert summary["folder"] == str(folder) and folder.name.endswith("_quick")
    assert sorted(p.name for p in folder.iterdir()) == [
        "SHA256SUMS",
        "latency.png",
        "recording.json",
        "runs.csv",
        "table.md",
        "timeline.png",
    ]
    result = read_recording(folder)
    mean = summary["arms"]["async"]["latency_s"]["mean"]
    assert mean == pytest.approx(result.arms["async"].latency.mean, abs=1e-6)
    assert len(lines[-1]) < 500 + len(str(folder))
    assert result.sink.kind == "raw" and "vdkit bench" in result.command
    assert any("sync (chunked)" in line for line in lines)
    assert "decoding on cpu in float32" in lines[0]


def test_json_only(tmp_path, capsys):
    main([*QUICK, "--modes", "async", "--out", str(tmp_path), "--json", "--sink", "null"])
    (line,) = capsys.readouterr().out.splitlines()
    whole = json.loads(line)
    assert whole["baseline"] == "async" and whole["provenance"]["device"] == "cpu"


def test_every_knob_arrives(tmp_path, capsys):
    status = main(
        [*QUICK, "--modes", "sync,async", "--baseline", "async", "--chunk", "2", "--slots", "5",
         "--seed", "4", "--fps", "24000/1001", "--dtype", "bfloat16", "--no-pinned-memory",
         "--no-copy-stream", "--no-writer-thread", "--no-uint8-on-gpu", "--sink", f"raw:{tmp_path}",
         "--durable", "--throttle-mb-s", "50", "--denormalize", "--out", str(tmp_path / "o"),
         "--json"]
    )  # fmt: skip
    assert status == 0
    result = read_recording(json.loads(capsys.readouterr().out)["folder"])
    config = result.config
    assert video_info(result).fps == result.workload.rate == Fraction(24000, 1001)
    assert (config.chunk_size, config.slots) == (2, 5)
    assert not any(
        (config.pinned_memory, config.copy_stream, config.writer_thread, config.uint8_on_gpu)
    )
    assert result.baseline == "async" and result.workload.seed == 4
    assert result.workload.fps == pytest.approx(23.976, abs=1e-3)
    assert result.workload.dtype == "bfloat16"
    assert result.sink.durable and result.sink.throttle_mb_per_s == 50


def test_preset_is_the_published_workload_and_flags_override_it(monkeypatch):
    assert PRESETS["aws"] == {
        "decoder": "wan2.1", "latents": "clips:161x480x832",
        "chunk": 1, "slots": 2, "warmup": 1,
    }  # fmt: skip
    seen = {}
    monkeypatch.setattr("vdkit.measure.study.check_rounds", lambda *rounds: seen.update(n=rounds))

    def stop(source, *rest):
        seen["source"] = source
        raise ValueError("far enough")

    monkeypatch.setattr("vdkit.models.loading.load_decoder", stop)
    assert main(["bench", "--preset", "aws"]) == 2 and seen["source"] == "wan2.1"
    assert seen["n"] == (10, 1)
    assert (
        main(["bench", "--preset", "aws", "--decoder", "wan2.2"]) == 2
        and seen["source"] == "wan2.2"
    )


def test_an_unknown_option_shows_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit):
        main(["probe", "tiny-wan", "--chunks", "3"])
    said = capsys.readouterr().err
    assert "usage: vdkit probe" in said and "unrecognized arguments: --chunks 3" in said


def test_help_explains_every_knob(capsys):
    from vdkit.record.runs import MODES

    parser = build_parser()
    for command, words in (
        ("show", ("bench, profile, sweep or demo",)),
        ("profile", ("diffusers,sync,async,compute_only", "as many again with the NVML sampler")),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args([command, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert all(word in shown for word in words)
    assert ",".join(MODES) == ALL_MODES
    for command in parser._subparsers._group_actions[0].choices.values():
        for action in command._actions:
            assert action.help, action


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--decoder", "wan9"], "decoder source 'wan9' is unknown; use wan2.1"),
        (["--latents", "random:10x16x16"], "10 pixel frames .*use 9 or 13"),
        (["--latents", "nowhere.safetensors"], "no latents file 'nowhere.safetensors'"),
        (["--chunk", "0"], "chunk_size is 0; use 1 or more"),
        (["--chunk", "3"], "chunk size 3: the video has 3 latent frames, .* so use 1 to 2"),
        (["--slots", "17"], "slots is 17; use 1 to 16"),
        (["--modes", "sync,turbo"], "modes turbo: use any of"),
        (["--baseline", "turbo"], "baseline 'turbo' is not among"),
        (["--out", __file__], "is a file; give a folder"),
        (["--label", "x" * 300], "has 300 characters"),
        (["--seed", "-1"], "seed is -1"),
        (["--decoder", "./nope"], "decoder folder './nope' does not exist"),
        (["--sink", "null:/tmp"], "takes no folder"),
        (["--sink", "avi"], "sink 'avi' is unknown"),
        (["--sink", "raw:/no/such/folder"], "sink folder '/no/such/folder' does not exist"),
        (["--sink", "raw:/proc"], r"sink folder '/proc' cannot be written to \(No such file"),
        (["--throttle-mb-s", "-5"], "storage speed is -5 MB/s"),
        (["--fps", "0"], "fps is 0; it must be above 0"),
        (["--runs", "0"], "runs is 0"),
        (["--dtype", "int4"], "dtype 'int4' is not supported"),
        (["--device", "tpu"], "device 'tpu' is unknown"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, arguments, message):
    import re

    assert main([*QUICK, "--out", str(tmp_path / "o"), *arguments]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith("vdkit: error: ") and re.search(message, errors[-1])
    assert "Traceback" not in "\n".join(errors)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--latents", "nowhere.safetensors"], ["--latents", __file__], ["--sink", "png:/proc"],
        ["--chunk", "0"], ["--slots", "17"],
        ["--modes", "sync,turbo"], ["--baseline", "turbo"], ["--out", __file__],
        ["--label", "x" * 300], ["--seed", "-1"], ["--sink", "avi"], ["--throttle-mb-s", "0"],
        ["--fps", "0"], ["--runs", "0"], ["--warmup", "-1"],
    ],
)  # fmt: skip
def test_what_costs_nothing_to_check_is_checked_before_a_decoder_is_loaded(
    tmp_path, capsys, monkeypatch, arguments
):
    def load(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr("vdkit.models.loading.load_decoder", load)
    assert main([*QUICK, "--out", str(tmp_path / "o"), *arguments]) == 2
    assert main(["profile", "--nvml-ms", "0", "--out", str(tmp_path / "o"), "--device", "cpu"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--out", "/proc/no/demo"], "--out '/proc/no/demo' cannot be written to"),
        (["report", str(RUN), "--out", "/proc/r.html"], "--out '/proc/r.html' cannot be written"),
        (["show", str(RUN), "--timeline", "/proc/t.png"], "timeline '/proc/t.png' cannot be"),
        (["results", str(RUN), "--csv", "/proc/r.csv"], "--csv '/proc/r.csv' cannot be written"),
        (["results", str(RUN), "--csv", "r" * 250], "cannot be written (File name too long)"),
    ],
)
def test_every_output_that_cannot_be_written_is_refused_first(
    capsys, monkeypatch, arguments, words
):
    for name in ("vdkit.cli.load_variant", "vdkit.cli.read.opened"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("began"))
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("vdkit: error: ") and words in printed.err
    assert printed.out == "" and printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "bench --variants diffusers,channels_last",
        "profile",
        "bench --aa",
        "sweep --chunks 1,3",
        f"recommend {BENCH} --frames 9 --chunks 1,3",
    ],
)
def test_a_chunk_beyond_the_video_is_refused_by_every_command(tmp_path, capsys, command):
    """As bench does above."""
    if not command.startswith("recommend"):
        chunk = "" if command.startswith("sweep") else " --chunk 3"
        command += f" --device cpu --latents random:9x16x16 --out {tmp_path / 'o'}{chunk}"
    assert main(command.split()) == 2
    assert "chunk size 3: the video has 3 latent frames" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def stop_at(number):
    """Ctrl-C at so many lines of `vdkit.record`, where all that is kept is written."""
    left = [number]

    def trace(frame, event, argument):
        if frame.f_code.co_filename != vdkit.record.__file__:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    return left


@pytest.mark.parametrize("command", ["bench", "report", "results"])
def test_an_interrupt_says_what_is_kept_whenever_it_comes(tmp_path, monkeypatch, capsys, command):
    record = min(
        (ROOT / "results").glob("*_sweep-cpu/result_*"), key=lambda one: one.stat().st_size
    )
    result = read_recording(record)
    document = MagicMock()
    document.text.return_value = document.markdown.return_value = "table"
    document.html.return_value = f"\n{MARKER}\n"
    document.parts.return_value = ()
    for name, quick in (
        ("measure.plans.run_benchmark", lambda *_, **__: result),
        ("cli.load", lambda options: (MagicMock(), None, MagicMock(), {"config": DecodeConfig()})),
        ("cli.run.document_of", lambda *_, **__: document),
        ("cli.read.document_of", lambda *_, **__: document),
    ):
        monkeypatch.setattr(f"vdkit.{name}", quick)
    page = tmp_path / "earlier.html"
    seen = set()
    for number in itertools.count(1):
        out = tmp_path / str(number)
        out.mkdir()
        page.write_text(f"\n{MARKER}\nearlier")
        arguments = {
            "bench": [*QUICK, "--out", str(out)],
            "report": ["report", str(record), "--out", str(page)],
            "results": ["results", str(record), "--csv", str(out / "x.csv")],
        }[command]
        left = stop_at(number)
        try:
            status = main(arguments)
        finally:
            sys.settrace(None)
        said = capsys.readouterr().err
        files = [one for one in out.rglob("*") if one.is_file() and not one.name.startswith(".")]
        kept = bool(files) or "earlier" not in page.read_text()
        if left[0] > 0:
            assert status == 0 and kept
            break
        assert status == 130 and ("nothing was recorded" in said) == (not kept), (number, files)
        if kept:
            (where,) = [Path(one) for one in said.strip().split(": ")[-1].split(", ")]
            assert where in (page, *out.iterdir())
            if command == "bench":
                assert read_recording(where).label == result.label
        seen.add(kept)
    assert seen == {True, False}


def test_an_interrupt_while_a_record_becomes_json_is_one_too(tmp_path, monkeypatch, capsys):
    def stop(chunk):
        raise KeyboardInterrupt

    monkeypatch.setattr("vdkit.record.runs.attrgetter", stop)
    assert main([*QUICK, "--modes", "sync", "--out", str(tmp_path)]) == 130
    assert "interrupted; nothing was recorded" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_the_record_not_the_table(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vdkit.cli.run.result_folder", full)
    assert main([*QUICK, "--modes", "sync", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "| sync (chunked) |" in said.out and "No space left on device" in said.err


def test_demo_leaves_a_recording_alone(tmp_path, capsys):
    shutil.copy(BENCH / "result.json", tmp_path / "recording.json")
    assert main(["demo", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "holds a recording; give another folder" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["recording.json"]


def test_demo(tmp_path, capsys, monkeypatch):
    """On a part of the clip, 25 frames of 32x64 pixels: all of the clip takes minutes on a CPU."""
    whole = load_latents(EXAMPLE, load_decoder("tiny-wan", "cpu"))
    small = save_latents(
        tmp_path / "small.safetensors", whole[:, :, :7, :4, :8], latents_metadata(EXAMPLE)
    )
    monkeypatch.setattr("vdkit.models.loading.EXAMPLE", small)
    assert main(["demo", "--device", "cpu", "--out", str(tmp_path / "demo")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("identical, byte for byte") == 2
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {
        "demo.mp4",
        "timeline.png",
        "table.md",
        "table_slow_storage.md",
        "runs.csv",
        "recording.json",
        "recording_slow_storage.json",
        "SHA256SUMS",
    }
    assert main(["check", str(tmp_path / "demo")]) == 0
    assert " ok" in (said := capsys.readouterr().out) and "not today's" not in said
    slow = read_recording(tmp_path / "demo" / "recording_slow_storage.json")
    for run in slow.arms["async"].timed:  # even on a CPU the writing is hidden: order, not time
        written = run.chunks[3].write_done_s
        assert run.chunks[4].decode_start_s < written
    for run in slow.arms["sync"].timed:
        assert run.chunks[4].decode_start_s >= run.chunks[3].write_done_s
    shutil.rmtree(tmp_path / "demo")


def test_show(tmp_path, capsys):
    main([*QUICK, "--modes", "sync,async", "--out", str(tmp_path / "o"), "--json"])
    folder = json.loads(capsys.readouterr().out)["folder"]
    picture = tmp_path / "timeline.svg"
    assert main(["show", folder, "--timeline", str(picture), "--zoom", "1"]) == 0
    assert "sync (chunked)" in capsys.readouterr().out and picture.stat().st_size > 1000
    (tmp_path / "folder.png").mkdir()
    assert main(["show", folder, "--timeline", str(tmp_path / "folder.png")]) == 2
    captured = capsys.readouterr()
    assert "is a folder; give a file name" in captured.err and captured.out == ""
    (tmp_path / "folder.png").rmdir()
    for arguments, message in (
        ([str(tmp_path / "nothing")], "no result at"),
        ([folder, "--modes", "sync"], "--modes is for a picture; name one with --timeline FILE"),
        ([folder, "--modes", "turbo", "--timeline", str(picture)], "no arm turbo in this"),
        ([folder, "--timeline", str(tmp_path / "t")], "end the name in .png, .svg or .pdf"),
        ([folder, "--timeline", str(picture), "--zoom", "0"], "zoom is 0; draw 1 chunk or more"),
        ([folder, "--zoom", "2"], "name one with --timeline"),
        ([folder, "--timeline", str(picture), "--zoom", "2"], "async has 3 chunks: draw 1 at the"),
        ([folder, "--timeline", "/no/such/t.png"], "there is no folder '/no/such'; create it"),
        (
            [str(tmp_path)],
            "no recording.json, result.json, variants.json, aa.json or profile.json; it holds o, "
            "timeline.svg",
        ),
        ([str(HTA)], "result_hta.json holds tools/analyze_vs_hta.py's times"),
        ([str(HTA / "result_hta.json")], "is no recording: result_hta.json holds"),
    ):
        assert main(["show", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_reader_that_stops_reading_is_no_error():
    import subprocess
    import sys

    command = f"{sys.executable} -m vdkit show '{RUN}' | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "" and len(done.stdout.splitlines()) == 1
