"""All recordings of a folder, and every run in them as one table."""

from __future__ import annotations

import glob
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.record.money import mean_energy_j, run_energy_j
from vdkit.record.recording import FILE, Arm, Recording, read_recording
from vdkit.record.upgrade import OLD_FILES

if TYPE_CHECKING:
    import pandas as pd

PROVENANCE = ("created_utc", "vdkit", "git_dirty", "device", "device_uuid", "vram_bytes",
              "compute_capability", "driver", "cuda", "cudnn", "cpu", "host_cores",
              "torch_threads", "malloc", "os",
              "python")  # fmt: skip
PACKAGES = ("torch", "diffusers", "numpy")
WORKLOAD = ("decoder", "source", "dtype", "weights_sha256", "latents", "latents_sha256", "seed",
            "latent_frames", "frames", "height", "width", "fps", "variant")  # fmt: skip
CONFIG = ("chunk_size", "slots", "pinned_memory", "copy_stream", "writer_thread",
          "uint8_on_gpu", "sync_uint8_on_gpu")  # fmt: skip
SINK = ("storage", "durable", "throttle_mb_per_s")
RUN = ("mode", "round", "warmup", "latency_s", "ttff_s", "vram_peak_bytes", "pinned_bytes",
       "d2h_bytes", "throttled")  # fmt: skip


class SkippedResultWarning(UserWarning):
    """A file that could not be read as a recording and is not in the table."""


def _warn(error: Exception) -> None:
    warnings.warn(f"left out: {error}", SkippedResultWarning, stacklevel=4)


Found = Sequence[tuple[Path, Recording]]
"""Recordings and the file of each."""


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
        for file, by_name in _files(str(one)).items():
            named[file] |= by_name
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


def _files(pattern: str) -> dict[Path, bool]:
    """Files of recordings to whether the pattern names them, or the folder that they are in."""
    there = Path(pattern).exists()
    if not there and not glob.has_magic(pattern):
        raise FileNotFoundError(f"no results at {pattern!r}; give a file, a folder or a pattern")
    found: dict[Path, bool] = {}
    for match in map(Path, [pattern] if there else glob.glob(pattern, recursive=True)):
        if match.is_dir():
            inside = (file for file in match.rglob("*.json") if _is_recording(file))
            found |= {file: there and file.parent == match for file in inside}
        elif there or _is_recording(match):
            found[match] = there
    return found


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

    Args:
        pattern, left_out: as for `find_recordings`; by default each file that is damaged, cut short
            or of a newer schema gives a `SkippedResultWarning`.

    Returns:
        The run (`vdkit.record.runs.Run` without its chunks; seconds, bytes), ``rtf`` and
        ``energy_j`` (`run_energy_j`), what was decoded, configuration and sink, device, versions
        and commit, ``kind`` of the recording, ``arm``, and ``folder`` and ``file``, the oldest
        recording first. Of a profile only the timed runs are in it.

    Raises:
        FileNotFoundError: a path without wildcards that does not exist.
    """
    return frame_of(find_recordings(pattern, left_out))


def frame_of(found: Found) -> pd.DataFrame:
    """`load_results` of recordings that have been read."""
    import pandas as pd

    return pd.DataFrame(rows_by_run(found)).drop(columns=["video_s", "baseline_s"], errors="ignore")


def runs_frame(recording: Recording) -> pd.DataFrame:
    """One row per run, warm-ups included, in full precision, without the per-chunk records."""
    import pandas as pd

    rows = []
    for name, arm in recording.arms.items():
        for run in arm.runs:
            row = {"arm": name, **run.model_dump(mode="json", exclude={"chunks"})}
            for moment in ("before", "during", "after"):
                if values := row.pop(f"gpu_{moment}"):
                    del values["unsupported"]
                    values["throttle_reasons"] = "; ".join(values["throttle_reasons"])
                    row |= {f"{what}_{moment}": value for what, value in values.items()}
            rows.append(row)
    return pd.DataFrame(rows)


def rows_by_run(found: Found) -> list[dict[str, Any]]:
    """One row per run, warm-ups included, of plain values, None for what is missing.

    As `load_results`, with ``video_s``, the playing time, and ``baseline_s``, the latency of the
    baseline's run in the same round, with which this run is a pair; None for the baseline itself.
    """
    rows = []
    for shared, arm, base in _arms(found):
        pair_s = {run.round: run.latency_s for run in (base.runs if base else ())}
        for run in arm.runs:
            own = {name: getattr(run, name) for name in RUN}
            own |= {"rtf": run.latency_s / arm.workload.seconds, "energy_j": run_energy_j(run)}
            rows.append(own | shared | {"baseline_s": pair_s.get(run.round)})
    return rows


def rows_by_mode(found: Found) -> list[dict[str, Any]]:
    """One row per arm, its timed runs summed up: plain values, None for what is missing.

    What all runs of an arm share, and ``mode``, ``n``, ``mean_s``, ``std_s``, ``p99_s`` (numpy's
    linear percentile), ``max_s``, ``rtf``, ``ttff_s`` (mean), ``ttff_std_s``, ``throttled_runs``,
    ``energy_j`` (mean; None unless every run has it), ``video_s`` and ``baseline_s``, the mean of
    the baseline, None for the baseline itself.
    """
    rows = []
    for shared, arm, base in _arms(found):
        latency = arm.latency
        ttff = arm.ttff if len(arm.ttffs) == latency.n else None
        own = {"mode": arm.mode, "n": latency.n}
        own |= {f"{name}_s": getattr(latency, name) for name in ("mean", "std", "p99", "max")}
        own |= {"rtf": arm.rtf, "ttff_s": ttff and ttff.mean, "ttff_std_s": ttff and ttff.std}
        own |= {"throttled_runs": arm.throttled_runs, "energy_j": mean_energy_j(arm.timed)}
        rows.append(shared | own | {"baseline_s": base and base.latency.mean})
    return rows


def by_variant(recording: Recording) -> list[tuple[str, Recording]]:
    """(what its arms' names begin with, benchmark of its own) of every variant; else the whole."""
    if recording.kind != "variants":
        return [("", recording)]
    return [(f"{name}/", recording.of_variant(name)) for name in recording.variants]


def _arms(found: Found) -> list[tuple[dict[str, Any], Arm, Arm | None]]:
    """(what its runs share, arm, what it is compared with); a baseline is compared with nothing."""
    return [
        (_shared(file, whole.kind, prefix, one, name), arm, None if arm is one.base else one.base)
        for file, whole in found
        for prefix, one in by_variant(whole)
        for name, arm in one.arms.items()
    ]


def _shared(file: Path, kind: str, prefix: str, one: Recording, name: str) -> dict[str, Any]:
    made, arm = one.provenance, one.arms[name]
    return {
        "frame_sha256": arm.frame_sha256,
        "folder": str(file.parent),
        "file": file.name,
        "kind": kind,
        "arm": prefix + name,
        "label": one.label,
        "commit": made.git_commit,
        **{name: getattr(made, name) for name in PROVENANCE},
        **{name: made.packages.get(name) for name in PACKAGES},
        **{name: getattr(arm.workload, name) for name in WORKLOAD},
        **{name: getattr(arm.config, name) for name in CONFIG},
        "sink": arm.sink.kind,
        **{name: getattr(arm.sink, name) for name in SINK},
        "baseline": prefix + one.baseline,
        "frames_identical": one.frames_identical,
        **{name: getattr(arm, name) for name in ("setup_s", "other_bytes")},
        "video_s": arm.workload.seconds,
    }
