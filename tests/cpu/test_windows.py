"""Windows of latent frames: which frames each gives, how they are joined, and what borders cost."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.helpers import NearestAudio, NearestDecoder, latents_for
from vdkit import (
    document_of,
    generate_latents,
    load_decoder,
    load_latents,
    load_pipeline,
    save_figure,
)
from vdkit.measure.windows import context_windows, decode_windows, joined, measure_windows
from vdkit.models.pipeline import pipeline_decoder
from vdkit.present.document import write_pictures
from vdkit.present.windows import plot_windowed, windowed_table
from vdkit.record.windows import Windowed, spans

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = "a red circle moves left over a gray background"
SMALL = {"height": 32, "width": 48, "steps": 2, "progress": False}
WINDOW = 5


@pytest.fixture(scope="module")
def decoder():
    return load_decoder("tiny-wan", "cpu")


@pytest.fixture(scope="module")
def latents(decoder):
    return load_latents("clips:41x32x32:a red star moves right over a gray background", decoder)


@pytest.fixture(scope="module")
def exact(decoder, latents):
    return decode_windows(decoder, latents, latents.shape[2], 0, "latents")


@pytest.fixture(scope="module")
def measured(decoder, latents, exact):
    """By (blend, overlap)."""
    tried = [("latents", 0), ("cut", 0), ("cut", 1), ("ramp", 1), ("cut", 3), ("ramp", 3)]
    return {
        (blend, n): measure_windows(decoder, latents, WINDOW, n, blend, exact=exact)
        for blend, n in tried
    }


# Where windows lie.


def test_spans_have_every_latent_and_the_overlap():
    assert spans(9, 4, 1) == [(0, 4), (3, 7), (6, 9)]
    for count in range(1, 14):
        for window in range(1, 7):
            for overlap in range(window):
                made = spans(count, window, overlap)
                assert made[0][0] == 0 and made[-1][1] == count
                assert {stop - start for start, stop in made[:-1]} <= {window}
                for (_, stop), (start, end) in pairwise(made):
                    assert stop - start == overlap and end > stop  # each adds something


@pytest.mark.parametrize("overlap", [0, 1, 2, 4])
@pytest.mark.parametrize("blend", ["cut", "ramp", "latents"])
def test_frames_are_counted_exactly(overlap, blend):
    decoder = NearestDecoder()
    latents = latents_for(decoder, 13)
    made = decode_windows(decoder, latents, 5, overlap, blend)
    borders = len(spans(13, 5, overlap)) - 1
    missing = 3 * borders if overlap == 0 and blend != "latents" else 0
    assert made.shape == (1, 3, 49 - missing, 24, 40) and made.dtype == torch.float32
    whole = decode_windows(decoder, latents, 13, 0)
    one = measure_windows(decoder, latents, 5, overlap, blend, exact=whole)
    assert one.missing == missing and len(one.changes) == 48 - missing


@pytest.mark.parametrize("overlap", [0, 1, 2, 4])
def test_without_memory_there_is_no_seam(overlap):
    decoder = NearestDecoder()
    latents = latents_for(decoder, 13)
    whole = decode_windows(decoder, latents, 13, 0)
    for blend in ("cut", "ramp", "latents"):
        one = measure_windows(decoder, latents, 5, overlap, blend, exact=whole)
        assert one.psnr_db == math.inf and one.exact == (not one.missing)
        assert set(one.errors.values()) == {0.0}
        if not one.missing:
            made = decode_windows(decoder, latents, 5, overlap, blend)
            assert torch.equal(made, whole)


def test_one_window_is_the_whole_decode(decoder, latents, exact):
    short = latents[:, :, :5]
    for blend in ("cut", "ramp"):
        made = decode_windows(decoder, short, 7, 3, blend)
        assert torch.equal(made, exact[:, :, :17])
        one = measure_windows(decoder, short, 5, 4, blend, exact=exact[:, :, :17])
        assert one.exact and one.errors == {} and one.seams == [] and math.isnan(one.step)


# How they are joined.


def test_joined_weights():
    parts = [torch.zeros(1, 1, 5, 1, 1), torch.ones(1, 1, 5, 1, 1)]
    made = joined(parts, [0, 2], "ramp").flatten()
    torch.testing.assert_close(made, torch.tensor([0, 0, 0.25, 0.5, 0.75, 1, 1]))
    assert joined(parts, [0, 2], "cut").flatten().tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert joined(parts, [0, 7], "ramp").shape[2] == 10  # the gap is left out
    three = [torch.full((1, 1, 3, 1, 1), float(n)) for n in (0, 1, 1)]
    assert joined(three, [0, 1, 2], "cut").flatten().tolist() == [0, 0, 0, 1, 1]


def test_frames_are_those_of_their_place(decoder, latents, exact):
    """A window's frames end with those that its last latent has in the whole."""
    one = decode_windows(decoder, latents[:, :, 4:6], 2, 0)
    made = decode_windows(decoder, latents[:, :, :6], WINDOW, 1, "cut")
    assert torch.equal(made[:, :, :17], exact[:, :, :17])
    assert torch.equal(made[:, :, 17:], one[:, :, 1:])
    ramp = decode_windows(decoder, latents[:, :, :6], WINDOW, 1, "ramp")
    torch.testing.assert_close(ramp[:, :, 16], (exact[:, :, 16] + one[:, :, 0]) / 2)


# What borders cost.


def test_seams_fall_with_the_overlap(measured):
    assert measured["latents", 0].exact
    for blend in ("cut", "ramp"):
        one, more = measured[blend, 1], measured[blend, 3]
        assert more.psnr_db > one.psnr_db + 3 and more.border_levels < one.border_levels / 2
        assert one.step > 2 * measured["latents", 0].step
    assert measured["cut", 3].psnr_db > measured["ramp", 3].psnr_db  # what is colder counts less
    assert max(measured["cut", 1].errors, key=measured["cut", 1].errors.get) == 0


def test_flicker_is_at_the_windows_period(measured):
    assert measured["cut", 0].period == 17 and measured["cut", 1].period == 16
    still, seen = measured["latents", 0], measured["cut", 1]
    assert seen.pulse_levels > 3 * replace(still, overlap=1).pulse_levels
    other = replace(seen, window=4)  # the same frames, asked of another period
    assert other.period == 12 and other.pulse_levels < seen.pulse_levels / 2


def planted(period, count=16, **more):
    changes = np.full(4 * (count - 1), 2.0)
    changes[period - 1 :: period] += 8.0
    usual = {"squares": (), "seconds": (1.0,), "peak_bytes": None, "blend": "cut"}
    usual |= {"window": period // 4 + 1, "overlap": 1, "count": count, "temporal_factor": 4}
    return Windowed(changes=tuple(changes), **usual | more)


def test_planted_flicker_and_steps():
    one = planted(12)
    # A pulse of 8 every 12: its deviation, but for what other periods take of it.
    assert 1.0 < one.pulse_levels < 8 * math.sqrt(1 / 12 * 11 / 12)
    assert planted(12, window=6).pulse_levels == 0
    assert planted(12, count=5).pulse_levels is None  # not even two periods
    assert one.seams == [(12, 13), (24, 25), (36, 37), (48, 49)] and one.borders[0] == 13
    assert one.step == 5
    assert one.psnr_db is None and not one.exact and one.errors == {}


def test_errors_are_by_the_nearest_border():
    one = planted(12, squares=(4.0,) * 13 + (100.0, 64.0, *(16.0,) * 46))
    assert min(one.errors) == -5 and max(one.errors) == 6
    assert one.errors[0] == one.border_levels == pytest.approx(math.sqrt((100 + 16 * 3) / 4))
    assert one.errors[-5] == 4 and one.errors[1] == pytest.approx(math.sqrt((64 + 16 * 3) / 4))
    mean = np.mean(one.squares)
    assert one.psnr_db == pytest.approx(10 * math.log10(255**2 / mean))


def test_the_wrong_space_is_seen(decoder, exact):
    """Windows encoded each by itself begin with the latent of a first frame: latents joined from
    such are not those of a stream, frames are."""
    where = spans(11, WINDOW, 1)
    with torch.inference_mode():
        encoded = [
            decoder.vae.encode(exact[:, :, 4 * a : 4 * b - 3]).latent_dist.mode() for a, b in where
        ]
        whole = decoder.vae.encode(exact).latent_dist.mode()
    again = decode_windows(decoder, whole, 11, 0, "latents")
    right, wrong = (
        measure_windows(decoder, encoded, WINDOW, 1, blend, exact=again)
        for blend in ("ramp", "latents")
    )
    assert right.missing == wrong.missing == 0
    assert right.psnr_db > wrong.psnr_db + 3


# What was generated by windows.


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline("tiny-wan", "cpu")


def test_windows_of_one_noise(pipeline):
    noise = torch.randn(1, 16, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    whole = generate_latents(pipeline, PROMPT, frames=17, **SMALL)
    given = generate_latents(pipeline, PROMPT, frames=17, noise=noise, **SMALL)
    assert torch.equal(given.latents, whole.latents)
    assert "given" in given.metadata["seed"] and whole.metadata["seed"] == "0"
    parts = [
        generate_latents(pipeline, PROMPT, frames=9, noise=noise[:, :, a:b], **SMALL).latents
        for a, b in spans(5, 3, 1)
    ]
    decoder = pipeline_decoder(pipeline)
    ramp, latents = (
        measure_windows(decoder, parts, 3, 1, blend, judge=lambda frames: frames.shape)
        for blend in ("ramp", "latents")
    )
    assert ramp.psnr_db is None and ramp.verdict == "(17, 32, 48, 3)"
    assert ramp.changes != latents.changes
    message = r"noise is \[1, 16, 5, 4, 6\]; 9 frames of 32x48 take \[1, 16, 3, 4, 6\]"
    with pytest.raises(ValueError, match=message):
        generate_latents(pipeline, PROMPT, frames=9, noise=noise, **SMALL)


def test_context_windows(pipeline):
    models = [pipeline.transformer, pipeline.transformer_2]
    whole = generate_latents(pipeline, PROMPT, frames=17, **SMALL).latents

    def by(window, overlap):
        with context_windows(models, window, overlap):
            return generate_latents(pipeline, PROMPT, frames=17, **SMALL).latents

    assert torch.equal(by(5, 0), whole) and not torch.equal(by(3, 1), whole)
    assert torch.equal(generate_latents(pipeline, PROMPT, frames=17, **SMALL).latents, whole)
    # Apart at every step is apart at the end: each window as if it were alone.
    noise = torch.randn(1, 16, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    alone = [
        generate_latents(pipeline, PROMPT, frames=frames, noise=part, **SMALL).latents
        for frames, part in zip((9, 5), noise.split(3, 2), strict=True)
    ]
    torch.testing.assert_close(by(3, 0), torch.cat(alone, 2), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="overlap is 3 of a window of 3; use 0 to 2"):
        by(3, 3)
    assert not any("forward" in vars(one) for one in models)
    with context_windows(models, 3, 1), pytest.raises(ValueError, match=r"timestep is \[1, 6\]"):
        models[0].forward(hidden_states=noise, timestep=torch.ones(1, 6))


# What is said of it.


def test_table_and_picture(measured, tmp_path):
    several = list(measured.values())
    table = windowed_table([*several, *several])
    first, cut = table.rows[:2]
    assert first["made by"] == "exact streaming" and first["PSNR dB"] == "exact"
    assert (str(cut["frames"]), str(cut["missing"]), str(cut["clips"])) == ("35", "6", "2")
    assert "peak GiB" not in table.columns and "seen" not in table.columns
    on_gpu = [replace(several[1], peak_bytes=2**30, verdict="a red star", label="mine")]
    (row,) = windowed_table(on_gpu).cells
    assert row[0] == "mine" and row[-2:] == ["1.00", "a red star"]
    judged = [replace(on_gpu[0], verdict=word, squares=()) for word in ("wrong", "right", "wrong")]
    table = windowed_table(judged)
    assert table.rows[0]["seen"] == "right 1x; wrong 2x" and "PSNR" not in table.note
    figure = plot_windowed(several)
    assert len(figure.axes) == 2
    drawn = {(row["name"][14:], row["overlap"], row["frames after"]) for row in figure.vdkit_data}
    assert ("cut", 0, 3) in drawn and ("cut", 0, 0) not in drawn  # missing frames have no error
    assert ("ramp", 1, -1) in drawn and len(save_figure(figure, tmp_path, "windows")) == 4
    page = document_of(several)
    assert (
        page.tables()[0].cells == windowed_table(several).cells
        and len(write_pictures(page, tmp_path)) == 1
    )
    assert not write_pictures(document_of(several[:1]), tmp_path)  # exact streaming has no borders
    with pytest.raises(ValueError, match="a table needs a row"):
        windowed_table([])
    with pytest.raises(ValueError, match="measure windows with exact="):
        plot_windowed([measured["latents", 0]])


NEAREST = NearestDecoder()
NOISE = latents_for(NEAREST, 9)
WRONG = {
    "overlap is 4 of a window of 4; use 0 to 3": lambda: decode_windows(NEAREST, NOISE, 4, 4),
    "overlap is -1 of": lambda: decode_windows(NEAREST, NOISE, 4, -1),
    "window is 0; it counts latent frames": lambda: decode_windows(NEAREST, NOISE, 0, 0),
    "blend is 'mean'; use cut, ramp, latents": lambda: decode_windows(NEAREST, NOISE, 4, 1, "mean"),
    "'nearest-audio' makes audio; windows are": lambda: decode_windows(
        NearestAudio(), NOISE[:, :, :, 0, 0], 4, 1
    ),
    "windows have [4, 3] latent frames; 6 in windows of 5 with an overlap of 1 are [5, 2]": (
        lambda: decode_windows(NEAREST, [NOISE[:, :, :4], NOISE[:, :, 3:6]], 5, 1)
    ),
    "latents have 3 channels": lambda: decode_windows(NEAREST, NOISE[:, :3], 4, 1),
    "exact has 3 frames, these 9 latents 33": lambda: measure_windows(
        NEAREST, NOISE, 4, 1, exact=torch.zeros(1, 3, 3, 24, 40)
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_is_refused(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        WRONG[message]()
