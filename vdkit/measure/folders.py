"""Where results go: checked before anything is measured, named after it, never overwritten."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
import uuid
from pathlib import Path
from typing import Protocol

from vdkit.measure.provenance import Provenance


def check_out(out: Path, label: str, what: str = "--out") -> None:
    """Before anything is measured: can a result be written under ``out``? Leaves nothing behind.

    Args:
        what: the caller's name for ``out``, for messages.

    Raises:
        ValueError: the label is too long for a file name.
        OSError: ``out``, or the nearest folder above it that exists, is a file or not writable.
    """
    if len(label) > 100:
        raise ValueError(
            f"label {label[:20]!r}... has {len(label)} characters; use 100 at the most"
        )
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{what} {str(out)!r}: {there.name} is a file; give a folder")
    try:
        Path(tempfile.mkdtemp(prefix=".vdkit-", dir=there)).rmdir()
    except OSError as error:
        raise OSError(
            f"{what} {str(out)!r} cannot be written to ({error.strerror}); give another folder"
        ) from error


def check_file(path: Path, what: str, *endings: str) -> None:
    """Before any work: can a file be written at ``path``, with one of ``endings``?

    Leaves nothing behind. ValueError for another ending, OSError for a place that cannot be written
    to; ``what`` is the caller's name for it, for messages.
    """
    named = f"{what} {str(path)!r}"
    if path.suffix not in endings:
        either = re.sub(r", (\S+)$", r" or \1", ", ".join(endings))
        raise ValueError(f"{named}: end the name in {either}")
    if not os.path.isdir(path.parent):
        raise FileNotFoundError(f"{named}: there is no folder {str(path.parent)!r}; create it")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{named} is a folder; give a file name")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise PermissionError(f"{named} is there and write-protected; choose another")
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.touch(exist_ok=False)
        partial.unlink()
    except OSError as error:
        raise OSError(f"{named} cannot be written ({error.strerror}); choose another") from error


class Recorded(Protocol):
    """Any record that gets a folder of its own."""

    @property
    def label(self) -> str: ...
    @property
    def provenance(self) -> Provenance: ...


def result_folder(out: Path, result: Recorded) -> Path:
    """``<utc>_<device>_<sha7>_<label>`` under ``out``; made, and new (``-2`` if need be)."""
    provenance = result.provenance
    stamp = re.sub(r"[-:]|\+.*", "", provenance.created_utc) + "Z"
    device = re.sub(r"[^a-z0-9]+", "-", provenance.device.lower()).strip("-")
    commit = (provenance.git_commit or "nogit")[:7] + ("-dirty" if provenance.git_dirty else "")
    label = re.sub(r"[^A-Za-z0-9.-]+", "-", result.label).strip("-") or "bench"
    for number in itertools.count(1):
        suffix = f"-{number}" if number > 1 else ""
        folder = out / f"{stamp}_{device}_{commit}_{label}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")
