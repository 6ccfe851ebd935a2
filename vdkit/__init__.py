"""vdkit: what does it cost to get decoded video frames off a GPU, and how much of it can be hidden?

The names that a script or a notebook begins with; everything else is imported from its subpackage.
They resolve on first use, so importing the package loads neither torch nor matplotlib.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "decode.chunks": "DecodeConfig",
    "decode": "ChunkDecoder DecodeCancelled Sink",
    "decode.paths": "compute_only decode_async decode_diffusers decode_sync",
    "models.loading": "load_decoder load_pipeline",
    "models.latents": "load_latents save_latents",
    "models.pipeline": "generate_latents pipeline_decoder",
    "sinks": "MemorySink Mp4Sink NullSink PngSink RawSink SinkSpec",
    "measure.plans": "run_ablation run_benchmark run_variants",
    "measure.profiler": "profile_run run_profile",
    "measure.sweep": "sweep_grid",
    "measure.probe": "probe",
    "record.results": "load_results read_recording",
    "record.compare": "compare_results",
    "record.runs": "keep_freed_memory",
    "trace.files": "read_trace",
    "trace.figures": "analyze",
    "predict.advise": "Limits recommend_from",
    "predict.grid": "read_sweep",
    "present.documents": "document_of",
    "present.timeline": "plot_timeline",
    "present.style": "save_figure",
    "explorer.app": "explore",
}
"""Module to the public names that it holds."""

_PUBLIC = {name: f"vdkit.{home}" for home, names in _HOMES.items() for name in names.split()}

_REPLACED = {
    "read_result": "vdkit.read_recording",
    "read_variants": "vdkit.read_recording",
    "read_profile": "vdkit.read_recording",
    "read_control": "vdkit.read_recording",
    "run_control": "vdkit.measure.plans.run_aa",
    "costs_from_totals": "vdkit.predict.StageCosts",
    "compare_frames": "vdkit.measure.quality.psnr_db",
    "energy_j_per_video_s": "vdkit.record.recording.Arm.energy_j",
    "VideoInfo": "vdkit.decode.media.MediaInfo",
    "recorded_vram": "vdkit.present.stages.vram_points",
    "headroom_of": "vdkit.present.charts.headrooms_of",
    "overlap_of": "vdkit.present.charts.overlaps_of",
    "run_energy_j": "vdkit.record.runs.Run.energy_j",
    "unpaired_ratio": "vdkit.record.stats.geometric_ratio",
}
"""Names of the version before that are gone, and what to use."""

__all__ = sorted(_PUBLIC)


def _home_of(name: str) -> str | None:
    """The module of the package that has a class or function of this name."""
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        if re.search(rf"^(class|def) {name}\b", path.read_text(encoding="utf-8"), re.MULTILINE):
            parts = path.relative_to(root.parent).with_suffix("").parts
            return ".".join(parts).removesuffix(".__init__")
    return None


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _REPLACED:
        message = f"vdkit.{name} is gone; use {_REPLACED[name]}"
    elif (Path(__file__).parent / name / "__init__.py").exists():
        home = _home_of(name)
        also = f"; the function is {home}.{name}" if home else ""
        # No ImportError: `from vdkit import NAME` goes on to import it.
        raise AttributeError(f"vdkit.{name} is a package: write import vdkit.{name}{also}")
    elif not name.startswith("_") and (home := _home_of(name)):
        message = f"vdkit.{name} moved to {home}.{name}"
    else:
        raise AttributeError(
            f"module 'vdkit' has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    # `from vdkit import NAME` drops the words of an AttributeError.
    if sys._getframe(1).f_code.co_name == "_handle_fromlist":
        raise ImportError(message)
    raise AttributeError(message)


def __dir__() -> list[str]:
    return __all__
