"""The miniature on CUDA: stages with peak memory, the same picture as on a CPU, on every path."""

import numpy as np
import pytest
import torch

from tests.helpers import Collect
from vdkit import (
    DecodeConfig,
    decode_async,
    decode_diffusers,
    decode_sync,
    generate_latents,
    load_decoder,
    load_latents,
    load_pipeline,
    pipeline_decoder,
)
from vdkit.measure.quality import psnr_db
from vdkit.models.loading import TINY_WAN

PROMPT = "a red circle moves right over a dark blue background"


def frames_of(decode, decoder, latents, **options):
    sink = Collect()
    decode(decoder, latents, sink, progress=False, **options)
    return np.concatenate(sink.chunks)


def test_stages_have_peak_memory():
    pipeline = load_pipeline("tiny-wan", "cuda")
    assert pipeline.transformer.dtype == torch.bfloat16 and pipeline.vae.dtype == torch.float16
    made = generate_latents(pipeline, PROMPT, steps=8, keep_steps=(2, 8), progress=False)
    weights = sum(
        parameter.nbytes
        for part in (pipeline.transformer, pipeline.transformer_2, pipeline.text_encoder)
        for parameter in part.parameters()
    )
    assert len(made.stages) == 9
    assert all(weights < stage.peak_vram_bytes < 2e9 for stage in made.stages)
    assert {stage.expert for stage in made.stages[1:]} == {"high-noise", "low-noise"}
    assert made.latents.device.type == "cpu" and made.latents.dtype == torch.float32
    assert made.embedding.device.type == "cpu" and made.embedding.dtype == torch.bfloat16
    for kept in made.kept:
        for latents in (kept.latents, kept.predicted):
            assert latents.device.type == "cpu" and latents.dtype == torch.float32
    assert torch.equal(made.kept[-1].latents, made.latents)


def test_float32_gives_the_latents_of_a_cpu():
    file = TINY_WAN.parent / "latents" / "red_circle_right.safetensors"
    kept = load_latents(file, load_decoder("tiny-wan", "cpu"))
    pipeline = load_pipeline("tiny-wan", "cuda", "float32")
    made = generate_latents(pipeline, PROMPT, progress=False)
    torch.testing.assert_close(made.latents, kept, rtol=0, atol=0.05)


@pytest.mark.parametrize("name", ["two_shapes", "yellow_star_bounces"])
def test_real_pictures_are_the_same_on_every_path(name):
    decoder = load_decoder("tiny-wan", "cuda")
    latents = load_latents(TINY_WAN.parent / "latents" / f"{name}.safetensors", decoder)
    frames = frames_of(decode_async, decoder, latents)
    assert frames.shape == (33, 96, 160, 3) and frames.std() > 10
    for decode in (decode_sync, decode_diffusers):
        np.testing.assert_array_equal(frames_of(decode, decoder, latents), frames)
    by_two = frames_of(decode_async, decoder, latents, config=DecodeConfig(chunk_size=2))
    assert np.abs(frames.astype(int) - by_two).max() <= 4
    exact = frames_of(decode_sync, load_decoder("tiny-wan", "cuda", "float32"), latents)
    assert psnr_db(exact, frames).clip > 45  # float16 against float32


def test_the_pipelines_own_decoder():
    pipeline = load_pipeline("tiny-wan", "cuda")
    made = generate_latents(pipeline, PROMPT, steps=8, progress=False)
    frames = frames_of(decode_async, pipeline_decoder(pipeline), made.latents)
    middle = frames[16].reshape(-1, 3).astype(int)
    red = ((middle[:, 0] > 150) & (middle[:, 1] < 110)).mean()
    assert 0.02 < red < 0.2  # a red shape over a dark blue background
    assert np.median(middle[:, 0]) < 60 and np.median(middle[:, 2]) > 50
