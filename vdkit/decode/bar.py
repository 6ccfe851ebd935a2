"""A progress bar on standard error that can neither fail nor hold up the work it shows."""

from __future__ import annotations

import io
import select
import sys
from collections.abc import Callable
from typing import Any


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

    def to(self, done: float, postfix: str | None = None, name: str | None = None) -> None:
        """Show ``done`` of ``total``; ``postfix`` goes behind it, ``name`` in front."""
        self._done = done

        def draw() -> None:
            if self._bar is None:
                from tqdm.auto import tqdm

                self._bar = tqdm(**self._options)
            if name is not None:
                self._bar.set_description_str(name, refresh=False)
            self._bar.update(done - self._bar.n)
            if postfix is not None:
                self._bar.set_postfix_str(postfix)

        self._try(draw)

    def add(self, name: str | None = None) -> None:
        """Show one more."""
        self.to(self._done + 1, name=name)

    def clear(self) -> None:
        """Make room for a line of output; the next figure shows it again."""
        if self._bar is not None:
            self._try(self._bar.clear)

    def _try(self, draw: Callable[[], object]) -> None:
        if self._shown and _takes_a_line():
            try:
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
