"""What was measured of latents, on disk: one kind of measurement a folder, a row for each case.

What is claimed of them, and how that is drawn, is derived when it is read.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from vdkit.models.loading import resolve_device
from vdkit.record import check_out, result_folder, write_record
from vdkit.record.results import read_record
from vdkit.record.runs import Provenance, Record, collect_provenance

SCHEMA_VERSION = 1
FILE = "latents.json"
Row = dict[str, Any]
Kind = Literal[
    "quality", "reference", "cost", "length", "training", "generation", "two-stages", "windows"
]


class Latents(Record):
    """One kind of measurement.

    Attributes:
        asked: the options it was made with.
        rows: columns carry their units; what was not measured is None.
    """

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    command: str
    provenance: Provenance
    asked: Row
    rows: tuple[Row, ...]


def device_for(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> torch.device:
    """The device that was asked for, where ``--out``, if there is one, can be written too; else
    it ends here, before anything is measured."""
    try:
        if asked.out:
            check_out(asked.out, "latents-two-stages")  # the longest
        return resolve_device(asked.device)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def record(out: Path, kind: Kind, asked: Row, rows: list[Row], device: torch.device) -> Path:
    """Write a new folder of results under ``out``; see `vdkit.record.result_folder`."""
    spec = sys.modules["__main__"].__spec__  # None where no ``python -m`` runs
    name = ["-m", spec.name] if spec else [Path(sys.argv[0]).name]
    made = Latents(
        kind=kind, command=shlex.join(["python", *name, *sys.argv[1:]]), rows=tuple(rows),
        provenance=collect_provenance(device), asked=asked,
    )  # fmt: skip
    return result_folder(
        out, f"latents-{kind}", made.provenance, lambda folder: write_record(made, folder / FILE)
    )


def recorded(results: Path, smoke: bool = False) -> dict[str, tuple[Path, Latents]]:
    """The newest recording of each kind below ``results``, and its folder, by kind.

    Args:
        smoke: those of ``--smoke`` too.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not results.is_dir():
        raise FileNotFoundError(f"there is no folder {str(results)!r}")
    found: dict[str, tuple[Path, Latents]] = {}
    for kind in get_args(Kind):
        files = results.glob(f"*_latents-{kind}*/{FILE}")
        for file in sorted(files, key=lambda file: file.parent.name, reverse=True):
            made = read_record(file, Latents, SCHEMA_VERSION)
            if smoke or not made.asked.get("smoke"):
                found[kind] = file.parent, made
                break
    return found
