"""All recorded benchmarks as one table."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.measure.control_records import is_arm
from vdkit.measure.money import run_energy_j
from vdkit.measure.records import MODE_NAMES, BenchmarkResult, read_result
from vdkit.measure.stats import summarize

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
RUN = ("mode", "round", "warmup", "latency_s", "ttff_s", "vram_peak_bytes", "pinned_bytes",
       "d2h_bytes", "throttled")  # fmt: skip
RECORDING = ("folder", "file")
"""The columns that tell one recording from another."""


class SkippedResultWarning(UserWarning):
    """A file that could not be read as a result and is not in the table."""


def _warn(error: Exception) -> None:
    warnings.warn(f"left out: {error}", SkippedResultWarning, stacklevel=3)


def load_results(
    pattern: str | Path | Sequence[str | Path] = "results/**",
    left_out: Callable[[Exception], object] = _warn,
) -> pd.DataFrame:
    """One row per recorded run, warm-ups included; an empty table if nothing is found.

    Args:
        pattern: a ``result.json``, a folder (searched with all folders in it), or a glob pattern
            of either, ``**`` for any depth; or several of these. No file is read twice.
        left_out: gets the error of each file that cannot be read, which names it.

    Returns:
        The run (`vdkit.measure.records.Run` without its chunks; seconds, bytes), ``rtf`` and
        ``energy_j`` (`run_energy_j`), what was decoded, configuration and sink, device, versions
        and commit, and ``folder`` and ``file``, the oldest recording first. The arms of
        `vdkit aa`, one of them slow on purpose, are in it only if named as a file. Files that are
        damaged, cut short or of a newer schema are left out, each with a `SkippedResultWarning`.

    Raises:
        FileNotFoundError: a path without wildcards that does not exist.
    """
    import pandas as pd

    patterns = [pattern] if isinstance(pattern, (str, Path)) else pattern
    results: list[tuple[Path, BenchmarkResult]] = []
    for file in sorted({file for one in patterns for file in _files(str(one))}):
        try:
            if file.is_dir():
                raise IsADirectoryError(f"{file} is a folder")
            results.append((file, read_result(file)))
        except (ValueError, OSError) as error:
            left_out(error)
    results.sort(key=lambda one: one[1].provenance.created_utc)
    return pd.DataFrame([row for file, result in results for row in _rows(file, result)])


def _files(pattern: str) -> list[Path]:
    there = Path(pattern).exists()
    if not there and not glob.has_magic(pattern):
        raise FileNotFoundError(f"no results at {pattern!r}; give a file, a folder or a pattern")
    found: set[Path] = set()
    for match in map(Path, [pattern] if there else glob.glob(pattern, recursive=True)):
        if match.is_dir():
            found.update(file for file in match.rglob("result*.json") if not is_arm(file))
        elif match.match("result*.json") and not (glob.has_magic(pattern) and is_arm(match)):
            found.add(match)
    return [file for file in found if file.name != "result_hta.json"]


def _rows(file: Path, result: BenchmarkResult) -> list[dict[str, Any]]:
    made, what, config, sink = result.provenance, result.workload, result.config, result.sink
    shared = {
        "folder": str(file.parent),
        "file": file.name,
        "label": result.label,
        "commit": made.git_commit,
        **{name: getattr(made, name) for name in PROVENANCE},
        **{name: made.packages.get(name) for name in PACKAGES},
        **{name: getattr(what, name) for name in WORKLOAD},
        **{name: getattr(config, name) for name in CONFIG},
        "sink": sink.kind,
        "storage": sink.storage,
        "durable": sink.durable,
        "throttle_mb_per_s": sink.throttle_mb_per_s,
        "baseline": result.baseline,
        "frames_identical": result.frames_identical,
        "setup_s": result.setup_s,
        "other_bytes": result.other_bytes,
    }
    return [
        {
            **{name: getattr(run, name) for name in RUN},
            "rtf": run.latency_s / what.seconds,
            "energy_j": run_energy_j(run),
            "frame_sha256": result.modes[run.mode].frame_sha256,
            **shared,
        }
        for run in result.runs
    ]


def rows_by_mode(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per recording and mode of what `load_results` gave, the timed runs summed up.

    Plain values, None for what is missing: every column that all runs of a recording share, and
    ``mode``, ``n``, ``mean_s``, ``std_s``, ``p99_s`` (numpy's linear percentile), ``max_s``,
    ``rtf``, ``ttff_s`` (mean), ``ttff_std_s``, ``throttled_runs``, ``energy_j`` (mean; None unless
    every run has it), ``video_s`` and ``baseline_s``, the mean of the recording's baseline, None
    for that mode itself.
    """
    rows = []
    for _, recording in frame.groupby(list(RECORDING), sort=False):
        timed = recording[~recording["warmup"].astype(bool)]
        shared = _shared(recording)
        mean_s = timed.groupby("mode")["latency_s"].mean()
        for mode in (name for name in MODE_NAMES if name in mean_s):
            runs = timed[timed["mode"] == mode]
            latency = summarize(runs["latency_s"].tolist())
            no_ttff = runs["ttff_s"].isna().any()
            ttff = None if no_ttff else summarize(runs["ttff_s"].tolist())
            base = shared["baseline"]
            rows.append(
                {
                    **shared,
                    "mode": mode,
                    "n": latency.n,
                    "mean_s": latency.mean,
                    "std_s": latency.std,
                    "p99_s": latency.p99,
                    "max_s": latency.max,
                    "rtf": latency.mean / shared["video_s"],
                    "ttff_s": ttff and ttff.mean,
                    "ttff_std_s": ttff and ttff.std,
                    "throttled_runs": int(runs["throttled"].sum()),
                    "energy_j": _mean(runs["energy_j"]),
                    "baseline_s": None if mode == base else float(mean_s[base]),
                }
            )
    return rows


def rows_by_run(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """`load_results` as plain values (None for missing), with ``video_s`` and ``baseline_s``.

    ``baseline_s`` is the latency of the baseline's run in the same round, with which this run is a
    pair; None for the baseline itself.
    """
    rows = []
    for _, recording in frame.groupby(list(RECORDING), sort=False):
        shared = _shared(recording)
        base = recording[recording["mode"] == shared["baseline"]]
        pair_s = dict(zip(base["round"], base["latency_s"], strict=True))
        for run in recording[[*RUN, "rtf", "energy_j", "frame_sha256"]].to_dict("records"):
            own = {str(name): _plain(value) for name, value in run.items()}
            is_base = own["mode"] == shared["baseline"]
            rows.append(
                {**shared, **own, "baseline_s": None if is_base else pair_s.get(run["round"])}
            )
    return rows


def _shared(recording: pd.DataFrame) -> dict[str, Any]:
    """What all runs of one recording share, as plain values, and ``video_s``, its playing time."""
    own = {*RUN, "rtf", "energy_j", "frame_sha256"}
    first = recording.iloc[0]
    values = {name: _plain(first[name]) for name in recording.columns if name not in own}
    return values | {"video_s": values["frames"] / values["fps"]}


def _plain(value: Any) -> Any:
    """A cell of a data frame as a Python value; None for NaN."""
    import pandas as pd

    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _mean(column: pd.Series[Any]) -> float | None:
    """Mean of a column; None if a value is missing."""
    return None if column.isna().any() else float(column.mean())
