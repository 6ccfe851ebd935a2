"""Processes that decode one video together, one for each GPU: how they start, and how all end."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import Any

import torch
import torch.distributed as dist

from vdkit.decode.terminal import HeldSignals

_GRACE_S = 5.0
"""For a process to end by itself; one that waits on the GPU for another that is gone cannot."""
_START = {True: "spawn", False: "forkserver"}
"""Of processes, with CUDA and without. A server loads libraries once for all; but diffusers looks
for a GPU when it is loaded, and what is forked thereafter cannot have one."""


def run_ranks(count: int, work: Callable[..., Any], *given: Any, kind: str = "auto") -> list[Any]:
    """Run ``work(device, *given)`` in ``count`` processes, the ranks of a torch.distributed group.

    If one fails, is killed or interrupted, all are ended, within seconds, and its error is raised.
    A script that calls it does so under ``if __name__ == "__main__"``: each process imports it.

    Args:
        count: of processes, 1 or more; on CUDA one for each GPU, from ``cuda:0`` on (NCCL), else
            on the CPU's cores (gloo).
        work: a function of a module; it, what it is ``given`` and what it returns are pickled.
        kind: ``cuda``, ``cpu`` or ``auto``.

    Returns:
        What each returned, by rank.

    Raises:
        ValueError: fewer GPUs, or no process.
        ChildProcessError: a process died.
        BaseException: the first that ``work`` raised, with its own traceback as the cause.
    """
    gpus = torch.cuda.device_count() if kind != "cpu" else 0
    cuda = kind == "cuda" or gpus > 0
    if count < 1 or (cuda and count > gpus):
        most = f"this machine has {gpus}" if cuda else "use 1 or more"
        raise ValueError(f"{count} {'GPUs' if cuda else 'processes'} are asked for; {most}")
    context: Any = multiprocessing.get_context(_START[cuda])
    context.set_forkserver_preload([work.__module__])
    with tempfile.TemporaryDirectory(prefix="vdkit-") as folder:
        processes: list[Any] = []
        left: dict[Any, int] = {}
        answers: dict[int, Any] = {}
        try:
            for rank in range(count):
                mine, theirs = context.Pipe(duplex=False)
                told = (theirs, (rank, count, cuda, f"file://{folder}/ranks"), work, given)
                processes.append(process := context.Process(target=_rank, args=told, daemon=True))
                process.start()
                theirs.close()  # so that the end of the process ends the pipe
                left[mine] = rank
            while left:
                for pipe in connection.wait(list(left)):
                    rank = left.pop(pipe)
                    answers[rank] = _answer(pipe, processes[rank], f"rank {rank} of {count}")
            for process in processes:
                process.join(_GRACE_S)
        finally:
            _end(processes)
    return [answers[rank] for rank in range(count)]


def _answer(pipe: Any, process: Any, who: str) -> Any:
    """What a rank returned; raises what it raised."""
    try:
        made, error, told = pipe.recv()
    except EOFError:
        process.join(_GRACE_S)
        status = process.exitcode or 0
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        raise ChildProcessError(f"{who} died of {how}; all others were ended") from None
    if error is not None:
        error.add_note(f"This was {who}; all others were ended.")
        raise error from RuntimeError(told)
    return made


def _end(processes: Sequence[Any]) -> None:
    """Leave none of them alive."""
    signals = HeldSignals()  # a second Ctrl-C must not leave one behind
    try:
        begun = [process for process in processes if process.pid]
        for process in begun:
            process.terminate()
        until = time.monotonic() + _GRACE_S
        for process in begun:
            process.join(max(0.0, until - time.monotonic()))
            process.kill()
            process.join()
    finally:
        signals.release()


def _rank(
    pipe: Any, group: tuple[int, int, bool, str], work: Callable[..., Any], given: Sequence[Any]
) -> None:
    """One process: join the group, work, and answer."""
    rank, count, cuda, store = group
    device, made = torch.device("cuda", rank) if cuda else torch.device("cpu"), None
    try:
        if cuda:
            torch.cuda.set_device(device)
            # NVLink multicast gains nothing here, and can leave the GPUs of a shared host unusable.
            os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
        else:
            torch.set_num_threads(max(1, torch.get_num_threads() // count))
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this host
        by = {"backend": "nccl", "device_id": device} if cuda else {"backend": "gloo"}
        dist.init_process_group(init_method=store, rank=rank, world_size=count, **by)
        made = work(device, *given)
        dist.barrier()  # who leaves first closes what others may still read from
    except BaseException as error:
        pipe.send((None, _sendable(error), f"\n{traceback.format_exc()}"))
        os._exit(1)  # destroying the group would wait for the others
    pipe.send((made, None, ""))
    dist.destroy_process_group()


def _sendable(error: BaseException) -> BaseException:
    """The error itself if it can be pickled, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
