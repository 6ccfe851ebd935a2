"""Interrupts at any moment, the short form of `make soak`: every way to decode, with every sink."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interrupted import CELLS, phases
from tests.interrupts import RSS_BOUND_MIB

CARELESS = ["careless:raw", "careless:png", "careless:mp4"]


@functools.cache
def short_form(device):
    """Two processes for all tests, since most of it is waiting: what both of them counted."""
    halves = ((CELLS[::2], "100"), ([*CELLS[1::2], *CARELESS], "0"))
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.interrupts", "--cells", *cells, "--single", "3",
             "--repeated", "3", "--per-phase", "1", "--points", "4", "--leaks", leaks,
             "--limit-s", "10", "--device", device, "--json"],
            cwd=Path(__file__).parents[2], env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for cells, leaks in halves
    ]  # fmt: skip
    reports = []
    for printed, said in [one.communicate() for one in running]:
        assert printed, said
        reports.append(json.loads(printed))
    first, second = reports
    return {
        "cells": first["cells"] | second["cells"],
        "faults": first["faults"] + second["faults"],
        "memory": first["memory"],
    }


@pytest.fixture
def report(device):
    return short_form(device)


def faults(report, cell):
    return [
        f"{line['mode']}: {line.get('trace', what)}"
        for what, line in report["faults"]
        if f"{line['way']}:{line['kind']}" in (cell, ":")  # of none: it died before its first run
    ]


@pytest.mark.parametrize("cell", CELLS)
def test_an_interrupted_decode_ends_as_promised(cell, report):
    assert not faults(report, cell)
    landed = report["cells"][cell]["phases"]
    assert not [phase for phase in phases(cell.partition(":")[0]) if not landed.get(phase)]


def test_nothing_is_left_of_many_short_runs(report):
    assert sum(report["cells"]["leaks"]["runs"].values()) > 100
    settled_mib, last_mib = report["memory"]
    assert abs(last_mib - settled_mib) < RSS_BOUND_MIB


def test_the_judge_sees_a_decode_that_keeps_no_promise(report):
    running, hanging, crashing = ("\n".join(faults(report, cell)) for cell in CARELESS)
    assert "after the decode has returned" in running
    assert "hang (exit code 1)" in hanging and "in decode_carelessly" in hanging
    assert "crash (SIGSEGV)" in crashing
