"""Two stages: the upsampler learns, and what is measured of it is of the clips that it says."""

import argparse

import pytest
import torch

pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
from data.structures import two_stages, upsample
from data.structures.evaluate import CATEGORIES
from data.structures.record import recorded
from vdkit.models.wan import WanDecoder

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"steps": 2, "log_every": 1}
SMALL = {"size": (9, 32, 32), "generated": 9, "prompts": 1, "clips": 1, "denoising": 1}


@pytest.fixture(scope="module")
def vae():
    return upsample.miniature("cpu")


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["upsample", *map(str, words), "--smoke"])
    upsample.main()


def test_it_learns(vae):
    """The latents of a clip that moves and one that is a picture, from those at half the sides."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((1, 3, 5, 4, 4), generator=generator) * 2 - 1
    video = torch.nn.functional.interpolate(coarse, size=(5, 32, 32), mode="trilinear")
    model = upsample.untrained(0).train()
    optimizer, found = torch.optim.AdamW(model.parameters(), 3e-3), []
    for _ in range(25):
        (loss,) = upsample.losses(model, vae, video).values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    half, whole = (upsample.coded(vae, one) for one in (upsample.halved(video), video))
    bilinear = upsample.interpolated(half)
    assert found[-1] < 0.5 * float((bilinear - whole).square().mean())
    torch.nn.init.zeros_(model.final_conv.weight)
    torch.nn.init.zeros_(model.final_conv.bias)
    assert torch.equal(upsample.upsampled(model, half), bilinear)
    (picture,) = upsample.losses(model, vae, video[:, :, :1]).values()
    assert picture.isfinite()


def test_latents_as_the_decoder_takes_them(vae):
    video = torch.rand((1, 3, 5, 32, 32), generator=torch.Generator().manual_seed(1)) * 2 - 1
    half = upsample.normalized(vae, upsample.coded(vae, upsample.halved(video)), back=True)
    with torch.inference_mode():
        assert torch.equal(upsample.halved(video)[0, 0, 0, 0, 0], video[0, 0, 0, :2, :2].mean())
        expected = vae.encode(upsample.halved(video)).latent_dist.mode()
        made = upsample.enlarged(upsample.untrained(0), vae, half)
        again = WanDecoder(vae, "tiny-wan").denormalize(upsample.normalized(vae, half))
    assert torch.allclose(half, expected, atol=1e-4) and torch.allclose(again, half, atol=1e-4)
    assert made.shape == (1, 16, 2, 4, 4) and half.shape == (1, 16, 2, 2, 2)


def test_trained_exported_and_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(upsample, "SMOKE", upsample.SMOKE | QUICK | SMALL)
    model = tmp_path / "model"
    for other in (model, upsample.TINY_WAN / "vae"):
        with pytest.raises(SystemExit):
            run(monkeypatch, "measure", "--model", other, "--out", tmp_path)
        assert f"{other} holds no upsampler; train" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(monkeypatch, "export", "--model", model, "--run", tmp_path)
    assert "holds no checkpoint of it; train" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(monkeypatch, "export", "--run", tmp_path)
    assert "export needs --model" in capsys.readouterr().err
    run(monkeypatch, "train", "--run", tmp_path)
    run(monkeypatch, "export", "--run", tmp_path, "--model", model)
    assert "for 2 of 2 steps" in (model / "README.md").read_text()
    run(monkeypatch, "measure", "--model", model, "--out", tmp_path)
    rows = recorded(tmp_path, smoke=True)["two-stages"][1].rows
    clips, sizes, made = (
        [row for row in rows if row["study"] == study]
        for study in ("clips", "full size", "generated")
    )
    ways = ["direct", "two stages", "latents interpolated", "pixels bicubic"]
    assert [row["way"] for row in clips] == len(CATEGORIES) * ways
    assert all(row["psnr_db"] > 5 and row["stlpips"] > 0 for row in clips)
    assert {row["step"] for row in sizes} == {"decode whole", "decode half", "upsample"}
    assert all(row["peak_bytes"] is None and len(row["step_s_runs"]) == 2 for row in sizes)
    assert [(row["way"], row["frames"]) for row in made] == [("direct", 9), ("two stages", 9)]
    assert isinstance(recorded(tmp_path, smoke=True)["two-stages"][1].asked["how"], str)
    of_clips, of_sizes, of_prompts = two_stages.tables(rows)
    psnr = [row["PSNR dB"] for row in of_clips.rows]
    four = [row["psnr_db"] for row in clips if row["way"] == "two stages"]
    assert psnr[1].value == pytest.approx(sum(four) / 4)
    assert psnr[1].low is None  # one clip of each category
    more = [row | {"clip": 1, "psnr_db": row["psnr_db"] + 1} for row in clips]
    two = two_stages.tables([*clips, *more])[0].rows[1]["PSNR dB"]
    # four freedoms: 2.776 of a deviation of 0.707, over the root of 8 clips
    assert two.value - two.low == pytest.approx(2.77645 * 0.5**0.5 / 8**0.5, abs=1e-4)
    lost = [row["to direct"] for row in of_clips.rows]
    assert lost[0] is None and lost[1].value == pytest.approx(psnr[1].value - psnr[0].value)
    assert [row["frames"] for row in of_sizes.rows] == ["9x32x64", "9x16x32", "9x32x64"]
    assert [row["videos"].value for row in of_prompts.rows] == [1, 1]
    assert len(two_stages.tables(clips[:4])) == 1
    shown = two_stages.plot_times(rows).vdkit_data
    directly = [row["value"] for row in shown if row["row"] == "direct"]
    assert sum(directly) == pytest.approx(200) and len(directly) == 4
    assert (model / "diffusion_pytorch_model.safetensors").stat().st_size <= 1_200_000
    weights = upsample.Upsampler.from_pretrained(model)
    trainer = upsample.trainer_of(
        argparse.Namespace(seed=0, device="cpu", run=tmp_path, rate=1e-3, steps=2)
    )
    kept = trainer.ema["upsampler"].state_dict()["final_conv.weight"].half().float()
    assert torch.equal(weights.final_conv.weight.float(), kept)
