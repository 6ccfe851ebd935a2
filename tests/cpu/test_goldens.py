"""Every recording reads as it did: what the commands print, against ``tests/goldens``."""

import difflib
import re

import pytest

from tests.goldens.make import GOLDENS, HERE, golden_path

REMEDY = "if this is what users shall read: python -m tests.goldens.make"
LARGEST_BYTES, ALL_BYTES = 300_000, 4_000_000
MOST_LINES = 200


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name):
    path = golden_path(name)
    assert path.is_file(), f"no golden of {name}: python -m tests.goldens.make {name}"
    held, made = (alike(text) for text in (path.read_text(encoding="utf-8"), GOLDENS[name]()))
    changes = list(difflib.unified_diff(held, made, path.name, "now", lineterm="", n=1))
    if changes:
        more = f"\n... {len(changes)} lines in all" if len(changes) > MOST_LINES else ""
        pytest.fail(f"{REMEDY} {name}\n{chr(10).join(changes[:MOST_LINES])}{more}", pytrace=False)


def alike(text):
    """Lines, without the last digits of long numbers: a processor's vector units decide them."""
    return re.sub(r"\d+\.\d{13,}", lambda long: f"{float(long[0]):.12g}", text).split("\n")


def test_goldens_are_small_and_none_is_left_over():
    sizes = {path.stem: path.stat().st_size for path in HERE.glob("*.txt")}
    assert set(sizes) == set(GOLDENS)
    assert max(sizes.values()) < LARGEST_BYTES and sum(sizes.values()) < ALL_BYTES
