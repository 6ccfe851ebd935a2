"""Frame arithmetic, configuration, fps."""

from fractions import Fraction

import pytest

from vdkit.decode.chunks import (
    ChunkRecord,
    DecodeConfig,
    exact_fps,
    latent_frames,
    pixel_frames,
    plan_chunks,
    segment_lengths,
)
from vdkit.decode.media import MediaInfo


@pytest.mark.parametrize(
    ("latents", "pixels"), [(1, 1), (2, 5), (3, 9), (9, 33), (21, 81), (41, 161)]
)
def test_frames_of_a_causal_vae(latents, pixels):
    assert pixel_frames(latents) == pixels
    assert latent_frames(pixels) == latents


@pytest.mark.parametrize(
    ("frames", "near"), [(0, "1 or 5"), (2, "1 or 5"), (160, "157 or 161"), (164, "161 or 165")]
)
def test_impossible_frame_counts_name_their_neighbors(frames, near):
    with pytest.raises(ValueError, match=f"{frames} pixel frames .* use {near}"):
        latent_frames(frames)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("total", [1, 2, 3, 5, 9, 41])
@pytest.mark.parametrize("factor", [1, 4])
def test_plan_covers_the_video_once(total, chunk_size, factor):
    chunks = plan_chunks(total, chunk_size, factor)
    assert [c.index for c in chunks] == list(range(len(chunks)))
    assert (chunks[0].latent_start, chunks[0].latent_stop, chunks[0].frames) == (0, 1, 1)
    assert [i for c in chunks for i in range(c.latent_start, c.latent_stop)] == list(range(total))
    frames = [i for c in chunks for i in range(c.frame_start, c.frame_stop)]
    assert frames == list(range(pixel_frames(total, factor)))
    assert all(c.latent_stop - c.latent_start == chunk_size for c in chunks[1:-1])


def test_plan_refuses_nothing_to_do():
    with pytest.raises(ValueError, match="0 latent frames; at least 1"):
        plan_chunks(0, 1)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        plan_chunks(3, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk_size": 0}, "chunk_size is 0; use 1 or more"),
        ({"chunk_size": -3}, "chunk_size is -3"),
        ({"chunk_size": 1.5}, "chunk_size is 1.5; it must be a whole number"),
        ({"slots": 0}, "slots is 0; use 1 to 16"),
        ({"slots": 17}, "slots is 17; use 1 to 16"),
        ({"slots": True}, "slots is True; it must be a whole number"),
    ],
)
def test_config_says_what_is_right(change, message):
    with pytest.raises(ValueError, match=message):
        DecodeConfig(**change)


def test_config_is_frozen():
    with pytest.raises(AttributeError):
        DecodeConfig().slots = 3


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        (16, Fraction(16)),
        (23.976, Fraction(2997, 125)),
        ("24000/1001", Fraction(24000, 1001)),
        (Fraction(30000, 1001), Fraction(30000, 1001)),
    ],
)
def test_fps_is_exact(given, exact):
    assert exact_fps(given) == exact


@pytest.mark.parametrize(
    "given", [0, -1, "fast", "24/0", "1e-400", 3.141592653589793, float("nan"), float("inf"), None]
)
def test_bad_fps(given):
    with pytest.raises(ValueError, match="fps is"):
        exact_fps(given)


def test_video_info():
    info = MediaInfo(161, 480, 832, Fraction(16))
    assert info.seconds == 161 / 16
    assert info.frame_bytes == 480 * 832 * 3


def test_phase_of_a_chunk_in_its_slot():
    chunk = ChunkRecord(
        index=0, latent_start=0, latent_stop=1, frame_start=0, frame_stop=1,
        decode_done_s=1.0, copy_done_s=2.0, write_start_s=3.0, write_done_s=4.0,
    )  # fmt: skip
    phases = [chunk.phase_at(time_s) for time_s in (0.5, 1.5, 2.5, 3.5)]
    assert phases == ["decoding", "copying", "ready", "writing"]


@pytest.mark.parametrize("encoders", [2, 4, 8])
@pytest.mark.parametrize("frames", [1, 5, 33, 161])
def test_segments_get_shorter_so_that_the_last_of_them_end_together(encoders, frames):
    lengths = segment_lengths(frames, encoders, 16)
    assert sum(lengths) == frames and max(lengths) <= 16 and min(lengths) >= 1
    assert list(lengths) == sorted(lengths, reverse=True)  # so the first is like all
    if frames == 161:  # frames come one a second, and an encoder takes as many for each as they are
        assert lengths[-1] == 4 and lengths[2] == 16
        stops = [sum(lengths[: i + 1]) for i in range(len(lengths))]
        ends = [stop + n * (encoders - 1) for stop, n in zip(stops, lengths, strict=True)]
        assert max(ends) - 161 <= 1.6 * 4 * (encoders - 1)  # of 16 it were four times that
    assert segment_lengths(161, 1, 16) == (161,) and segment_lengths(9, 2, 3) == (3, 3, 3)
