"""Signals during a decode: their handlers run where it can end well, and nowhere else.

An exception that a handler raises between two instructions can leave a lock held, a thread that
counts as ended, or a file that nobody closes; the second Ctrl-C hits the cleaning up.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

HELD = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2
)  # fmt: skip


class HeldSignals:
    """Holds the handlers of `HELD` back, from its making until `release`.

    Only those written in Python, and only on the main thread, where Python runs them; elsewhere
    nothing is held and nothing arrives. A handler that has raised is not run again.

    As a context manager it lets them run at once: around code that may last and is not ours.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._waiting: list[int] = []
        self._raised: set[int] = set()
        self._at_once = self._released = False
        self._thread = threading.get_ident()
        if threading.current_thread() is not threading.main_thread():
            return
        try:
            for number in HELD:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._arrived)
        except BaseException:
            self.release()
            raise

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._at_once or self._released:
            self._run(number, frame)
        else:
            self._waiting.append(number)

    def _run(self, number: int, frame: FrameType | None) -> None:
        at_once, self._at_once = self._at_once, False
        try:
            self._handlers[number](number, frame)
        except BaseException:
            self._raised.add(number)  # what follows is cleaning up, which nothing interrupts
            raise
        self._at_once = at_once

    def deliver(self) -> None:
        """Run the handlers of what has arrived; they may raise, as KeyboardInterrupt."""
        if threading.get_ident() == self._thread:
            while self._waiting:
                number = self._waiting.pop(0)
                if number not in self._raised:
                    self._run(number, None)

    def __enter__(self) -> None:
        if threading.get_ident() == self._thread:
            self._at_once = True
            self.deliver()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if threading.get_ident() == self._thread:
            self._at_once = False

    def release(self) -> None:
        """Put the handlers back, then `deliver`. The last thing to do: it may raise."""
        self._released = True  # one that is not back yet forwards
        try:
            for number, handler in self._handlers.items():
                if signal.getsignal(number) == self._arrived:
                    signal.signal(number, handler)
        finally:
            self.deliver()
