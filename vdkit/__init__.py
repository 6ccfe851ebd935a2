"""vdkit: what does it cost to get decoded video frames off a GPU, and how much of it can be hidden?

The names that a script or a notebook begins with; everything else is imported from its subpackage.
They resolve on first use, so importing the package loads neither torch nor matplotlib.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "decode.chunks": "DecodeConfig",
    "decode": "ChunkDecoder DecodeCancelled Sink",
    "decode.paths": "compute_only decode_async decode_diffusers decode_sync",
    "models.loading": "load_decoder load_pipeline",
    "models.latents": "load_latents save_latents",
    "models.pipeline": "generate_latents pipeline_decoder",
    "sinks": "MemorySink NullSink SinkSpec",
    "sinks.files": "Mp4Sink PngSink RawSink",
    "measure.plans": "run_ablation run_benchmark run_variants",
    "measure.profiler": "profile_run run_profile",
    "measure.sweep": "sweep_grid",
    "record.results": "load_results read_recording",
    "record.compare": "compare_results",
    "record.runs": "keep_freed_memory",
    "trace.files": "read_trace",
    "trace.figures": "analyze",
    "predict.advise": "Limits recommend_from",
    "predict.fit": "fit_costs",
    "predict.grid": "read_sweep",
    "present.documents": "document_of",
    "present.timeline": "plot_timeline",
    "present.style": "save_figure",
    "explorer.app": "explore",
}
"""Module to the public names that it holds."""

_PUBLIC = {name: f"vdkit.{home}" for home, names in _HOMES.items() for name in names.split()}

_MOVED = {
    "decode.chunks": "ChunkRecord DecodeResult VideoInfo",
    "trace.files": "write_trace",
    "models.latents": "latents_metadata",
    "sinks": "ThrottledSink",
    "trace": "balancing_mb_per_s chunk_steps",
    "trace.stalls": "stalls_from_records",
    "record.recording": "headroom_of overlap_of saving_usd usd_per_video_hour vram_points",
    "record.stats": "permutation_p",
    "measure.nvml": "NvmlSampler",
    "measure.profiler": "count_flops measure_ceiling",
    "measure.quality": "psnr_db quality_against_bytes ssim temporal_consistency",
    "predict.advise": "recommend storage_sensitivity",
    "predict": "Cost StageCosts Storage predict",
    "present.comparison": "comparison_table",
    "present.documents": "benchmark_table breakdown_table variant_table",
    "present.charts": "plot_ablation plot_families plot_headroom plot_heatmap plot_hiding "
    "plot_predictions plot_rounds plot_sensitivity",
    "present.results_list": "results_table",
    "present.stages": "plot_denoising plot_frames plot_stages plot_vram stage_rows stages_table "
    "vram_words",
    "present.sweep_document": "sweep_table",
    "present.table": "Table",
    "present.timeline": "plot_latencies plot_nvml plot_overlap plot_utilization plot_waterfall",
}
"""Module to names that were public in the version before."""

_REPLACED = {
    "read_result": "vdkit.read_recording",
    "read_variants": "vdkit.read_recording",
    "read_profile": "vdkit.read_recording",
    "read_control": "vdkit.read_recording",
    "run_control": "vdkit.measure.plans.run_aa",
    "costs_from_totals": "vdkit.predict.StageCosts",
    "compare_frames": "vdkit.measure.quality.psnr_db",
    "energy_j_per_video_s": "vdkit.record.recording.Arm.energy_j",
    "recorded_vram": "vdkit.record.recording.vram_points",
    "run_energy_j": "vdkit.record.runs.Run.energy_j",
    "unpaired_ratio": "vdkit.record.stats.geometric_ratio",
}
"""Names of the version before that are gone, and what to use."""

__all__ = sorted(_PUBLIC)


def moved() -> dict[str, str]:
    """Every name of the version before that is public no longer, and where it is or what is."""
    return _REPLACED | {
        name: f"vdkit.{home}.{name}" for home, names in _MOVED.items() for name in names.split()
    }


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if (there := moved().get(name)) is None:
        raise AttributeError(
            f"module 'vdkit' has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    told = f"is gone; use {there}" if name in _REPLACED else f"moved to {there}"
    message = f"vdkit.{name} {told}"
    # `from vdkit import NAME` drops the words of an AttributeError; `predict` is a package too.
    if name != "predict" and sys._getframe(1).f_code.co_name == "_handle_fromlist":
        raise ImportError(message)
    raise AttributeError(message)


def __dir__() -> list[str]:
    return __all__
