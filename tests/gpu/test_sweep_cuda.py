"""Sweeps and controls on CUDA: what does not fit, what is predicted, what is planted."""

import pytest
import torch

from tests.helpers import NearestDecoder, latents_for
from vdkit.measure.plans import run_aa
from vdkit.measure.study import Bench
from vdkit.measure.sweep import run_sweep, start_sweep
from vdkit.present.charts import plot_heatmap, plot_predictions
from vdkit.present.sweep_document import sweep_document
from vdkit.record.compare import judged
from vdkit.record.runs import SinkInfo
from vdkit.sinks import SinkSpec


class Greedy(NearestDecoder):
    """Really asks CUDA for more than any GPU has, for chunks of two latent frames."""

    def decode_chunk(self, state, start, stop):
        if stop - start > 1:
            torch.empty(2**46, dtype=torch.uint8, device=self.device)
        return super().decode_chunk(state, start, stop)


@pytest.mark.parametrize("decoder", [NearestDecoder, Greedy])
def test_a_sweep(decoder, device, tmp_path):
    made = decoder(device, torch.float16, delay_s=0.03)  # every run is longer than an NVML interval
    bench = Bench(made, latents_for(made, frames=9, height=12, width=20), SinkSpec("null").fresh)
    folder = start_sweep(bench, tmp_path, ("sync", "async"), (1, 2), (1, 2), (None, 5.0), runs=2)
    sweep = run_sweep(folder, bench, progress=False)
    unfit = {cell.chunk_size for cell in sweep.unfit}
    assert not sweep.left and unfit == ({2} if decoder is Greedy else set())
    assert all("memory" in reason for reason in sweep.unfit.values())
    for cell, result in sweep.results.items():
        one, arm = sweep.predicted(cell), result.base
        assert one.pinned_bytes == arm.pinned_bytes
        assert all(run.gpu_during is not None for run in arm.runs)
        if not unfit and cell.slots:
            assert one.vram_peak_bytes == pytest.approx(arm.vram_peak_bytes, rel=0.1)
    assert len({result.base.frame_sha256 for result in sweep.results.values()}) == 1
    assert "cells predicted from" in sweep_document(sweep).text()
    plot_heatmap(sweep)
    plot_predictions(sweep)


def test_a_control_plants_work_on_the_stream(device):
    """Work of ten times a chunk's decode is found in every draw."""
    decoder = NearestDecoder(device, torch.float16)
    latents = latents_for(decoder, frames=9, height=135, width=240)
    spec = SinkSpec("null")
    control = run_aa(
        decoder, latents, spec.fresh, sink_info=SinkInfo(**spec.describe()), mode="async",
        rounds=8, pairs=8, splits=5, plant_percent=1000, progress=False,
    )  # fmt: skip
    metric = judged(control)["latency_s"]
    assert control.planted.matrix_size == 4096
    assert metric.planted.value > 1.5 and metric.found["paired"].count == 5
