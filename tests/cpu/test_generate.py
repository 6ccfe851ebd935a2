"""Text to latents with a Wan pipeline, latents files, and the miniature on every path and sink."""

import json
import shlex
import shutil
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from PIL import Image
from transformers import UMT5Config, UMT5EncoderModel

from vdkit import (
    DecodeConfig,
    MemorySink,
    Mp4Sink,
    NullSink,
    PngSink,
    RawSink,
    decode_async,
    decode_diffusers,
    decode_sync,
    generate_latents,
    load_decoder,
    load_latents,
    load_pipeline,
    pipeline_decoder,
    save_latents,
)
from vdkit.__main__ import main
from vdkit.measure.quality import psnr_db
from vdkit.models.latents import latents_metadata
from vdkit.models.loading import TINY_WAN
from vdkit.models.pipeline import PromptWarning
from vdkit.sinks import ThrottledSink

EXAMPLES = sorted((TINY_WAN.parent / "latents").glob("*.safetensors"))
PROMPT = "a red circle moves left over a gray background"
SMALL = {"frames": 9, "height": 32, "width": 48, "steps": 3, "progress": False}


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline("tiny-wan", "cpu")


@pytest.fixture(scope="module")
def made(pipeline):
    return generate_latents(pipeline, PROMPT, **SMALL)


@pytest.fixture(scope="module")
def clip():
    """Nine frames of a moving circle: decoder, latents, frames uint8 [9, 48, 80, 3]."""
    decoder = load_decoder("tiny-wan", "cpu")
    latents = load_latents(EXAMPLES[1], decoder)[:, :, :3, 3:9, 5:15]
    kept = MemorySink()
    decode_sync(decoder, latents, kept, fps=16, progress=False)
    return decoder, latents, kept.frames


def test_latents_are_what_the_stock_pipeline_decodes(pipeline, made):
    """The pipeline's own call, to the end, gives the frames that our latents decode to."""
    whole = pipeline(
        PROMPT,
        num_frames=9,
        height=32,
        width=48,
        num_inference_steps=3,
        guidance_scale=4.0,
        guidance_scale_2=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames[0]
    kept = MemorySink()
    decode_async(pipeline_decoder(pipeline), made.latents, kept, fps=16, progress=False)
    expected = (whole * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(kept.frames, expected)


def test_stages_say_what_ran(pipeline, made):
    names = [stage.name for stage in made.stages]
    assert names == ["text encoder", "step 1", "step 2", "step 3"]
    experts = [stage.expert for stage in made.stages]
    assert experts[0] is None and experts[1] == "high-noise" and experts[-1] == "low-noise"
    boundary = pipeline.config.boundary_ratio * 1000
    for stage in made.stages[1:]:
        assert (stage.expert == "high-noise") == (stage.timestep >= boundary)
    assert all(stage.seconds > 0 and stage.peak_vram_bytes is None for stage in made.stages)
    assert made.latents.shape == (1, 16, 3, 4, 6) and made.latents.dtype == torch.float32
    assert made.unknown_words == ()


def test_the_seed_decides(pipeline, made):
    again = generate_latents(pipeline, PROMPT, **SMALL)
    other = generate_latents(pipeline, PROMPT, **SMALL, seed=1)
    assert torch.equal(again.latents, made.latents)
    assert not torch.equal(other.latents, made.latents)


def test_the_pipeline_is_left_as_it_was(pipeline, made):
    assert not pipeline.transformer._forward_pre_hooks
    assert not pipeline.transformer_2._forward_pre_hooks
    assert "disable" not in getattr(pipeline, "_progress_bar_config", {})


def test_a_pipeline_with_one_transformer(pipeline):
    """As in Wan 2.1 and Wan2.2-TI2V-5B."""
    parts = {**pipeline.components, "transformer_2": None}
    one = type(pipeline)(**parts, boundary_ratio=None)
    stages = generate_latents(one, PROMPT, **SMALL).stages
    assert [stage.expert for stage in stages] == [None, "only", "only", "only"]


def test_kept_steps(pipeline, made):
    """Nothing else changes; the last is what comes out, and the prediction gets nearer to it."""
    kept = generate_latents(pipeline, PROMPT, **SMALL, keep_steps=(3, 1, 2))
    assert torch.equal(kept.latents, made.latents) and made.kept == ()
    assert [one.step for one in kept.kept] == [1, 2, 3]
    for one, stage in zip(kept.kept, kept.stages[1:], strict=True):
        assert (one.expert, one.timestep) == (stage.expert, stage.timestep)
        for latents in (one.latents, one.predicted):
            assert latents.shape == made.latents.shape and latents.dtype == torch.float32
    assert torch.equal(kept.kept[-1].latents, made.latents)
    far = [(one.predicted - made.latents).abs().mean() for one in kept.kept]
    assert far[0] > far[1] > far[2] and far[2] < 1e-4
    noisy = [(one.latents - made.latents).abs().mean() for one in kept.kept]
    assert noisy[0] > noisy[1] > noisy[2] == 0


def test_kept_steps_of_a_scheduler_that_predicts_no_end(pipeline):
    other = FlowMatchEulerDiscreteScheduler(shift=3.0)
    parts = {**pipeline.components, "scheduler": other}
    euler = type(pipeline)(**parts, boundary_ratio=pipeline.config.boundary_ratio)
    (kept,) = generate_latents(euler, PROMPT, **SMALL, keep_steps=[2]).kept
    assert kept.predicted is None and kept.latents.shape == (1, 16, 3, 4, 6)


@pytest.mark.parametrize(("step", "near"), [(0, 1), (4, 3), (-2, 1), (1.5, 2)])
def test_steps_that_cannot_be_kept(pipeline, step, near):
    with pytest.raises(ValueError, match=rf"keep_steps has {step}; steps are 1 to 3, e.g. {near}"):
        generate_latents(pipeline, PROMPT, **SMALL, keep_steps=(1, step))


def test_what_the_text_encoder_read_and_gave(pipeline, made):
    words = pipeline.tokenizer.convert_ids_to_tokens(made.token_ids)
    assert words == [*PROMPT.split(), "</s>"]
    assert made.embedding.shape == (1, 512, 128) and made.embedding.device.type == "cpu"
    assert not made.embedding.is_inference()
    count = len(made.token_ids)
    assert made.embedding[:, count - 1].any() and not made.embedding[:, count:].any()


def test_loading_shows_bars_only_if_asked(capfd):
    load_pipeline("tiny-wan", "cpu", progress=False)
    assert capfd.readouterr().err == ""
    load_pipeline("tiny-wan", "cpu")
    assert "Loading" in capfd.readouterr().err


def test_unknown_words_are_named(pipeline):
    with pytest.warns(PromptWarning, match="does not know: 'gold', 'Zebra', 'zone'"):
        made = generate_latents(pipeline, "a gold Zebra moves LEFT over a gold zone", **SMALL)
    assert made.unknown_words == ("gold", "Zebra", "zone")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negative_prompt": "ugly blue"}, "the negative prompt has words .* 'ugly'"),
        ({"prompt": "red " * 600}, "the prompt has 601 tokens; only the first 512 are read"),
    ],
)
def test_what_is_not_read_is_said(pipeline, options, message):
    with pytest.warns(PromptWarning, match=message):
        generate_latents(pipeline, **{"prompt": PROMPT, **SMALL, "steps": 1, **options})


def test_known_words_give_no_warning(pipeline):
    with warnings.catch_warnings():
        warnings.simplefilter("error", PromptWarning)
        generate_latents(pipeline, "A Red circle bounces", **{**SMALL, "steps": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "the prompt is empty; say what"),
        ({"frames": 32}, "32 pixel frames .* use 29 or 33"),
        ({"frames": 0}, "0 pixel frames"),
        ({"height": 100}, "height is 100; use a multiple of 16, e.g. 96"),
        ({"width": 0}, "width is 0; use a multiple of 16, e.g. 16"),
        ({"steps": 0}, "steps is 0; denoise in 1 step or more"),
        ({"steps": 1001}, "the scheduler has 1000 noise levels, use 1 to 1000"),
        ({"seed": -1}, "seed is -1; use 0 to"),
        ({"guidance": float("nan")}, "guidance is nan; use 0 or more"),
    ],
)
def test_bad_requests(pipeline, change, message):
    with pytest.raises(ValueError, match=message):
        generate_latents(pipeline, **{"prompt": PROMPT, **SMALL, **change})


def test_a_video_that_fits_nowhere(pipeline):
    with pytest.raises(MemoryError, match="400000001 frames of 96x160 do not fit in memory"):
        generate_latents(
            pipeline, PROMPT, **{**SMALL, "frames": 400_000_001, "height": 96, "width": 160}
        )


def test_wrong_types(pipeline):
    with pytest.raises(TypeError, match="pipeline is a str; a WanPipeline"):
        generate_latents("tiny-wan", PROMPT)
    with pytest.raises(TypeError, match="prompt is a list; one text"):
        generate_latents(pipeline, [PROMPT])


def test_a_pipeline_of_ones_own_folder(tmp_path, made):
    shutil.copytree(TINY_WAN, tmp_path / "mine")
    mine = load_pipeline(tmp_path / "mine", "cpu")
    assert torch.equal(generate_latents(mine, PROMPT, **SMALL).latents, made.latents)
    assert pipeline_decoder(mine).name == "mine"


def broken(folder, part):
    (folder / part / "diffusion_pytorch_model.safetensors").write_bytes(b"\x10")


def pickled(folder, part):
    file = folder / part / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), FileNotFoundError, "holds no pipeline"),
        (
            lambda f: (f / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'),
            ValueError,
            "describes 'FluxPipeline'",
        ),
        (lambda f: (f / "model_index.json").write_text("{"), ValueError, "not a JSON"),
        (lambda f: broken(f, "transformer_2"), ValueError, "transformer_2.*damaged or cut short"),
        (lambda f: shutil.rmtree(f / "text_encoder"), FileNotFoundError, "lists text_encoder, but"),
        (lambda f: pickled(f, "vae"), ValueError, "vae holds weights only as a pickle"),
    ],
)
def test_bad_pipeline_folders(tmp_path, spoil, error, message):
    shutil.copytree(TINY_WAN, tmp_path / "mine")
    spoil(tmp_path / "mine")
    with pytest.raises(error, match=message):
        load_pipeline(tmp_path / "mine", "cpu")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("wan9", ValueError, "pipeline source 'wan9' is unknown; use tiny-wan, a folder"),
        ("./nowhere", FileNotFoundError, "pipeline folder './nowhere' does not exist"),
        ("model.ckpt", ValueError, "is a pickle"),
    ],
)
def test_bad_pipeline_sources(source, error, message):
    with pytest.raises(error, match=message):
        load_pipeline(source, "cpu")


# Latents files.


def test_latents_files_carry_what_made_them(tmp_path, made):
    path = save_latents(tmp_path / "l.safetensors", made.latents, made.metadata)
    said = latents_metadata(path)
    assert said["prompt"] == PROMPT and said["seed"] == "0" and said["normalization"] == "undone"
    assert said["shape"] == "1, 16, 3, 4, 6" and said["source"] == "tiny-wan"
    assert torch.equal(load_latents(path, load_decoder("tiny-wan", "cpu")), made.latents)
    assert [p.name for p in tmp_path.iterdir()] == ["l.safetensors"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_latents_files_that_cannot_be_written(tmp_path, made):
    with pytest.raises(ValueError, match=r"end the name in \.safetensors"):
        save_latents(tmp_path / "l.pt", made.latents)
    with pytest.raises(OSError, match=r"'/proc/l\.safetensors' cannot be written"):
        save_latents("/proc/l.safetensors", made.latents)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        save_latents(tmp_path / "no" / "l.safetensors", made.latents)


def test_example_latents_are_the_miniatures(pipeline):
    """What their metadata say makes them again, to rounding; one of four, all have checksums."""
    path = next(path for path in EXAMPLES if path.stem == "two_shapes")
    said = latents_metadata(path)
    high, low = map(float, said["guidance"].split(","))
    again = generate_latents(
        pipeline,
        said["prompt"],
        steps=int(said["steps"]),
        seed=int(said["seed"]),
        guidance=high,
        guidance_2=low,
        progress=False,
    )
    kept = load_latents(path, pipeline_decoder(pipeline))
    torch.testing.assert_close(again.latents, kept, rtol=0, atol=0.05)


def test_four_examples(pipeline):
    assert len(EXAMPLES) == 4
    for path in EXAMPLES:
        said, kept = latents_metadata(path), load_latents(path, pipeline_decoder(pipeline))
        assert said["video"] == "33 frames of 96x160" and kept.shape == (1, 16, 9, 12, 20)
        assert said["source"] == "tiny-wan" and int(said["steps"]) > 1 and said["prompt"]


# Real pictures through every path and sink.


@pytest.mark.parametrize(
    ("path", "chunk"),
    [
        (decode_sync, 1),
        (decode_async, 1),
        (decode_diffusers, 1),
        (decode_sync, 2),
        (decode_async, 2),
    ],
)
def test_the_same_pictures_on_every_path_and_sink(tmp_path, clip, path, chunk):
    decoder, latents, frames = clip
    config = DecodeConfig(chunk_size=chunk)
    raw, png = tmp_path / "v.rgb", tmp_path / "png"
    for sink in (RawSink(raw), PngSink(png), ThrottledSink(NullSink(), 1000.0)):
        path(decoder, latents, sink, fps=16, config=config, progress=False)
    got = np.fromfile(raw, np.uint8).reshape(-1, 48, 80, 3)
    pictures = np.stack([np.asarray(Image.open(file)) for file in sorted(png.glob("*.png"))])
    np.testing.assert_array_equal(got, pictures)
    if chunk == 1:
        np.testing.assert_array_equal(got, frames)
    else:  # convolutions over more frames sum in another order
        assert np.abs(got.astype(int) - frames).max() <= 1
    assert frames.std() > 10  # a picture, not a flat field


def test_mp4_is_near_the_raw_frames(tmp_path, clip):
    decoder, kept = clip[0], MemorySink()
    latents = load_latents(EXAMPLES[1], decoder)[:, :, :3]
    decode_sync(decoder, latents, kept, fps=16, progress=False)
    frames = kept.frames
    decode_async(decoder, latents, Mp4Sink(tmp_path / "v.mp4"), fps="24000/1001", progress=False)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
        assert str(stream.average_rate) == "24000/1001"
    assert decoded.shape == frames.shape
    assert psnr_db(frames, decoded).clip >= 35


# The command.


def test_generate_writes_video_and_latents(tmp_path, capsys):
    out, kept = tmp_path / "v.mp4", tmp_path / "v.safetensors"
    size = ["--frames", "9", "--height", "32", "--width", "48", "--steps", "2", "--device", "cpu"]
    arguments = ["generate", "--prompt", "a gold circle bounces", "--out", str(out), *size]
    assert main([*arguments, "--save-latents", str(kept)]) == 0
    printed = capsys.readouterr()
    assert "does not know: 'gold'" in printed.err
    assert "denoise, high-noise expert" in printed.out and "decode and write" in printed.out
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9
    assert latents_metadata(kept)["prompt"] == "a gold circle bounces"
    assert main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["unknown_words"] == ["gold"] and len(answer["stages"]) == 3
    assert answer["video"] == str(out) and answer["size"] == "9 frames of 32x48"
    assert (answer["seed"], answer["steps"], answer["latents"]) == (0, 2, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "a", "--steps", "0"], "steps is 0"),
        (["--prompt", "a", "--model", "wan9"], "pipeline source 'wan9' is unknown"),
        (["--prompt", "a", "--frames", "8"], "use 5 or 9"),
    ],
)
def test_generate_refuses(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--device", "cpu", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "v.avi"], "--out 'v.avi': end the name in .mp4"),
        (["--out", "no/v.mp4"], "--out 'no/v.mp4': there is no folder 'no'; create it"),
        (["--out", "folder.mp4"], "--out 'folder.mp4' is a folder; give a file name"),
        (["--out", "/proc/v.mp4"], "--out '/proc/v.mp4' cannot be written (No such file"),
        (["--out", "v" * 250 + ".mp4"], "cannot be written (File name too long)"),
        (["--out", "locked.mp4"], "--out 'locked.mp4' is there and write-protected"),
        (["--save-latents", "l.pt"], "--save-latents 'l.pt': end the name in .safetensors"),
        (["--save-latents", "/proc/l.safetensors"], "/proc/l.safetensors' cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_model_is_loaded(
    capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "locked.mp4").touch()
    monkeypatch.setattr("os.access", lambda path, mode: path.name != "locked.mp4")
    for name in ("load_pipeline", "load_decoder"):
        monkeypatch.setattr(f"vdkit.models.loading.{name}", lambda *_: pytest.fail("loaded"))
    assert main(["generate", "--prompt", "a", *arguments]) == 2
    assert message in capsys.readouterr().err
    if "--out" in arguments:
        assert main(["decode", str(EXAMPLES[0]), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 2


def test_what_the_sink_refuses_is_refused_before_denoising(capsys, tmp_path, monkeypatch):
    def refuse(sink, info):
        raise ValueError(f"no encoder for {info.frames} frames of {info.height}x{info.width}")

    monkeypatch.setattr(Mp4Sink, "open", refuse)
    monkeypatch.setattr("vdkit.models.pipeline.generate_latents", lambda *_: pytest.fail("began"))
    out = ["--out", str(tmp_path / "v.mp4"), "--device", "cpu"]
    assert main(["generate", "--prompt", "a", *out]) == 2
    assert "no encoder for 33 frames of 96x160" in capsys.readouterr().err


def pictures(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("fault", ["write", "interrupt", "latents", "folder", "both folders"])
def test_latents_outlive_a_video_that_cannot_be_written(tmp_path, capsys, monkeypatch, fault):
    """They are kept, an earlier video too, and the command that is named makes the video."""
    size = ["--frames", "5", "--height", "32", "--width", "48", "--steps", "1", "--device", "cpu"]
    home, other = tmp_path / "-my videos", tmp_path / "temp"
    home.mkdir()
    other.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(other))
    out, asked = home / "v.mp4", home / "asked.safetensors"
    arguments = ["generate", "--prompt", PROMPT, "--fps", "24000/1001", *size, "--out", str(out)]
    if fault in ("latents", "interrupt"):
        arguments += ["--save-latents", str(asked)]
    out.write_text("earlier")

    def broken(*_):
        raise KeyboardInterrupt if fault == "interrupt" else OSError(28, "No space left on device")

    def full(path, *rest):
        if (
            (fault, path) == ("latents", asked)
            or fault == "both folders"
            or (fault, path.parent) == ("folder", home)
        ):
            broken()
        return save_latents(path, *rest)

    with monkeypatch.context() as during:
        if fault != "latents":
            during.setattr(Mp4Sink, "write", broken)
        during.setattr("vdkit.models.latents.save_latents", full)
        assert main(arguments) == (130 if fault == "interrupt" else 2)
    said = capsys.readouterr().err
    expected = "vdkit: interrupted" if fault == "interrupt" else "No space left on device"
    assert expected in "".join(said.splitlines()[-2:]) and out.read_text() == "earlier"
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path != out]
    if fault == "both folders":
        assert f"the latents are lost, {other} takes no file either" in said and not kept
        return
    (kept,) = kept
    assert kept.parent == (other if fault == "folder" else home)
    assert (kept == asked) == (fault == "interrupt")
    assert latents_metadata(kept)["prompt"] == PROMPT
    (line,) = (line for line in said.splitlines() if line.startswith("  vdkit decode "))
    assert str(kept) in shlex.split(line)
    assert main(shlex.split(line)[1:]) == 0
    assert f"Video: {out}, 5 frames of 32x48" in capsys.readouterr().out
    decoded = pictures(out)
    assert main(arguments) == 0
    np.testing.assert_array_equal(pictures(out), decoded)


def test_normalization_is_not_undone_twice(capsys):
    arguments = ["bench", "--latents", str(EXAMPLES[0]), "--denormalize", "--device", "cpu"]
    assert main(arguments) == 2
    assert "normalization is undone already; leave out --denormalize" in capsys.readouterr().err


def test_what_readme_says_of_memory_is_what_the_parameters_take():
    """Of Wan2.2-T2V-A14B in bfloat16: diffusers' defaults, and UMT5-XXL's encoder."""
    shape = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    config = UMT5Config(vocab_size=256384, feed_forward_proj="gated-gelu", **shape)
    with torch.device("meta"):
        parts = WanTransformer3DModel(), UMT5EncoderModel(config), AutoencoderKLWan()
    sizes = [2 * sum(one.numel() for one in part.parameters()) / 1e9 for part in parts]
    sizes[0] *= 2
    words = ("both transformers", "the text encoder", "the VAE")
    readme = " ".join((Path(__file__).parents[2] / "README.md").read_text().split())
    for word, size in zip(words, sizes, strict=True):
        assert f"{word} ({size:.1f} GB)" in readme
    assert f"96 GB hold {words[0]}" in readme and f"leaves {96 - sum(sizes):.0f} GB" in readme
