"""Interrupts at any moment: does every decode end as promised? The judge, through the public API.

Each way to decode runs with each sink in a child process, interrupted at random moments, in every
phase, at every point where Python looks for signals, and again while it cleans up. After every run
the child looks for what must not be left behind. The parent reports hangs and crashes.

    python -m tests.interrupts                    # all of it
    python -m tests.interrupts --cells async-2:mp4 --single 500 --repeated 500 --seed 3
"""

import argparse
import contextlib
import faulthandler
import functools
import gc
import json
import os
import queue
import random
import select
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av  # noqa: F401  before the fork: each child would import it again
import torch
import tqdm
from PIL import Image  # noqa: F401

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
SINKS = {"raw": (RawSink, "clip.rgb"), "png": (PngSink, "clip"), "mp4": (Mp4Sink, "clip.mp4")}
VIDEOS = (  # they differ in everything, so that a mixture of two shows
    {"frames": 7, "height": 4, "width": 6, "seed": 1, "fps": 16},
    {"frames": 6, "height": 2, "width": 4, "seed": 2, "fps": Fraction(24000, 1001)},
)
CELLS = [f"{way}:{kind}" for way in WAYS if way != "careless" for kind in SINKS]
RSS_BOUND_MIB = 8
"""How far resident memory may move over the leak part, once its first fifth is over."""
SPEEDS = ((0.0, 0.0), (2e-4, 1e-3), (1e-3, 2e-4))
"""Seconds that a decode and a write take beside their work: neither, the sink or the decoder."""


def threaded(way):
    return way.startswith("async")


def phases(way):
    """Where interrupts have to land: each beside the event that begins it."""
    shared = {"start": "call", "decode": "decode", "close": "close"}
    if threaded(way):
        return shared | {"slot wait": "decoded", "drain": "decoded"}
    return shared | {"write": "write"}


@dataclass
class Plan:
    """One run: when interrupts are sent, and what else goes wrong.

    ``gaps`` are seconds before each signal of the sender, from the ``nth`` time of ``event`` on.
    ``point`` sends one when Python has looked for signals that often, counted from the first
    interrupt on if ``decoder_at`` says at which chunk the decoder sends that. ``held``: this call
    of the sink sends ``times`` of them and goes on for a while. ``thread``: a thread sends one
    before (1) or after (2) it has an ident.
    """

    event: str = ""
    nth: int = 1
    gaps: tuple[float, ...] = ()
    point: int = 0
    decoder_at: int | None = None
    held: str = ""
    times: int = 1
    thread: int = 0
    trouble: str = ""
    bar: str = ""
    speed: tuple[float, float] = SPEEDS[0]


@dataclass
class Watch:
    """What a run is at: written by decoder and sink, read where an interrupt arrives."""

    way: str
    slots: int
    chunks: int
    plan: Plan
    go: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    arrived: list = field(default_factory=list)
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


def inside_call(frame):
    while (frame := frame.f_back) is not None:
        if frame.f_code is call.__code__:
            return True
    return False


def on_interrupt(number, frame):
    """As Python's own handler, but only inside the call."""
    if watch is not None and inside_call(frame):
        watch.arrived.append("again" if watch.arrived else watch.phase())
        raise KeyboardInterrupt
    if watch is not None:
        watch.missed += 1


def on_ignored(ignored):
    """Python drops what is raised in a finalizer or a weak reference's callback."""
    if ignored.exc_type is KeyboardInterrupt and watch is not None:
        watch.ignored = True
    else:
        sys.__unraisablehook__(ignored)


def at_point(frame, event, argument):
    """Profile hook: Python looks for signals at the entry of functions and after calls into C."""
    mine = frame.f_code in (call.__code__, on_interrupt.__code__, inside_call.__code__)
    if mine or event not in ("call", "c_return"):
        return
    if watch.plan.decoder_at is None or watch.arrived:
        watch.points += 1
        if watch.points == watch.plan.point:
            signal.raise_signal(signal.SIGINT)


def send_and_see(run, timeout_s=0.05):
    """Send one interrupt; back when it was handled, or was not for ``timeout_s``."""
    before = len(run.arrived) + run.missed
    os.kill(os.getpid(), signal.SIGINT)
    end = time.perf_counter() + timeout_s
    while len(run.arrived) + run.missed == before and time.perf_counter() < end and not run.over:
        time.sleep(0)


class Sender(threading.Thread):
    """Sends the interrupts of each plan; one thread for all runs, so that threads can be counted.

    Gaps are spun, not slept: a sleep is too coarse for windows of microseconds.
    """

    def __init__(self):
        super().__init__(daemon=True, name="sender")
        self.runs = queue.SimpleQueue()
        self.sent = queue.SimpleQueue()

    def run(self):
        while True:
            run = self.runs.get()
            sent = 0
            if run.go.get():
                for gap_s in run.plan.gaps:
                    end = time.perf_counter() + gap_s
                    while (left_s := end - time.perf_counter()) > 0 and not run.over:
                        time.sleep(left_s - 5e-4 if left_s > 1e-3 else 0)
                    if run.over:
                        break
                    sent += 1
                    send_and_see(run)
            self.sent.put(sent)


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
                for _ in range(run.plan.times):
                    send_and_see(run)
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


def content(folder):
    """Name -> bytes of every file, None of every folder."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def tasks():
    return len(os.listdir("/proc/self/task"))


def descriptors():
    """Number -> what it is, without the one that reads this."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return found


def rss_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


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


class Child:
    """One process of runs; writes a line into the journal before and after each."""

    def __init__(self, options, folder, journal, traces):
        self.options = options
        self.journal = journal
        self.traces = traces
        self.folder = folder
        self.seconds = {}  # of the phases of each cell, from the last whole run
        torch.set_num_threads(1)
        tqdm.tqdm.monitor_interval = 0  # its thread would be one more to count
        self.latents = []
        for video in VIDEOS:
            shape = {name: value for name, value in video.items() if name != "fps"}
            self.latents.append(latents_for(NearestDecoder(options.device), **shape))
        self.expected = {kind: self.decode_both(kind) for kind in SINKS}
        self.on_disk = dict.fromkeys(SINKS, 1)
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
                NearestDecoder(self.options.device), latents, make(self.folder / kind / name),
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

    def note(self, **line):
        os.write(self.journal, (json.dumps(line) + "\n").encode())

    def run(self, way, kind, plan):
        """One run and its verdict: (watch, signals sent, what was wrong)."""
        global watch
        path, config = WAYS[way]
        new = 1 - self.on_disk[kind]
        chunks = VIDEOS[new]["frames"]
        run = watch = Watch(way, config.slots, chunks, plan)
        sink = WATCHED[kind](self.folder / kind / SINKS[kind][1])
        sink.run, sink.cancel = run, threading.Event()
        decoder = Decoder(self.options.device, run)
        faulthandler.dump_traceback_later(self.options.limit_s, exit=True, file=self.traces)
        self.sender.runs.put(run)
        reading, stderr = None, sys.stderr
        if plan.bar:
            reading, sys.stderr = stderr_for(plan.bar)
        set_ident = threading.Thread._set_ident
        if plan.thread:
            threading.Thread._set_ident = self.slow_ident(run, set_ident)
        error = None
        sys.setswitchinterval(random.choice((1e-6, 1e-5, 1e-4, 5e-3)))
        run.times["start"] = time.perf_counter()
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
        run.times["end"] = time.perf_counter()
        sys.setswitchinterval(5e-3)
        run.go.put(False)
        sent = self.sender.sent.get()
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
        return run, sent, sorted(set(wrong))

    @staticmethod
    def slow_ident(run, set_ident):
        def slow(thread):
            if run.plan.thread == 2:
                set_ident(thread)
            if run.events["thread"] < 2:
                run.at("thread")
                send_and_see(run)
                time.sleep(0.02)
            if run.plan.thread == 1:
                set_ident(thread)

        return slow

    @staticmethod
    def ended(run, error):
        """Is it the right error, or rightly none?"""
        notes = [f"note: {note}" for note in getattr(error, "__notes__", [])]
        if run.arrived and not run.ignored and run.arrived[0] != "end":
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
            run.events["lingering"] = 1
            time.sleep(0.001)
        wrong = [f"thread {name} is alive" for name in extra]
        if not extra and tasks() > self.tasks:
            wrong.append(f"{tasks()} threads by /proc/self/task, {self.tasks} before")
        for name in opened.values():
            kind = "clip" if "clip" in name else name.split(":")[0]
            wrong.append(f"open descriptor: {kind}")
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

    def attempt(self, way, kind, mode, plan, index, landed, follow=True):
        """One run, and a whole one after it; both into the journal. True if it counted."""
        self.note(begin=mode, way=way, kind=kind, index=index)
        run, sent, wrong = self.run(way, kind, plan)
        if wrong:
            self.restore(kind)
        if follow:
            whole, _, bad = self.run(way, kind, Plan(bar="seen" if plan.bar == "seen" else ""))
            if bad:
                self.restore(kind)
            wrong += [f"the next decode: {what}" for what in bad]
            moments = whole.times
            self.seconds[way, kind] = {
                "total": moments["end"] - moments["start"],
                "start": moments.get("decode", moments["end"]) - moments["start"],
                "close": moments["end"] - moments.get("close", moments["start"]),
            }
        counts = landed(run, sent)
        self.note(
            mode=mode, way=way, kind=kind, index=index, counts=counts, phases=run.arrived,
            lingering=run.events["lingering"], ignored=run.ignored, wrong=wrong,
        )  # fmt: skip
        if os.getppid() != self.options.parent:
            os._exit(0)
        return counts, run

    def restore(self, kind):
        """After a fault: the next run is judged by itself."""
        end = time.monotonic() + 1
        while any(thread.name == "vdkit-writer" for thread in threading.enumerate()):
            if time.monotonic() > end:
                break
            time.sleep(0.01)
        torch.inference_mode(False).__enter__()
        self.expected[kind] = self.decode_both(kind)
        self.on_disk[kind] = 1
        self.rest()

    def cell(self, way, kind, quotas, done):
        """Interrupts for one way and sink until each mode has its number."""
        random.seed(f"{self.options.seed} {way} {kind} {done}")
        self.attempt(way, kind, "whole", Plan(), 0, lambda run, sent: run.closed)
        self.rest()  # what the first run of a process makes for good, such as a CUDA context
        for mode, quota in quotas.items():
            count = done.get(mode, 0)
            points = 0
            for index in range(done.get(f"{mode} tried", 0), 20 * quota + 20):
                if count >= quota:
                    break
                if mode.startswith("points"):
                    if not points:
                        plan = self.plan(way, kind, mode, points=2**40)
                        points = self.run(way, kind, plan)[0].points
                        quota = min(quota, points)
                    if index >= quota:
                        break
                    # Spread over all, moved by the seed.
                    point = int((index + random.random()) * points / quota) + 1
                    if quota == points:
                        point = index + 1
                    plan = self.plan(way, kind, mode, points=point)
                else:
                    plan = self.plan(way, kind, mode)
                counted, _ = self.attempt(way, kind, mode, plan, index, self.landed(mode))
                count += counted

    @staticmethod
    def landed(mode):
        if mode == "repeated":
            return lambda run, sent: len(run.arrived) >= 1 and sent >= 2
        if mode in phases("sync") or mode in phases("async-1"):
            return lambda run, sent: run.arrived[:1] == [mode]
        if mode.startswith("bar"):
            return lambda run, sent: True
        return lambda run, sent: bool(run.arrived)

    def plan(self, way, kind, mode, points=0):
        """A random plan of this mode."""
        chunks = VIDEOS[1 - self.on_disk[kind]]["frames"]
        slots = WAYS[way][1].slots
        seconds = self.seconds[way, kind]
        quick, slow_sink, slow_decoder = SPEEDS
        if mode in ("single", "repeated"):
            speed = random.choice(SPEEDS)
            until_s = 1.05 * seconds["total"] + chunks * max(speed)
            gaps = [random.uniform(0, until_s)]
            if mode == "repeated":
                for _ in range(random.randint(1, 4)):
                    scale_s = random.choice((1e-6, 2e-5, 1e-4, 5e-4, 2e-3))
                    gaps.append(random.expovariate(1 / scale_s))
            bar = random.choice(("", "", "", "seen"))
            return Plan(event="call", gaps=tuple(gaps), speed=speed, bar=bar)
        if mode in phases(way):
            event = phases(way)[mode]
            nth, until_s, speed = {
                "start": (1, seconds["start"], quick),
                "decode": (random.randint(1, chunks), slow_decoder[0], slow_decoder),
                "close": (1, seconds["close"], quick),
                "write": (random.randint(1, chunks), slow_sink[1], slow_sink),
                "slot wait": (random.randint(min(slots, chunks - 1), chunks - 1), 1e-3, slow_sink),
                "drain": (chunks, min(slots, chunks) * slow_sink[1], slow_sink),
            }[mode]
            return Plan(event=event, nth=nth, gaps=(random.uniform(0, until_s),), speed=speed)
        if mode == "points":
            return Plan(point=points)
        if mode == "points bar":
            return Plan(point=points, bar="seen")
        if mode == "points again":
            return Plan(point=points, decoder_at=chunks // 2, speed=slow_sink)
        what, _, which = mode.partition(" ")
        if what == "thread":
            return Plan(thread=int(which))
        if what == "bar":
            return Plan(bar=which)
        held, times = which.split()
        return Plan(held=held, times=int(times), speed=slow_sink)

    def leaks(self, runs):
        """Short runs of every outcome; what is left behind after each, and memory in the end."""
        random.seed(f"{self.options.seed} leaks")
        memory = []
        troubles = ("", "cancel", "decoder", "open", "write", "close", "interrupt")
        cells = [cell.split(":") for cell in CELLS]
        for way, kind in cells:
            self.attempt(way, kind, "leaks whole", Plan(), 0, lambda run, sent: run.closed)
        self.rest()
        for index in range(runs):
            way, kind = random.choice(cells)
            trouble = random.choice(troubles)
            plan = Plan(trouble=trouble, nth=random.choice((1, 2)))
            if trouble == "interrupt":
                plan = self.plan(way, kind, "single")
            elif trouble in ("open", "close"):
                plan.nth = 1
            self.attempt(way, kind, f"leaks {trouble or 'success'}", plan, index,
                         lambda run, sent: True, follow=False)  # fmt: skip
            if index % 20 == 0:
                memory.append(rss_mib())
        tenth = max(1, len(memory) // 10)
        settled = statistics.median(memory[2 * tenth : 3 * tenth])
        last = statistics.median(memory[-tenth:])
        self.note(memory=[settled, last])


def watch_child(options, work, folder, limit_s):
    """Run ``work(child)`` in a fork; (lines of its journal, how it died or None)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with open(folder / "journal", "w+b") as journal, open(folder / "traces", "w+") as traces:
        options.parent = os.getpid()
        if tasks() > 1:
            raise RuntimeError("threads are running before the fork; set OMP_NUM_THREADS=1")
        child = os.fork()
        if child == 0:
            code = 70
            try:
                work(Child(options, folder, journal.fileno(), traces))
                code = 0
            except BaseException:
                traceback.print_exc(file=traces)
                traces.flush()
            finally:
                os._exit(code)
        ended = os.pidfd_open(child)
        status = None
        try:
            if not select.select([ended], [], [], limit_s)[0]:
                os.kill(child, signal.SIGABRT)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        finally:
            os.close(ended)
            if status is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        lines = [json.loads(line) for line in (folder / "journal").read_text().splitlines()]
        trace = (folder / "traces").read_text()
    if status == 0:
        return lines, None
    if status == 70:
        return lines, f"the judge itself failed:\n{trace}"
    how = "hang" if trace.startswith("Timeout") or status == -signal.SIGABRT else "crash"
    name = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    return lines, f"{how} ({name})\n{trace}"


class Report:
    """Counts over all children."""

    def __init__(self, options):
        self.options = options
        self.cells = {}
        self.faults = []
        self.memory = None

    def take(self, lines, died):
        """Count one child's journal. Returns the mode counts, for a child that goes on."""
        done = Counter()
        for line in lines:
            if "memory" in line:
                self.memory = line["memory"]
            elif "mode" in line:
                leaks = line["mode"].startswith("leaks")
                name = "leaks" if leaks else f"{line['way']}:{line['kind']}"
                cell = self.cells.setdefault(name, {"runs": Counter(), "phases": Counter()})
                cell["runs"][line["mode"]] += line["counts"]
                cell["runs"]["lingering"] += line["lingering"]
                cell["runs"]["ignored"] += line["ignored"]
                if line["mode"] in ("single", "repeated", *phases("sync"), *phases("async-1")):
                    cell["phases"].update(line["phases"])
                done[line["mode"]] += line["counts"]
                for what in line["wrong"]:
                    self.faults.append((what, line))
            else:
                done[f"{line['begin']} tried"] = line["index"] + 1
        if died:
            last = lines[-1] if lines else {}
            done[last.get("begin")] += 1
            self.faults.append((died.split("\n")[0], last | {"trace": died}))
        return done

    def short_of(self):
        """Phases that were hit too rarely."""
        return [
            f"TOO FEW {name}: {cell['phases'][phase]} interrupts in {phase}"
            for name, cell in self.cells.items()
            if name != "leaks"
            for phase in phases(name.partition(":")[0])
            if cell["phases"][phase] < self.options.per_phase
        ]

    def text(self):
        columns = [*dict.fromkeys([*phases("async-1"), *phases("sync")]), "between", "end", "again"]
        rows = [("", "single", "repeated", *columns, "points", "faults")]
        for name, cell in self.cells.items():
            bad = sum(f"{line.get('way')}:{line.get('kind')}" == name for _, line in self.faults)
            runs = cell["runs"]
            points = sum(runs[mode] for mode in runs if mode.startswith("points"))
            landed = [cell["phases"][column] for column in columns]
            if name != "leaks":
                rows.append((name, runs["single"], runs["repeated"], *landed, points, bad))
        widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(str(cell).rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        ]
        if "leaks" in self.cells:
            counts = self.cells["leaks"]["runs"]
            outcomes = sorted(name for name in counts if name.startswith("leaks"))
            lines.append(", ".join(f"{name} {counts[name]}" for name in outcomes))
        if self.memory:
            lines.append("resident memory {:.1f} MiB, at the end {:.1f} MiB".format(*self.memory))
        examples = {}
        for what, line in self.faults:
            examples.setdefault(what, []).append(line)
        for what, found in sorted(examples.items(), key=lambda item: -len(item[1])):
            where = Counter(
                f"{line.get('way')}:{line.get('kind')} {line.get('mode', line.get('begin'))}"
                for line in found
            )
            shown = ", ".join(f"{place} x{count}" for place, count in where.most_common(4))
            lines.append(f"FAULT {what}: {len(found)} ({shown})")
            if "trace" in found[0]:
                lines.append(found[0]["trace"])
        return "\n".join(lines + self.short_of())


def soak(options):
    """Everything that was asked for, child after child."""
    report = Report(options)
    with tempfile.TemporaryDirectory(prefix="vdkit-interrupts-") as name:
        folder = Path(name) / "runs"
        for cell in options.cells:
            way, kind = cell.split(":")
            quotas = {"single": options.single, "repeated": options.repeated}
            quotas |= dict.fromkeys(phases(way), options.per_phase)
            quotas |= {"points": options.points, "points again": options.points}
            for held in ("open", "write", "close"):
                quotas |= {f"held {held} 1": 1, f"held {held} 4": 1}
            if threaded(way):
                quotas |= {"thread 1": 1, "thread 2": 1}
            if kind == "raw":
                quotas |= {"points bar": options.points, "bar gone": 1, "bar full": 1}
            done = Counter()
            for _ in range(options.deaths):
                work = functools.partial(
                    Child.cell, way=way, kind=kind, quotas=quotas, done=done.copy()
                )
                lines, died = watch_child(options, work, folder, 3600)
                done += report.take(lines, died)
                if not died:
                    break
        if options.leaks:
            work = functools.partial(Child.leaks, runs=options.leaks)
            lines, died = watch_child(options, work, folder, 7200)
            report.take(lines, died)
            if report.memory and abs(report.memory[1] - report.memory[0]) > RSS_BOUND_MIB:
                report.faults.append((f"memory moved by over {RSS_BOUND_MIB} MiB", {}))
    return report


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", nargs="+", default=CELLS, metavar="WAY:SINK")
    parser.add_argument("--single", type=int, default=100, help="runs with one interrupt")
    parser.add_argument("--repeated", type=int, default=100, help="runs with 2 to 5 interrupts")
    parser.add_argument("--per-phase", type=int, default=20, help="interrupts in each phase")
    parser.add_argument("--points", type=int, default=10**9, help="places where one is sent")
    parser.add_argument("--leaks", type=int, default=10_000, help="runs that look for leaks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit-s", type=float, default=20.0, help="a longer run hangs")
    parser.add_argument("--deaths", type=int, default=5, help="children of a cell before it ends")
    parser.add_argument("--json", action="store_true", help="print counts and faults as JSON")
    options = parser.parse_args(arguments)
    start_s = time.perf_counter()
    report = soak(options)
    if options.json:
        print(json.dumps(vars(report) | {"options": None, "short_of": report.short_of()}))
    else:
        print(report.text())
        print(f"Python {sys.version.split()[0]}, {time.perf_counter() - start_s:.0f} s")
    return 1 if report.faults or report.short_of() else 0


if __name__ == "__main__":
    sys.exit(main())
