"""Recordings of any age, read as today's: every earlier file of every kind.

Until schema 6 each kind had files of its own: ``result.json`` (a benchmark), ``variants.json``,
``aa.json`` with a ``result_ARM.json`` for each arm, ``profile.json``, and the cells of a sweep.
They also held summaries of their runs; these are compared with what the runs say, then dropped.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from vdkit.record.recording import FILE, SCHEMA_VERSION, Recording
from vdkit.record.runs import DECIMALS, MODES

OLD_FILES = {"result.json": 3, "variants.json": 1, "aa.json": 2, "profile.json": 5}
"""Earlier file to the newest schema that was ever written of it."""

Json = dict[str, Any]
_Model = TypeVar("_Model", bound=BaseModel)


def read_any(path: Path) -> Recording:
    """Read a recording: its file, or the folder that it is in; errors as `read_recording`."""
    file = recorded_file(path)
    data = read_json(file)
    old = _kind_of(data)
    _check_version(file, data, OLD_FILES[old] if old else SCHEMA_VERSION)
    return validated(
        file, lambda: Recording.model_validate(_UPGRADES[old](data, file) if old else data)
    )


def read_record(path: Path, model: type[_Model], version: int) -> _Model:
    """Read another file of vdkit's; ``version`` is the newest schema that ``model`` reads.

    Errors as `read_recording`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no result at {path}")
    _check_version(path, data := read_json(path), version)
    return validated(path, lambda: model.model_validate(data))


def _check_version(file: Path, data: Json, newest: int) -> None:
    version = data.get("schema_version")
    if type(version) is not int or version < 1:
        raise ValueError(
            f"{file} is not a vdkit result: its schema_version is {version!r}, no number from 1 on"
        )
    if version > newest:
        raise ValueError(
            f"{file} has schema version {version}, this vdkit reads up to {newest}; update vdkit"
        )


def validated(file: Path, make: Callable[[], _Model]) -> _Model:
    """What ``make`` makes of a file; ValueError, with file and first fault, if it cannot."""
    try:
        return make()
    except ValidationError as error:
        first, *more = error.errors(include_url=False)
        where = ".".join(str(part) for part in first["loc"]) or "as a whole"
        also = f" (and {len(more)} more)" if more else ""
        raise ValueError(
            f"{file} does not hold a valid result: {where}: {first['msg']}{also}"
        ) from error
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        what = error if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"{file} does not hold a valid result: {what}") from error


def recorded_file(path: Path) -> Path:
    """The file that ``path`` is, or that lies in it; FileNotFoundError, with what is there."""
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"no result at {path}")
        return path
    names = (FILE, *OLD_FILES)
    if found := [path / name for name in names if (path / name).is_file()]:
        return found[0]
    there = sorted(one.name for one in path.iterdir())
    holds = f"; it holds {', '.join(there[:5])}{', ...' * (len(there) > 5)}" if there else ""
    raise FileNotFoundError(
        f"no result at {path}: no {', '.join(names[:-1])} or {names[-1]}{holds}"
    )


def read_json(file: Path) -> Json:
    """The object in a file; ValueError or OSError, with the file, if there is none."""
    try:
        data = from_json(file.read_bytes(), allow_inf_nan=False)
    except OSError as error:
        raise OSError(f"{file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(
            f"{file} is not JSON (which has no NaN), or was cut short: {error}"
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"{file} is not a vdkit result: it holds a {type(data).__name__}")
    return data


def _kind_of(data: Json) -> str | None:
    """Which earlier file this is, by what it holds; None for one of today."""
    marks = {"kind": None, "psnr_db": "variants.json", "calibration": "aa.json",
             "nvml_interval_s": "profile.json"}  # fmt: skip
    return next((file for mark, file in marks.items() if mark in data), "result.json")


def _mode(name: str) -> str:
    """A decode path's name of today."""
    return "compute_only" if name == "compute" else name


def _run(run: Json) -> Json:
    return {**run, "mode": _mode(run["mode"])}


def _kept(data: Json, names: str) -> Json:
    return {name: data[name] for name in names.split()}


_SHARED, _SETTING = "label command provenance", "workload config sink"


def _benchmark(data: Json, file: Path) -> Json:
    arms = {}
    for mode, stored in data["modes"].items():
        runs = [_run(run) for run in data["runs"] if run["mode"] == mode]
        _check_summary(mode, stored, runs)
        arms[_mode(mode)] = {
            "mode": _mode(mode),
            "runs": runs,
            "frame_sha256": stored["frame_sha256"],
            **_kept(data, _SETTING),
            **{name: data.get(name) for name in ("setup_s", "other_bytes")},
        }
    unknown = {run["mode"] for run in data["runs"]} - data["modes"].keys()
    if unknown:
        raise ValueError(f"a run of mode {unknown.pop()!r} is of another mode or video")
    kind = "cell" if "_chunk" in file.name and len(arms) == 1 else "bench"
    return {**_kept(data, _SHARED), "kind": kind, "baseline": _mode(data["baseline"]), "arms": arms}


def _check_summary(mode: str, stored: Json, runs: list[Json]) -> None:
    """ValueError if the summary that was stored is not that of the runs."""
    if _mode(mode) not in MODES:
        raise ValueError(f"mode {mode!r} is unknown; known are {', '.join(MODES)}")
    timed = [run for run in runs if not run["warmup"]]
    if not timed:
        raise ValueError(f"mode {mode!r} has no timed run")
    told = [run["latency_s"] for run in timed]
    mean = math.fsum(told) / len(told)
    found = {"n": len(told), "mean": mean, "min": min(told), "max": max(told)}
    same = all(
        math.isclose(stored["latency_s"][name], value, rel_tol=1e-9, abs_tol=10.0**-DECIMALS)
        for name, value in found.items()
    )
    if not same or stored["throttled_runs"] != sum(run["throttled"] for run in timed):
        raise ValueError(f"the summary of mode {mode!r} contradicts its runs")


def _beside(file: Path, name: str) -> Json:
    """An earlier benchmark in the same folder, as one of today."""
    return _benchmark(read_json(file.parent / f"result_{name}.json"), file)


def _variants(data: Json, file: Path) -> Json:
    arms: Json = {}
    baseline = None
    for variant in data["variants"]:
        one = _beside(file, variant)
        arms |= {f"{variant}/{mode}": arm for mode, arm in one["arms"].items()}
        if variant == data["baseline"]:
            baseline = f"{variant}/{one['baseline']}"
    families = file.parent / "families.csv"
    return {
        **_kept(data, f"{_SHARED} skipped psnr_db psnr_latent_frames"),
        "kind": "variants",
        "baseline": baseline,
        "arms": arms,
        "families": read_families(families) if families.is_file() else {},
    }


def read_families(file: Path) -> Json:
    """Kernel families by variant; ValueError, with the file, if it holds something else."""
    shares: dict[str, list[Json]] = {}
    try:
        with file.open(newline="") as text:
            for row in csv.DictReader(text):
                family: Json = {"name": row["family"], "kernels": int(row["kernels"])}
                family |= {name: float(row[name]) for name in ("seconds", "percent")}
                share = {"family": family, "ms_per_latent_frame": float(row["ms_per_latent_frame"])}
                shares.setdefault(row["variant"], []).append(share)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a table of kernel families: {error}") from error
    return shares


def _aa(data: Json, file: Path) -> Json:
    plan, made = data["plan"], data["calibration"]
    arms = {}
    for arm in ("a", "b", "slow"):
        (arms[arm],) = _beside(file, arm)["arms"].values()
    planted = _kept(plan, "pairs splits seed orders") | made | {"percent": plan["plant_percent"]}
    told = {"kind": "aa", "baseline": "a", "arms": arms, "planted": planted}
    return _kept(data, _SHARED) | told


def _profile(data: Json, file: Path) -> Json:
    arms, first = {}, data["schema_version"]
    for mode, one in data["modes"].items():
        analysis = dict(one["analysis"])
        if first == 1:  # true stood there for what could not be checked, too
            analysis["checks"] = list(analysis["checks"])
        arms[_mode(mode)] = {
            "mode": _mode(mode),
            "runs": [_run(run) for run in one["timed"]],
            **_kept(data, _SETTING),
            "profile": {
                **_kept(one, "energy_j throttled_samples tflop tflop_per_s trace"),
                "sampled": [_run(run) for run in one["sampled"]],
                "run": _run(one["profiled"]),
                "analysis": analysis,
            },
        }
    sampling = None
    if data["nvml_interval_s"] is not None:
        names = ("interval_s", "samples", "mean_cost_ms", "unsupported")
        sampling = {name: data[f"nvml_{name}"] for name in names}
    told = {"kind": "profile", "baseline": next(m for m in ("sync", *MODES) if m in arms)}
    return _kept(data, f"{_SHARED} ceiling") | told | {"arms": arms, "sampling": sampling}


_UPGRADES: Mapping[str, Callable[[Json, Path], Json]] = dict(
    zip(OLD_FILES, (_benchmark, _variants, _aa, _profile), strict=True)
)
