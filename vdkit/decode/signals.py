"""Signals during a decode: their handlers run where it can end well, and nowhere else.

One that raises between any two instructions may leave a lock held or a file that nobody closes.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

HELD = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2")


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
