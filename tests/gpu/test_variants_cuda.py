"""Variants on a GPU: the compiled step, memory of each alone, kernels by family."""

from statistics import fmean

import pytest

from tests.cpu.test_wan_fast import frames_of, noise
from tests.helpers import latents_for
from vdkit import load_decoder
from vdkit.measure.plans import run_variants
from vdkit.models import VARIANTS
from vdkit.record.runs import SinkInfo
from vdkit.sinks import SinkSpec

SIZE = (12, 20)


def test_nothing_is_compiled_after_prepare():
    from torch._dynamo.utils import counters

    stock = load_decoder("tiny-wan", "cuda", "float32")
    decoder = load_decoder("tiny-wan", "cuda", "float32", "compiled")
    decoder.prepare(*SIZE, 2)
    before = counters["stats"]["unique_graphs"]
    latents = noise(stock, 12, *SIZE).cuda()
    apart = (frames_of(decoder, latents, 2) - frames_of(stock, latents, 2)).abs().max()
    assert apart < 0.02  # TF32 rounds where kernels differ
    assert counters["stats"]["unique_graphs"] == before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_variants_side_by_side(dtype):
    def get(name):
        return lambda: load_decoder("tiny-wan", "cuda", dtype, name)

    made = run_variants(
        [(name, get(name)) for name in VARIANTS],
        lambda decoder: latents_for(decoder, 16, *SIZE),
        SinkSpec("null").fresh,
        sink_info=SinkInfo(kind="null", storage=None),
        modes=("sync", "async", "compute_only"),
        runs=2,
        exact=lambda: load_decoder("tiny-wan", "cuda", "float32"),
        progress=False,
    )
    assert list(made.families) == list(made.benchmarks) == list(VARIANTS)
    for name in VARIANTS:
        one = made.benchmarks[name]
        assert one.frames_identical
        arm = one.arms["async"]
        raw = max(run.vram_peak_bytes for run in arm.timed)
        assert arm.other_bytes > 0 and 0 < arm.vram_peak_bytes == raw - arm.other_bytes
        kernels_ms = sum(share.ms_per_latent_frame for share in made.families[name])
        assert 0 < kernels_ms < 3 * fmean(one.arms["compute_only"].latent_frame_ms)
        assert made.psnr_db[name] > 35
