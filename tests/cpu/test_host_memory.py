"""Freed memory is kept where that can be asked for, and records say so."""

import subprocess
import sys

from vdkit.record.runs import keep_freed_memory, malloc_words

FAULTS = """
import ctypes, resource
{0}
libc = ctypes.CDLL(None)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p()
    libc.posix_memalign(ctypes.byref(block), 64, 10**8)  # as torch does
    ctypes.memset(block, 1, 10**8)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
several = [faults() for _ in range(16)]  # the heap grows before blocks come back
print(min(several[:2]), max(several[-3:]))
"""


def page_faults(first_line):
    """Page faults when 100 MB are taken, filled and freed: at first, and in the end."""
    code = FAULTS.format(first_line)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_kept_memory_is_not_faulted_in_again():
    kept = "from vdkit import keep_freed_memory; assert keep_freed_memory()"
    first, later = page_faults("")
    assert later > 0.9 * first > 2  # few where the system gives huge pages
    # The kernel may take idle pages away from any process: once without a fault is enough.
    assert min(page_faults(kept)[1] for _ in range(3)) == 0


def test_records_name_it(monkeypatch):
    assert keep_freed_memory()
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"):
        monkeypatch.delenv(name, raising=False)
    assert malloc_words() == "keeps freed memory"
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    assert malloc_words() == "keeps freed memory, MALLOC_MMAP_MAX_=0"


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    monkeypatch.setattr("vdkit.record.runs._kept", False)
    assert keep_freed_memory() is False and malloc_words().startswith("default")
