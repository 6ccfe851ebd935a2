"""The trained miniature: stock diffusers runs it, it can be trained again, its card is true."""

import hashlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import UMT5EncoderModel

pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
pytestmark = pytest.mark.usefixtures("one_thread")
HOME = Path(__file__).parents[2] / "data" / "tiny-wan"
sys.path.insert(0, str(HOME))
from card import card_block, with_block  # noqa: E402
from clips import BACKGROUNDS, COLORS, MOTIONS, SHAPES, Mover, parse, words  # noqa: E402
from evaluate import compared, scene_of, summary, wilson  # noqa: E402
from judge import Score, Seen, describe, score  # noqa: E402

CARD = (HOME / "README.md").read_text()
PARTS = ("text_encoder", "transformer", "transformer_2", "vae")
WEIGHTS = sorted(HOME.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What the card's example leaves behind, run on a few small frames: stock diffusers only."""
    (code,) = re.findall(r"```python\n(.*?)```", CARD, re.DOTALL)
    gif = tmp_path_factory.mktemp("card") / "star.gif"
    for said, small in (
        ('"data/tiny-wan"', repr(str(HOME))),
        ('"star.gif"', repr(str(gif))),
        ("num_frames=33", "num_frames=5"),
        ("height=96", "height=32"),
        ("width=160", "width=48"),
        ("num_inference_steps=20", "num_inference_steps=2"),
    ):
        assert code.count(said) == 1
        code = code.replace(said, small)
    assert "vdkit" not in code
    left: dict = {"gif": gif}
    exec(code, left)
    return left


@pytest.fixture(scope="module")
def metrics():
    return json.loads((HOME / "metrics.json").read_text())


def test_stock_diffusers_runs_the_example(ran):
    with Image.open(ran["gif"]) as film:
        assert film.size == (48, 32) and film.n_frames == len(ran["frames"]) == 5
    pipeline = ran["pipeline"]
    assert type(pipeline) is WanPipeline
    assert type(pipeline.text_encoder) is UMT5EncoderModel
    assert type(pipeline.transformer) is type(pipeline.transformer_2) is WanTransformer3DModel
    assert type(pipeline.vae) is AutoencoderKLWan
    assert type(pipeline.scheduler) is UniPCMultistepScheduler
    assert pipeline.config.boundary_ratio == 0.875 and pipeline.scheduler.config.flow_shift == 3.0


def test_weights_are_float16_safetensors_and_small():
    files = [file for file in HOME.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert {f.suffix for f in files} <= {
        ".safetensors",
        ".json",
        ".csv",
        ".py",
        ".md",
        ".png",
        ".mp4",
    }
    assert sum(file.stat().st_size for file in files) <= 20e6
    assert [file.parent.name for file in WEIGHTS] == list(PARTS)
    for file in WEIGHTS:
        with safe_open(file, "pt") as tensors:
            names = list(tensors.keys())
            assert {tensors.get_slice(name).get_dtype() for name in names} == {"F16"}


def test_the_tokenizer_knows_the_words_and_no_other(ran):
    tokenizer = ran["pipeline"].tokenizer
    assert set(tokenizer.get_vocab()) == {*words(), "<pad>", "</s>", "<unk>"}
    ids = tokenizer("A red elephant moves left").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "red", "<unk>", "moves", "left", "</s>"]


def test_a_held_out_prompt_gives_its_colors(ran):
    scene, _ = scene_of(0, 3, 0)
    assert scene.held_out
    frames = ran["pipeline"](
        scene.caption,
        num_frames=33,
        height=96,
        width=160,
        num_inference_steps=5,
        guidance_scale=4.0,
        guidance_scale_2=3.0,
        generator=torch.Generator().manual_seed(0),
    ).frames[0]
    seen = describe((frames * 255).round().astype(np.uint8))
    assert all(score(scene, seen).color), seen


def test_training_runs_goes_on_and_exports(tmp_path, monkeypatch, capsys):
    """Started as a script in a folder that is not the repository's, then as often as here."""
    run = tmp_path / "run"
    command = [sys.executable, str(HOME / "train.py"), "--smoke", "--run", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    out = done.stdout
    monkeypatch.chdir(tmp_path)

    def train(*arguments):
        monkeypatch.setattr("sys.argv", ["train.py", *arguments, "--run", str(run)])
        runpy.run_path(str(HOME / "train.py"), run_name="__main__")
        return capsys.readouterr().out

    for stage in ("vae", "decoder", "diffusion"):
        assert f"{stage}.pt: 2 of 2 steps" in out
    again = train("--smoke")  # from the checkpoints: nothing is trained or encoded twice
    assert not re.search(r"^step |encoded", again, re.MULTILINE) and "2 of 2 steps" in again
    more = ("--steps", "3", "--batch", "2", "--clips", "2", "--log-every", "1", "--device", "cpu")
    on = train("diffusion", *more, "--no-compile")
    assert re.findall(r"^step (\d+)  high .*  low ", on, re.MULTILINE) == ["3"]
    shutil.copytree(HOME / "vae", run / "shipped" / "vae")
    weights = run / "shipped" / "vae" / "diffusion_pytorch_model.safetensors"
    before = load_file(weights)
    train("export", "--decoder-only", "--out", str(run / "shipped"), "--device", "cpu")
    after, decoder = load_file(weights), load_file(run / "decoder.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and changed <= decoder.keys() and before.keys() == after.keys()
    assert all(torch.equal(after[name], decoder[name]) for name in decoder)
    made = WanPipeline.from_pretrained(run / "pipeline", dtype=torch.float32)
    assert {name: made.config[name] for name in PARTS} == {
        name: tuple(kind)
        for name, kind in json.loads((HOME / "model_index.json").read_text()).items()
        if name in PARTS
    }


def test_metrics_reach_the_targets(metrics):
    assert len(metrics["clips"]) >= 64 and len(metrics["prompts"]) >= 200
    assert len(metrics["targets"]) == 6 and all(one["met"] for one in metrics["targets"])


def test_metrics_are_those_of_the_weights_here(metrics):
    assert metrics["measured"]["weights_sha256"] == {
        file.relative_to(HOME).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in WEIGHTS
    }


def test_metrics_follow_from_their_rows(metrics):
    made = summary(metrics["clips"], metrics["prompts"])
    assert {key: metrics[key] for key in made} == json.loads(json.dumps(made))
    for row in metrics["prompts"]:
        movers = tuple(Mover(**mover) for mover in row["seen"]["movers"])
        seen = Seen(movers, row["seen"]["background"], row["seen"]["count"])
        right = {k: tuple(v) if isinstance(v, list) else v for k, v in row["right"].items()}
        assert parse(row["prompt"]).held_out
        assert score(parse(row["prompt"]), seen) == Score(**right)
    assert all(parse(row["caption"]).held_out for row in metrics["clips"])


def test_the_card_says_what_was_measured(metrics, tmp_path):
    assert with_block(CARD, card_block(metrics)) == CARD, "run data/tiny-wan/evaluate.py"
    assert "Other sizes" in CARD and "Other sizes" not in card_block(metrics, tmp_path)


def test_wilson_intervals():
    assert wilson(8, 10) == {"right": 8, "of": 10, "share": 0.8, "low": 0.49016, "high": 0.94332}
    assert wilson(5, 5)["high"] == 1 and wilson(0, 5)["low"] == 0


def test_wrong_words_are_told_by_shape():
    """What was seen is held against the shape that the score held it against."""
    scene = parse("a red star moves left and a cyan square moves right over a gray background")
    cyan, other = Mover("cyan", "square", "still"), Mover("pink", "star", "left")
    assert compared(scene, Seen((cyan, other), "gray", 2)) == (other, cyan)
    assert compared(scene, Seen((cyan,), "gray", 1)) == (None, cyan)


def test_the_card_lists_the_whole_world():
    for names in (COLORS, BACKGROUNDS):
        for name, rgb in names.items():
            assert re.search(rf"^\| {name} +\| {', '.join(map(str, rgb))} +\|$", CARD, re.MULTILINE)
    for names in (COLORS, SHAPES, MOTIONS.values(), BACKGROUNDS):
        assert f"= {' | '.join(names)}\n" in CARD


def test_the_cards_commands_and_files_exist():
    from vdkit.cli import build_parser

    for command in re.findall(r"^vdkit (.*)$", CARD, re.MULTILINE):
        build_parser().parse_args(shlex.split(command))
    for script in re.findall(r"python (data/tiny-wan/\w+\.py)", CARD):
        assert (HOME.parents[1] / script).is_file()
    for target in re.findall(r"\]\(([^)#]+)\)", CARD):
        assert (HOME / target).is_file(), target
