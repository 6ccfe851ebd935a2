"""Whatever fails: the original error, quickly, everything released, and the next decode works."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from tests.cpu.test_wan_fast import random_vae
from tests.helpers import (
    Collect,
    NearestDecoder,
    file_size_limit,
    latents_for,
    leftovers,
    writer_threads,
)
from vdkit import (
    DecodeCancelled,
    DecodeConfig,
    Mp4Sink,
    NullSink,
    PngSink,
    RawSink,
    compute_only,
    decode_async,
    decode_diffusers,
    decode_sync,
    load_decoder,
)
from vdkit.__main__ import main
from vdkit.decode.engines import EventClock
from vdkit.decode.job import DecodeOutOfMemory
from vdkit.models.fast.decoder import FastWanDecoder
from vdkit.sinks import ThrottledSink

WAYS = [
    pytest.param(decode_sync, DecodeConfig(), id="sync"),
    pytest.param(decode_sync, DecodeConfig(sync_uint8_on_gpu=True), id="sync-device-uint8"),
    *[
        pytest.param(
            decode_async,
            DecodeConfig(slots=slots, writer_thread=thread),
            id=f"async-{slots}-{'thread' if thread else 'inline'}",
        )
        for slots in (1, 2, 3, 16)
        for thread in (True, False)
    ],
]


def check_next_decode_works(path, config, device):
    decoder = NearestDecoder(device)
    sink = Collect()
    path(decoder, latents_for(decoder), sink, config=config, progress=False)
    assert sink.frames == 17
    assert not writer_threads()


@contextlib.contextmanager
def within_a_second(happened):
    """The block may end at most a second after ``happened()``, a perf_counter reading."""
    yield
    assert time.perf_counter() - happened() < 1.0


@pytest.mark.parametrize(("path", "config"), WAYS)
@pytest.mark.parametrize(
    ("call", "at"), [("open", 0), ("write", 0), ("write", 3), ("write", 9), ("close", 0)]
)
def test_sink_raises(path, config, call, at, device):
    decoder = NearestDecoder(device)
    sink = Collect(fail=call, at=at)
    with within_a_second(lambda: sink.failed_at), pytest.raises(OSError) as caught:
        path(decoder, latents_for(decoder, frames=10), sink, config=config, progress=False)
    assert caught.value is sink.error
    assert sink.calls[-1] == "abort" and sink.calls.count("abort") == 1
    assert not writer_threads()
    check_next_decode_works(path, config, device)


@pytest.mark.parametrize(("path", "config"), WAYS)
@pytest.mark.parametrize("at", [0, 1, 4, 9])
def test_decoder_raises(path, config, at, device):
    error = ValueError("chunk refused")
    decoder = NearestDecoder(device, fail_at=at, error=error)
    sink = Collect()
    with pytest.raises(ValueError) as caught:
        path(decoder, latents_for(decoder, frames=10), sink, config=config, progress=False)
    assert caught.value is error
    assert "close" not in sink.calls
    check_next_decode_works(path, config, device)


@pytest.mark.parametrize(("path", "config"), WAYS)
def test_cancel_in_the_middle(path, config, device):
    cancel = threading.Event()
    moment = []

    def at_the_third(count):
        if count == 3:
            moment.append(time.perf_counter())
            cancel.set()

    decoder = NearestDecoder(device)
    sink = Collect(write_s=0.01, on_write=at_the_third)
    with within_a_second(lambda: moment[0]), pytest.raises(DecodeCancelled):
        path(
            decoder, latents_for(decoder, frames=40), sink,
            config=config, progress=False, cancel=cancel,
        )  # fmt: skip
    assert sink.calls[-1] == "abort" and len(sink.chunks) < 40
    check_next_decode_works(path, config, device)


@pytest.mark.parametrize(("path", "config"), WAYS)
def test_keyboard_interrupt_in_the_middle(path, config, device):
    moment = []

    def at_the_third(count):
        if count == 3:
            moment.append(time.perf_counter())
            signal.raise_signal(signal.SIGINT)

    decoder = NearestDecoder(device)
    sink = Collect(write_s=0.01, on_write=at_the_third)
    with within_a_second(lambda: moment[0]), pytest.raises(KeyboardInterrupt):
        path(decoder, latents_for(decoder, frames=40), sink, config=config, progress=False)
    assert sink.calls[-1] == "abort" and len(sink.chunks) < 40
    check_next_decode_works(path, config, device)


@pytest.mark.parametrize(("path", "config"), WAYS[2:])
@pytest.mark.parametrize("after_s", [0.1, 0.35])
def test_a_long_throttled_write_does_not_hold_up_a_cancel(path, config, after_s, device):
    """Ten seconds a chunk; the cancel comes while one is being written."""
    decoder = NearestDecoder(device)
    latents = latents_for(decoder, frames=3)
    slow = ThrottledSink(NullSink(), mb_per_s=4 * 24 * 40 * 3 / 1e6 / 10)
    cancel = threading.Event()
    moment = []

    def later():
        time.sleep(after_s)
        moment.append(time.perf_counter())
        cancel.set()
        if not config.writer_thread:
            slow.interrupt()  # with the sink on the caller's own thread only the caller can

    timer = threading.Thread(target=later)
    timer.start()
    with within_a_second(lambda: moment[0]), pytest.raises(DecodeCancelled):
        path(decoder, latents, slow, config=config, progress=False, cancel=cancel)
    timer.join()


SINKS = {
    "raw": (lambda folder: RawSink(folder / "clip.rgb"), "clip.rgb"),
    "png": (lambda folder: PngSink(folder / "clip"), "clip"),
    "mp4": (lambda folder: Mp4Sink(folder / "clip.mp4"), "clip.mp4"),
    "throttled": (lambda folder: ThrottledSink(RawSink(folder / "clip.rgb"), 1e4), "clip.rgb"),
}


def content(path):
    if path.is_dir():
        return {entry.name: entry.read_bytes() for entry in path.iterdir()}
    return path.read_bytes()


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize(("path", "config"), WAYS)
def test_unfinished_files_go_and_finished_ones_stay(kind, path, config, device, tmp_path):
    make, name = SINKS[kind]
    decoder = NearestDecoder(device)
    latents = latents_for(decoder, frames=6, height=4, width=6)
    path(decoder, latents, make(tmp_path), config=config, progress=False)
    before = content(tmp_path / name)
    names = sorted(entry.name for entry in tmp_path.iterdir())
    failing = NearestDecoder(device, fail_at=4)
    with pytest.raises(RuntimeError, match="the decoder failed"):
        path(failing, -latents, make(tmp_path), config=config, progress=False)
    assert content(tmp_path / name) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == names
    path(decoder, -latents, make(tmp_path), config=config, progress=False)
    assert content(tmp_path / name) != before
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("kind", SINKS)
def test_failure_before_anything_was_there(kind, device, tmp_path):
    make, _ = SINKS[kind]
    decoder = NearestDecoder(device, fail_at=2)
    with pytest.raises(RuntimeError, match="the decoder failed"):
        decode_async(
            decoder, latents_for(decoder, height=4, width=6), make(tmp_path), progress=False
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize(("path", "config"), WAYS)
def test_disk_full(kind, path, config, device, tmp_path):
    make, name = SINKS[kind]
    decoder = NearestDecoder(device)
    latents = latents_for(decoder, frames=12, height=40, width=60)
    path(decoder, latents[:, :, :2], make(tmp_path), config=config, progress=False)
    before = content(tmp_path / name)
    with file_size_limit(2_000), pytest.raises(OSError) as caught:
        path(decoder, latents, make(tmp_path), config=config, progress=False)
    assert str(tmp_path / name) in caught.value.__notes__[0]
    assert "what was written of it is removed" in caught.value.__notes__[0]
    assert content(tmp_path / name) == before
    assert not leftovers(tmp_path)
    check_next_decode_works(path, config, device)


def test_a_sink_that_cannot_even_clean_up_hides_nothing(device):
    class Broken(Collect):
        def abort(self):
            raise PermissionError("may not remove")

    sink = Broken(fail="write", at=1)
    decoder = NearestDecoder(device)
    with pytest.raises(OSError) as caught:
        decode_async(decoder, latents_for(decoder), sink, progress=False)
    assert caught.value is sink.error
    assert "PermissionError: may not remove" in caught.value.__notes__[0]


@pytest.mark.parametrize(("path", "config"), WAYS)
def test_out_of_memory_says_what_fits(path, config, device):
    """A decoder that reports what torch reports; the real thing is in tests/gpu/test_memory.py."""
    decoder = load_decoder("tiny-wan", device)
    latents = latents_for(decoder)

    def exhausted(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    decoder.decode_chunk = exhausted
    with pytest.raises(DecodeOutOfMemory) as caught:
        path(decoder, latents, Collect(), config=config, progress=False)
    message = str(caught.value)
    assert message.startswith("CUDA out of memory. Tried to allocate 20.00 GiB")
    assert f"tiny-wan at 24x40, chunk_size 1, {config.slots} slots" in message
    for chunk_size in (1, 2, 4, 8):
        assert f"chunk_size {chunk_size}: 1 slots " in message
    assert isinstance(caught.value, torch.OutOfMemoryError)
    check_next_decode_works(path, config, device)


def test_out_of_memory_of_a_decoder_that_estimates_nothing():
    """Then nothing is invented: it says what takes less."""
    decoder = NearestDecoder(error=torch.OutOfMemoryError("CUDA out of memory."), fail_at=2)
    with pytest.raises(DecodeOutOfMemory) as caught:
        decode_async(
            decoder, latents_for(decoder), Collect(), config=DecodeConfig(1, 3), progress=False
        )
    assert str(caught.value).splitlines()[1] == (
        "decoder 'nearest' has no working_bytes() to estimate what fits; use smaller chunks "
        "(chunk_size is 1), fewer slots (3), or decode a smaller video"
    )


def test_buffers_are_released_while_the_exception_lives(device):
    import gc
    import weakref

    from vdkit.decode import paths

    stores = []
    original = paths.Slot.__init__

    def remember(self, index, device_buffer, host_buffer):
        stores.extend([weakref.ref(device_buffer), weakref.ref(host_buffer)])
        original(self, index, device_buffer, host_buffer)

    paths.Slot.__init__ = remember
    try:
        for at, sink in ((5, Collect()), (None, Collect(fail="write", at=4))):
            decoder = NearestDecoder(device, fail_at=at)
            try:
                decode_async(decoder, latents_for(decoder, frames=8), sink, progress=False)
            except (RuntimeError, OSError):
                gc.collect()
                assert stores and not [store for store in stores if store() is not None]
    finally:
        paths.Slot.__init__ = original


def throttled(device, folder):
    """Arguments of a command that writes into ``folder`` for minutes."""
    return ["bench", "--device", device, "--sink", f"raw:{folder}", "--latents", "random:9x16x16",
            "--throttle-mb-s", "0.0002", "--out", str(folder / "results")]  # fmt: skip


def wait_and_kill(pid, folder, number, timeout_s=120):
    """Send a signal once something is written."""
    deadline, written = time.monotonic() + timeout_s, False
    while not written and time.monotonic() < deadline:
        time.sleep(0.05)
        with contextlib.suppress(FileNotFoundError):  # a folder that has just gone again
            written = any(folder.glob(".vdkit-*/*"))
    os.kill(pid, number)


def test_ctrl_c_at_the_terminal(tmp_path, device):
    """A real signal to a real process: it ends, says so, and leaves nothing behind."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vdkit", *throttled(device, tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as no nohup has it
    )  # fmt: skip
    wait_and_kill(process.pid, tmp_path, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "interrupted" in errors and "Traceback" not in errors
    assert not list(tmp_path.glob(".vdkit-*")) and not (tmp_path / "results").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_ends_are_as_ctrl_c(tmp_path, device, number, capsys):
    """In this process, which the signal would end if it did what it does by default."""
    before = signal.signal(number, signal.SIG_DFL)
    killer = threading.Thread(target=wait_and_kill, args=(os.getpid(), tmp_path, number))
    killer.start()
    try:
        assert main(throttled(device, tmp_path)) == 130
    finally:
        killer.join()
        signal.signal(number, before)
    assert "interrupted" in capsys.readouterr().err
    assert not list(tmp_path.glob(".vdkit-*")) and not (tmp_path / "results").exists()


def test_a_cancel_while_the_sink_closes_is_too_late(device, tmp_path):
    cancel = threading.Event()
    path = tmp_path / "clip.rgb"

    class CancelledAtTheEnd(RawSink):
        def close(self):
            cancel.set()
            time.sleep(0.2)
            super().close()

    decoder = NearestDecoder(device)
    latents = latents_for(decoder)
    result = decode_async(decoder, latents, CancelledAtTheEnd(path), progress=False, cancel=cancel)
    assert path.stat().st_size == result.info.frames * result.info.frame_bytes
    assert not leftovers(tmp_path)


def test_an_interrupt_that_raises_hides_nothing(device):
    class Broken(Collect):
        def interrupt(self):
            raise PermissionError("no interrupting")

    error = ValueError("chunk refused")
    decoder = NearestDecoder(device, fail_at=3, error=error)
    with pytest.raises(ValueError) as caught:
        decode_async(decoder, latents_for(decoder), Broken(), progress=False)
    assert caught.value is error and "no interrupting" in error.__notes__[0]


EVERY = [
    *WAYS,
    pytest.param(decode_async, DecodeConfig(uint8_on_gpu=False), id="async-host-uint8"),
    pytest.param(decode_diffusers, DecodeConfig(), id="diffusers"),
    pytest.param(compute_only, DecodeConfig(), id="compute"),
]


class WholeDecoder(NearestDecoder):
    """Decodes whole videos too, calling ``before_frame``."""

    def decode_video(self, latents, before_frame):
        frames = []
        for index in range(latents.shape[2]):
            before_frame(index)
            frames.append(self.decode_chunk(latents, index, index + 1))
        return torch.cat(frames, 2)

    def to_numpy(self, frames):
        return (frames[0].permute(1, 2, 3, 0) * 0.5 + 0.5).cpu().numpy()


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("path", "config"), EVERY)
def test_what_is_no_number_is_not_written(path, config, value, device, tmp_path):
    """One value of one frame, from the fourth chunk on; named, and nothing stays."""

    class Overflowing(WholeDecoder):
        def decode_chunk(self, state, start, stop):
            frames = super().decode_chunk(state, start, stop).clone()
            if start >= 3:
                frames[0, 1, -1, 2, 3] = value
            return frames

    decoder = Overflowing(device)
    latents = latents_for(decoder, frames=6, height=4, width=6)
    where = r"chunk 0 \(latent frames 0 to 5\)" if path is decode_diffusers else r"chunk 3 \("
    with pytest.raises(ValueError, match=f"NaN or inf in torch.float32, first in {where}"):
        path(decoder, latents, RawSink(tmp_path / "x.rgb"), config=config, progress=False)
    assert not list(tmp_path.iterdir()) and not writer_threads()
    sink = Collect()
    path(decoder, latents, sink, config=config, progress=False, allow_nonfinite=True)
    assert path is compute_only or sink.frames == 21


@pytest.mark.parametrize("path", [decode_async, compute_only])
@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf")])
def test_a_decoder_that_writes_pixels_says_what_they_hide(path, value):
    class Broken(FastWanDecoder):
        def decode_into(self, state, start, stop, out):
            if start == 2:
                self._network.convolutions()[-1].bias.data.fill_(value)
            return super().decode_into(state, start, stop, out)

    class Silent(NearestDecoder):
        def decode_into(self, state, start, stop, out):
            out.zero_()

    decoder = Broken(random_vae(16), "fast", kernels=False)
    latents, sink = latents_for(decoder, frames=4, height=2, width=3), Collect()
    fault = pytest.raises(ValueError, match=r"'fast' gave NaN or inf .* first in chunk 2 ")
    with contextlib.nullcontext() if value == 0.5 else fault:
        path(decoder, latents, sink, progress=False)
    with pytest.raises(TypeError, match="does not return whether it made NaN or inf"):
        path(Silent(), latents_for(Silent()), NullSink(), progress=False)


def broken_pipe():
    read, write = os.pipe()
    os.close(read)
    return write


def full_pipe():
    """Nobody reads, and nobody will; the reading end stays open."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    full_pipe.read = read
    return write


@pytest.mark.parametrize("make", [broken_pipe, full_pipe])
@pytest.mark.parametrize("path", [decode_sync, decode_async])
@pytest.mark.parametrize("fail_at", [None, 3])
def test_a_bar_without_a_screen(make, path, fail_at, device, monkeypatch):
    class Slow(Collect):
        def write(self, frames):
            time.sleep(0.11)  # tqdm draws again after 0.1 s
            super().write(frames)

    stream = open(make(), "w", buffering=1, closefd=False)  # noqa: SIM115
    monkeypatch.setattr(sys, "stderr", stream)
    decoder = NearestDecoder(device, fail_at=fail_at)
    sink = Slow()
    with pytest.raises(RuntimeError) if fail_at else contextlib.nullcontext():
        path(decoder, latents_for(decoder), sink)
    assert sink.calls[-1] == ("abort" if fail_at else "close")
    with contextlib.suppress(OSError):
        os.close(stream.fileno())


@pytest.mark.parametrize(("path", "config"), EVERY)
def test_a_progress_callable_that_raises_or_blocks(path, config, device):
    """It runs on the caller's thread, where its error and a Ctrl-C come out."""
    decoder = WholeDecoder(device)
    latents, threads = latents_for(decoder, frames=9), []

    def raising(done, total):
        threads.append(threading.current_thread())
        raise ZeroDivisionError

    def blocking(done, total):
        timer = threading.Timer(0.1, signal.pthread_kill, (main.ident, signal.SIGINT))
        timer.start()
        threading.Event().wait(20)

    main = threading.current_thread()
    for progress, error in ((raising, ZeroDivisionError), (blocking, KeyboardInterrupt)):
        sink = Collect()
        with pytest.raises(error):
            path(decoder, latents, sink, config=config, progress=progress)
        assert path is compute_only or sink.calls[-1] == "abort" or len(sink.chunks) == 9
        assert not writer_threads()
    assert threads == [main]


def test_signals_act_where_a_decode_can_end(device):
    """Others' handlers too: one that returns, one that raises; all are put back."""
    seen = []

    def noted(number, frame):
        seen.append(number)

    def timeout(number, frame):
        raise TimeoutError("too long")

    class Signalling(Collect):
        def close(self):
            for _ in range(5):
                signal.raise_signal(signal.SIGINT)
            super().close()

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGALRM)}
    signal.signal(signal.SIGUSR1, noted)
    signal.signal(signal.SIGALRM, timeout)
    try:
        decoder = NearestDecoder(device)
        sink = Collect(on_write=lambda count: signal.raise_signal(signal.SIGUSR1))
        decode_sync(decoder, latents_for(decoder), sink, progress=False)
        assert seen == [signal.SIGUSR1] * 5 and sink.frames == 17
        sink = Collect(on_write=lambda count: signal.raise_signal(signal.SIGALRM))
        with pytest.raises(TimeoutError, match="too long"):
            decode_async(decoder, latents_for(decoder), sink, progress=False)
        assert sink.calls[-1] == "abort"
        sink = Signalling()
        with pytest.raises(KeyboardInterrupt):
            decode_async(decoder, latents_for(decoder), sink, progress=False)
        assert sink.calls[-1] == "close" and sink.frames == 17
        assert signal.getsignal(signal.SIGUSR1) is noted
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_event_times_of_a_long_decode():
    """Ten minutes, a float32 of milliseconds between two events, as CUDA gives it."""

    class Event:
        def __init__(self, seconds):
            self.seconds = seconds

        def elapsed_time(self, later):
            return float(np.float32((later.seconds - self.seconds) * 1e3))

    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.3, 4000)) + 1e4
    events = [Event(seconds) for seconds in times]
    clock = EventClock(events[0], times[0])
    for event, seconds in zip(events[1:], times[1:], strict=True):
        clock.note(event, seconds - 0.005)  # recorded a little before it happened
    at_once = clock.host_time(events[-1])  # through every anchor
    off = np.array([clock.host_time(event) for event in events]) - times
    assert at_once == clock.host_time(events[-1])
    assert np.abs(off).max() < 5e-6 and times[-1] - times[0] > 600
