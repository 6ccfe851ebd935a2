"""What differs between two recordings: what forbids comparing them, and what is worth saying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from vdkit.measure.records import BenchmarkResult, comparable

SAME_MACHINE = ("device", "device_uuid", "vram_bytes", "cpu", "host_cores")
SAME_WORK = ("decoder", "dtype", "weights_sha256", "latents_sha256", "frames", "height", "width")
_NO_MATTER = {"created_utc", "packages"}  # said elsewhere: in the caption, and package by package


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of the records that is ``a`` in A and ``b`` in B, in words."""

    name: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.name} {self.a} against {self.b}"


def mismatches(
    a: BenchmarkResult, b: BenchmarkResult, pairs: Sequence[tuple[str, str]]
) -> list[Difference]:
    """What two recordings must have in common to be compared, and have not."""
    found = _unequal(a.provenance, b.provenance, SAME_MACHINE)
    found += _unequal(a.workload, b.workload, SAME_WORK)
    for mode_a, mode_b in pairs:
        sha_a, sha_b = a.modes[mode_a].frame_sha256, b.modes[mode_b].frame_sha256
        # One path must give its own frames again; diffusers' need not be those of the others.
        alike = mode_a == mode_b or (
            comparable(mode_a, sha_a, a.config) and comparable(mode_b, sha_b, b.config)
        )
        if alike and sha_a is not None and sha_b is not None and sha_a != sha_b:
            name = mode_a if mode_a == mode_b else f"{mode_a} and {mode_b}"
            found.append(Difference(f"frame_sha256 of {name}", _words(sha_a), _words(sha_b)))
    return found


def differences(a: BenchmarkResult, b: BenchmarkResult) -> list[Difference]:
    """All else that differs: code, versions, configuration, sink."""
    known = {*SAME_MACHINE, *_NO_MATTER}
    made = [name for name in type(a.provenance).model_fields if name not in known]
    work = [name for name in type(a.workload).model_fields if name not in SAME_WORK]
    found = _unequal(a.provenance, b.provenance, made)
    packages_a, packages_b = a.provenance.packages, b.provenance.packages
    for name in sorted(packages_a.keys() | packages_b.keys()):
        versions = packages_a.get(name, "missing"), packages_b.get(name, "missing")
        found += [Difference(name, *versions)] if versions[0] != versions[1] else []
    found += _unequal(a.workload, b.workload, work)
    found += _unequal(a.config, b.config, [field.name for field in fields(a.config)])
    sink = _unequal(a.sink, b.sink, list(type(a.sink).model_fields))
    found += [Difference(f"sink {one.name}", one.a, one.b) for one in sink]
    return found + _unequal(a, b, ["baseline"])


def _unequal(a: Any, b: Any, names: Sequence[str]) -> list[Difference]:
    values = [(name, getattr(a, name), getattr(b, name)) for name in names]
    return [Difference(name, _words(x), _words(y)) for name, x, y in values if x != y]


def _words(value: Any) -> str:
    """A value as a reader wants it: hashes cut to 12 digits."""
    text = f"{value:.12g}" if isinstance(value, float) else str(value)
    return text[:12] if len(text) >= 40 and text.isalnum() else text
