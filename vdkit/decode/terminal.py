"""The terminal that a decode runs in: signals that have to wait for it, and a bar that may not.

A handler that raises between any two instructions may leave a lock held or a file that nobody
closes, so it runs where the decode can end well, and nowhere else.
"""

from __future__ import annotations

import contextlib
import io
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

HELD = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2")


class Wake:
    """Ends a timed wait of another thread.

    Not queue.SimpleQueue: its timed get waits forever if its time is over before it first looks
    (CPython 3.11). Not threading.Event: its lock is Python's, and an interrupt may leave that held.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """End a wait, or the next one."""
        with contextlib.suppress(RuntimeError):  # it is set already
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Whether it was set within that time; it is not any more."""
        return self._lock.acquire(timeout=max(0.0, seconds))


class HeldSignals:
    """Holds handlers written in Python back until `release`; one that has raised stays held.

    Python runs them on the main thread: elsewhere nothing is held and nothing arrives. As a context
    manager it lets them run at once: around code that may last and is not ours.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._held: list[int] = []
        self._waiting: list[int] = []
        self._raised: set[int] = set()
        self._at_once = False
        self._thread = threading.current_thread()
        if self._thread is not threading.main_thread():
            return
        try:
            for number in (getattr(signal, name) for name in HELD):
                self._handlers[number] = signal.getsignal(number)
                if callable(self._handlers[number]):
                    self._held.append(number)
                    signal.signal(number, self._arrived)
        except BaseException:
            self.release()
            raise

    def _arrived(self, number: int, frame: Any) -> None:
        if self._at_once or not self._held:
            self._run(number, frame)
        else:
            self._waiting.append(number)

    def _run(self, number: int, frame: Any) -> None:
        at_once, self._at_once = self._at_once, False
        try:
            self._handlers[number](number, frame)
        except BaseException:
            self._raised.add(number)  # what follows is cleaning up, which nothing interrupts
            raise
        self._at_once = at_once

    def deliver(self) -> None:
        """Run the handlers of what has arrived; they may raise, as KeyboardInterrupt."""
        while self._waiting:
            number = self._waiting.pop(0)
            if number not in self._raised:
                self._run(number, None)

    def __enter__(self) -> None:
        if threading.current_thread() is self._thread:
            self._at_once = True
            self.deliver()

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is self._thread:
            self._at_once = False

    def release(self) -> None:
        """Put the handlers back, that of Ctrl-C last, then `deliver`; any of that may raise."""
        try:
            while self._held:
                number = self._held[-1]
                if signal.getsignal(number) == self._arrived:
                    signal.signal(number, self._handlers[number])
                self._held.pop()
        finally:
            if self._held:
                self.release()
            self.deliver()


class Bar:
    """A tqdm bar. Where standard error has gone, it goes too; where it is full, a draw is left out.

    ``show`` False: no bar, and tqdm is not loaded; ``options`` are tqdm's.
    """

    def __init__(self, show: bool, **options: Any) -> None:
        # miniters: or tqdm's monitor thread would draw too.
        self._options = {"leave": False, "miniters": 1, **options}
        self._bar: Any = None
        self._shown, self._done = show, 0.0

    def __enter__(self) -> Bar:
        self.to(0)
        return self

    def close(self, *error: object) -> None:
        """Take the bar away; nothing is shown from here on."""
        if self._bar is not None:
            self._try(self._bar.close)
            self._bar.disable = True  # or tqdm draws once more when it is collected
        self._shown = False

    __exit__ = close

    def to(self, done: float) -> None:
        """Show ``done`` of ``total``."""
        self._done = done
        self._try(self._draw)

    def _draw(self) -> None:
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(**self._options)
        self._bar.update(self._done - self._bar.n)

    def add(self) -> None:
        """Show one more."""
        self.to(self._done + 1)

    def clear(self) -> None:
        """Make room for a line of output; the next figure shows it again."""
        if self._bar is not None:
            self._try(self._bar.clear)

    def _try(self, draw: Callable[[], object]) -> None:
        try:
            if self._shown and _takes_a_line():
                draw()
        except Exception:
            self._shown = False


def _takes_a_line() -> bool:
    """Whether standard error takes a line without waiting; what is no file of the system does."""
    stream = sys.stderr
    if not isinstance(stream, io.TextIOWrapper):
        return True
    try:
        return bool(select.select([], [stream], [], 0)[1])
    except (OSError, ValueError):  # it has no descriptor
        return True
