"""Claims of articles: each rule both ways, on recordings made up for it; no verdict without one."""

from dataclasses import asdict

import pytest
import torch

pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
from data.structures import claims
from data.structures.claims import CANNOT, CLAIMS, CONFIRMED, NOT_CONFIRMED, NOT_YET
from data.structures.record import record
from vdkit.record.windows import Windowed

KINDS = ("static", "simple motion", "complex motion", "cuts")


def quality(structure="z16-8x8x4", way="full", db=35.0, spread=1.0, **more):
    """Two clips of each category, ``spread`` below and above, and the row of all clips."""
    rows = [
        {"structure": structure, "way": way, "category": kind, "clip": i,
         "psnr_db": db + spread * (2 * i - 1),
         **{key: value * (1 + 0.01 * i) for key, value in more.items()}}
        for kind in KINDS for i in range(2)
    ]  # fmt: skip
    return [*rows, {"structure": structure, "way": way, "clip": None, "training_steps": 4000}]


def steady(warping, seen=0.1):
    """Factorized against the standard one of as many bytes a second."""
    other = quality("z8-8x8x4", warping_levels=1.0, temporal_stlpips=0.1)
    return other + quality("factorized", warping_levels=warping, temporal_stlpips=seen)


def adaptive(lost, saved):
    own = quality("hierarchical", "adaptive", 33 - lost, bytes_saved_share=saved)
    return quality("hierarchical", db=33.0) + own


def length(saved):
    return [
        {"structure": name, "way": "full", "on_device": on, "clip_s": s, "peak_bytes": size}
        for on in ("clip", "chunk")
        for s in (1, 5, 10, 30)
        # up to 5 s, and streamed, nothing is saved
        for name, size in (("z16-8x8x4", 1000 * s), ("factorized", 1000 * s * (
            1 - (saved if on == "clip" and s > 5 else 0))))
    ]  # fmt: skip


def square(name, factor, scatter=0.01, **others):
    runs = [factor * (1 + scatter * i) for i in (-1, 0, 1)]
    pair = ({"ms_per_latent_frame_runs": runs, "forward_ms_runs": runs, "flop_per_pixel": 16,
             "forward_flop": 16}, {"ms_per_latent_frame_runs": [1.0] * 3,
             "forward_ms_runs": [1.0] * 3, "flop_per_pixel": 4, "forward_flop": 4})  # fmt: skip
    names = ("z16-8x8x4", "z16-16x16x4")
    return [
        row | {"structure": own, "way": "full", "denoiser": name, "latents": own[4:]}
        | {"trained": False}
        for row, own in zip(pair, names, strict=True)
    ]  # fmt: skip


def trained(way, less, time, **more):
    """Of one latent frame nothing is gained."""
    return [
        {"way": one, "latent_frames": count, "backward_peak_bytes": 1000 / by,
         "activation_bytes": 500, "step_s_runs": [took * s for s in (1.0, 1.01, 1.02)],
         "height": 8, "width": 8, **more}
        for count, by_way, took_way in ((5, less, time), (1, 1, 9.0))
        for one, by, took in (("plain", 1, 1.0), (way, by_way, took_way))
    ]  # fmt: skip


def two_stages(faster, lost):
    made = [
        {"study": "generated", "way": way, "clip": i, "right": i > 0, "denoise_s": took + i / 100,
         "upsample_s": 0.0, "decode_s": 0.1}
        for way, took in (("direct", faster), ("two stages", 1.0)) for i in range(4)
    ]  # fmt: skip
    clips = (("direct", 34.0), ("two stages", 34.0 - lost))
    return made + [
        row | {"study": "clips"}
        for way, db in clips for row in quality(None, way, db) if row["clip"] is not None
    ]  # fmt: skip


def windows(study, step=1.0, wrong_db=0.0):
    """Five clips in windows of 3, overlapping by 1: seams at frames 8 and 9; and exactly."""
    rows = []
    for i in range(5):
        for blend, overlap, error in (("latents", 0, 0.0), ("ramp", 1, 4.0), ("latents", 1, 4.0)):
            if study == "decode" and (blend, overlap) == ("latents", 1):
                continue
            wrong = 10 ** (wrong_db / 10) if blend == "latents" else 1.0
            changes = [1.0 + i / 10] * 16
            changes[8] *= 2 * (step if overlap else 1) * (1 + 0.01 * i)
            one = Windowed(
                count=5, window=3, overlap=overlap, blend=blend, temporal_factor=4,
                squares=(error * wrong * (1 + i / 100),) * 17, changes=tuple(changes),
                label=f"encoded apart, {blend}" * (study == "encode"),
            )  # fmt: skip
            rows.append({"study": study, "clip": i, **asdict(one)})
    return rows


SMALL, LARGE = "one as small as its siblings", "the miniature's, larger and trained for longer"
DECODING, FULL, MINI = ("decoding", "denoising, full size", "denoising, the miniature")
CASES = {
    SMALL: (
        [quality(), quality(db=30.1, spread=0.01)],
        [quality(db=29.0), quality(db=30.2, spread=5.0)],
    ),
    LARGE: ([quality("miniature")], [quality("miniature", db=29.0)]),
    "Hierarchical": (
        [quality("hierarchical", "preview") + quality(db=20.0)],
        [quality("hierarchical", "preview", db=28.0) + quality("hierarchical", db=40.0)],
    ),
    "Factorized ones save": ([length(0.3), length(0.8)], [length(0.29), length(0.0)]),
    "Factorized ones are": ([steady(0.8), steady(0.84)], [steady(0.87), steady(1.2)]),
    DECODING: ([square("", 4.0), square("", 3.6)], [square("", 3.4), square("", 6.0)]),
    FULL: (
        [square("Wan 2.2 A14B", 4.2)],
        [square("Wan 2.2 A14B", 5.5), square("Wan 2.2 A14B", 4.0, scatter=0.3)],
    ),
    MINI: ([square("miniature", 4.0)], [square("miniature", 1.0)]),
    "Checkpointing takes 3": (
        [trained("checkpointed", 3.0, 1.3), trained("checkpointed", 9.0, 4.0)],
        [trained("checkpointed", 2.5, 1.3)],
    ),
    "Checkpointing takes 1.5": (
        [trained("checkpointed", 1.0, 1.3), trained("checkpointed", 1.0, 1.5)],
        [trained("checkpointed", 4.0, 1.6)],
    ),
    "Mixed": ([trained("autocast", 2.0, 0.5)], [trained("autocast", 1.5, 0.5)]),
    "A coarse pass": (
        [two_stages(2.0, 0.1)],
        [two_stages(2.0, 3.0), two_stages(0.5, 0.1), two_stages(1.0, 0.1)],
    ),
    "Windows that overlap": (
        [windows("decode"), windows("decode", step=1.05)],
        [windows("decode", step=1.5)],
    ),
    "Blending": (
        [windows("encode", wrong_db=13.1)],
        [windows("encode", wrong_db=6.0), windows("encode", wrong_db=-13.0)],
    ),
    "Adaptive": (
        [adaptive(0.1, 0.25), adaptive(0.0, 0.01)],
        [adaptive(0.8, 0.25), adaptive(0.1, 0.0)],
    ),
}


def claim_of(words):
    (found,) = (
        one for one in CLAIMS if one.words.startswith(words) or one.words.endswith(f"{words}.")
    )
    return found


def judged(folder, claim, rows, **asked):
    record(folder, claim.kind, {"how": "made up"} | asked, rows, torch.device("cpu"))
    rows, _ = claims.claims(folder)
    return next(row for row in rows if row["claim"] == claim.words)


@pytest.mark.parametrize("words", CASES)
def test_each_rule_holds_both_ways(words, tmp_path):
    claim = claim_of(words)
    for verdict, several in zip((CONFIRMED, NOT_CONFIRMED), CASES[words], strict=True):
        for i, rows in enumerate(several):
            found = judged(tmp_path / f"{verdict} {i}", claim, rows)
            assert found["verdict"] == verdict, found
            assert found["recording"].endswith(f"_latents-{claim.kind}")


def test_every_claim_has_its_cases():
    assert {claim_of(words) for words in CASES} | {claim_of("at 4 times per side")} == set(CLAIMS)


def test_without_recordings_there_are_no_verdicts(tmp_path):
    rows, _ = claims.claims(tmp_path)
    assert {row["verdict"] for row in rows} == {NOT_YET, CANNOT}
    assert not any(row["recording"] for row in rows)
    cannot = [row for row in rows if row["verdict"] == CANNOT]
    assert len(cannot) <= len(CLAIMS) / 3
    assert cannot[0]["measured"] == "structures here have [8, 16] pixels to a latent's side"
    assert "python -m data.structures.cost training --out results" in rows[9]["measured"]


@pytest.mark.parametrize(("words", "rows", "asked", "why"), [
    (SMALL, quality(), {"smoke": True}, "would tell"),
    (SMALL, quality()[:1], {}, "1 values have no interval"),
    ("Hierarchical", quality(), {}, "no row has {'structure': 'hierarchical', 'way': 'preview'}"),
    ("Mixed", trained("autocast", 2, 1, activation_bytes=None), {}, "measured on a GPU"),
    ("Adaptive", quality("hierarchical") + quality("hierarchical", "adaptive"), {}, "saved_share"),
    ("Factorized ones are", steady(0.8, 0.0), {}, "a ratio needs values above 0"),
])  # fmt: skip
def test_what_a_recording_lacks_is_not_measured(words, rows, asked, why, tmp_path):
    found = judged(tmp_path, claim_of(words), rows, **asked)
    assert found["verdict"] == NOT_YET and why in found["measured"]


def test_the_page_is_written_anew(tmp_path, monkeypatch, capsys):
    first = record(tmp_path, "quality", {"how": "made up"}, quality(), torch.device("cpu"))
    monkeypatch.setattr("sys.argv", ["claims", str(tmp_path)])
    claims.main()
    said = capsys.readouterr().out
    (file,) = tmp_path.glob("*_latents-claims/claims.md")
    text = file.read_text()
    assert text in said and said.rstrip().endswith(str(file))
    assert (
        "35.0 [33.6, 36.4] dB of z16-8x8x4, mean of 8 clips (static 35.0, simple motion 35.0"
        in text
    )
    assert f"**Confirmed here** ([{first.name}](../{first.name}/latents.json))" in text
    assert (file.parent / ".." / first.name / "latents.json").exists()
    assert f"Confirmed here: 1, {CANNOT}: 1, {NOT_YET}: 14." in text
    assert "made up. Trained for 4000 steps." in text
    monkeypatch.setattr("sys.argv", ["claims", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        claims.main()
    assert "there is no folder" in capsys.readouterr().err
