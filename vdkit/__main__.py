"""The command line: its commands, and how each ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence

from vdkit.record import CLAIMS, kept


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 (the check failed), 2 (bad input)."""
    CLAIMS.clear()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):  # so that scratch files go, as on Ctrl-C
            if signal.getsignal(number) is signal.SIG_DFL:  # not what nohup ignores
                signal.signal(number, _terminate)
    try:
        from vdkit.cli import parse  # here, where an interrupt is answered

        options = parse(sys.argv[1:] if arguments is None else arguments)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(
                f"vdkit: warning: {message}", file=sys.stderr
            )
            try:
                status: int = options.run(options)
            except ValueError as error:
                if "KeyboardInterrupt" in str(error):  # pydantic has put it into words
                    raise KeyboardInterrupt from error
                raise
        if sys.stdout is not None:  # as behind `>&-`
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output has had enough, as in `vdkit show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, ArithmeticError, OSError, MemoryError) as error:
        print(f"vdkit: error: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        left = "nothing was recorded, earlier files are as they were"
        if notes := getattr(stop, "__notes__", ()):
            left = notes[-1]
        elif there := kept():
            left = f"kept is what was written before that: {', '.join(map(str, there))}"
        print(f"vdkit: interrupted; {left}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
