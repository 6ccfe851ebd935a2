"""Where results go: checked before anything is measured, named after it, never overwritten."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

    from vdkit.record.runs import Provenance

CLAIMS: dict[Path, int | None] = {}
"""What this process set out to write, and the inode of what was there before."""


def claim(path: Path) -> None:
    """Before ``path`` is written, so that `kept` can tell whether it was."""
    CLAIMS.setdefault(path, _inode(path))


def kept() -> list[Path]:
    """What was claimed and has been written; of a new folder not what is in it."""
    new = [path for path, before in CLAIMS.items() if _inode(path) not in (None, before)]
    return [path for path in new if not set(path.parents) & set(new)]


def _inode(path: Path) -> int | None:
    return path.lstat().st_ino if os.path.lexists(path) else None


class Locked(OSError):
    """Another process is writing there."""


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a file or folder alone; the system lets go of it even if the process dies.

    Raises:
        Locked: another process holds it, which ``busy`` says.
    """
    import fcntl  # which not every system has

    held = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(busy) from None
        yield
    finally:
        os.close(held)


@contextmanager
def written(path: Path, new: bool = False) -> Iterator[Path]:
    """A temporary name of the same ending, which at the end takes the place of ``path``.

    A reader never sees half a file. ``new``: FileExistsError if there is one, whoever made it.
    """
    partial = _hidden(path)
    claim(path)
    try:
        yield partial
        if new:
            try:
                os.link(partial, path)
                return
            except OSError:  # perhaps no links here: take the name, if it is free, then fill it
                path.open("x").close()
        partial.replace(path)
    except OSError as error:
        what = "is append-only" if isinstance(error, FileExistsError) else "cannot be written"
        raise type(error)(f"{path} {what} ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str, new: bool = False) -> None:
    """Write ``text`` as UTF-8; see `written`."""
    with written(path, new) as partial:
        partial.write_text(text, encoding="utf-8")


def new_paths(folder: Path | str, name: str, endings: Sequence[str]) -> list[Path]:
    """``name`` with each ending in ``folder``, which is made if need be; none of them is there yet.

    Raises:
        FileExistsError: a file is there; give another name, or remove it first.
        ValueError: ``name`` is empty or a path.
    """
    if not name or Path(name).name != name:
        raise ValueError(f"name {name!r}: give a file name without folder and ending")
    paths = [Path(folder) / f"{name}.{ending}" for ending in endings]
    if taken := [str(path) for path in paths if os.path.lexists(path)]:
        raise FileExistsError(
            f"{', '.join(taken)} is there already and stays as it is; give another name or "
            "remove it first"
        )
    Path(folder).mkdir(parents=True, exist_ok=True)
    return paths


def check_out(out: Path, label: str, what: str = "--out") -> None:
    """Before anything is measured: can a result be written under ``out``? Leaves nothing behind.

    Args:
        what: the caller's name for ``out``, for messages.

    Raises:
        ValueError: the label is too long for a file name.
        OSError: ``out``, or the nearest folder above it that exists, is a file or not writable.
    """
    if len(label) > 100:
        raise ValueError(f"label {label[:20]!r}... has {len(label)} characters; use 100 at most")
    named = f"{what} {str(out)!r}"
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{named}: {there.name} is a file; give a folder")
    _try(there / "vdkit", f"{named} cannot be written to", "give another folder")


def check_file(path: Path, what: str, *endings: str) -> None:
    """Before any work: can a file be written at ``path``, with one of ``endings`` if there are any?

    Leaves nothing behind. ValueError for another ending, OSError for a place that cannot be written
    to; ``what`` is the caller's name for it, for messages.
    """
    named = f"{what} {str(path)!r}"
    if endings and path.suffix not in endings:
        either = re.sub(r", (\S+)$", r" or \1", ", ".join(endings))
        raise ValueError(f"{named}: end the name in {either}")
    if not os.path.isdir(path.parent):
        raise FileNotFoundError(f"{named}: there is no folder {str(path.parent)!r}; create it")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{named} is a folder; give a file name")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise PermissionError(f"{named} is there and write-protected; choose another")
    _try(path, f"{named} cannot be written", "choose another")


def _hidden(path: Path) -> Path:
    """A name beside ``path``, of the same ending, that nothing else has."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")


def _try(path: Path, what: str, remedy: str) -> None:
    """OSError if nothing can be made beside ``path``."""
    try:
        (made := _hidden(path)).touch(exist_ok=False)
        made.unlink()
    except OSError as error:
        raise OSError(f"{what} ({error.strerror}); {remedy}") from error


def result_folder(
    out: Path, label: str, provenance: Provenance,
    write: Callable[[Path], object] = lambda folder: None,
) -> Path:  # fmt: skip
    """``<utc>_<device>_<sha7>_<label>`` under ``out``; made, and new (``-2`` if need be).

    It holds what ``write`` puts into it, or is gone if that fails or is interrupted.
    """
    stamp = re.sub(r"[-:]|\+.*", "", provenance.created_utc) + "Z"
    device = re.sub(r"[^a-z0-9]+", "-", provenance.device.lower()).strip("-")
    commit = (provenance.git_commit or "nogit")[:7] + ("-dirty" if provenance.git_dirty else "")
    label = re.sub(r"[^A-Za-z0-9.-]+", "-", label).strip("-") or "bench"
    for number in itertools.count(1):
        suffix = f"-{number}" if number > 1 else ""
        folder = out / f"{stamp}_{device}_{commit}_{label}{suffix}"
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    try:
        CLAIMS[folder] = None
        write(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # it is ours and new: nothing else is in it
        raise
    return folder


SUMS = "SHA256SUMS"
_SUMMED = (".csv", ".gz", ".json", ".md", ".png")


def write_sums(folder: Path) -> None:
    """Hash each record, table, trace and picture below ``folder``, as sha256sum does."""
    files = (one for one in sorted(folder.rglob("*")) if one.suffix in _SUMMED)
    made = (f"{sha256(one)}  {one.relative_to(folder).as_posix()}\n" for one in files)
    write_atomically(folder / SUMS, "".join(made))


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_record(record: BaseModel, path: Path) -> Path:
    """Write ``path`` as one line of JSON; FileExistsError if it is there already."""
    write_atomically(path, record.model_dump_json() + "\n", new=True)
    return path
