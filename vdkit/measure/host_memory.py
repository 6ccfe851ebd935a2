"""What the C library does with freed memory, which decides how fast and how steadily a CPU decodes.

glibc hands large freed blocks back to the system, so that every chunk's activations are faulted in
again, a million pages in a run of the miniature: twice the time, and different every time.
"""

from __future__ import annotations

import ctypes
import os

# mallopt(3)'s parameters: never shrink the heap, and take no block from outside it.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_kept = False


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, for the whole process from now on.

    For decoding on a CPU; the process then holds its peak until it ends. Records say whether it
    was done (`vdkit.measure.provenance.Provenance.malloc`).

    Returns:
        Whether it could be done: glibc has ``mallopt``, other C libraries have not.
    """
    global _kept
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    _kept = bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(_M_MMAP_MAX, 0))
    return _kept


def malloc_words() -> str:
    """``default`` or ``keeps freed memory``, and glibc's MALLOC_ variables where they are set."""
    said = ["keeps freed memory" if _kept else "default"]
    named = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
    said += [f"{name}={os.environ[name]}" for name in named if name in os.environ]
    return ", ".join(said)
