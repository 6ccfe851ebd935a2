"""Structures measured: what each measure is told, what is recorded; windows as rows and back."""

import argparse
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import pytest
import torch

pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
pytest.importorskip("flip_evaluator", reason="needs FLIP: pip install flip-evaluator")
from data.structures import HOME, evaluate, windows_study
from data.structures.recipe import STRUCTURES, make
from data.structures.record import record, recorded
from data.structures.texture import WAVELENGTHS
from vdkit import load_pipeline
from vdkit.measure.perception import clip_features, frechet_distance, stlpips, warping_error
from vdkit.models.perception import PerceptualNetwork
from vdkit.models.pipeline import pipeline_decoder
from vdkit.present.windows import windowed_table

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (17, 48, 64)


@pytest.fixture(scope="module")
def network():
    return PerceptualNetwork()


@pytest.mark.parametrize("category", evaluate.CATEGORIES)
def test_true_motion_explains_a_clip(category):
    """But for that of the next clip; across a cut nothing is explained."""
    of = evaluate.held_out(category, 1, SIZE)
    assert evaluate.scored(of, of.clip)["warping_levels"] < 0.5
    flow, seen = of.motion
    assert flow.shape == (16, 48, 64, 2) and seen.any()
    if category == "simple motion":
        other = evaluate.held_out(category, 2, SIZE)
        assert warping_error(of.clip, *other.motion).clip > 1
    cut = np.flatnonzero(~seen.any((1, 2)))
    assert len(cut) == (category == "cuts")
    if len(cut):
        moved = np.abs(np.diff(of.clip.astype(int), axis=0)).mean((1, 2, 3))
        assert moved.argmax() == cut[0]


def test_each_measure_of_planted_damage():
    of = evaluate.held_out("simple motion", 0, SIZE)
    assert evaluate.scored(of, of.clip) == {
        "psnr_db": None, "ssim": 1.0, "flip": 0.0, "flicker_levels": 0.0,
        "warping_levels": 0.0, "warping_original_levels": 0.0,
    } | dict.fromkeys((f"error_share_{px}px" for px in WAVELENGTHS), 0.0)  # fmt: skip
    blinking = of.clip.astype(int)
    blinking[::2] += np.where(blinking[::2] < 128, 8, -8)
    found = evaluate.scored(of, blinking.astype(np.uint8))
    assert found["psnr_db"] == pytest.approx(
        20 * np.log10(255 / 8) + 10 * np.log10(17 / 9), abs=1e-5
    )
    assert found["flicker_levels"] == pytest.approx(8, abs=0.01)
    assert found["warping_levels"] == pytest.approx(8, abs=0.5)
    assert found["ssim"] < 1 and found["flip"] > 0.01


def test_the_network_sees_a_clip_once(network):
    seen = []

    def counting(frames):
        seen.append(len(frames))
        return network(frames)

    of = evaluate.held_out("static", 0, (5, 32, 32))
    made, other = of.clip // 2, of.clip // 3
    remembering = evaluate.remembering(counting)
    for one in (made, other):
        found = evaluate.scored(of, one, evaluate.seen_by(remembering))
        assert found["stlpips"] == pytest.approx(stlpips(of.clip, one, network).clip, abs=1e-5)
        clip_features(one, remembering, len(one))
    assert seen == [5, 5, 5]


def test_rows_of_clips_and_of_all(network, monkeypatch):
    """A measure plugs in by its name; the set's row has what all clips give."""
    worst = {"worst": lambda of, made: evaluate.FrameScores(made, float(made.max()))}
    monkeypatch.setattr(evaluate, "MEASURES", worst)
    monkeypatch.setattr(evaluate, "SET", 40)
    clips = [evaluate.held_out("static", i, (5, 32, 32)) for i in range(3)]
    model = make("hierarchical").eval()
    model.register_to_config(adaptive_threshold=float("inf"))
    with ThreadPoolExecutor(1) as pool:
        rows, sets = evaluate.measured("hierarchical", model, clips, network, pool)
    assert len(rows) == 9 and all(0 < row["worst"] <= 255 for row in rows)
    assert not any("psnr_db" in row for row in rows) and all(row["stlpips"] > 0 for row in rows)
    full, preview, adaptive = sets
    assert (full["clips"], full["frechet"], full["ratio"]) == (3, None, 48)
    a_second = STRUCTURES["hierarchical"].latent_bytes_per_s(32, 32)
    assert full["latent_bytes_per_s"] == a_second == 4 * preview["latent_bytes_per_s"]
    # all chunks are coarse: a quarter of the bytes
    assert {row["bytes_saved_share"] for row in rows if row["way"] == "adaptive"} == {0.75}
    assert (adaptive["latent_bytes_per_s"], adaptive["ratio"]) == (a_second / 4, 192)


def test_the_frechet_distance_is_of_originals_and_made(network, monkeypatch):
    features = {}

    def kept(frames, *_):
        return features.setdefault(
            frames.tobytes(), np.random.default_rng(len(features)).normal(size=16)
        )

    monkeypatch.setattr(evaluate, "clip_features", kept)
    monkeypatch.setattr(evaluate, "MEASURES", {"ssim": evaluate.MEASURES["ssim"]})
    monkeypatch.setattr(evaluate, "seen_by", lambda network: {})
    monkeypatch.setattr(
        evaluate, "decoded", lambda decoder, latents, size: made[len(features) // 2]
    )
    clips = [evaluate.held_out("static", i, (5, 16, 16)) for i in range(evaluate.SET)]
    made = [of.clip ^ 1 for of in clips]
    with ThreadPoolExecutor(1) as pool:
        _, (one,) = evaluate.measured("z4-8x8x4", make("z4-8x8x4").eval(), clips, network, pool)
    both = (np.stack([features[x.tobytes()] for x in several])
            for several in ((of.clip for of in clips), made))  # fmt: skip
    assert (one["frechet"], one["frechet_error"]) == frechet_distance(*both)


def test_intervals_over_clips():
    row = {"category": "static", "clip": 0, "captions": ["it"], "way": "full"}
    rows = [row | {"ssim": 1.0, "psnr_db": None}, row | {"ssim": 3.0, "psnr_db": None}]
    rows += [row | {"category": "cuts", "ssim": 2.0, "psnr_db": db} for db in (30.0, None)]
    found = evaluate.by_category(rows)["full"]
    assert list(found) == ["static", "cuts", "all"]
    assert found["static"]["ssim"] == {"mean": 2.0, "half_width": 12.7062}
    assert found["static"]["psnr_db"] == {"mean": None, "half_width": None}
    assert found["all"]["psnr_db"] == {"mean": 30.0, "half_width": None}
    # their categories are fixed: variances of 2 and 0, two freedoms
    assert found["all"]["ssim"] == {
        "mean": 2.0,
        "half_width": round(4.302653 * 0.5, 5),
    }


def test_without_its_package_nothing_is_measured(tmp_path, monkeypatch, capsys):
    (tmp_path / "factorized").mkdir()
    (tmp_path / "factorized" / "metrics.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "flip_evaluator", None)
    monkeypatch.setattr("sys.argv", ["evaluate", str(tmp_path), "--smoke"])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "FLIP needs the package flip-evaluator: pip install" in capsys.readouterr().err


def test_the_miniature_is_a_recording_of_its_own(tmp_path, monkeypatch, capsys):
    """Nothing is written beside its weights, and its ratio is that of 16 channels at 8x8x4."""
    home = tmp_path / "tiny-wan"
    shutil.copytree(HOME.parent / "tiny-wan" / "vae", home / "vae")
    before = sorted(home.rglob("*"))
    given = [str(home), "--smoke", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["evaluate", *given])
    evaluate.main()
    assert "miniature, full: static" in capsys.readouterr().out
    ((kind, (_, found)),) = recorded(tmp_path, smoke=True).items()
    *clips, of_all = found.rows
    assert kind == "reference" and {row["structure"] for row in found.rows} == {"miniature"}
    assert len(clips) == 2 * len(evaluate.CATEGORIES) and of_all["ratio"] == 48
    assert sorted(home.rglob("*")) == before


# Windows.


@pytest.fixture(scope="module")
def rows():
    """Of one clip and one prompt."""
    given = argparse.Namespace(**windows_study.SIZES | windows_study.SMOKE)
    pipeline = load_pipeline("tiny-wan", "cpu", progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows_study, "OVERLAPS", (0, 2))
        found = list(windows_study.coded(pipeline_decoder(pipeline), "simple motion", 0, given))
        return found + list(windows_study.denoised(pipeline, 0, given))


def test_windows_come_back_as_they_were(rows, tmp_path):
    record(tmp_path, "windows", {}, rows, torch.device("cpu"))
    read = recorded(tmp_path, smoke=True)["windows"][1].rows
    several = windows_study.windowed(read)
    assert len(several) == len(rows) == (1 + 2 * 2 + 2 * 3) + (1 + 2 + 3)
    for row, one in zip(rows, several, strict=True):
        assert {field.name: getattr(one, field.name) for field in fields(one)} == {
            key: tuple(row[key]) if isinstance(row[key], list) else row[key]
            for key in (field.name for field in fields(one))
        }
    assert [one.exact for one in several] == [True] + [False] * (len(rows) - 1)
    assert len(windows_study.windowed(read, "denoise")) == 6
    assert "encoded apart, latents" in windowed_table(several).markdown_body()


def test_windows_are_what_they_say(rows):
    by = {(row["study"], row["blend"], row["overlap"]): row for row in rows}
    one = {key: windows_study.windowed([row])[0] for key, row in by.items()}
    assert one["decode", "cut", 2].border_levels < one["decode", "cut", 0].border_levels
    assert one["encode", "cut", 2].psnr_db > one["encode", "latents", 2].psnr_db
    assert one["encode", "latents", 2].missing == 0 < one["encode", "cut", 0].missing
    assert one["denoise", "cut", 2].step > one["denoise", "latents", 2].step
    assert all(row["denoise_s"] > 0 for row in rows if row["study"] == "denoise")
    assert {row["verdict"] for row in rows if row["study"] == "denoise"} <= {"right", "wrong"}
    assert all(len(row["captions"]) == 1 for row in rows)
