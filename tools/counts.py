"""How big vdkit is: ``make counts``. Nothing here passes or fails."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import vdkit

ROOT = Path(__file__).parents[1]
TESTED = ROOT / ".pytest_cache" / "tests.xml"
"""What the last `make test` left."""


def counts() -> dict[str, int]:
    """Name, with unit, to value."""
    found: dict[str, int] = {}
    for part in ("vdkit", "tools", "tests"):
        modules = list((ROOT / part).rglob("*.py"))
        found[f"{part}, modules"] = len(modules)
        found[f"{part}, lines"] = sum(_lines(path) for path in modules)
    found["public names"] = len(vdkit.__all__)
    found["README, lines"] = _lines(ROOT / "README.md")
    if TESTED.exists():
        suite = next(ElementTree.parse(TESTED).iter("testsuite"))
        found["tests"], found["tests, seconds"] = int(suite.get("tests", 0)), _seconds(suite)
    return found


def _seconds(suite: ElementTree.Element) -> int:
    return round(float(suite.get("time", 0)))


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


if __name__ == "__main__":
    for name, value in counts().items():
        print(f"{name:24} {value:>9,}")
