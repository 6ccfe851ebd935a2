"""The structures of latents: equal budgets, causal, trained alike, exported, measured, adaptive."""

import argparse
import json
import math

import numpy as np
import pytest
import torch

pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
from data.structures import decoders, evaluate, together, train  # noqa: I001 (puts tiny-wan on the path)
from data.structures.card import card
from data.structures.decoders import LevelsDecoder, calibrate, coarse_chunks, decoders_of
from data.structures.recipe import (
    IMAGES,
    MOST_PARAMETERS,
    STEPS,
    STRUCTURES,
    level,
    make,
    parameters_of,
    check_size,
)
from data.structures.record import record, recorded
from data.structures.structures import WanCausalConv3d, pack, unpack
from clips import parse
from recipe import decode, encode
from train import losses, weighted
from vdkit import probe
from vdkit.__main__ import main
from vdkit.decode import begun

pytestmark = pytest.mark.usefixtures("one_thread")
FRAMES = 33  # two whole segments behind the first frame
SMALL = (17, 16, 32)


@pytest.fixture(scope="module")
def models():
    """Untrained, in float64: {name: (model, video, its latents)}."""
    found = {}
    generator = torch.Generator().manual_seed(1)
    video = torch.rand((1, 3, FRAMES, 32, 16), generator=generator, dtype=torch.float64) * 2 - 1
    for name in STRUCTURES:
        model = make(name).double().eval()
        with torch.inference_mode():
            found[name] = model, video, encode(model, video).chunk(2, 1)[0]
    return found


def hierarchical():
    """As a user's own MODULE:NAME."""
    return LevelsDecoder(make("hierarchical"), "hierarchical, untrained")


def chunked(decoder, latents, size=1):
    with torch.inference_mode(), begun(decoder, latents) as state:
        count = latents.shape[2]
        cuts = [(0, 1), *((a, min(a + size, count)) for a in range(1, count, size))]
        return torch.cat([decoder.decode_chunk(state, *cut) for cut in cuts], 2)


def test_budgets_are_equal():
    counts = {name: parameters_of(make(name)) for name in STRUCTURES}
    assert max(counts.values()) <= MOST_PARAMETERS
    assert min(counts.values()) >= 0.95 * max(counts.values()), counts


@pytest.mark.parametrize("name", STRUCTURES)
def test_latents_have_the_shape_that_the_table_says(name, models):
    structure, (_, _, latents) = STRUCTURES[name], models[name]
    side, frames = structure.spatial, 1 + (FRAMES - 1) // structure.temporal
    assert latents.shape == (1, structure.channels, frames, 32 // side, 16 // side)
    assert sum(structure.parts.values()) in (0, structure.channels)
    values = structure.latent_bytes_per_s(64, 64) / 2 / 16 * structure.temporal
    assert values == structure.channels * (64 // side) ** 2
    assert 3 * 64 * 64 * structure.temporal / values == structure.ratio


@pytest.mark.parametrize("name", STRUCTURES)
def test_streamed_is_whole(name, models):
    model, video, latents = models[name]
    with torch.inference_mode():
        assert (model.encode(video).latent_dist.mode() - latents).abs().max() < 1e-12
        cache, step = [], STRUCTURES[name].temporal
        pieces = [encode(model, video[:, :, :1], cache)]
        pieces += [encode(model, video[:, :, a : a + step], cache) for a in range(1, FRAMES, step)]
        assert (torch.cat(pieces, 2).chunk(2, 1)[0] - latents).abs().max() < 1e-12
        whole = model.decode(latents, return_dict=False)[0]
    assert whole.shape == video.shape and whole.std() > 0.01
    decoder = decoders_of(name, model)["full"]
    for size in (1, 2):
        assert (chunked(decoder, latents, size) - whole).abs().max() < 1e-12


def test_packing_goes_both_ways():
    large, small = torch.randn(1, 3, 2, 4, 6), torch.randn(1, 5, 8, 2, 3)
    packed = pack(large, small, 4)
    assert packed.shape == (1, 4 * 3 + 4 * 5, 2, 2, 3)
    for one, other in zip(unpack(packed, 3, 4), (large, small), strict=True):
        assert torch.equal(one, other)


def test_the_preview_needs_the_coarse_level_alone(models):
    model, _, latents = models["hierarchical"]
    other = latents.clone()
    other[:, :48] += 1  # the fine ones
    preview = LevelsDecoder(model, "preview", math.inf)
    assert torch.equal(chunked(preview, other), chunked(preview, latents))
    full = LevelsDecoder(model, "full")
    assert (chunked(full, other) - chunked(full, latents)).abs().max() > 1e-3


def test_content_and_motion_act_in_their_own_time(models):
    model, _, latents = models["factorized"]
    with torch.inference_mode():
        whole = decode(model, latents)
        for channels, frame in ((slice(0, 64), 1), (slice(64 + 2, None, 4), 9)):
            other = latents.clone()
            other[:, channels, 1] += 1  # content of the first segment; motion of its third step
            apart = (decode(model, other) - whole).abs().amax((0, 1, 3, 4))
            assert (apart[:frame] == 0).all() and apart[frame] > 0
    with pytest.raises(ValueError, match="8 frames follow the first; use a multiple of 16"):
        encode(model, torch.zeros(1, 3, 9, 32, 32, dtype=torch.float64))


@pytest.mark.parametrize("name", ["hierarchical", "factorized"])
def test_their_anatomy(name, models):
    decoder = decoders_of(name, models[name][0])["full"]
    size = (1, decoder.latent_channels, 5, 1, 1)
    latents = torch.randn(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = probe(decoder, latents, chunk_sizes=(1, 2))
    assert not found.failed and found.causal and found.look_ahead.zero == 0
    assert (found.first_units, found.units_per_latent) == (1, STRUCTURES[name].temporal)
    assert found.verdict == ["Stream it with chunks of 1 or more latents: exact."]


def test_the_command_takes_them(capsys):
    given = ["--latents", "random:17x16x16"]
    assert main(["probe", "tests.cpu.test_structures:hierarchical", *given]) == 0
    assert "hierarchical, untrained" in capsys.readouterr().out


def test_weights_that_are_not_there_are_missed(monkeypatch, tmp_path):
    monkeypatch.setattr(decoders, "HOME", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no weights; train them"):
        decoders.factorized()


@pytest.mark.parametrize("name", STRUCTURES)
def test_training_lowers_the_loss(name):
    model = make(name).train()
    video = train.Batches(0, 10, 2, (17, 16, 16))[9].video(torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    torch.manual_seed(0)  # the noise on the latents
    seen = []
    for _ in range(6):
        parts = losses(model, video)
        optimizer.zero_grad()
        weighted(parts).backward()
        optimizer.step()
        seen.append({key: float(value.detach()) for key, value in parts.items()})
    pictures = {key for key in seen[0] if key != "kl"}
    assert ("l1 preview" in pictures) == (name == "hierarchical")
    assert all(seen[-1][key] < 0.7 * seen[0][key] for key in pictures), (seen[0], seen[-1])
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.ndim == 5)


@pytest.mark.parametrize("name", STRUCTURES)
def test_untrained_nothing_moves_in_a_still_clip(name):
    """What is learned of pictures is not lost where clips begin: each frame is the picture's."""
    model = make(name).eval()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, WanCausalConv3d) and part.kernel_size == (3, 3, 3):
                part.weight[:, :, -1] *= 2  # as learned from pictures
        picture = 2 * torch.rand(1, 3, 1, 32, 48) - 1
        alone = decode(model, encode(model, picture).chunk(2, 1)[0])
        clip = decode(model, encode(model, picture.expand(-1, -1, 33, -1, -1)).chunk(2, 1)[0])
    assert alone.std() > 0.01 and (clip - alone).abs().max() < 1e-3 * alone.std()


@pytest.mark.parametrize("name", STRUCTURES)
def test_untrained_latents_are_level(name):
    """By channel, whichever convolution makes it."""
    model, video = make(name).eval(), 2 * torch.rand(8, 3, 1, 32, 48) - 1
    level(model, video)
    with torch.no_grad():
        latents = encode(model, video).chunk(2, 1)[0]
    parts = (latents,)
    if STRUCTURES[name].parts:
        parts = unpack(latents, len(model.encoder.large.bias) // 2, model.encoder.span)
    for part in parts:
        axes = (0, *range(2, part.ndim))
        assert part.mean(axes).abs().max() < 1e-3 and (part.std(axes) - 1).abs().max() < 1e-3


def settings(run, **given):
    """Of a tiny training on the CPU, as its command line has them."""
    usual = {
        "seed": 0,
        "minutes": 10.0,
        "channels_last": False,
        "go_on": None,
        "images": IMAGES,
        "run": run,
        "export": run / "out",
    }
    return argparse.Namespace(**{**usual, **train.SMOKE, "size": SMALL, "log_every": 1, **given})


def saved(run, name):
    files = sorted(run.glob(f"{name}.*.pt"))
    state = {}
    for file in files:
        assert file.stat().st_size < 16 * 2**20
        state |= torch.load(file, weights_only=True)
    return files, state


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    name, once, twice = "z16-16x16x4", tmp_path / "once", tmp_path / "twice"
    for run in (once, twice):
        run.mkdir()
    assert train.train_structure(name, settings(once, steps=6))
    update = train.PartedTrainer.update

    def killed(self, loss=None, progress=0.0, since=0):
        if self.step == 5:
            raise KeyboardInterrupt
        update(self, loss, progress, since)

    monkeypatch.setattr(train.PartedTrainer, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        train.train_structure(name, settings(twice, steps=6))
    monkeypatch.setattr(train.PartedTrainer, "update", update)
    assert [file.name.split(".")[1] for file in saved(twice, name)[0]] == ["000004"] * 2
    (twice / f"{name}.000005.weights.pt").write_bytes(b"half a checkpoint")
    assert train.train_structure(name, settings(twice, steps=6))
    (_, a), (files, b) = saved(once, name), saved(twice, name)
    assert len(files) == 2 and a["step"] == b["step"] == 6
    for part in ("modules", "ema"):
        for key, value in a[part]["vae"].items():
            assert torch.equal(value, b[part]["vae"][key]), key
    assert not torch.equal(*(a[part]["vae"]["quant_conv.weight"] for part in ("modules", "ema")))
    assert (once / f"{name}.csv").read_text() == (twice / f"{name}.csv").read_text()


def test_a_training_stops_in_time_and_says_how_far_it_came(tmp_path, capsys):
    run = settings(tmp_path, minutes=0.0)
    assert not train.train_structure("factorized", run)
    assert f"factorized.pt: 0 of {run.steps} steps" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of factorized; train it"):
        train.export("factorized", run)


def test_drawing_ahead_in_other_processes_draws_the_same(tmp_path):
    name, made = "z48-16x16x4", []
    for workers in (0, 1):
        run = tmp_path / str(workers)
        run.mkdir()
        assert train.train_structure(name, settings(run, steps=2, workers=workers))
        made.append((run / f"{name}.csv").read_text())
    assert made[0] == made[1]


def test_the_rate_warms_up_for_pictures_and_again_for_clips(tmp_path):
    weight = torch.nn.Linear(1, 1)
    trainer = train.PartedTrainer({"vae": weight}, 1.0, 100, tmp_path / "a.pt")
    trainer.clips, rates = 60, []
    for _ in range(100):
        trainer.update(weight(torch.ones(1)).sum())
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates[:12] == pytest.approx([(1 + step) / 11 for step in range(11)] + [1.0])
    assert rates[59:62] == pytest.approx([2 * 0.41, 2 * 0.4 / 11, 2 * 2 * 0.39 / 11])
    assert rates[75] == pytest.approx(2 * 0.25)


def test_batches_have_one_cut_in_eight():
    batch = train.Batches(3, 10, 16, SMALL)[7]
    video = batch.video(torch.device("cpu"))
    assert video.shape == (16, 3, *SMALL) and len(batch.tracks.shape) == 18
    jumps = (video[:, :, 1:] - video[:, :, :-1]).abs().mean((1, 3, 4))
    for i in range(2):
        assert jumps[i].argmax() == batch.cut - batch.start - 1
    assert torch.equal(video, train.Batches(3, 10, 16, SMALL)[7].video(torch.device("cpu")))
    assert train.Batches(3, 10, 16, SMALL)[0].video(torch.device("cpu")).shape[2] == 1


def test_from_training_to_card(tmp_path, monkeypatch, capsys):
    """The commands, one after the other, on two structures."""
    monkeypatch.setitem(train.SMOKE, "steps", 2)
    monkeypatch.setitem(train.SMOKE, "size", SMALL)
    monkeypatch.setitem(train.SMOKE, "log_every", 1)
    names, run, out = ["z4-8x8x4", "hierarchical"], tmp_path / "run", tmp_path / "out"

    def command(module, *arguments):
        monkeypatch.setattr("sys.argv", ["it", *map(str, arguments)])
        module.main()
        return capsys.readouterr().out

    common = ("--run", run, "--smoke", "--channels-last", "--structure", *names)
    assert "hierarchical.pt: 2 of 2 steps" in command(train, *common)
    command(train, *common, "--export", out)
    cut_short = json.loads((out / names[1] / "metrics.json").read_text())
    cut_short["training"] |= {"of": 4000, "finished": False}
    assert "2 of 4,000 steps" in card(cut_short) and "**It did not finish.**" in card(cut_short)
    assert "did not finish" not in (out / names[1] / "README.md").read_text()
    said = command(evaluate, out, "--smoke", "--out", tmp_path / "results")
    cards = [file.read_bytes() for file in sorted(out.rglob("README.md"))]
    assert "keeps its card: this is --smoke" in command(evaluate, out, "--smoke")
    assert cards == [file.read_bytes() for file in sorted(out.rglob("README.md"))]
    monkeypatch.setitem(train.SMOKE, "steps", 4)
    assert together.begun(out) == 2
    more = ("--run", tmp_path / "more", "--go-on", out, *common[2:])
    command(train, *more), command(train, *more, "--export", tmp_path / "further")
    begun, weights = (
        (at / names[0] / "diffusion_pytorch_model.safetensors").read_bytes()
        for at in (out, tmp_path / "further")
    )
    assert (
        begun != weights
        and "At step 2 it went on" in (tmp_path / "further" / names[0] / "README.md").read_text()
    )
    losses = (tmp_path / "further" / names[0] / "losses.csv").read_text()
    assert losses.startswith((out / names[0] / "losses.csv").read_text()) and "\n4,l1," in losses
    assert together.begun(tmp_path / "further") == 4
    rows = recorded(tmp_path / "results", smoke=True)["quality"][1].rows
    assert len(rows) == 4 * (8 + 1) and "they need 34" in said  # ways; clips, and all of them
    assert "z4-8x8x4, full: static" in said and "hierarchical, adaptive: static" in said
    for name in names:
        folder = out / name
        files = {file.name: file.stat().st_size for file in folder.iterdir()}
        weights = "diffusion_pytorch_model.safetensors"
        assert files.keys() == {weights, "config.json", "losses.csv", "metrics.json", "README.md"}
        assert files[weights] < 3e6
        metrics = json.loads((folder / "metrics.json").read_text())
        assert (folder / "README.md").read_text() == card(metrics)
        assert metrics["parameters"] == parameters_of(make(name))
        own = f"--decoder data.structures.decoders:{name}`" in card(metrics)
        assert own == hasattr(decoders, name) and own != ("of diffusers" in card(metrics))
        ways = 3 if name == "hierarchical" else 1
        assert len(metrics["rows"]) == 2 * ways * len(evaluate.CATEGORIES)
        assert [one["clips"] for one in metrics["sets"]] == [8] * ways
        assert all(row["psnr_db"] > 0 and -1 <= row["ssim"] <= 1 for row in metrics["rows"])
        loaded = STRUCTURES[name].make.from_pretrained(folder, torch_dtype=torch.float32)
        trained = saved(run, name)[1]["ema"]["vae"]
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, trained[key].half().float()), key
        assert len(loaded.config.latents_std) == STRUCTURES[name].channels
        assert min(loaded.config.latents_std) > 0
    monkeypatch.setattr(decoders, "HOME", out)
    with pytest.raises(SystemExit):
        command(train, *common[:-1], "--export", out, "--structure", "factorized")
    assert "holds no checkpoint of factorized; train it first" in capsys.readouterr().err
    assert decoders.adaptive().threshold == loaded.config.adaptive_threshold
    assert decoders.hierarchical().weights_sha256() == decoders.preview().weights_sha256()


@pytest.mark.parametrize("category", evaluate.CATEGORIES)
def test_held_out_clips_are_of_their_category(category):
    for index in range(4):
        one, same = (evaluate.held_out(category, index, SMALL) for _ in range(2))
        captions, clip = one.captions, one.clip
        assert captions == same.captions and np.array_equal(clip, same.clip)
        assert clip.shape == (*SMALL, 3) and clip.dtype == np.uint8
        scenes = [parse(caption) for caption in captions]
        assert all(scene.held_out and evaluate.CATEGORIES[category](scene) for scene in scenes)
        moved = np.abs(np.diff(clip.astype(int), axis=0)).mean((1, 2, 3))
        assert len(scenes) == 1 + (category == "cuts")
        assert (moved.max() == 0) == (category == "static")
        if category == "cuts":
            assert moved.max() > 3 * np.median(moved)


def planted():
    """Latents of a `hierarchical` [1, 64, 6, 2, 2]: the fine level is flat in frames 0, 2, 3, 5."""
    latents = torch.randn((1, 64, 6, 2, 2), generator=torch.Generator().manual_seed(4))
    fine, coarse = unpack(latents, 12, 1)
    for t in (0, 2, 3, 5):
        fine[:, :, t] = 7.0
    return pack(fine, coarse, 1)


def test_chunks_without_detail_may_be_coarse():
    latents = planted()
    seen = decoders.complexity(latents, 12)
    assert (seen[[0, 2, 3, 5]] < 1e-5).all() and (seen[[1, 4]] > 0.5).all()
    assert coarse_chunks(latents, 12, 0.1) == [False, False, True, True, False, True]
    assert not any(coarse_chunks(latents, 12, 0.0)) and all(coarse_chunks(latents, 12, math.inf))


def test_an_adaptive_decode_is_full_or_preview():
    model, latents = make("hierarchical").double().eval(), planted().double()
    ways = {at: LevelsDecoder(model, "it", at) for at in (0.0, 0.1, math.inf)}
    full, made, preview = (chunked(decoder, latents) for decoder in ways.values())
    frames = {t: slice(4 * t - 3, 4 * t + 1) for t in range(1, 6)}
    for t in (2, 3, 5):
        assert torch.equal(made[:, :, frames[t]], preview[:, :, frames[t]])
    assert torch.equal(made[:, :, :5], full[:, :, :5])
    for frame in (made[:, :, frames[4]], full[:, :, frames[2]]):
        assert not any(torch.equal(frame, preview[:, :, frames[t]]) for t in (2, 4))
    for size in (2, 5):
        assert (chunked(ways[0.1], latents, size) - made).abs().max() < 1e-12
    with torch.inference_mode():
        assert torch.equal(ways[0.1].decode_video(latents, lambda t: None), made)


@pytest.mark.parametrize(
    ("complexities", "lost_db", "threshold"),
    [
        ([1.0, 4.0, 2.0, 3.0], [0.1, 5.0, 0.2, 3.0], 2.5),
        ([1.0, 2.0], [0.1, 0.2], 3.0),  # all may
        ([1.0, 2.0], [0.9, 0.1], 0.0),  # the simplest may not
        ([1.0, 1.0, 2.0], [0.1, 0.9, 0.9], 0.0),  # equal ones go together
        ([float(i) for i in range(1, 41)], [0.9 * (i in (29, 39)) for i in range(40)], 40.0 * 1.5),
        ([float(i) for i in range(1, 31)], [0.9 * (i in (24, 29)) for i in range(30)], 29.5),
    ],
)
def test_the_threshold_keeps_quality(complexities, lost_db, threshold):
    assert calibrate(torch.tensor(complexities), torch.tensor(lost_db), 0.5) == threshold


def test_records(tmp_path, monkeypatch):
    """The newest of each kind; the command without where it lies."""
    monkeypatch.setattr("sys.argv", ["/somewhere/train.py", "--out", "results"])
    for x in (1, 2):
        row = {"structure": "factorized", "psnr_db": float(x), "peak_bytes": None}
        last = record(tmp_path, "cost", {"rounds": x}, [row], torch.device("cpu"))
    folder, found = recorded(tmp_path)["cost"]
    assert folder == last and list(recorded(tmp_path)) == ["cost"]
    assert found.rows == ({"structure": "factorized", "psnr_db": 2.0, "peak_bytes": None},)
    assert found.asked == {"rounds": 2} and "/somewhere" not in found.command
    record(tmp_path, "cost", {"smoke": True}, [], torch.device("cpu"))
    assert recorded(tmp_path)["cost"][0] == last != recorded(tmp_path, smoke=True)["cost"][0]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        recorded(tmp_path / "none")
    assert found.command.endswith(" --out results")


def test_trained_together(tmp_path):
    """The same steps for all, as many as the slowest has time for; a failure is told."""
    took = {"a": 5.0, "b": 3.0, "c": 2.0, "d": 1.0, "e": 1.0}
    places = together.spread(took, 2)
    load = [sum(took[name] for name in places if places[name] == gpu) for gpu in (0, 1)]
    assert load == [6, 6] and set(together.spread(took, 9).values()) == set(range(5))
    for name, each in (("a", 0.5), ("b", 1.5)):
        paces = [30.0, *[each / 2] * 35, 30.0, *[each] * 13, 30.0, *[3 * each] * 9]
        torch.save({"paces": paces, "begun": 0}, tmp_path / f"{name}.000060.weights.pt")
    steps, each = together.steps_for(tmp_path, "ab", minutes=10)
    share = (36 / 2 + 14 + 10 * 3) / 60  # of three kinds of clips, their first steps left out
    assert each == pytest.approx({"a": 0.5 * share, "b": 1.5 * share})
    once = 3 * 30 - 1.5 * (1 / 2 + 1 + 3)
    assert steps == pytest.approx((0.9 * 600 - once) / (1.5 * share), abs=1)
    assert together.steps_for(tmp_path, "ab", minutes=1000)[0] == STEPS
    with pytest.raises(RuntimeError, match=r"0.1 minutes are too few; give --minutes more"):
        together.steps_for(tmp_path, "ab", minutes=0.1)
    state = {"paces": [9.0] * 600 + [0.5] * 60, "begun": 600}
    torch.save(state, tmp_path / "c.000660.weights.pt")
    assert together.steps_for(tmp_path, "c", minutes=10) == (600 + int(0.9 * 600 / 0.5), {"c": 0.5})
    log = tmp_path / "a.csv"
    for text, step in ((None, "0"), ("", "0"), ("step,quantity,value\n100,l1,0.5\n", "100")):
        if text is not None:
            log.write_text(text)
        assert together.logged(log) == step
    with pytest.raises(RuntimeError, match=r"(?s)none failed:.*invalid choice"):
        together.together(tmp_path / "run", {"none": 0}, ["--smoke"])


@pytest.mark.parametrize("size", [(16, 32, 48), (17, 60, 48), (17, 32, 40)])
def test_sizes_that_no_structure_codes_are_named(size):
    check_size(33, 96, 160)
    with pytest.raises(ValueError, match=rf"clips of {'x'.join(map(str, size))}: use 16 n \+ 1"):
        check_size(*size)


@pytest.mark.parametrize(("given", "said"), [
    (["--device", "nonsense"], "device 'nonsense' is unknown; use auto, cpu"),
    (["--out", "README.md/in"], "'README.md/in'"),
])  # fmt: skip
def test_nothing_is_measured_for_a_place_that_is_not_there(given, said, monkeypatch, capsys):
    monkeypatch.chdir(decoders.HOME.parents[1])
    monkeypatch.setattr("sys.argv", ["evaluate", "data/tiny-wan", *given])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert said in capsys.readouterr().err


def test_a_plan_goes_on_with_the_gpus_that_are_there(tmp_path, monkeypatch, capsys):
    """It was made where there were four."""
    begun = []
    monkeypatch.setattr(together, "together", lambda run, places, options: begun.append(places))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    plan = {"steps": 9, "seconds_a_step": dict.fromkeys("abcd", 1.0), "gpus": {"a": 3, "b": 2}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    monkeypatch.setattr("sys.argv", ["together", "--run", str(tmp_path)])
    together.main()
    assert begun == [{"a": 0, "b": 1, "c": 0, "d": 1}]
    monkeypatch.setattr("sys.argv", ["together", "--run", str(tmp_path), "--gpus", "4"])
    with pytest.raises(SystemExit):
        together.main()
    assert "--gpus 4: this machine shows 2" in capsys.readouterr().err
