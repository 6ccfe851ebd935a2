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
    "NullSink": "vdkit.sinks",
    "RawSink": "vdkit.sinks",
    "PngSink": "vdkit.sinks",
    "Mp4Sink": "vdkit.sinks",
    "ExportToVideoSink": "vdkit.sinks",
    "MemorySink": "vdkit.memory_sink",
    "ThrottledSink": "vdkit.sinks",
    "run_benchmark": "vdkit.measure.bench",
    "run_variants": "vdkit.measure.variants",
    "run_ablation": "vdkit.measure.ablation",
    "balancing_mb_per_s": "vdkit.measure.steps",
    "chunk_steps": "vdkit.measure.steps",
    "keep_freed_memory": "vdkit.measure.host_memory",
    "read_result": "vdkit.measure.records",
    "read_variants": "vdkit.measure.variant_records",
    "overlap_of": "vdkit.measure.headroom",
    "headroom_of": "vdkit.measure.headroom",
    "load_results": "vdkit.measure.results",
    "usd_per_video_hour": "vdkit.measure.money",
    "saving_usd": "vdkit.measure.money",
    "run_energy_j": "vdkit.measure.money",
    "energy_j_per_video_s": "vdkit.measure.money",
    "compare_results": "vdkit.measure.compare",
    "permutation_p": "vdkit.measure.stats",
    "unpaired_ratio": "vdkit.measure.stats",
    "run_control": "vdkit.measure.control",
    "read_control": "vdkit.measure.control_records",
    "profile_run": "vdkit.measure.profiler",
    "count_flops": "vdkit.measure.profiler",
    "measure_ceiling": "vdkit.measure.profiler",
    "run_profile": "vdkit.measure.profiling",
    "read_profile": "vdkit.measure.profile_records",
    "read_trace": "vdkit.measure.trace_reader",
    "write_trace": "vdkit.measure.export",
    "analyze": "vdkit.measure.figures",
    "stalls_from_records": "vdkit.measure.stalls",
    "predict": "vdkit.measure.predict",
    "fit_costs": "vdkit.measure.fit",
    "costs_from_totals": "vdkit.measure.costs",
    "recommend": "vdkit.measure.advice",
    "Limits": "vdkit.measure.advice",
    "read_sweep": "vdkit.measure.sweep_records",
    "sweep_grid": "vdkit.measure.sweep",
    "recommend_from": "vdkit.measure.sweep_advice",
    "storage_sensitivity": "vdkit.measure.sweep_advice",
    "StageCosts": "vdkit.measure.costs",
    "Cost": "vdkit.measure.costs",
    "Storage": "vdkit.measure.costs",
    "vram_points": "vdkit.measure.vram",
    "recorded_vram": "vdkit.measure.vram",
    "NvmlSampler": "vdkit.measure.sampler",
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
    "explore": "vdkit.local_workshop",
    "stage_rows": "vdkit.present.stages",
    "stages_table": "vdkit.present.stages",
    "plot_stages": "vdkit.present.stages_chart",
    "plot_denoising": "vdkit.present.stages_chart",
    "plot_frames": "vdkit.present.stages_chart",
    "plot_vram": "vdkit.present.vram_chart",
    "vram_words": "vdkit.present.vram_chart",
    "plot_timeline": "vdkit.present.plots",
    "plot_overlap": "vdkit.present.overlap",
    "plot_utilization": "vdkit.present.charts",
    "plot_waterfall": "vdkit.present.charts",
    "plot_latencies": "vdkit.present.charts",
    "plot_families": "vdkit.present.variants_table",
    "plot_hiding": "vdkit.present.headroom_charts",
    "plot_headroom": "vdkit.present.headroom_charts",
    "plot_ablation": "vdkit.present.ablation_report",
    "plot_rounds": "vdkit.present.control_report",
    "plot_nvml": "vdkit.present.nvml_chart",
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
