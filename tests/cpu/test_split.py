"""One video in strips of rows over several processes: the frames of one, or a clear end of all."""

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import astuple
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.cpu.test_wan_fast import frames_of, noise, random_vae
from tests.helpers import NearestDecoder, leftovers, wait_for
from tests.timelines import chunk, run, timeline
from tools.split_times import CountedStrip, causes, counted
from vdkit import DecodeConfig, RawSink, decode_async, load_decoder, load_latents
from vdkit.__main__ import main
from vdkit.decode import ranks
from vdkit.decode.ranks import run_ranks
from vdkit.models.fast.decoder import FastWanDecoder
from vdkit.models.split import SplitDecoder, Strip, decode_split
from vdkit.models.wan import ChannelsLastWanDecoder, WanDecoder
from vdkit.predict.split import Exchanged, Link, predict_split
from vdkit.sinks.files import JoinedRawSink
from vdkit.trace import COMMUNICATION

FRAMES, WIDTH = 4, 3
WORLDS = {2: (2, 5), 3: (4,), 4: (6,)}
"""Ranks, and rows of the latents: as few as there are ranks, and such as do not divide."""
CASES = {
    (16, "diffusers"): (WanDecoder, torch.float64, 1e-10),
    (48, "diffusers"): (WanDecoder, torch.float64, 1e-10),
    (16, "channels_last"): (ChannelsLastWanDecoder, torch.float64, 1e-10),
    (16, "fast"): (FastWanDecoder, torch.float32, 2e-6),  # on a CPU its sums are float32
    (48, "fast"): (FastWanDecoder, torch.float32, 2e-6),
}

pytestmark = pytest.mark.usefixtures("one_thread", "no_hang")


@pytest.fixture(scope="module")
def no_hang():
    """A process that waits for one that is gone would do so for half an hour."""

    def over(number, frame):
        raise TimeoutError("the tests of this file take longer than 180 s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(180)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def made(case):
    kind, dtype, _ = CASES[case]
    return kind(random_vae(case[0], base_dim=8, decoder_base_dim=8).to(dtype), case[1])


class Tallied(Strip):
    """Counts what is sent."""

    sent = np.zeros(4, int)

    def exchange(self, edges):
        sides = (self.rank > 0) + (self.rank < self.count - 1)
        self.sent = self.sent + np.array([1, edges.nbytes // 2 * sides, 0, 0])
        return super().exchange(edges)

    def all_gather(self, own):
        self.sent = self.sent + np.array([0, 0, 1, own.nbytes * (self.count - 1)])
        return super().all_gather(own)


def strips(device):
    """All that this rank decodes, by what it is of, and what it sends for a steady chunk of two."""
    found = {}
    for world, heights in WORLDS.items():
        group = dist.new_group(range(world))
        for case, height in product(CASES, heights) if dist.get_rank() < world else ():
            split = SplitDecoder(made(case), Tallied(height, group))
            latents = split.part(noise(split, FRAMES, height, WIDTH))
            for chunk_size in (1, 2):
                made_here = frames_of(split, latents, chunk_size)
                found[world, case, height, chunk_size] = made_here.numpy()
            if world == 3:
                found[case] = sent_in_a_chunk(split, height)
    return found


@torch.inference_mode()
def sent_in_a_chunk(split, height):
    state = split.begin(split.part(noise(split, 7, height, WIDTH)))
    for part in ((0, 1), (1, 3), (3, 5), (5, 7)):
        split.strip.sent = np.zeros(4, int)
        split.decode_chunk(state, *part)
    return split.strip.sent


@pytest.fixture(scope="module")
def decoded(no_hang):
    return run_ranks(4, strips, kind="cpu")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_frames_are_those_of_one_process(decoded, case):
    whole = made(case)
    for world, heights in WORLDS.items():
        for height, chunk_size in product(heights, (1, 2)):
            parts = [found[world, case, height, chunk_size] for found in decoded[:world]]
            expected = frames_of(whole, noise(whole, FRAMES, height, WIDTH), chunk_size).numpy()
            assert [part.shape[3] > 0 for part in parts] == [True] * world
            assert np.abs(np.concatenate(parts, 3) - expected).max() < CASES[case][2]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_sent_is_known_without_sending(decoded, case):
    sent, share = counted(made(case), 4, WIDTH, 3, 2)
    assert astuple(sent) == tuple(decoded[1][case] / 2) and share == 0.5


def test_a_prediction_adds_up():
    sent, link = Exchanged(halos=40, halo_bytes=2e7, gathers=1, gather_bytes=1e7), Link(1e11, 2e-5)
    found = predict_split(0.07, 0.5, sent, link)
    assert found == pytest.approx(
        {"compute": 0.035, "halo": 0.0008 + 0.0002, "gather": 0.00002 + 0.0001, "launches": 0}
    )
    bound = predict_split(0.07, 0.5, sent, link, launch_s=0.05)
    assert sum(bound.values()) == pytest.approx(0.05) and bound["compute"] == 0.035


def test_the_causes_of_a_profiled_run_fill_its_window():
    chunks = [chunk(index, (100 * index, 100 * index + 90)) for index in range(10)]
    kernels = [(100 * i + at, 100 * i + to, 0) for i in range(10) for at, to in KERNELS]
    made = timeline(kernels, recorded=run("compute_only", chunks, 1000))
    made.names += ["ncclDevKernel_SendRecv", "ncclDevKernel_AllGather_RING_LL"]
    made.gpu.name[:] = [len(made.names) - 2 + which if which >= 0 else 0 for which in WHICH * 10]
    made.gpu.kind[made.gpu.name > 0] = COMMUNICATION
    assert causes(made) == pytest.approx(
        {"compute": 0.05, "halo": 0.01, "gather": 0.02, "launches": 0.02}
    )


KERNELS, WHICH = ((0, 30), (30, 40), (50, 70), (70, 90)), (-1, 0, -1, 1)
"""Of each chunk, us, and whether it is a halo (0), a gather (1) or neither."""


def exact(device, way=None):
    """In float64; rank 1 fails at the third chunk in a ``way`` of `ENDS`."""
    decoder = made((16, "diffusers"))
    decode_chunk = decoder.decode_chunk

    def failing(state, start, stop):
        if start == 2 and dist.get_rank() == 1:
            ENDS[way][0]()
        return decode_chunk(state, start, stop)

    if way is not None:
        decoder.decode_chunk = failing
    return decoder


def planted():
    raise ValueError("planted")


ENDS = {
    "error": (planted, ValueError, "planted"),
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), ChildProcessError,
        "rank 1 of 2 died of SIGKILL"),
    "interrupted": (lambda: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt, None),
    "gone": (lambda: os._exit(3), ChildProcessError, "rank 1 of 2 died of exit status 3"),
}  # fmt: skip


def test_the_joined_file_is_that_of_one_process(tmp_path):
    files, decoder = [tmp_path / "one.rgb", tmp_path / "three.rgb"], exact("cpu")
    latents = noise(decoder, FRAMES, 4, WIDTH).float()
    config = DecodeConfig(chunk_size=2)
    decode_async(decoder, latents, RawSink(files[0]), config=config, progress=False)
    parts = decode_split(
        exact, latents, JoinedRawSink(files[1]), 3, config=config, progress=False, kind="cpu"
    )
    assert [part.info.height for part in parts] == [16, 8, 8]
    assert files[0].read_bytes() == files[1].read_bytes()
    sidecars = [file.with_name(file.name + ".json").read_text() for file in files]
    assert sidecars[0] == sidecars[1] and not leftovers(tmp_path)


def test_the_fast_decoder_as_users_get_it(tmp_path):
    load = partial(load_decoder, "tiny-wan", dtype="float32", variant="fast")
    latents = partial(load_latents, "random:5x48x32")
    files = [tmp_path / "one.rgb", tmp_path / "two.rgb"]
    decode_async(load("cpu"), latents(load("cpu")), RawSink(files[0]), progress=False)
    decode_split(load, latents, JoinedRawSink(files[1]), 2, progress=False, kind="cpu")
    one, two = (np.frombuffer(file.read_bytes(), np.uint8).astype(int) for file in files)
    assert one.shape == two.shape and np.abs(one - two).max() <= 1


def test_what_was_recorded_before_the_split_is_not_used():
    decoder = made((16, "fast"))
    frames_of(decoder, noise(decoder, 3, 2, 2), 1)
    held = next(iter(decoder._idle[2, 2]))
    split = SplitDecoder(decoder, CountedStrip(4, 0, 2))
    assert split.begin(noise(decoder, 3, 2, 2)).space is not held


def differing(device):
    """A decoder of another variant on each rank, as where `prepare` falls back on one alone."""
    return made((16, "fast" if dist.get_rank() else "channels_last"))


def test_ranks_of_different_variants_are_refused(tmp_path):
    latents, sink = noise(exact("cpu"), 2, 2, 2).float(), JoinedRawSink(tmp_path / "clip.rgb")
    with pytest.raises(ValueError, match="the ranks would run channels_last, fast; choose one"):
        decode_split(differing, latents, sink, 2, kind="cpu")


@pytest.mark.parametrize("way", ENDS)
def test_one_that_ends_badly_ends_all(way, tmp_path):
    out = tmp_path / "clip.rgb"
    out.write_bytes(b"before")
    _, error, words = ENDS[way]
    latents = noise(exact("cpu"), 40, 2, 2).float()
    with pytest.raises(error, match=words):
        decode_split(
            partial(exact, way=way), latents, JoinedRawSink(out), 2, progress=False, kind="cpu"
        )
    assert not multiprocessing.active_children() and not leftovers(tmp_path)
    assert out.read_bytes() == b"before" and os.listdir(tmp_path) == ["clip.rgb"]


def waiting(device):
    """Rank 0 waits as one does on a GPU for another that is gone, whatever it is told."""
    if dist.get_rank() == 1:
        raise ValueError("planted")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def test_one_that_cannot_end_is_ended(monkeypatch):
    monkeypatch.setattr(ranks, "_GRACE_S", 0.5)
    with pytest.raises(ValueError, match="planted") as raised:
        run_ranks(2, waiting, kind="cpu")
    assert raised.value.__notes__ == ["This was rank 1 of 2; all others were ended."]
    assert "in waiting" in str(raised.value.__cause__) and not multiprocessing.active_children()


def test_processes_start_as_they_do_with_cuda(monkeypatch):
    monkeypatch.setitem(ranks._START, False, ranks._START[True])
    assert run_ranks(2, str, kind="cpu") == ["cpu", "cpu"]


def limited(device):
    """No file of the process may grow (stands in for a full disk)."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    return exact(device)


def test_a_full_disk_is_known_before_anything_is_decoded(tmp_path):
    latents = noise(exact("cpu"), 4, 2, 2).float()
    with pytest.raises(OSError, match=r"cannot write .*clip.rgb: File too large"):
        decode_split(limited, latents, JoinedRawSink(tmp_path / "clip.rgb"), 2, kind="cpu")
    assert not os.listdir(tmp_path)


def test_what_cannot_be_split_is_refused(tmp_path):
    latents = noise(exact("cpu"), 2, 2, 2).float()
    out = tmp_path / "clip.rgb"
    with pytest.raises(ValueError, match="latents of 2 rows cannot be split over 3 ranks; use 2"):
        decode_split(exact, latents, JoinedRawSink(out), 3, kind="cpu")
    with pytest.raises(TypeError, match=r"'nearest' \(NearestDecoder\) cannot be split over GPUs"):
        decode_split(NearestDecoder, latents, JoinedRawSink(out), 2, kind="cpu")
    with pytest.raises(ValueError, match="0 processes are asked for; use 1 or more"):
        decode_split(exact, latents, JoinedRawSink(out), 0, kind="cpu")
    with pytest.raises(FileNotFoundError, match="does not exist; create it"):
        decode_split(exact, latents, JoinedRawSink(tmp_path / "no" / "clip.rgb"), 2, kind="cpu")
    assert not os.listdir(tmp_path)


def test_ctrl_c_in_the_terminal_ends_every_process(tmp_path):
    command = [sys.executable, "-m", "vdkit", "decode", "random:161x96x160", "--device", "cpu"]
    command += ["--gpus", "2", "--out", str(tmp_path / "clip.rgb")]
    running = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: leftovers(tmp_path), 90)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130 and not os.listdir(tmp_path), said
    assert said == "vdkit: interrupted; nothing was recorded, earlier files are as they were\n"
    wait_for(lambda: not alive(running.pid), 30)


def alive(session):
    """Processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[3]) == session:
                found.append(stat.parent.name)
    return found


def test_only_raw_frames_come_in_parts(capsys, tmp_path):
    for given, words in (
        (["--out", "clip.mp4"], "--gpus 2 writes raw frames: end --out in .rgb"),
        (["--out", "a.rgb", "--device", "cuda:1"], "--device cuda:1 is one GPU, --gpus asks for 2"),
    ):
        assert main(["decode", "random:5x32x32", "--gpus", "2", *given]) == 2
        assert words in capsys.readouterr().err
