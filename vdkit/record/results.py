"""Recordings as today's, of any age: one, or all of a folder, and every run in them as one table.

Until schema 6 each kind had files of its own: ``result.json`` (a benchmark), ``variants.json``,
``aa.json`` with a ``result_ARM.json`` for each arm, ``profile.json``, and the cells of a sweep.
They also held summaries of their runs, which are not read: what is said of runs is derived.
"""

from __future__ import annotations

import csv
import glob
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from vdkit.record.recording import FILE, SCHEMA_VERSION, Arm, Recording
from vdkit.record.runs import MODES, todays_mode

if TYPE_CHECKING:
    import pandas as pd

OLD_FILES = {"result.json": 3, "variants.json": 1, "aa.json": 2, "profile.json": 5}
"""Earlier file to the newest schema that was ever written of it."""

Json = dict[str, Any]
_Model = TypeVar("_Model", bound=BaseModel)


def read_recording(path: str | os.PathLike[str]) -> Recording:
    """Read a recording of any age: its file, or the folder that it is in.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not a recording, damaged, or written by a newer vdkit; names the file.
    """
    data = _read_json(file := recorded_file(Path(path)))
    marks = {"kind": FILE, "psnr_db": "variants.json", "calibration": "aa.json",
             "nvml_interval_s": "profile.json"}  # fmt: skip
    kind = next((name for mark, name in marks.items() if mark in data), "result.json")
    newest = OLD_FILES.get(kind, SCHEMA_VERSION)
    return _valid(file, data, Recording, newest, _UPGRADES.get(kind, lambda data, file: data))


def read_record(path: Path, model: type[_Model], version: int) -> _Model:
    """Read another file of vdkit's; ``version`` is the newest schema that ``model`` reads.

    Errors as `read_recording`.
    """
    file = recorded_file(path)
    return _valid(file, _read_json(file), model, version, lambda data, file: data)


def recorded_file(path: Path) -> Path:
    """The file that ``path`` is, or that lies in it; FileNotFoundError, with what is there."""
    names = (FILE, *OLD_FILES)
    for file in (path, *(path / name for name in names)):
        if file.is_file():
            return file
    told = ""
    if path.is_dir():
        there = sorted(one.name for one in path.iterdir())
        told = f": no {', '.join(names[:-1])} or {names[-1]}"
        told += f"; it holds {', '.join(there[:5])}{', ...' * (len(there) > 5)}" if there else ""
    raise FileNotFoundError(f"no result at {path}{told}; give a recording's folder, or its file")


def _read_json(file: Path) -> Json:
    """The object in a file; ValueError or OSError, with the file, if there is none."""
    try:
        data = from_json(file.read_bytes(), allow_inf_nan=False)
    except OSError as error:
        raise OSError(f"{file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        wrong = f"{file} is not JSON (which has no NaN), or was cut short: {error}"
        raise ValueError(wrong) from error
    if not isinstance(data, dict):
        raise ValueError(f"{file} is not a vdkit result: it holds a {type(data).__name__}")
    return data


def _valid(
    file: Path, data: Json, model: type[_Model], newest: int, upgrade: Callable[[Json, Path], Json]
) -> _Model:
    """What a file holds; ValueError, with the file and the first fault, if it is not that."""
    version = data.get("schema_version")
    if type(version) is not int or version < 1:
        wrong = f"its schema_version is {version!r}, no number from 1 on"
        raise ValueError(f"{file} is not a vdkit result: {wrong}")
    if version > newest:
        wrong = f"has schema version {version}, this vdkit reads up to {newest}"
        raise ValueError(f"{file} {wrong}; update vdkit")
    try:
        return model.model_validate(upgrade(data, file))
    except ValidationError as error:
        first, *more = error.errors(include_url=False)
        where = ".".join(map(str, first["loc"])) or "as a whole"
        what = f"{where}: {first['msg']}" + (f" (and {len(more)} more)" if more else "")
        raise ValueError(f"{file} does not hold a valid result: {what}") from error
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        told = error if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"{file} does not hold a valid result: {told}") from error


def _kept(data: Json, names: str) -> Json:
    return {name: data[name] for name in names.split()}


_SHARED, _SETTING = "label command provenance", "workload config sink"


def _benchmark(data: Json, file: Path) -> Json:
    arms = {}
    for mode, stored in data["modes"].items():
        runs = [run for run in data["runs"] if run["mode"] == mode]
        given = _kept(data, _SETTING) | {
            name: data.get(name) for name in ("setup_s", "other_bytes")
        }
        own = {"mode": mode, "runs": runs, "frame_sha256": stored["frame_sha256"]}
        arms[todays_mode(mode)] = own | given
    if unknown := {run["mode"] for run in data["runs"]} - data["modes"].keys():
        raise ValueError(f"a run of mode {unknown.pop()!r} is of another mode or video")
    told = {"kind": "cell" if "_chunk" in file.name and len(arms) == 1 else "bench"}
    told["baseline"] = todays_mode(data["baseline"])
    return _kept(data, _SHARED) | told | {"arms": arms}


def _beside(file: Path, name: str) -> Json:
    """An earlier benchmark in the same folder, as one of today."""
    return _benchmark(_read_json(file.parent / f"result_{name}.json"), file)


def _variants(data: Json, file: Path) -> Json:
    parts = {variant: _beside(file, variant) for variant in data["variants"]}
    first, told = data["baseline"], _kept(data, f"{_SHARED} skipped psnr_db psnr_latent_frames")
    return told | {
        "kind": "variants",
        "baseline": f"{first}/{parts[first]['baseline']}",
        "arms": {
            f"{v}/{mode}": arm for v, one in parts.items() for mode, arm in one["arms"].items()
        },
        "families": read_families(file.parent / "families.csv"),
    }


def read_families(file: Path) -> Json:
    """Kernel families by variant, if there are any; ValueError for something else in the file."""
    shares: dict[str, list[Json]] = defaultdict(list)
    if file.is_file():
        try:
            for row in csv.DictReader(file.read_text().splitlines()):
                family: Json = {"name": row["family"], "kernels": int(row["kernels"])}
                family |= {name: float(row[name]) for name in ("seconds", "percent")}
                share = {"family": family, "ms_per_latent_frame": float(row["ms_per_latent_frame"])}
                shares[row["variant"]].append(share)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is not a table of kernel families: {error}") from error
    return shares


def _aa(data: Json, file: Path) -> Json:
    plan = data["plan"]
    planted = _kept(plan, "pairs splits seed orders") | {"percent": plan["plant_percent"]}
    told = {"kind": "aa", "baseline": "a", "planted": planted | data["calibration"]}
    arms = {arm: [*_beside(file, arm)["arms"].values()] for arm in ("a", "b", "slow")}
    return _kept(data, _SHARED) | told | {"arms": {name: arm for name, (arm,) in arms.items()}}


def _profile(data: Json, file: Path) -> Json:
    arms = {}
    for mode, one in data["modes"].items():
        analysis = dict(one["analysis"])
        if data["schema_version"] == 1:  # true stood there for what could not be checked, too
            analysis["checks"] = list(analysis["checks"])
        seen = _kept(one, "sampled energy_j throttled_samples tflop tflop_per_s trace")
        seen |= {"run": one["profiled"], "analysis": analysis}
        own = {"mode": mode, "runs": one["timed"], "profile": seen}
        arms[todays_mode(mode)] = own | _kept(data, _SETTING)
    names = ("interval_s", "samples", "mean_cost_ms", "unsupported")
    there = data["nvml_interval_s"] is not None
    sampling = {name: data[f"nvml_{name}"] for name in names} if there else None
    told = {"kind": "profile", "baseline": next(m for m in ("sync", *MODES) if m in arms)}
    return _kept(data, f"{_SHARED} ceiling") | told | {"arms": arms, "sampling": sampling}


_UPGRADES = dict(zip(OLD_FILES, (_benchmark, _variants, _aa, _profile), strict=True))


class SkippedResultWarning(UserWarning):
    """A file that could not be read as a recording and is not in the table."""


def _warn(error: Exception) -> None:
    warnings.warn(f"left out: {error}", SkippedResultWarning, stacklevel=4)


Found = Sequence[tuple[Path, Recording]]  # recordings and the file of each


def find_recordings(
    pattern: str | Path | Sequence[str | Path] = "results/**",
    left_out: Callable[[Exception], object] = _warn,
) -> Found:
    """Every recording of any kind and age, the oldest first.

    Args:
        pattern: a recording's file, a folder (searched with all folders in it), or a glob pattern
            of either, ``**`` for any depth; or several of these. No file is read twice.
        left_out: gets the error of each file that cannot be read, which names it.

    Returns:
        A cell of a sweep is a recording of its own. Arm ``slow`` of an A/A control, slow on
        purpose, is in it only if its file or folder is named.

    Raises:
        FileNotFoundError: a path without wildcards that does not exist.
    """
    named: dict[Path, bool] = defaultdict(bool)
    for one in [pattern] if isinstance(pattern, (str, Path)) else pattern:
        if not (there := Path(one).exists()) and not glob.has_magic(str(one)):
            wrong = f"no results at {str(one)!r}; give a file, a folder or a pattern"
            raise FileNotFoundError(wrong)
        for match in map(Path, [one] if there else glob.glob(str(one), recursive=True)):
            for file in match.rglob("*.json") if match.is_dir() else [match]:
                if file == match == Path(one) or _is_recording(file):
                    named[file] |= there and match in (file, file.parent)
    found: list[tuple[Path, Recording]] = []
    for file in sorted(named):
        try:
            if file.is_dir():
                raise IsADirectoryError(f"{file} is a folder")
            recording = read_recording(file)
        except (ValueError, OSError) as error:
            left_out(error)
            continue
        if recording.kind == "aa" and not named[file]:
            arms = {name: arm for name, arm in recording.arms.items() if name != "slow"}
            recording = recording.model_copy(update={"arms": arms})
        found.append((file, recording))
    return sorted(found, key=lambda one: one[1].provenance.created_utc)


def _is_recording(file: Path) -> bool:
    """By its name; the arms that early variants and A/A controls kept beside them are not."""
    if file.name in (FILE, *OLD_FILES) or file.match("cell_*.json"):
        return True
    is_part = any((file.parent / index).is_file() for index in ("variants.json", "aa.json"))
    return file.match("result_*.json") and file.name != "result_hta.json" and not is_part


def load_results(
    pattern: str | Path | Sequence[str | Path] = "results/**",
    left_out: Callable[[Exception], object] = _warn,
) -> pd.DataFrame:
    """One row per recorded run, warm-ups included; an empty table if nothing is found.

    Arguments and errors are those of `find_recordings`; by default each file that is damaged, cut
    short or of a newer schema gives a `SkippedResultWarning`. A row has the run
    (`vdkit.record.runs.Run` without its chunks; seconds, bytes), ``rtf`` and ``energy_j``, what was
    decoded, configuration and sink, device, versions and commit, ``kind`` of the recording,
    ``arm``, ``folder`` and ``file``, the oldest first. Of a profile only the timed runs are in it.
    """
    return frame_of(find_recordings(pattern, left_out))


def frame_of(found: Found) -> pd.DataFrame:
    """`load_results` of recordings that have been read."""
    import pandas as pd

    rows = pd.DataFrame(rows_of(found, by_run=True))
    return rows.drop(columns=["video_s", "baseline_s"], errors="ignore")


def runs_frame(recording: Recording) -> pd.DataFrame:
    """One row per run, warm-ups included, in full precision, without the per-chunk records."""
    import pandas as pd

    rows = []
    for name, arm in recording.arms.items():
        for run in arm.runs:
            row = {
                "arm": name,
                **run.model_dump(mode="json", exclude={"chunks", "sink_close_parts"}),
            }
            for moment in ("before", "during", "after"):
                if values := row.pop(f"gpu_{moment}"):
                    del values["unsupported"]
                    values["throttle_reasons"] = "; ".join(values["throttle_reasons"])
                    row |= {f"{what}_{moment}": value for what, value in values.items()}
            rows.append(row)
    return pd.DataFrame(rows)


def rows_of(found: Found, by_run: bool) -> list[dict[str, Any]]:
    """One row per run or arm: plain values, None for what is missing.

    Args:
        by_run: a row for each run, warm-ups included: as `load_results`, with ``video_s``, the
            playing time, and ``baseline_s``, the latency of the baseline's run in the same round,
            with which this run is a pair; None for the baseline itself. Else a row for each arm,
            its timed runs summed up: what all of them share, and ``mode``, ``n``, ``mean_s``,
            ``std_s``, ``p99_s`` (numpy's linear percentile), ``max_s``, ``rtf``, ``ttff_s`` (mean),
            ``ttff_std_s``, ``throttled_runs``, ``energy_j`` (mean; None unless every run has it),
            ``video_s`` and ``baseline_s``, the mean of the baseline, None for the baseline itself.
    """
    rows: list[dict[str, Any]] = []
    for file, whole in found:
        for variant, one in whole.benchmarks.items():
            prefix = variant and f"{variant}/"
            for name, arm in one.arms.items():
                base = None if arm is one.base else one.base
                shared = _shared(file, whole.kind, prefix, one, name)
                if not by_run:
                    own = _summed_up(arm) | {"baseline_s": base and base.latency.mean}
                    rows.append(shared | own)
                    continue
                pair_s = {run.round: run.latency_s for run in (base.runs if base else ())}
                for run in arm.runs:
                    rtf = run.latency_s / arm.workload.seconds if arm.workload.kind.timed else None
                    own = run.model_dump(include=RUN) | {"rtf": rtf, "energy_j": run.energy_j}
                    rows.append(own | shared | {"baseline_s": pair_s.get(run.round)})
    return rows


RUN = {"mode", "round", "warmup", "latency_s", "ttff_s", "vram_peak_bytes", "pinned_bytes",
       "d2h_bytes", "throttled"}  # fmt: skip


def _shared(file: Path, kind: str, prefix: str, one: Recording, name: str) -> dict[str, Any]:
    """What all runs of an arm share."""
    arm, made = one.arms[name], one.provenance.model_dump()
    packages, config = made.pop("packages"), asdict(arm.config)
    del config["nvtx"]
    return {
        "frame_sha256": arm.frame_sha256,
        "folder": str(file.parent),
        "file": file.name,
        "kind": kind,
        "arm": prefix + name,
        "label": one.label,
        "commit": made.pop("git_commit"),
        **made,
        **{name: packages.get(name) for name in ("torch", "diffusers", "numpy")},
        **arm.workload.model_dump(
            exclude={"latent_height", "latent_width", "notes", "exact", "content"}
        ),
        **config,
        "sink": arm.sink.kind,
        **arm.sink.model_dump(exclude={"kind", "encoder", "options", "pixel_format"}),
        "baseline": prefix + one.baseline,
        "frames_identical": one.frames_identical,
        "setup_s": arm.setup_s,
        "other_bytes": arm.other_bytes,
        "video_s": arm.workload.seconds,
    }


def _summed_up(arm: Arm) -> dict[str, Any]:
    latency = arm.latency
    ttff = arm.ttff if len(arm.values("ttff_s")) == latency.n else None
    return {
        "mode": arm.mode,
        "n": latency.n,
        **{f"{name}_s": getattr(latency, name) for name in ("mean", "std", "p99", "max")},
        "rtf": arm.rtf if arm.workload.kind.timed else None,
        "ttff_s": ttff and ttff.mean,
        "ttff_std_s": ttff and ttff.std,
        "throttled_runs": arm.throttled_runs,
        "energy_j": arm.energy_j,
    }
