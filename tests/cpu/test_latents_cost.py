"""What latents cost: operations counted, memory's keepers found, gradients of recomputed blocks."""

import json
import math
import statistics
import weakref
from contextlib import nullcontext

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanResidualBlock
from torch import nn

pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
from data.structures import cost, measuring  # noqa: I001 (puts tiny-wan on the path)
from data.structures.checkpointing import checkpointed, decoder_of
from data.structures.measuring import META, full_size
from data.structures.recipe import STRUCTURES, make
from data.structures.record import recorded
from recipe import TRANSFORMER, decode
import evaluate
import train
from vdkit.record.stats import mean_half_width

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = {
    "times": 1, "size": (16, 16), "length_size": (16, 16), "lengths": (1, 2), "rounds": 2,
    "structures": ("z16-8x8x4", "factorized"), "trained_width": 4, "trained_size": (16, 16),
    "denoisers": {"miniature": (TRANSFORMER, (5, 32, 64), 3, (1, 2))},
}  # fmt: skip


def counted_by_hand(model, run):
    """Operations of all convolutions and linear layers by their shapes, and frames of attention."""
    seen = {"layers": 0, "attention": 0}

    def layer(module, _, made):
        seen["layers"] += 2 * made.numel() * module.weight[0].numel()

    def attention(_, given, made):
        batch, channels, frames, height, width = given[0].shape
        seen["attention"] += batch * frames * 4 * (height * width) ** 2 * channels

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            module.register_forward_hook(layer)
        elif isinstance(module, WanAttentionBlock):
            module.register_forward_hook(attention)
    run()
    return seen


@pytest.mark.parametrize("name", ["z16-8x8x4", "z48-16x16x4", "hierarchical", "factorized"])
@torch.inference_mode()
def test_operations_are_those_of_the_layers(name):
    found = {}
    for way, begin in cost.ways_of(name, model := full_size(name, META, torch.bfloat16)).items():
        run = cost.under_way(begin, 1, (32, 48))
        found[way] = flop = measuring.flop_by_kind(run)
        by_hand = counted_by_hand(model, cost.under_way(begin, 1, (32, 48)))
        assert flop["attention"] == by_hand["attention"] > 0
        assert flop["all"] == by_hand["attention"] + by_hand["layers"]
        for module in model.modules():
            module._forward_hooks.clear()
    assert set(found) == {"full", "encode"} | ({"preview"} if name == "hierarchical" else set())


@torch.inference_mode()
def test_operations_of_a_denoiser():
    model = cost.denoiser(TRANSFORMER, META, torch.bfloat16)
    width, layers, attention = 192, TRANSFORMER["num_layers"], {}
    for side, tokens in ((8, 540), (16, 135)):
        run = cost.forward(model, (1, 16, 9, 96 // side, 160 // side))
        flop = measuring.flop_by_kind(run)
        text = layers * 4 * tokens * 512 * width
        attention[side] = flop["attention"] - text
        assert attention[side] == layers * 4 * tokens**2 * width
        assert flop["all"] == flop["attention"] + counted_by_hand(model, run)["layers"]
        for module in model.modules():
            module._forward_hooks.clear()
    assert attention[8] == 16 * attention[16]


def test_full_size_is_as_wide_as_said():
    for name, structure in STRUCTURES.items():
        small, wide = make(name), full_size(name, META, torch.float32)
        widths = {key for key in small.config if key.endswith("_dim")} - {"z_dim"}
        assert {wide.config[key] for key in widths} == {96}
        assert wide.config.z_dim == structure.channels
        grown = [(a, b) for a, b in zip(small.parameters(), wide.parameters(), strict=True)]
        square = [b.numel() / a.numel() for a, b in grown if a.ndim > 3 and b.shape[1] % 96 == 0]
        assert max(square) == 144 and len(square) > 20


def test_random_weights_keep_the_size_of_values():
    cpu = torch.device("cpu")
    one, same = (full_size("factorized", cpu, torch.float32, times=2) for _ in range(2))
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    with torch.inference_mode():
        made = decode(one, torch.randn(1, 128, 2, 1, 2))
    assert made.isfinite().all() and 0.1 < made.std() < 10


def gradients(vae, latents, *, again, low=False, calls=1):
    """Of the loss of a training step, in one cache over so many ``calls``; and the loss."""
    vae.zero_grad()
    context = checkpointed(vae.decoder) if again else nullcontext()
    with context, torch.autocast("cpu", torch.bfloat16, enabled=low):
        cache, step = [], latents.shape[2] // calls
        parts = latents.split(step, 2)
        made = torch.cat([decode(vae, part, cache) for part in parts], 2)
        loss = (made - 0.1).abs().mean()
    loss.backward()
    return loss.item(), {key: w.grad.clone() for key, w in vae.named_parameters()}


@pytest.mark.parametrize("calls", [1, 3])
def test_checkpointed_gradients_are_the_plain_ones(calls):
    vae = decoder_of(4, torch.device("cpu")).double()
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn((1, 16, 3, 2, 2), generator=generator, dtype=torch.float64)
    loss, plain = gradients(vae, latents, again=False, calls=calls)
    same, made = gradients(vae, latents, again=True, calls=calls)
    assert loss == same and plain.keys() == made.keys()
    for key, gradient in plain.items():
        assert gradient.any(), key
        assert (made[key] - gradient).abs().max() <= 1e-14 * gradient.abs().max(), key
    assert all("forward" not in vars(module) for module in vae.modules())


def test_checkpointed_autocast_is_autocast():
    vae = decoder_of(4, torch.device("cpu"))
    latents = torch.randn((1, 16, 2, 2, 2), generator=torch.Generator().manual_seed(6))
    loss, plain = gradients(vae, latents, again=False, low=True)
    same, made = gradients(vae, latents, again=True, low=True)
    exact, _ = gradients(vae, latents, again=False)
    assert loss == same != exact
    for key, gradient in plain.items():
        assert (made[key] - gradient).norm() <= 0.02 * gradient.norm(), key


def kept_by(vae, latents, again):
    """The share of what the layers made that is alive after forward; and how often each ran."""
    made, runs, size = [], [0], {True: 0, False: 0}

    def note(_, __, tensor):
        runs[0] += 1
        made.append((weakref.ref(tensor), tensor.nbytes))

    layers = [
        m for b in vae.modules() if isinstance(b, WanResidualBlock) for m in (b.norm1, b.conv1)
    ]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with checkpointed(vae.decoder) if again else nullcontext():
        loss = decode(vae, latents).abs().mean()
    for tensor, nbytes in made:
        size[tensor() is not None] += nbytes
    forward = runs[0]
    loss.backward()
    for hook in hooks:
        hook.remove()
    return size[True] / sum(size.values()), runs[0] / forward


def test_checkpointed_blocks_keep_nothing_and_run_again():
    vae = decoder_of(4, torch.device("cpu"))
    latents = torch.randn((1, 16, 2, 2, 2), generator=torch.Generator().manual_seed(7))
    assert kept_by(vae, latents, False) == (1, 1)
    assert kept_by(vae, latents, True) == (0, 2)


def test_diffusers_has_no_checkpointing_for_it():
    assert not AutoencoderKLWan._supports_gradient_checkpointing
    with pytest.raises(ValueError, match="does not support gradient checkpointing"):
        make("z16-8x8x4").enable_gradient_checkpointing()


def run(monkeypatch, module, *arguments):
    monkeypatch.setattr("sys.argv", ["it", *map(str, arguments)])
    return module.main()


def test_every_kind_is_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cost, "SMOKE", cost.SMOKE | TINY)
    run(monkeypatch, cost, "all", "--smoke", "--out", tmp_path)
    made = {kind: record for kind, (_, record) in recorded(tmp_path, smoke=True).items()}
    assert made.keys() == {"cost", "length", "training", "generation"}
    assert len(capsys.readouterr().out.splitlines()) == 4 + sum(len(m.rows) for m in made.values())
    assert all(record.asked["smoke"] and record.asked["how"] for record in made.values())

    rows = {(row["structure"], row["way"]): row for row in made["cost"].rows}
    assert len(rows) == 2 * len(STRUCTURES) + 1
    for (name, _), row in rows.items():
        values = row["ms_per_latent_frame_runs"]
        assert len(values) == 2 and row["ms_per_latent_frame"] == statistics.mean(values)
        half = mean_half_width(statistics.stdev(values), 2)
        assert math.isclose(row["ms_per_latent_frame_half_width"], half)
        a_second = 16 / STRUCTURES[name].temporal
        assert math.isclose(row["ms_per_video_s"], a_second * row["ms_per_latent_frame"])
        assert row["parameters"] == row["parameters_miniature"]
    full, preview = (rows["hierarchical", way]["flop_per_pixel"] for way in ("full", "preview"))
    assert 0 < preview < full / 3

    seen = {(r["structure"], r["way"], r["on_device"], r["clip_s"]): r for r in made["length"].rows}
    assert len(seen) == 2 * 2 * 2 * 2 and all(row["peak_bytes"] is None for row in seen.values())
    standard, apart = (seen[name, "full", "clip", 2] for name in TINY["structures"])
    assert (standard["latent_frames"], apart["latent_frames"], apart["frames"]) == (9, 3, 33)
    assert standard["latent_bytes"] == 4 * 16 * 9 * 2 * 2
    assert apart["latent_bytes"] == 4 * 128 * 3 * 1 * 1

    ways = [(row["way"], row["latent_frames"]) for row in made["training"].rows]
    assert ways == [
        (way, n) for n in (5, 1) for way in ("plain", "checkpointed", "autocast", "both")
    ]
    assert all(row["state_bytes"] > 15.5 * row["parameters"] for row in made["training"].rows)

    tokens = [(r["latents"], r["tokens"], r["clips_at_once"]) for r in made["generation"].rows]
    assert tokens == [(side, n, b) for b in (1, 2) for side, n in (("8x8x4", 16), ("16x16x4", 4))]
    for row in made["generation"].rows:
        assert math.isclose(row["denoise_s_per_clip"], 2 * 3 * row["forward_ms"] / 1000)


def test_one_round_has_no_interval(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, cost, "cost", "--out", "nowhere", "--rounds", 1)
    assert "--rounds is 1; an interval needs 2 or more" in capsys.readouterr().err


def test_turns_go_there_and_back():
    order = []
    arms = {name: lambda name=name: order.append(name) or len(order) for name in "ABC"}
    assert measuring.in_turns(arms, 2) == {"A": [6, 7], "B": [5, 8], "C": [4, 9]}
    assert "".join(order) == "ABCCBAABC"


def test_from_a_vae_to_what_the_judge_says(tmp_path, monkeypatch, capsys):
    """A denoiser in another structure's latents: trained, exported, judged, recorded."""
    vae, out = tmp_path / "vae", tmp_path / "pipeline"
    make("z16-16x16x4").half().save_pretrained(vae)
    given = ("--run", tmp_path, "--vae", vae, "--experts", 1, "--clips", 2, "--device", "cpu")
    small = ("--steps", 3, "--batch", 2, "--log-every", 1, "--no-compile", "--no-channels-last")
    run(monkeypatch, train, "diffusion", *given, *small)
    run(monkeypatch, train, "export", *given, "--out", out)
    with pytest.raises(SystemExit):
        run(monkeypatch, cost, "generation", "--smoke", "--out", tmp_path, "--pipelines", out)
    assert "metrics.json is missing; judge its clips first" in capsys.readouterr().err
    judged = ("--model", out, "--prompts", 1, "--clips", 1, "--steps", 2, "--device", "cpu")
    run(monkeypatch, evaluate, *judged, "--threads", 1, "--scratch", tmp_path / "scratch")
    monkeypatch.setattr(cost, "SMOKE", cost.SMOKE | {"denoisers": {}})
    run(monkeypatch, cost, "generation", "--smoke", "--out", tmp_path, "--pipelines", out)
    ((_, made),) = recorded(tmp_path, smoke=True).values()
    (row,) = made.rows
    shares = json.loads((out / "metrics.json").read_text())["generation"]["shares"]
    assert (row["latents"], row["trained"], row["training_steps"]) == ("16x16x4", True, 3)
    assert (row["frames"], row["steps"], row["prompts"]) == (33, 2, 1)
    assert row["color_right_share"] == shares["color"]["share"] and row["generate_s_per_clip"] > 0
    assert row["everything_right_share_high"] == shares["everything"]["high"] > 0.5
    first, second = (
        (out / name / "diffusion_pytorch_model.safetensors").read_bytes()
        for name in ("transformer", "transformer_2")
    )
    assert first == second
    make("z4-8x8x4").save_pretrained(vae)
    with pytest.raises(ValueError, match="has 4 channels; the experts take 16"):
        run(monkeypatch, train, "diffusion", *given, *small)
