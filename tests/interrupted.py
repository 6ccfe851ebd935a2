"""One decode, interrupted or failing, and the verdict on how it ended. Through the public API.

The progress of a run is noted by its decoder and its sink, which tell what phase an interrupt meets
whatever the implementation does. Python's handler of the signal is replaced by one that raises only
while the decode is on the stack.
"""

import contextlib
import faulthandler
import gc
import os
import queue
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
import torch
import tqdm.auto

from tests.helpers import NearestDecoder, latents_for
from vdkit import (
    DecodeCancelled,
    DecodeConfig,
    Mp4Sink,
    PngSink,
    RawSink,
    decode_async,
    decode_sync,
)


def decode_carelessly(decoder, latents, sink, **keywords):
    """Keeps no promise: goes on when it is interrupted, hangs or crashes. The judge must see it."""
    run = threading.Thread(
        target=decode_sync, args=(decoder, latents, sink), kwargs=keywords, name="vdkit-writer"
    )
    try:
        run.start()
        run.join()
    except KeyboardInterrupt:
        if isinstance(sink, PngSink):
            queue.SimpleQueue().get()
        if isinstance(sink, Mp4Sink):
            os.kill(os.getpid(), signal.SIGSEGV)
        raise


WAYS = {
    "sync": (decode_sync, DecodeConfig()),
    "async-1": (decode_async, DecodeConfig(slots=1)),
    "async-2": (decode_async, DecodeConfig(slots=2)),
    "async-4": (decode_async, DecodeConfig(slots=4)),
    "inline": (decode_async, DecodeConfig(writer_thread=False)),
    "careless": (decode_carelessly, DecodeConfig()),
}


class SideBySide(Mp4Sink):
    """Two encoders, on segments of two frames."""

    def __init__(self, path):
        super().__init__(path, encoders=2, segment=2)


SINKS = {
    "raw": (RawSink, "clip.rgb"),
    "png": (PngSink, "clip"),
    "mp4": (Mp4Sink, "clip.mp4"),
    "encoders": (SideBySide, "clip.mp4"),
}
VIDEOS = (  # they differ in everything, so that a mixture of two shows
    {"frames": 7, "height": 4, "width": 6, "seed": 1, "fps": 16},
    {"frames": 6, "height": 2, "width": 4, "seed": 2, "fps": Fraction(24000, 1001)},
)
CELLS = [f"{way}:{kind}" for way in WAYS if way != "careless" for kind in ("raw", "png", "mp4")]
CELLS += ["sync:encoders", "async-2:encoders"]
SPEEDS = ((0.0, 0.0), (2e-4, 1e-3), (1e-3, 2e-4))
"""Seconds that a decode and a write take beside their work: neither, the sink or the decoder."""
CALLS = ("open", "write", "close")
PHASES = {
    "start": "call",
    "slot wait": "decoded",
    "decode": "decode",
    "write": "write",
    "drain": "decoded",
    "close": "close",
}
"""Where interrupts have to land, each beside the event that begins it."""


def threaded(way):
    return way.startswith("async")


def phases(way):
    """Those of `PHASES` that this way has."""
    others = ("write",) if threaded(way) else ("slot wait", "drain")
    return [phase for phase in PHASES if phase not in others]


@dataclass
class Plan:
    """One run: when interrupts are sent, and what else goes wrong.

    ``gaps`` are seconds before each signal of the sender, from the ``nth`` time of ``event`` on.
    ``point`` sends one when Python has looked for signals that often, in its own threading module
    if ``in_threading``, and after the decoder's interrupt at chunk ``decoder_at``. ``held``: this
    call of the sink sends ``held_times`` of them and goes on for a while. ``thread``: a thread
    sends one before or after it has an ident. ``bar``: a bar is shown, on what `stderr_for` gives.
    """

    event: str = ""
    nth: int = 1
    gaps: tuple[float, ...] = ()
    point: int = 0
    in_threading: bool = False
    decoder_at: int | None = None
    held: str = ""
    held_times: int = 1
    thread: str = ""
    trouble: str = ""
    bar: str = ""
    speed: tuple[float, float] = SPEEDS[0]

    @property
    def interrupts(self):
        return bool(self.gaps or self.point or self.held or self.thread)


@dataclass
class Watch:
    """What a run is at: written by decoder and sink, read where an interrupt arrives."""

    way: str
    slots: int
    chunks: int
    plan: Plan
    go: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    sent: list = field(default_factory=list)
    signals: int = 0
    arrived: int = 0
    missed: int = 0
    ignored: bool = False
    events: Counter = field(default_factory=Counter)
    times: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)
    wrong: list = field(default_factory=list)
    decoding: bool = False
    inside: str = ""
    closed: bool = False
    over: bool = False
    points: int = 0
    lingering: bool = False

    def at(self, event):
        self.events[event] += 1
        self.times.setdefault(event, time.perf_counter())
        if event == self.plan.event and self.events[event] == self.plan.nth:
            self.go.put(True)

    def phase(self):
        """By progress alone: it holds for any implementation."""
        decoded, written = self.events["decoded"], self.events["written"]
        if self.closed:
            return "end"
        if self.inside == "close":
            return "close"
        if self.decoding:
            return "decode"
        if not self.events["decode"]:
            return "start"
        if not threaded(self.way):
            return "write" if self.inside == "write" else "between"
        if decoded == self.chunks:
            return "drain" if written < decoded else "between"
        return "slot wait" if decoded - written >= self.slots else "between"


watch: Watch | None = None  # of the run in progress


def call(path, *arguments, **keywords):
    """The frame below which an interrupt counts."""
    return path(*arguments, **keywords)


def on_interrupt(number, frame):
    """As Python's own handler, but only inside the call; whoever it is that calls it."""
    if watch is None:
        return
    frame = sys._getframe(1).f_back
    while frame is not None:
        if frame.f_code is call.__code__:
            watch.arrived += 1
            raise KeyboardInterrupt
        frame = frame.f_back
    watch.missed += 1


def on_ignored(ignored):
    """Python drops what is raised in a finalizer or a weak reference's callback."""
    if ignored.exc_type is KeyboardInterrupt and watch is not None:
        watch.ignored = True
    else:
        sys.__unraisablehook__(ignored)


def at_point(frame, event, argument):
    """Profile hook: Python looks for signals at the entry of functions and after calls into C."""
    code = frame.f_code
    if event not in ("call", "c_return") or code in (call.__code__, on_interrupt.__code__):
        return
    if watch.plan.in_threading and code.co_filename != threading.__file__:
        return
    if watch.plan.decoder_at is None or watch.arrived:
        watch.points += 1
        if watch.points == watch.plan.point:
            watch.signals += 1
            signal.raise_signal(signal.SIGINT)


def send(run, timeout_s=0.002):
    """Send one interrupt; back when it was handled, or was not for ``timeout_s``."""
    run.signals += 1
    before = run.arrived + run.missed
    os.kill(os.getpid(), signal.SIGINT)
    end = time.perf_counter() + timeout_s
    while run.arrived + run.missed == before and time.perf_counter() < end and not run.over:
        time.sleep(0)


class Sender(threading.Thread):
    """Sends the interrupts of each plan; one thread for all runs, so that threads can be counted.

    Gaps are spun, not slept: a sleep is too coarse for windows of microseconds.
    """

    def __init__(self):
        super().__init__(daemon=True, name="sender")
        self.runs = queue.SimpleQueue()
        self.ready = queue.SimpleQueue()

    def run(self):
        while True:
            run = self.runs.get()
            if run.go.get():
                for gap_s in run.plan.gaps:
                    end = time.perf_counter() + gap_s
                    while (left_s := end - time.perf_counter()) > 0 and not run.over:
                        time.sleep(left_s - 5e-4 if left_s > 1e-3 else 0)
                    if run.over:
                        break
                    run.sent.append("again" if run.sent else run.phase())
                    send(run)
            self.ready.put(None)


class Decoder(NearestDecoder):
    def __init__(self, device, run):
        super().__init__(device, delay_s=run.plan.speed[0])
        self.run = run
        if run.plan.trouble == "decoder":
            self.fail_at = run.chunks // 2

    def decode_chunk(self, state, start, stop):
        self.run.decoding = True
        try:
            self.run.at("decode")
            if start == self.run.plan.decoder_at:
                self.run.signals += 1
                signal.raise_signal(signal.SIGINT)
            return super().decode_chunk(state, start, stop)
        finally:
            self.run.decoding = False
            self.run.at("decoded")


class Watched:
    """A sink that notes its calls, and whether two of them are running at a time."""

    def _call(self, name, real, *arguments):
        run = self.run
        try:
            if in_a_call():
                run.wrong.append(f"{name} while another call is running")
            if run.over:
                run.wrong.append(f"{name} after the decode has returned")
            run.calls.append(name)
            run.inside = name
            run.at(name)
            fails = run.plan.trouble == name and run.events[name] == run.plan.nth
            if fails and name != "open":
                raise OSError("the sink failed")
            if name == "write":
                time.sleep(run.plan.speed[1])
            if run.plan.held == name and (name != "write" or run.events["write"] == run.chunks):
                for _ in range(run.plan.held_times):
                    send(run)
                time.sleep(0.02)  # the call goes on: whoever does not wait for it shows
            real(*arguments)
            if fails:
                raise OSError("the sink failed once it was open")
            if name == "write":
                run.at("written")
                if run.plan.trouble == "cancel" and run.events["written"] == run.plan.nth:
                    self.cancel.set()
            run.closed = run.closed or name == "close"
        finally:
            run.inside = ""

    def open(self, info):
        self._call("open", super().open, info)

    def write(self, frames):
        self._call("write", super().write, frames)

    def close(self):
        self._call("close", super().close)

    def abort(self):
        self._call("abort", super().abort)


def in_a_call():
    """Is another thread in a call of a sink? Read from the stacks: no note can be lost."""
    for ident, frame in sys._current_frames().items():
        while ident != threading.get_ident() and frame is not None:
            if frame.f_code is Watched._call.__code__:
                return True
            frame = frame.f_back
    return False


WATCHED = {kind: type(f"Watched{kind}", (Watched, sink), {}) for kind, (sink, _) in SINKS.items()}


class Shown:
    """An MP4 by what it shows: x264 may encode the same frames otherwise, by a few levels."""

    def __init__(self, path):
        with av.open(str(path)) as container:
            self.rate = container.streams.video[0].average_rate
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        self.frames = np.stack(frames).astype(int)

    def __eq__(self, other):
        if not isinstance(other, Shown) or self.rate != other.rate:
            return False
        same = self.frames.shape == other.frames.shape
        return same and np.abs(self.frames - other.frames).mean() < 4


def content(folder):
    """Name -> what every file holds, None of every folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        data = None if path.is_dir() else path.read_bytes()
        if path.suffix == ".mp4" and "partial" not in path.name:
            with contextlib.suppress(av.FFmpegError, ValueError, IndexError):  # else its bytes
                data = Shown(path)
        found[str(path.relative_to(folder))] = data
    return found


def handlers():
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def tasks():
    return len(os.listdir("/proc/self/task"))


def descriptors():
    """Number -> what it is, without the one that reads this."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return found


def stderr_for(bar):
    """(its other end, a standard error): nobody looks, its reader has gone or does not read."""
    if bar == "seen":
        return None, open(os.devnull, "w")
    reading, writing = os.pipe()
    if bar == "full":
        os.set_blocking(writing, False)
        try:
            while True:
                os.write(writing, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(writing, True)
        return reading, os.fdopen(writing, "w")
    os.close(reading)
    return None, os.fdopen(writing, "w")


class Judge:
    """Runs decodes into one folder, and looks after each for what must not be left behind."""

    def __init__(self, folder, kinds, device, limit_s, traces):
        """``traces``: the file that gets the stacks of a run that lasts over ``limit_s``."""
        self.folder = folder
        self.device = device
        self.limit_s = limit_s
        self.traces = traces
        torch.set_num_threads(1)
        tqdm.tqdm.monitor_interval = 0  # its thread would be one more to count
        self.latents = []
        for video in VIDEOS:
            shape = {name: value for name, value in video.items() if name != "fps"}
            self.latents.append(latents_for(NearestDecoder(device), **shape))
        self.expected = {kind: self.decode_both(kind) for kind in kinds}
        self.on_disk = dict.fromkeys(kinds, 1)
        signal.signal(signal.SIGINT, on_interrupt)
        sys.unraisablehook = on_ignored
        self.sender = Sender()
        self.sender.start()
        self.rest()

    def decode_both(self, kind):
        """The right content for both videos; the second stays on the disk."""
        make, name = SINKS[kind]
        right = []
        for latents, video in zip(self.latents, VIDEOS, strict=True):
            shutil.rmtree(self.folder / kind, ignore_errors=True)
            (self.folder / kind).mkdir()
            decode_sync(
                NearestDecoder(self.device), latents, make(self.folder / kind / name),
                fps=video["fps"], progress=False,
            )  # fmt: skip
            right.append(content(self.folder / kind))
        return right

    def rest(self):
        """What is there now is what has to be there after each run."""
        gc.collect()
        gc.freeze()
        self.threads = set(threading.enumerate())
        self.tasks = tasks()
        self.descriptors = descriptors()
        self.handlers = handlers()

    def run(self, way, kind, plan):
        """One run and its verdict: (watch, what was wrong)."""
        global watch
        path, config = WAYS[way]
        new = 1 - self.on_disk[kind]
        chunks = VIDEOS[new]["frames"]
        run = watch = Watch(way, config.slots, chunks, plan)
        sink = WATCHED[kind](self.folder / kind / SINKS[kind][1])
        sink.run, sink.cancel = run, threading.Event()
        decoder = Decoder(self.device, run)
        limit_s = 1.5 if way == "careless" else self.limit_s
        faulthandler.dump_traceback_later(limit_s, exit=True, file=self.traces)
        self.sender.runs.put(run)
        reading, stderr = None, sys.stderr
        if plan.bar:
            reading, sys.stderr = stderr_for(plan.bar)
        set_ident = threading.Thread._set_ident
        if plan.thread:
            threading.Thread._set_ident = self.slow_ident(run, set_ident)
        error = None
        sys.setswitchinterval(random.choice((1e-6, 1e-5, 1e-4, 5e-3)))
        run.at("call")
        if plan.point:
            sys.setprofile(at_point)
        try:
            call(
                path, decoder, self.latents[new], sink, fps=VIDEOS[new]["fps"], config=config,
                progress=bool(plan.bar), cancel=sink.cancel,
            )  # fmt: skip
        except BaseException as raised:
            error = raised
        finally:
            sys.setprofile(None)
        run.over = True
        still_running = in_a_call()
        run.at("end")
        sys.setswitchinterval(5e-3)
        run.go.put(False)
        self.sender.ready.get()
        threading.Thread._set_ident = set_ident
        if plan.bar:
            broken, sys.stderr = sys.stderr, stderr
            if reading is not None:
                os.close(reading)
            with contextlib.suppress(OSError):
                broken.close()
        wrong = self.ended(run, error)
        if still_running:
            wrong.append("a call of the sink is running after the decode has returned")
        error = decoder = sink = None
        gc.collect()
        faulthandler.cancel_dump_traceback_later()  # its thread would be counted
        wrong += self.left_behind(run)
        wrong += self.calls(run)
        wrong += self.output(run, kind, new)
        wrong += run.wrong
        watch = None
        return run, sorted(set(wrong))

    @staticmethod
    def slow_ident(run, set_ident):
        def slow(thread):
            if run.plan.thread == "after":
                set_ident(thread)
            if run.events["thread"] < 2:
                run.at("thread")
                send(run)
                time.sleep(0.02)
            if run.plan.thread == "before":
                set_ident(thread)

        return slow

    @staticmethod
    def ended(run, error):
        """Is it the right error, or rightly none?"""
        notes = [note for note in getattr(error, "__notes__", []) if "failed too" in note]
        if run.signals and not run.arrived and not run.missed:
            notes.append("an interrupt was lost")
        if run.arrived and not run.ignored:
            right = (KeyboardInterrupt,)
        else:
            right = {
                "": (type(None),),
                "cancel": (type(None), DecodeCancelled),
                "decoder": (RuntimeError,),
            }.get(run.plan.trouble, (OSError,))
            if run.arrived:
                right += (KeyboardInterrupt,)
        if isinstance(error, right):
            return notes
        if error is None:
            return [*notes, f"returned, {right[0].__name__} expected"]
        return [*notes, f"raised {type(error).__name__}: {error}"[:300]]

    def left_behind(self, run):
        """Threads, descriptors, torch's mode; a thread's last steps in Python itself may take."""
        end = time.monotonic() + 0.5
        while True:
            extra = [
                thread.name.rstrip("0123456789")
                for thread in threading.enumerate()
                if thread not in self.threads
            ]
            opened = {
                number: name
                for number, name in descriptors().items()
                if self.descriptors.get(number) != name
            }
            if (not extra and tasks() <= self.tasks) or time.monotonic() > end:
                break
            run.lingering = run.lingering or bool(extra)
            time.sleep(0.001)
        wrong = [f"thread {name} is alive" for name in extra]
        if not extra and tasks() > self.tasks:
            wrong.append(f"{tasks()} threads by /proc/self/task, {self.tasks} before")
        for name in opened.values():
            kind = "clip" if "clip" in name else name.split(":")[0]
            wrong.append(f"open descriptor: {kind}")
        if handlers() != self.handlers:
            wrong.append("a signal's handler is not what it was")
        if torch.is_inference_mode_enabled():
            wrong.append("inference mode is on")
        return wrong

    @staticmethod
    def calls(run):
        """The sink was closed or aborted exactly once, and nothing came after."""
        count = Counter(run.calls)
        wrong = [
            f"{name} called {count[name]} times"
            for name in ("open", "close", "abort")
            if count[name] > 1
        ]
        if run.closed and count["abort"]:
            wrong.append("aborted although closed")
        if count["open"] and not run.closed and not count["abort"]:
            wrong.append("neither closed nor aborted")
        if "abort" in run.calls[:-1] and run.calls[-1] != "abort":
            wrong.append(f"{run.calls[-1]} after abort")
        return wrong

    def output(self, run, kind, new):
        """The earlier output whole, or the new one whole, whichever the calls say."""
        found = content(self.folder / kind)
        old = self.expected[kind][self.on_disk[kind]]
        right = self.expected[kind][new]
        known = old.keys() | right.keys()
        wrong = ["left on disk: a partial file or folder"] if found.keys() - known else []
        found = {name: data for name, data in found.items() if name in known}
        if found == right:
            self.on_disk[kind] = new
            if "close" not in run.calls:
                wrong.append("the output is new although close was never called")
        elif found == old:
            if run.closed:
                wrong.append("the output is old although close has returned")
        else:
            missing = "" if found.keys() in (old.keys(), right.keys()) else ", files missing"
            wrong.append(f"the output is neither the old nor the new one{missing}")
        return wrong

    def restore(self, kind):
        """After a fault: the next run is judged by itself."""
        end = time.monotonic() + 1
        while any(thread.name == "vdkit-writer" for thread in threading.enumerate()):
            if time.monotonic() > end:
                break
            time.sleep(0.01)
        torch.inference_mode(False).__enter__()
        for number, handler in self.handlers.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)
        self.expected[kind] = self.decode_both(kind)
        self.on_disk[kind] = 1
        self.rest()
