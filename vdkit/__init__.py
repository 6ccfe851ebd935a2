"""vdkit: what does it cost to get decoded video frames off a GPU, and how much of it can be hidden?

Names resolve on first use, so importing the package loads neither torch nor matplotlib.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "DecodeConfig": "vdkit.decode.chunks",
    "DecodeResult": "vdkit.decode.chunks",
    "ChunkRecord": "vdkit.decode.chunks",
    "VideoInfo": "vdkit.decode.chunks",
    "ChunkDecoder": "vdkit.decode.protocols",
    "Sink": "vdkit.decode.protocols",
    "DecodeCancelled": "vdkit.decode.protocols",
    "decode_async": "vdkit.decode.pipelined",
    "decode_sync": "vdkit.decode.sequential",
    "decode_diffusers": "vdkit.decode.sequential",
    "compute_only": "vdkit.decode.sequential",
    "load_decoder": "vdkit.models.loading",
    "load_latents": "vdkit.models.latents",
    "save_latents": "vdkit.models.latents",
    "latents_metadata": "vdkit.models.latents",
    "load_pipeline": "vdkit.models.loading",
    "generate_latents": "vdkit.models.pipeline",
    "pipeline_decoder": "vdkit.models.pipeline",
    "NullSink": "vdkit.sinks.files",
    "RawSink": "vdkit.sinks.files",
    "PngSink": "vdkit.sinks.files",
    "Mp4Sink": "vdkit.sinks.files",
    "MemorySink": "vdkit.sinks.memory",
    "ThrottledSink": "vdkit.sinks.files",
    "run_benchmark": "vdkit.measure.study",
    "run_variants": "vdkit.measure.plans",
    "run_ablation": "vdkit.measure.plans",
    "balancing_mb_per_s": "vdkit.trace.timeline",
    "chunk_steps": "vdkit.trace.timeline",
    "keep_freed_memory": "vdkit.record.machine",
    "read_result": "vdkit.record.recording",
    "read_variants": "vdkit.record.old_variants",
    "overlap_of": "vdkit.record.derived",
    "headroom_of": "vdkit.record.derived",
    "load_results": "vdkit.record.results",
    "usd_per_video_hour": "vdkit.record.money",
    "saving_usd": "vdkit.record.money",
    "run_energy_j": "vdkit.record.money",
    "energy_j_per_video_s": "vdkit.record.money",
    "compare_results": "vdkit.record.compare",
    "permutation_p": "vdkit.record.stats",
    "unpaired_ratio": "vdkit.record.stats",
    "run_control": "vdkit.measure.planted",
    "read_control": "vdkit.record.old_aa",
    "profile_run": "vdkit.measure.profiler",
    "count_flops": "vdkit.measure.profiler",
    "measure_ceiling": "vdkit.measure.profiler",
    "run_profile": "vdkit.measure.profiler",
    "read_profile": "vdkit.record.old_profile",
    "read_trace": "vdkit.trace.read",
    "write_trace": "vdkit.trace.write",
    "analyze": "vdkit.trace.figures",
    "stalls_from_records": "vdkit.trace.stalls",
    "predict": "vdkit.predict.recurrence",
    "fit_costs": "vdkit.predict.fit",
    "costs_from_totals": "vdkit.predict.costs",
    "recommend": "vdkit.predict.advise",
    "Limits": "vdkit.predict.advise",
    "read_sweep": "vdkit.predict.grid",
    "sweep_grid": "vdkit.measure.sweep",
    "recommend_from": "vdkit.predict.advise",
    "storage_sensitivity": "vdkit.predict.advise",
    "StageCosts": "vdkit.predict.costs",
    "Cost": "vdkit.predict.costs",
    "Storage": "vdkit.predict.costs",
    "vram_points": "vdkit.record.derived",
    "recorded_vram": "vdkit.record.derived",
    "NvmlSampler": "vdkit.measure.nvml",
    "psnr_db": "vdkit.measure.quality",
    "ssim": "vdkit.measure.quality",
    "compare_frames": "vdkit.measure.quality",
    "compare_latents": "vdkit.measure.quality",
    "temporal_consistency": "vdkit.measure.quality",
    "quality_against_bytes": "vdkit.measure.quality",
    "Table": "vdkit.present.table",
    "benchmark_table": "vdkit.present.tables",
    "breakdown_table": "vdkit.present.tables",
    "comparison_table": "vdkit.present.compare_tables",
    "variant_table": "vdkit.present.variants_table",
    "sweep_table": "vdkit.present.sweep_tables",
    "results_table": "vdkit.present.results_table",
    "explore": "vdkit.explorer.app",
    "stage_rows": "vdkit.present.stages",
    "stages_table": "vdkit.present.stages",
    "plot_stages": "vdkit.present.stages",
    "plot_denoising": "vdkit.present.stages",
    "plot_frames": "vdkit.present.stages",
    "plot_vram": "vdkit.present.study_charts",
    "vram_words": "vdkit.present.study_charts",
    "plot_timeline": "vdkit.present.timeline",
    "plot_overlap": "vdkit.present.timeline",
    "plot_utilization": "vdkit.present.profile_charts",
    "plot_waterfall": "vdkit.present.profile_charts",
    "plot_latencies": "vdkit.present.profile_charts",
    "plot_families": "vdkit.present.variants_table",
    "plot_hiding": "vdkit.present.study_charts",
    "plot_headroom": "vdkit.present.study_charts",
    "plot_ablation": "vdkit.present.ablation_report",
    "plot_rounds": "vdkit.present.control_report",
    "plot_nvml": "vdkit.present.profile_charts",
    "plot_heatmap": "vdkit.present.sweep_charts",
    "plot_predictions": "vdkit.present.sweep_charts",
    "plot_sensitivity": "vdkit.present.sweep_charts",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(
            f"module 'vdkit' has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
