"""Hands videos to workers, on Ray or in processes of this host, until each has its answer."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vdkit.measure.study import described
from vdkit.record import locked
from vdkit.record.fanout import Fanout
from vdkit.scale import Video
from vdkit.scale.worker import Answer, Orders, Worker

REQUEUED = 2
"""How often a video goes to another worker after one has died over it."""
CPU_WORKERS = 2
OBJECT_STORE_BYTES = 100 * 2**20
"""Of a local Ray, which wants 75 MiB or more; nothing large is sent."""
STOP_S = 30
"""What workers have, when all are stopped, to end the chunk in hand."""


class Hired(NamedTuple):
    """A worker in a process of its own: how it is handed a video and which try that is; its end."""

    number: int
    hand: Callable[[Video, int], Future[Answer]]
    end: Callable[[], object]


class Engine(NamedTuple):
    """What runs workers: ``hire`` takes what one is told, its share of a GPU, and its number."""

    name: str
    gpus: int
    cores: int  # of all its hosts
    hire: Callable[[Orders, float, int], Hired]
    died: type[Exception]  # what a future raises whose worker is gone


def fan_out(
    videos: Sequence[Video], orders: Orders, *, workers: int | None = None, engine: str = "ray",
    address: str | None = None, gpus: bool = True, label: str = "fanout",
    command: str | None = None, report: Callable[[Answer], object] = lambda answer: None,
    tell: Callable[[str], object] = lambda words: None,
) -> Fanout:  # fmt: skip
    """Make every video that is not there already; on Ctrl-C what is in hand is given up. Of folders
    made for it, those that stay empty go.

    Args:
        orders: their ``threads`` and ``begun_s`` are set here.
        workers: None: one for each GPU, without one `CPU_WORKERS`; never more than videos. Each
            has one video in hand.
        engine: of `ENGINES`.
        address: of a running Ray cluster, whose hosts all have ``orders.out`` and vdkit; None: a
            Ray of this host, started here, unless this process has one already.
        gpus: False: workers get none.
        report: called with each answer, as they come.
        tell: called with what is begun: that workers start, that they stop.

    Raises:
        ValueError: no engine of that name, Ray is not installed, or fewer workers than 1.
        Locked: another fan-out is at work in the folder.
        Exception: what loading the decoder raises.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is unknown; use {' or '.join(ENGINES)}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; use 1 or more")
    out = orders.out.absolute()  # for workers that are elsewhere
    homes = {parent for video in videos for parent in (out / video.out).parents}
    new = sorted((one for one in homes if not one.exists()), reverse=True)  # the inner ones first
    out.mkdir(parents=True, exist_ok=True)
    done: list[Answer] = []
    interrupted, name = False, engine

    def take(answer: Answer) -> None:
        done.append(answer)
        report(answer)

    with ExitStack() as stack:
        stack.enter_context(locked(out, f"another fan-out is at work in {out}; wait for it"))
        stack.callback(_remove_empty, new)
        orders = replace(orders, out=out, begun_s=time.time())
        shutil.rmtree(orders.scratch, ignore_errors=True)  # of one that was killed
        stack.callback(shutil.rmtree, orders.scratch, ignore_errors=True)
        orders.scratch.mkdir()
        orders = replace(orders, sink=replace(orders.sink, folder=orders.scratch))
        info = described(orders.sink.fresh)
        try:
            found = stack.enter_context(ENGINES[engine](address, gpus))
            name, count = found.name, min(workers or found.gpus or CPU_WORKERS, len(videos))
            threads = max(1, min(torch.get_num_threads(), found.cores // count))
            share = 1 / math.ceil(count / found.gpus) if found.gpus else 0.0
            hire = partial(found.hire, replace(orders, threads=threads), share)
            several = f"{count} worker{'s' * (count > 1)}"
            tell(f"{len(videos)} file{'s' * (len(videos) > 1)}; starting {several} ({name})")
            idle = [hire(number) for number in range(count)]
            _drive(videos, idle, hire, found.died, orders, take, tell)
        except KeyboardInterrupt:
            interrupted = True
    made = [one.made for one in done if one.made is not None]
    failed = {one.out: one.failed for one in done if one.failed is not None}
    return Fanout(
        label=label, command=command, engine=name, config=orders.config, sink=info,
        workers={one.made.worker: one.machine for one in done if one.made and one.machine},
        videos=tuple(made), finished_before=len(done) - len(made) - len(failed), failed=failed,
        interrupted=interrupted,
    )  # fmt: skip


def _remove_empty(folders: Iterable[Path]) -> None:
    for one in folders:
        with suppress(OSError):  # it holds what was made, or was never made
            one.rmdir()


def _drive(
    videos: Sequence[Video], idle: list[Hired], hire: Callable[[int], Hired],
    died: type[Exception], orders: Orders, take: Callable[[Answer], object],
    tell: Callable[[str], object],
) -> None:  # fmt: skip
    """Have all videos made; ``take`` gets what became of each."""
    left = deque((video, 1) for video in videos)
    running: dict[Future[Answer], tuple[Hired, Video, int]] = {}
    try:
        while left or running:
            while left and idle:
                worker, (video, tries) = idle.pop(0), left.popleft()
                running[worker.hand(video, tries)] = worker, video, tries
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, video, tries = running.pop(future)
                try:
                    take(future.result())
                except died:
                    worker.end()
                    tell(f"worker {worker.number} died over {video.out}")
                    worker = hire(worker.number)
                    if tries <= REQUEUED:
                        left.append((video, tries + 1))
                    else:
                        reason = f"{tries} workers died over it; is there memory enough?"
                        take(Answer(video.out, failed=reason))
                except Exception as error:
                    raise getattr(error, "cause", None) or error from None  # Ray wraps it
                idle.append(worker)
    except KeyboardInterrupt:
        tell(f"stopping the workers, {STOP_S:g} s at the most")
        raise
    finally:
        shutil.rmtree(orders.scratch, ignore_errors=True)  # which stops them: `Orders.is_set`
        for future in wait(running, timeout=STOP_S).done:
            if future.exception() is None and future.result().made is not None:
                take(future.result())
        for worker in (*idle, *(worker for worker, *_ in running.values())):
            worker.end()


@contextmanager
def _on_ray(address: str | None, gpus: bool) -> Iterator[Engine]:
    """Actors of Ray: its own of this process, or that at the address, or a new one of this host."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns
    try:
        import ray
    except ImportError:
        wrong = "engine ray needs Ray: pip install '.[scale]', or take --engine processes"
        raise ValueError(wrong) from None
    before, new = signal.getsignal(signal.SIGTERM), not ray.is_initialized()
    if new:
        _check_reached(address)
        local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        begin = partial(ray.init, address or "local", **quiet, **({} if address else local))
        try:
            begin()
        except Exception as error:
            if "timed out during startup" not in str(error):  # a busy host took more than 30 s
                raise
            begin()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's handler ends without a word
    ray._private.worker._worker_logs_enabled = False  # it tells of deaths on standard output
    actor = ray.remote(Worker)

    def hire(orders: Orders, share: float, number: int) -> Hired:
        placed = actor.options(num_cpus=0, num_gpus=share, scheduling_strategy="SPREAD")
        one = placed.remote(orders, number)
        hand = lambda video, tries: one.make.remote(video, tries).future()  # noqa: E731
        return Hired(number, hand, partial(ray.kill, one))

    try:
        there = ray.cluster_resources()
        cards, cores = (int(there.get(name, 0)) for name in ("GPU", "CPU"))
        where = "a cluster" if address else "this host"
        name = f"Ray {ray.__version__} on {where}"
        yield Engine(name, cards * gpus, cores, hire, ray.exceptions.RayActorError)
    finally:
        if new:
            ray.shutdown()


def _check_reached(address: str | None) -> None:
    """OSError if nobody is at ``HOST:PORT``, which Ray finds out in five minutes."""
    host, _, port = (address or "").rpartition(":")
    if port.isdecimal() and ":" not in host:
        try:
            socket.create_connection((host, int(port)), 5).close()
        except OSError as error:
            wrong = f"no Ray at {address} ({error.strerror or error}); see ray start --head"
            raise OSError(wrong) from error


@contextmanager
def _in_processes(address: str | None, gpus: bool) -> Iterator[Engine]:
    """Processes of this host, without Ray."""
    if address is not None:
        raise ValueError(f"address {address!r} is for engine ray; leave it out")

    def hire(orders: Orders, share: float, number: int) -> Hired:
        begin = (orders, number, share > 0)
        pool = ProcessPoolExecutor(1, get_context("spawn"), _begin, begin)
        hand = lambda video, tries: pool.submit(_make, video, tries)  # noqa: E731
        return Hired(number, hand, pool.shutdown)

    cards = torch.cuda.device_count() if gpus else 0
    yield Engine("processes", cards, torch.get_num_threads(), hire, BrokenProcessPool)


ENGINES = {"ray": _on_ray, "processes": _in_processes}
_worker: Worker


def _begin(orders: Orders, number: int, on_gpu: bool) -> None:
    """In a new process: it ends with its parent, which alone answers Ctrl-C."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    if on_gpu:
        torch.cuda.set_device(number % torch.cuda.device_count())
    _worker = Worker(orders, number)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _make(video: Video, tries: int) -> Answer:
    return _worker.make(video, tries)
