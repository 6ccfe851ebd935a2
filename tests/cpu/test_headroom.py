"""What overlap hides of a variant and how near it comes to the ceiling: the sums, the pictures."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from tests.helpers import Collect, NearestImages
from vdkit import run_benchmark
from vdkit.present import ratio_of
from vdkit.present.charts import (
    Overlap,
    headroom_words,
    headrooms_of,
    hiding_words,
    overlaps_of,
    plot_headroom,
    plot_hiding,
)
from vdkit.record.recording import Ceiling
from vdkit.record.results import read_recording

RESULTS = Path(__file__).parents[2] / "results"
PROFILE = RESULTS / "20261121T040400Z_nvidia-h200_2ad74eb_aws-profile"


@pytest.fixture(scope="module")
def whole():
    return read_recording(RESULTS / "20261121T151751Z_nvidia-h200_90fbdee_variants-480p-float16")


@pytest.fixture(scope="module")
def recorded(whole):
    """Variant to its benchmark."""
    return whole.benchmarks


def overlap_of(result):
    """Of a single benchmark."""
    (one,) = overlaps_of(result).values()
    return one


def without(result, mode):
    """The result as if ``mode`` had not been run."""
    arms = {name: one for name, one in result.arms.items() if name != mode}
    return result.model_copy(update={"arms": arms, "baseline": next(iter(arms))})


def test_the_parts_add_up_to_the_latency(recorded):
    for result in recorded.values():
        one, count = overlap_of(result), result.workload.latent_frames
        for mode, parts_ms in (("sync", one.sync_ms), ("async", one.async_ms)):
            assert sum(parts_ms.values()) == pytest.approx(
                1e3 * result.arms[mode].latency.mean / count
            )
        spans = [chunk.span_s("write") for run in result.arms["sync"].timed for chunk in run.chunks]
        expected = 1e3 * sum(spans) / len(result.arms["sync"].timed) / count
        assert one.sync_ms["write"] == pytest.approx(expected) and expected > 0
        assert one.sync_ms["rest"] > 0  # nothing overlaps in sync


def test_what_is_hidden():
    sync_ms = {"decode": 60.0, "copy": 10.0, "convert": 20.0, "write": 5.0, "rest": 5.0}
    one = Overlap(sync_ms, {"decode": 62.0, "rest": 10.0})
    assert (one.beside_ms, one.beside_percent, one.hidden_percent) == (40, 40, 75)
    assert Overlap(sync_ms, {"decode": 62.0, "rest": 40.0}).hidden_percent == 0


def test_a_faster_decoder_has_more_to_hide(recorded):
    shares = [overlap_of(result).beside_percent for result in recorded.values()]
    assert shares == sorted(shares) and shares[-1] > 2 * shares[0]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_overlap_needs_both_modes(recorded, mode):
    result = without(recorded["diffusers"], mode)
    with pytest.raises(ValueError, match=f"has no runs of mode {mode}; run the benchmark with"):
        overlap_of(result)


def with_ceiling(profile, tflop, **ceiling):
    """The profile with another ceiling, and so many operations counted."""
    arm = profile.arms["compute_only"]
    seen = arm.model_copy(update={"profile": arm.profile.model_copy(update={"tflop": tflop})})
    top = Ceiling(**{"size": 8, "dtype": "float16", "n": 1, "tflop_per_s": 1000.0} | ceiling)
    return profile.model_copy(update={"ceiling": top, "arms": {"compute_only": seen}})


def test_headroom(whole, recorded):
    tflop = 546.0
    one = headrooms_of(whole, with_ceiling(read_recording(PROFILE), tflop))["fast"]
    latency_s = recorded["fast"].arms["compute_only"].latency.mean
    assert one.compute_ms == pytest.approx(1e3 * latency_s / 41)
    assert one.tflop_per_s == pytest.approx(tflop / latency_s)
    assert one.ceiling_ms == pytest.approx(tflop / 41)  # ms, at 1,000 TFLOP/s
    assert one.percent == pytest.approx(100 * one.tflop_per_s / 1000)


def test_headroom_refuses_what_cannot_be_compared(recorded):
    result, profile = recorded["diffusers"], read_recording(PROFILE)
    with pytest.raises(ValueError, match="of bfloat16, the decoder ran in float16; measure it"):
        headrooms_of(result, with_ceiling(profile, 1.0, dtype="bfloat16"))
    for lacking in (with_ceiling(profile, None), profile.model_copy(update={"ceiling": None})):
        with pytest.raises(ValueError, match="has no ceiling; profile compute_only for one"):
            headrooms_of(result, lacking)
    with pytest.raises(ValueError, match="has no runs of mode compute_only"):
        headrooms_of(without(result, "compute_only"), with_ceiling(profile, 1.0))


def test_the_pictures_draw_what_was_measured(whole, recorded):
    figure = plot_hiding({"one": whole, "two": whole})
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["one", "two"]
    ax = figure.axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [word for name in recorded for word in (f"{name}  sync", "async")]
    ends = {}
    for bar in ax.patches:
        row = round(bar.get_y() + bar.get_height() / 2, 3)
        ends[row] = max(ends.get(row, 0.0), bar.get_x() + bar.get_width())
    expected = [
        sum(parts_ms.values())
        for one in map(overlap_of, recorded.values())
        for parts_ms in (one.sync_ms, one.async_ms)
    ]
    assert [ends[row] for row in sorted(ends)] == pytest.approx(expected)
    assert "28 % of it is not decoding" in " ".join(text.get_text() for text in ax.texts)


def test_latents_are_called_as_those_of_their_medium():
    latents = torch.zeros(3, 4, 2, 2)
    made = run_benchmark(NearestImages(), latents, lambda label: nullcontext(Collect()),
                         modes=("sync", "async"), runs=1, progress=False)  # fmt: skip
    words = plot_hiding({"one": made}).axes[0].get_xlabel()
    assert words == "ms per latent image, mean latency of the run over its latent images"


def test_bars_and_words_lie_within_the_axis_that_panels_share(whole):
    """The longer panel decides, wherever it stands."""
    slow = {
        name: arm.model_copy(
            update={
                "runs": tuple(r.model_copy(update={"latency_s": 9 * r.latency_s}) for r in arm.runs)
            }
        )
        for name, arm in whole.arms.items()
    }
    slower, profile = whole.model_copy(update={"arms": slow}), read_recording(PROFILE)
    for figure in (
        plot_hiding({"slower": slower, "as recorded": whole}),
        plot_headroom({"slower": (slower, profile), "as recorded": (whole, profile)}),
    ):
        assert len({ax.get_xlim() for ax in figure.axes}) == 1
        for ax in figure.axes:
            right = ax.get_xlim()[1]
            assert all(text.get_position()[0] < 0.7 * right for text in ax.texts)


def test_what_is_hidden_in_words(whole):
    first, *_, last = overlaps_of(whole).values()
    assert hiding_words(whole) == (
        f"Of diffusers and fast, what is not decoding takes {first.beside_ms:.1f} and "
        f"{last.beside_ms:.1f} ms per latent frame, {first.beside_percent:.0f} % and 28 % of sync; "
        f"sync / async is {ratio_of(recorded_ratio(whole, 'diffusers'))} and "
        f"{ratio_of(recorded_ratio(whole, 'fast'))}."
    )


def recorded_ratio(whole, variant):
    return whole.benchmarks[variant].ratio("sync", "async")


def test_the_ceiling_is_a_line(whole, recorded):
    profile = read_recording(PROFILE)
    room = headrooms_of(whole, profile)
    assert [*room] == [*recorded]
    assert f"fast {room['fast'].percent:.0f} %." in headroom_words(whole, profile)
    (ax,) = plot_headroom({"here": (whole, profile)}).axes
    assert [bar.get_width() for bar in ax.patches] == [one.compute_ms for one in room.values()]
    (line,) = ax.lines
    assert set(line.get_xdata()) == {room["fast"].ceiling_ms}
    assert f"{room['fast'].percent:.0f} % of the ceiling" in ax.texts[-1].get_text()
