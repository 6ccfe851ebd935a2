"""Many videos over many workers: each file once and right, whatever dies, fills up or is stopped.

Ray is real, of this host, and shared; its actors are killed as a system kills processes.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.fanned import Troubled, drawn, latents_of
from tests.helpers import NearestDecoder, leftovers, wait_for
from vdkit import DecodeConfig, RawSink, SinkSpec, decode_async
from vdkit.__main__ import main
from vdkit.models.grain import Grained
from vdkit.present.fanout import fanout_document
from vdkit.record import SUMS, Locked, locked
from vdkit.record.fanout import FANOUT, read_fanout
from vdkit.scale import read_manifest
from vdkit.scale.driver import ENGINES, REQUEUED, fan_out
from vdkit.scale.worker import Orders, Worker

ROOT = Path(__file__).parents[2]
LIMIT_S = 300


@pytest.fixture(autouse=True)
def limited():
    """What hangs fails."""

    def over(number, frame):
        raise TimeoutError(f"not within {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def ray():
    """One runtime for all: starting it takes longer than most tests."""
    with ENGINES["ray"](None, False):
        import ray

        yield ray


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param == "ray":
        request.getfixturevalue("ray")
    return request.param


class Runs:
    """Fan-outs of decoders in trouble into ``out``, by two workers."""

    def __init__(self, folder, engine):
        self.out, self.notes, self.engine = folder / "out", folder / "notes", engine
        self.notes.mkdir()

    def orders(self, sink="raw", fps=16, config=DecodeConfig(), **trouble):
        decoder = partial(Troubled, self.notes, **trouble)
        spec = SinkSpec.of(sink)
        return Orders(self.out, decoder, latents_of, spec, config, "own", fps)

    def __call__(self, videos, **given):
        orders = self.orders(**given)
        return fan_out(videos, orders, workers=2, engine=self.engine, gpus=False)

    @property
    def begun(self):
        """How many decodes were begun."""
        return len(list(self.notes.glob("begun-*")))

    def assert_right(self, videos):
        """Every file has the bytes of one decode, and nothing else is there."""
        decoder, alone = NearestDecoder(), self.notes / "alone.rgb"
        for video in videos:
            decode_async(decoder, latents_of(decoder, video), RawSink(alone), progress=False)
            assert (self.out / video.out).read_bytes() == alone.read_bytes()
        names = {f"{v.out}{end}" for v in videos for end in ("", ".json", ".vdkit.json")}
        assert {path.name for path in self.out.iterdir() if path.is_file()} == names
        assert not leftovers(self.out) and not list(self.out.glob(".*"))


@pytest.fixture
def run(tmp_path, engine):
    return Runs(tmp_path, engine)


def test_two_hundred_videos(run):
    videos = drawn(200)
    done = run(videos)
    assert not done.failed and not done.interrupted and not done.finished_before
    assert sorted(one.out for one in done.videos) == [video.out for video in videos]
    assert run.begun == 200 and {one.tries for one in done.videos} == {1}
    run.assert_right(videos)
    parts = [done.of(worker) for worker in (0, 1)]
    assert sum(len(part.videos) for part in parts) == 200
    busy = [part.decoding_percent for part in parts]
    assert done.decoding_percent == pytest.approx(sum(busy) / 2) and min(busy) > 0
    assert done.media_s == pytest.approx(200 * 5 / 16) and done.energy_j is None

    (run.out / videos[3].out).write_bytes(b"cut short")
    (run.out / f"{videos[4].out}.vdkit.json").write_text("{}")
    again = run(videos)
    assert again.finished_before == 198 and run.begun == 202
    assert {one.out for one in again.videos} == {video.out for video in videos[3:5]}
    run.assert_right(videos)


@pytest.mark.parametrize("deaths", [1, REQUEUED + 1])
def test_a_killed_worker_is_replaced_and_its_video_tried_again(run, deaths):
    decoder, many = NearestDecoder(), drawn(40)
    doomed, *_ = (v for v in many if latents_of(decoder, v)[0, 0, 0, 0, 0] < 0)
    videos = [doomed, *(v for v in many if latents_of(decoder, v)[0, 0, 0, 0, 0] >= 0)][:8]
    done = run(videos, deaths=deaths)
    tries = {one.out: one.tries for one in done.videos}
    assert len(list(run.notes.glob("died-*"))) == deaths
    if deaths > REQUEUED:
        assert list(done.failed) == [doomed.out] and "3 workers died" in done.failed[doomed.out]
        videos = videos[1:]
    else:
        assert not done.failed and tries.pop(doomed.out) == deaths + 1
        assert "Made again after a worker had died: 1." in fanout_document(done).text()
    assert set(tries.values()) == {1}
    run.assert_right(videos)


def test_a_full_disk_of_one_of_two(tmp_path, ray):
    run, videos = Runs(tmp_path, "ray"), drawn(2)
    done = run(videos, full=2000, together=2)
    (made,), (failed,) = done.videos, done.failed
    assert {made.out, failed} == {video.out for video in videos}
    assert done.failed[failed] == f"cannot write {failed}: File too large"
    run.assert_right([video for video in videos if video.out == made.out])
    again = run(videos)
    assert again.finished_before == 1 and [one.out for one in again.videos] == [failed]
    run.assert_right(videos)


def test_a_killed_driver(tmp_path, ray):
    run, videos = Runs(tmp_path, "ray"), drawn(40, 4)
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.fanned", run.out, run.notes,
         ray.get_runtime_context().gcs_address],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(lambda: len(list(run.out.glob("*.vdkit.json"))) >= 2, 60)
    driver.kill()
    driver.communicate()
    assert (run.out / ".vdkit-fanout").is_dir()
    done = run(videos)
    assert done.finished_before >= 2 and done.finished_before + len(done.videos) == 40
    run.assert_right(videos)


def test_other_settings_make_it_again(tmp_path):
    """A worker needs neither Ray nor a driver."""
    run, (video,) = Runs(tmp_path, None), drawn(1)

    def made(seed=0, grain=None, **given):
        orders = run.orders(**given)
        if grain is not None:
            orders = replace(orders, decoder=lambda: Grained(NearestDecoder(), grain))
        orders.scratch.mkdir(parents=True, exist_ok=True)
        answer = Worker(orders, 0).make(video.model_copy(update={"seed": seed}))
        assert answer.failed is None
        return answer.made is not None

    assert made() and not made() and not made(config=DecodeConfig(slots=4))
    assert made(fps=24) and made() and made(config=DecodeConfig(chunk_size=2)) and made()
    assert made(sink="raw,pixel_format=yuv420p") and made() and made(seed=8) and made()
    assert made(grain=3.0) and not made(grain=3.0) and made(grain=5.0) and made()
    shutil.rmtree(run.out / ".vdkit-fanout")
    run.assert_right([video])


def test_one_at_a_time(tmp_path):
    run = Runs(tmp_path, "processes")
    run.out.mkdir()
    with locked(run.out, "ours"), pytest.raises(Locked, match="another fan-out is at work in"):
        run(drawn(1))


def test_the_command(tmp_path, ray, capsys):
    """A folder of latents, interrupted, gone on with, shown; what is no latents is listed."""
    folder, out = tmp_path / "latents", tmp_path / "out"
    folder.mkdir()
    for number in range(8):
        latents = torch.randn(1, 16, 3, 6, 8, generator=torch.Generator().manual_seed(number))
        save_file({"latents": latents}, folder / f"clip{number}.safetensors")
    save_file({"latents": torch.zeros(1, 3, 3, 6, 8)}, folder / "thin.safetensors")
    (folder / "torn.safetensors").write_bytes((folder / "clip0.safetensors").read_bytes()[:900])
    command = ["fanout", str(folder), "--out", str(out), "--device", "cpu", "--sink", "mp4"]

    def interrupt():
        wait_for(lambda: list(out.glob("*.vdkit.json")), LIMIT_S)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert main(command) == 130
    said = capsys.readouterr()
    assert "10 files; starting 2 workers (Ray " in said.out and "stopping the workers" in said.out
    first = json.loads(said.out.splitlines()[-1])
    assert said.err.endswith("what is finished is kept: the same command goes on\n")
    assert 1 <= first["made"] < 8 and read_fanout(first["folder"]).interrupted
    assert len(list(out.glob("*.mp4"))) == first["made"] and not list(out.glob(".*"))

    assert main([*command, "--usd-per-hour", "3", "--energy", "--label", "rest"]) == 1
    said = capsys.readouterr()
    made = json.loads(said.out.splitlines()[-1])
    assert made["finished_before"] == first["made"] and made["failed"] == 2
    assert made["made"] + first["made"] == 8 and len(list(out.glob("*.mp4"))) == 8
    done = read_fanout(made["folder"])
    assert done.failed["thin.mp4"] == "latents have 3 channels, this decoder takes 16"
    assert done.failed["torn.mp4"].startswith("torn.safetensors is damaged or cut short")
    assert f"vdkit: warning: thin.mp4: {done.failed['thin.mp4']}" in said.err.splitlines()
    assert "USD / video h" in said.out and "No energy" in said.out and done.rtf > 0
    text = Path(made["folder"], FANOUT).read_text()
    assert str(tmp_path) not in text.replace(json.dumps(done.command), "")
    assert {path.name for path in Path(made["folder"]).iterdir()} == {
        FANOUT, SUMS, "table.md", "videos.csv",
    }  # fmt: skip

    assert main(["results", str(out)]) == 0
    *_, begun, rest = capsys.readouterr().out.splitlines()
    assert begun.startswith(f"  {first['folder']}: {first['made']} video")
    assert rest.startswith(f"  {made['folder']}: {made['made']} videos by 2 workers (Ray ")
    assert main(["results", made["folder"], "--json"]) == 2
    assert main(["check", made["folder"]]) == 0
    assert main(["show", made["folder"]]) == 0
    assert "| all " in capsys.readouterr().out
    assert main(["report", made["folder"], "--out", str(tmp_path / "r.html")]) == 0
    assert "torn.mp4" in (tmp_path / "r.html").read_text()
    assert main(["compare", made["folder"], made["folder"]]) == 2
    assert main(["show", made["folder"], "--timeline", str(tmp_path / "t.png")]) == 2
    assert "is a fan-out, which has no timeline" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ENGINES)
def test_a_decoder_that_none_can_load(tmp_path, engine, request, capsys):
    if engine == "ray":
        request.getfixturevalue("ray")
    (tmp_path / "m.jsonl").write_text('{"latents": "random:5x16x16", "out": "x/a"}\n')
    options = ["--out", str(tmp_path / "new" / "out"), "--decoder", "tests.fanned:broken"]
    assert main(["fanout", str(tmp_path / "m.jsonl"), *options, "--engine", engine]) == 2
    said = capsys.readouterr()
    assert "1 file; starting 1 worker (" in said.out and "it is broken" in said.err
    assert [one.name for one in tmp_path.iterdir()] == ["m.jsonl"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["tests.fanned:missing"], "has no attribute 'missing'; give MODULE:NAME"),
        (["tests.fanned:WAIT_S"], "is of type int"),
        (["tests.fanned:broken", "--halo", "3"], "is made as it is; leave out --halo"),
        (["nobody"], "decoder source 'nobody' is unknown"),
        (["./nowhere"], "decoder folder './nowhere' does not exist"),
        (["thin-flux", "--variant", "fast"], "variant 'fast' is Wan's"),
        (["thin-mimi"], "takes video and video with sound, decoder 'thin-mimi' makes audio"),
        (["tiny-wan", "--halo", "3"], "halo is 3, but tiny-wan (diffusers) has none"),
    ],
)
def test_a_wrong_decoder_is_refused_before_anything_starts(tmp_path, capsys, options, said):
    (tmp_path / "m.jsonl").write_text('{"latents": "random:5x16x16", "out": "a"}\n')
    options = ["--out", str(tmp_path / "out"), "--decoder", *options]
    assert main(["fanout", str(tmp_path / "m.jsonl"), *options]) == 2
    told = capsys.readouterr()
    assert said in told.err and not told.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("there", [False, True])
def test_one_that_made_nothing_leaves_no_folder_of_its_own(tmp_path, capsys, monkeypatch, there):
    """Of what cannot be decoded, then interrupted before the first file."""
    out = tmp_path / "out"
    if there:
        out.mkdir()
    save_file({"latents": torch.zeros(1, 3, 3, 6, 8)}, tmp_path / "thin.safetensors")
    (tmp_path / "m.jsonl").write_text('{"latents": "thin.safetensors", "out": "x/a"}\n')
    command = ["fanout", str(tmp_path / "m.jsonl"), "--out", str(out), "--device", "cpu"]
    command += ["--engine", "processes", "--json"]
    assert main(command) == 1 and "3 channels" in capsys.readouterr().err
    left = ["m.jsonl", *(["out"] if there else []), "thin.safetensors"]
    assert sorted(one.name for one in tmp_path.iterdir()) == left

    def interrupt(*given):
        (out / "x").mkdir()  # as a worker does before it decodes
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("vdkit.scale.driver._drive", interrupt)
    assert main(command) == 130
    assert sorted(one.name for one in tmp_path.iterdir()) == left
    assert not there or not list(out.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no video"),
        ('{"latents": "a"}', "m.jsonl:1: out: Field required; write {"),
        ('\n{"latents": "a", "out": "b", "mode": 1}', "m.jsonl:2: mode: Extra inputs"),
        ("what", "m.jsonl:1: Invalid JSON"),
        ('{"latents": "a", "out": "/etc/b"}', "'/etc/b' is no name in the folder"),
        ('{"latents": "a", "out": "../b"}', "'../b' is no name in the folder"),
        ('{"latents": "a", "out": "b.wav"}', "out 'b.wav' does not end in '.mp4' of mp4"),
        ('{"latents": "a", "out": "b"}\n{"latents": "c", "out": "./b.mp4"}',
         "m.jsonl:2: out './b.mp4' is that of .*m.jsonl:1 too; name each once"),
        ('{"latents": "a", "out": "b", "fps": "x"}', "m.jsonl:1: fps is 'x'; give a number"),
    ],
)  # fmt: skip
def test_manifests_that_are_wrong(tmp_path, text, said):
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_manifest(tmp_path / "m.jsonl", "mp4")


@pytest.mark.parametrize("outs", [("a", "x/a", "a/b"), ("a/b", "x/a", "a")])
def test_no_folder_of_frames_lies_in_another(tmp_path, outs):
    lines = [json.dumps({"latents": "l", "out": out}) for out in outs]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"m.jsonl:3: out .* and that of .*m.jsonl:1: one would"):
        read_manifest(tmp_path / "m.jsonl", "png")
    assert len(read_manifest(tmp_path / "m.jsonl", "mp4")) == 3


def test_manifests_that_are_right(tmp_path):
    lines = [{"latents": "a.st", "out": "x/a", "fps": "24000/1001", "seed": 3},
             {"latents": "random:5x16x16", "out": "b.v2.mp4"}]  # fmt: skip
    (tmp_path / "m.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    one, two = read_manifest(tmp_path / "m.jsonl", "mp4", seed=7)
    assert (one.latents, one.out) == (str(tmp_path / "a.st"), "x/a.mp4")
    assert (one.fps, one.seed, two.fps, two.seed) == ("24000/1001", 3, None, 7)
    assert (two.latents, two.out) == ("random:5x16x16", "b.v2.mp4")
    with pytest.raises(ValueError, match=r"none.* cannot be read \(No such file"):
        read_manifest(tmp_path / "none", "mp4")
    with pytest.raises(ValueError, match="names no video"):
        read_manifest(tmp_path, "mp4")  # a folder without latents


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "0"], "workers is 0; use 1 or more"),
        (["--sink", "null"], "sink 'null' leaves no file"),
        (["--sink", "png,nothing=1"], "has no options nothing"),
        (["--sink", "mp4:/tmp"], "names a folder; that is --out"),
        (["--engine", "processes", "--address", "auto"], "is for engine ray"),
        (["--address", "127.0.0.1:1"], "no Ray at 127.0.0.1:1 (Connection refused)"),
    ],
)
def test_options_that_are_wrong(tmp_path, capsys, monkeypatch, options, said):
    (tmp_path / "m.jsonl").write_text('{"latents": "random:5x16x16", "out": "a"}\n')
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    out = ["--out", str(tmp_path / "out")]
    assert main(["fanout", str(tmp_path / "m.jsonl"), *out, *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
