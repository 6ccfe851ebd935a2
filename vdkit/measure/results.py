"""All recorded benchmarks as one table."""

from __future__ import annotations

import glob
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.measure.records import BenchmarkResult, read_result

if TYPE_CHECKING:
    import pandas as pd

PROVENANCE = (
    "created_utc",
    "device",
    "device_uuid",
    "driver",
    "cuda",
    "cudnn",
    "cpu",
    "host_cores",
)
WORKLOAD = ("decoder", "source", "dtype", "weights_sha256", "latents", "latents_sha256", "seed",
            "latent_frames", "frames", "height", "width", "fps")  # fmt: skip
RUN = ("mode", "round", "warmup", "latency_s", "ttff_s", "vram_peak_bytes", "pinned_bytes",
       "d2h_bytes", "throttled")  # fmt: skip


class SkippedResultWarning(UserWarning):
    """A file that could not be read as a result and is not in the table."""


def load_results(pattern: str | Path = "results/**") -> pd.DataFrame:
    """One row per recorded run, warm-ups included; an empty table if nothing is found.

    Args:
        pattern: a ``result.json``, a folder (searched with all folders in it), or a glob pattern
            of either, ``**`` for any depth.

    Returns:
        The run (`vdkit.measure.records.Run` without its chunks; seconds, bytes), ``rtf``, what was
        decoded, configuration and sink, device, versions and commit, and ``folder``, the oldest
        recording first. Files that are damaged, cut short or of a newer schema are left out, each
        with a `SkippedResultWarning` that names it.

    Raises:
        FileNotFoundError: a path without wildcards that does not exist.
    """
    import pandas as pd

    results: list[tuple[Path, BenchmarkResult]] = []
    for file in _files(str(pattern)):
        try:
            results.append((file, read_result(file)))
        except (ValueError, OSError) as error:
            warnings.warn(f"left out: {error}", SkippedResultWarning, stacklevel=2)
    results.sort(key=lambda one: one[1].provenance.created_utc)
    return pd.DataFrame([row for file, result in results for row in _rows(file, result)])


def _files(pattern: str) -> list[Path]:
    if not glob.has_magic(pattern) and not Path(pattern).exists():
        raise FileNotFoundError(f"no results at {pattern!r}; give a file, a folder or a pattern")
    found: set[Path] = set()
    for match in map(Path, glob.glob(pattern, recursive=True)):
        if match.is_dir():
            found.update(match.rglob("result*.json"))
        elif match.match("result*.json"):
            found.add(match)
    return sorted(file for file in found if file.name != "result_hta.json")


def _rows(file: Path, result: BenchmarkResult) -> list[dict[str, Any]]:
    made, what, config, sink = result.provenance, result.workload, result.config, result.sink
    shared = {
        "folder": str(file.parent),
        "label": result.label,
        "commit": made.git_commit,
        "torch": made.packages.get("torch"),
        **{name: getattr(made, name) for name in PROVENANCE},
        **{name: getattr(what, name) for name in WORKLOAD},
        "chunk_size": config.chunk_size,
        "slots": config.slots,
        "pinned_memory": config.pinned_memory,
        "copy_stream": config.copy_stream,
        "writer_thread": config.writer_thread,
        "uint8_on_gpu": config.uint8_on_gpu,
        "sink": sink.kind,
        "storage": sink.storage,
        "durable": sink.durable,
        "throttle_mb_per_s": sink.throttle_mb_per_s,
        "baseline": result.baseline,
        "frames_identical": result.frames_identical,
    }
    return [
        {
            **{name: getattr(run, name) for name in RUN},
            "rtf": run.latency_s / what.seconds,
            "frame_sha256": result.modes[run.mode].frame_sha256,
            **shared,
        }
        for run in result.runs
    ]
