"""A generation in a table and in pictures; VRAM against length from records."""

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from tests.helpers import NearestDecoder, latents_for
from vdkit import DecodeConfig, MemorySink, decode_async, load_results, run_benchmark
from vdkit.present.stages import (
    VRAM_RUNS,
    plot_denoising,
    plot_frames,
    plot_stages,
    plot_vram,
    size_words,
    stage_rows,
    stages_table,
    vram_growth_bytes,
    vram_points,
    vram_sets,
    vram_words,
)
from vdkit.record.runs import SinkInfo
from vdkit.sinks import SinkSpec


def stage(name, seconds, expert=None, peak=None):
    return SimpleNamespace(name=name, seconds=seconds, expert=expert, peak_vram_bytes=peak)


def generation(experts, peak=None):
    steps = [stage(f"step {i + 1}", 2.0, one, peak) for i, one in enumerate(experts)]
    return SimpleNamespace(
        stages=(stage("text encoder", 1.0, peak=peak), *steps),
        token_ids=(5, 6, 1),
        embedding=torch.zeros(1, 512, 7),
        latents=latents_for(NearestDecoder(), frames=4),
    )


@pytest.fixture
def decoded():
    decoder = NearestDecoder()
    latents = latents_for(decoder, frames=4)
    return decode_async(decoder, latents, MemorySink(), fps=Fraction(16), progress=False)


def test_rows_lie_end_to_end(decoded):
    rows = stage_rows(generation(["high-noise", "high-noise", "low-noise"]), decoded)
    assert [row.name for row in rows] == [
        "text encoder",
        "denoise, high-noise expert",
        "denoise, low-noise expert",
        "decode and write",
    ]
    assert rows[0].takes == "3 token ids, padded to [1, 512]"
    assert rows[0].gives == "embedding [1, 512, 7]" and rows[0].gives_bytes == 512 * 7 * 4
    assert rows[1].takes == "noise [1, 4, 4, 3, 5]" and rows[2].takes == "latents [1, 4, 4, 3, 5]"
    assert rows[1].spans_s == ((1.0, 3.0), (3.0, 5.0)) and rows[2].spans_s == ((5.0, 7.0),)
    assert rows[1].seconds == 4.0
    assert rows[3].takes == "latents [1, 4, 1, 3, 5] a chunk"
    assert rows[3].gives == "frames [4, 24, 40, 3] a chunk, uint8"
    assert rows[3].gives_bytes == 13 * 24 * 40 * 3
    assert len(rows[3].spans_s) == 4 and rows[3].spans_s[0][0] >= 7.0
    assert rows[3].seconds == decoded.latency_s


def test_one_transformer_and_longer_chunks():
    decoder = NearestDecoder()
    config = DecodeConfig(chunk_size=3)
    latents = latents_for(decoder, frames=4)
    decoded = decode_async(decoder, latents, MemorySink(), config=config, progress=False)
    rows = stage_rows(generation(["only", "only"]), decoded)
    assert [row.name for row in rows] == ["text encoder", "denoise", "decode and write"]
    assert rows[-1].takes == "latents [1, 4, 3, 3, 5] a chunk"
    assert plot_stages(rows).axes[0].get_yticklabels()[1].get_text() == "denoise"


def test_table_and_picture_have_memory_only_on_a_gpu(decoded):
    rows = stage_rows(generation(["only"]), decoded)
    assert "peak VRAM GB" not in stages_table(rows).columns and len(plot_stages(rows).axes) == 1
    rows = stage_rows(generation(["only"], peak=2_500_000_000), replace_peak(decoded, 3 * 10**9))
    frame = stages_table(rows).frame()
    assert list(frame.columns)[-1] == "peak VRAM GB"
    assert list(frame["peak VRAM GB"]) == [2.5, 2.5, 3.0]
    assert frame["share %"].sum() == pytest.approx(100, abs=0.2)
    assert len(plot_stages(rows, "title").axes) == 2
    assert not plt.get_fignums()


def test_a_long_stage_is_told_without_exponents(decoded):
    made = generation(["only"])
    made.stages[1].seconds = 12345.6
    texts = [text.get_text() for text in plot_stages(stage_rows(made, decoded)).axes[0].texts]
    assert texts[:2] == ["1.00 s, 0.00810 %", "12346 s, 100 %"]


def replace_peak(decoded, peak):
    return replace(decoded, vram_peak_bytes=peak)


@pytest.mark.parametrize(
    ("size", "words"),
    [(7, "7 B"), (262_144, "262 kB"), (999_600, "1 MB"), (1_520_640, "1.52 MB"), (96_000, "96 kB")],
)
def test_sizes_in_words(size, words):
    assert size_words(size) == words


def test_denoising_has_a_column_a_step():
    steps = [SimpleNamespace(step=n, expert=e, timestep=1000.0 / n)
             for n, e in ((1, "high-noise"), (8, "low-noise"))]  # fmt: skip
    pictures = {
        "a": [np.full((6, 10, 3), 9, np.uint8)] * 2,
        "b": [np.zeros((6, 10, 3), np.uint8)] * 2,
    }
    figure = plot_denoising(steps, pictures)
    assert len(figure.axes) == 4
    assert figure.axes[0].get_title() == "step 1\nhigh-noise\nat noise 1.00"
    assert figure.axes[1].get_title() == "step 8\nlow-noise\nat noise 0.12"
    assert figure.axes[2].get_ylabel() == "b"
    only = [SimpleNamespace(step=1, expert="only", timestep=500.0)]
    figure = plot_denoising(only, {"a": pictures["a"][:1]})
    assert figure.axes[0].get_title() == "step 1\nat noise 0.50"
    with pytest.raises(ValueError):
        plot_denoising(only, {"a": pictures["a"]})
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("frames", "last", "shown"),
    [(33, "frame 32, 2.00 s", 12), (5, "frame 4, 0.25 s", 5), (1, "frame 0, 0.00 s", 1)],
)
def test_frames_of_a_video(frames, last, shown):
    figure = plot_frames(np.zeros((frames, 6, 10, 3), np.uint8), 16)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert (titles[0], titles[-1], len(titles)) == ("frame 0, 0.00 s", last, shown)
    assert sum(len(ax.images) for ax in figure.axes) == shown


POINTS = pd.DataFrame(
    [
        ("diffusers", 81, 4_200_000_000, "GPU"),
        ("diffusers", 161, 5_000_000_000, "GPU"),
        ("async", 81, 4_000_000_000, "GPU"),
        ("async", 161, 4_008_000_000, "GPU"),
        ("async", 641, 4_056_000_000, "GPU"),
    ],
    columns=["mode", "frames", "peak_bytes", "device"],
)


def test_growth_and_its_words():
    assert vram_growth_bytes(POINTS, "diffusers") == pytest.approx(1e7)
    assert vram_growth_bytes(POINTS, "async") == pytest.approx(1e5)
    assert vram_growth_bytes(POINTS[:1], "diffusers") is None
    assert vram_words(POINTS) == (
        "161 frames decoded whole need 5.00 GB, in chunks 4.01 GB. Over all lengths a frame "
        "adds 10.00 MB on average to the first and 0.10 MB to the second."
    )
    assert vram_words(POINTS[1:4:2]).endswith("in chunks 4.01 GB.")
    with pytest.raises(ValueError, match="no length was decoded both whole"):
        vram_words(POINTS[:2])


def test_vram_picture():
    figure = plot_vram({"here": POINTS, "nothing": POINTS[:0], "recorded": POINTS[1:4]})
    (ax,) = figure.axes
    labels = [line.get_label() for line in ax.lines]
    assert labels == [
        "diffusers (whole video): here, +10.00 MB a frame on average",
        "async (chunked): here, +0.10 MB a frame on average",
        "diffusers (whole video): recorded",
        "async (chunked): recorded, +0.10 MB a frame on average",
    ]
    assert list(ax.lines[1].get_xdata()) == [81, 161, 641] and ax.get_ylim()[0] == 0
    for sets in ({}, {"a": POINTS[:0]}, {"a": POINTS, "b": POINTS, "c": POINTS}):
        with pytest.raises(ValueError, match="sets of points; give 1 or 2"):
            plot_vram(sets)
    assert not plt.get_fignums()


def test_points_of_benchmarks():
    decoder = NearestDecoder()
    spec = SinkSpec("null")
    result = run_benchmark(
        decoder,
        latents_for(decoder),
        spec.fresh,
        sink_info=SinkInfo(**spec.describe()),
        modes=("sync", "async"),
        runs=1,
        warmup=0,
        progress=False,
    )
    assert vram_sets([result], pd.DataFrame()) == {}  # on a CPU
    arms = {
        name: arm.model_copy(
            update={"runs": tuple(r.model_copy(update={"vram_peak_bytes": 500}) for r in arm.runs)}
        )
        for name, arm in result.arms.items()
    }
    device = result.provenance.device
    there = result.model_copy(update={"arms": arms})
    ((name, points),) = vram_sets([there], pd.DataFrame(), other_bytes=100).items()
    assert name == f"here, {device}"
    assert points.to_numpy().tolist() == [["async", 17, 400, device], ["sync", 17, 400, device]]


@pytest.fixture(scope="module")
def recorded():
    return load_results(["results/*_587491a_aws-float16", "results/*_c942496_aws-float16",
                         "results/*_aws-641-frames", "results/*_aws-720x1280"])  # fmt: skip


def test_recorded_points_are_the_newest_of_their_length(recorded):
    points = vram_points(recorded, wanted=VRAM_RUNS)
    assert points[["mode", "frames"]].to_numpy().tolist() == [
        ["async", 161],
        ["async", 641],
        ["diffusers", 161],
    ]
    newest = recorded[(recorded["commit"].str[:7] == "c942496") & (recorded["mode"] == "async")]
    assert points["peak_bytes"][0] == newest["vram_peak_bytes"].max()
    assert points["device"][0] == "NVIDIA H200"
    assert "161 frames decoded whole need" in vram_words(points)


def test_recorded_points_of_other_workloads(recorded):
    large = VRAM_RUNS | {"height": 720, "width": 1280}
    assert set(vram_points(recorded, wanted=large)["frames"]) == {161}
    assert vram_points(recorded, wanted=VRAM_RUNS | {"dtype": "float32"}).empty
    assert vram_points(recorded.iloc[:0], wanted=VRAM_RUNS).empty
    held = recorded.assign(other_bytes=1_000_000)
    more, less = (vram_points(one, wanted=VRAM_RUNS)["peak_bytes"] for one in (recorded, held))
    assert set(more - less) == {1_000_000}
