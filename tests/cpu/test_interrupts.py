"""Interrupts at any moment, the short form of `make soak`: every way to decode, with every sink."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interrupts import CELLS, phases

ROOT = Path(__file__).parents[2]


def interrupts(*arguments):
    """What the program found, and its own words."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.interrupts", "--json", *arguments],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@functools.cache
def short_form(device):
    return interrupts(
        "--single", "3", "--repeated", "3", "--per-phase", "1", "--points", "4",
        "--leaks", "200", "--deaths", "2", "--limit-s", "10", "--device", device,
    )  # fmt: skip


def faults(report, cell):
    return [
        f"{what} ({line.get('mode', line.get('begin'))}) {line.get('trace', '')}"
        for what, line in report["faults"]
        if cell == f"{line.get('way')}:{line.get('kind')}"
    ]


@pytest.mark.parametrize("cell", CELLS)
def test_an_interrupted_decode_ends_as_promised(cell, device):
    report = short_form(device)
    assert not faults(report, cell)
    landed = report["cells"][cell]["phases"]
    assert not [phase for phase in phases(cell.partition(":")[0]) if not landed.get(phase)]


def test_nothing_leaks(device):
    report = short_form(device)
    assert not [what for what, line in report["faults"] if not line.get("way")]
    assert sum(report["cells"]["leaks"]["runs"].values()) >= 200
    settled_mib, last_mib = report["memory"]
    assert abs(last_mib - settled_mib) < 8


def test_the_judge_sees_a_decode_that_keeps_no_promise():
    cells = [f"careless:{kind}" for kind in ("raw", "png", "mp4")]
    report = interrupts(
        "--cells", *cells, "--single", "3", "--repeated", "0", "--per-phase", "0",
        "--points", "0", "--leaks", "0", "--deaths", "1", "--limit-s", "1.5",
    )  # fmt: skip
    running, hanging, crashing = (" ".join(faults(report, cell)) for cell in cells)
    assert "after the decode has returned" in running
    assert "hang (exit code 1)" in hanging and "in decode_carelessly" in hanging
    assert "crash (SIGSEGV)" in crashing
