"""Images and audio from the command line: latents, every command, what is refused and how."""

import json
import wave

import pytest
import torch
from PIL import Image

from tests.helpers import NearestAudio, NearestDecoder, NearestImages
from tests.zoo import CONFIGS
from vdkit import load_decoder, load_latents, read_recording, save_latents
from vdkit.__main__ import main
from vdkit.present import significant

GIVEN = {  # decoder's class, latents, their shape, sink
    "images": ("AutoencoderKL", "random:4x16x24", (4, 4, 8, 12), "png"),
    "audio": ("MimiModel", "random:0.01s", (1, 16, 15), "wav"),
}


@pytest.fixture(scope="module", params=GIVEN)
def saved(request, tmp_path_factory):
    """(medium, folder of a thin decoder, its latents, kind of sink)."""
    kind, latents, shape, sink = GIVEN[request.param]
    home = tmp_path_factory.mktemp("models") / request.param
    load_decoder({"_class_name": kind, **CONFIGS[kind]}, "cpu").model.save_pretrained(home)
    assert load_latents(latents, load_decoder(home, "cpu")).shape == shape
    return request.param, home, latents, sink


def ran(capsys, *arguments, status=0):
    """The output of a command."""
    assert main([*map(str, arguments)]) == status
    printed = capsys.readouterr()
    assert bool(printed.err.strip()) == bool(status), printed.err
    return printed.err if status else printed.out


def options(saved, out, runs=2):
    medium, home, latents, sink = saved
    return (
        "--decoder", home, "--latents", latents, "--sink", f"{sink}:{out}", "--device", "cpu",
        "--out", out, "--label", medium, "--runs", runs,
    )  # fmt: skip


def folder_of(printed):
    return json.loads(printed.splitlines()[-1])["folder"]


def test_bench_show_report_and_compare(saved, tmp_path, capsys):
    medium, rate = saved[0], {"images": "images / s", "audio": "RTF"}[saved[0]]
    a, b = (
        folder_of(ran(capsys, "bench", *options(saved, tmp_path), "--chunk", 2)) for _ in range(2)
    )
    recording = read_recording(a)
    assert recording.workload.medium == medium and recording.frames_identical
    assert recording.workload.latents == saved[2] and recording.workload.latent_frames in (4, 15)
    shown = ran(capsys, "show", a)
    assert rate in shown and "video" not in shown
    ran(capsys, "show", a, "--timeline", tmp_path / "t.png")
    ran(capsys, "report", a, b, "--out", tmp_path / "r.html")
    assert "video" not in ran(capsys, "compare", a, b)
    page = (tmp_path / "r.html").read_text()
    assert rate in page and " video" not in page.partition("<body")[2]
    assert rate in ran(capsys, "results", tmp_path)


def test_profile(saved, tmp_path, capsys):
    printed = ran(capsys, "profile", *options(saved, tmp_path, 1))
    whole = {"images": "batch", "audio": "clip"}[saved[0]]
    assert f"diffusers (whole {whole})" in printed and "video" not in printed
    assert list(tmp_path.glob("*/trace_async*.json.gz"))


def test_sweep_and_recommend(saved, tmp_path, capsys):
    grid = ("--chunks", "1,2,4", "--ring-slots", "1,2", "--speeds", "full,50")
    printed = ran(capsys, "sweep", *options(saved, tmp_path, 1), *grid)
    folder = folder_of(printed)
    predicted = json.loads(printed.splitlines()[-1])["predicted"]
    assert predicted == 12, "all but those of the fit"
    assert f"{'Images' if saved[0] == 'images' else 'Samples'} are identical" in printed
    longer = {"images": 9, "audio": 800}[saved[0]]
    asked = ("--frames", longer, "--usd-per-hour", 3.36, "--chunks", "1,3")
    printed = ran(capsys, "recommend", folder, *asked)
    advice = json.loads(printed.splitlines()[-1])
    assert advice["chunk_size"] in (1, 3) and advice["latency_s"] > 0
    assert ("images / s" if saved[0] == "images" else "USD / audio h") in printed
    assert ("Price" in printed) == (saved[0] == "audio")
    over = ("--chunks", 99)
    refused = ran(capsys, "recommend", folder, *over, status=2)
    count = {"images": "the batch has 4 latent images", "audio": "the clip has 15 latent frames"}
    assert f"{count[saved[0]]}, so use 1 to" in refused
    assert "--frames is 0" in ran(capsys, "recommend", folder, "--frames", 0, status=2)
    slow = ran(capsys, "recommend", folder, "--ttff-s", 1e-9, status=2)
    assert f"time to the first {saved[0].removesuffix('s').replace('audio', 'sample')}" in slow


def test_probe(saved, capsys):
    """Whether promises are kept is for test_probe: this AutoencoderKL leaves [-1, 1]."""
    arguments = ["probe", str(saved[1]), "--device", "cpu", "--latents", saved[2], "--json"]
    assert main(arguments) in (0, 1)
    assert json.loads(capsys.readouterr().out)["medium"] == saved[0]


# --- decode ---------------------------------------------------------------------------------------


def test_decode_writes_what_the_decoder_makes(saved, tmp_path, capsys, monkeypatch):
    medium, home, spec, _ = saved
    decoder = load_decoder(home, "cpu")
    file = save_latents(tmp_path / "l.safetensors", load_latents(spec, decoder))
    decode = ("decode", file, "--decoder", home, "--device", "cpu")
    monkeypatch.chdir(tmp_path)
    printed = ran(capsys, *decode)
    if medium == "images":
        assert printed.startswith("Images: clip, 4 images of 16x24 in ")
        pictures = sorted((tmp_path / "clip").iterdir())
        assert len(pictures) == 4 and Image.open(pictures[0]).size == (24, 16)
    else:
        assert printed.startswith("Audio: clip.wav, 0.01 s of audio in 1 channel in ")
        with wave.open("clip.wav") as found:
            kept = (found.getnframes(), found.getframerate(), found.getnchannels())
        assert kept == (15 * decoder.temporal_factor, decoder.sample_rate, 1)
        assert "Audio: x.flac" in ran(capsys, *decode, "--out", "x.flac")
    wrong = {"images": "a.wav", "audio": "a.mp4"}[medium]
    good = {"images": "nothing, for a folder of PNG", "audio": ".wav or .flac"}[medium]
    refused = ran(capsys, *decode, "--out", wrong, status=2)
    assert f"makes {medium}; end the name in {good}" in refused
    refused = ran(capsys, *decode, "--out", "a.x", status=2)
    assert "end the name in .mp4 of video, .wav or .flac of audio, or in nothing: a" in refused


def test_ones_own_decoder_by_module_and_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_of_media.py").write_text(
        "from tests.helpers import NearestAudio, NearestImages as Pictures\nNO = 3\n"
    )
    mine = ("--decoder", "mine_of_media:Pictures")
    asked = (*mine, "--latents", "random:4x16x24", "--sink", "null", "--runs", 2, "--out", tmp_path)
    printed = ran(capsys, "bench", *asked)
    made = read_recording(folder_of(printed))
    assert made.workload.medium == "images" and made.frames_identical
    row = next(line for line in printed.splitlines() if line.startswith("| async"))
    mean_s = made.arms["async"].latency.mean
    assert f" {significant(4 / mean_s)} |" in row, (
        "images over the mean latency that stands beside them"
    )
    assert " 0.0046 |" in row, "four pictures of 16x24 are copied"
    assert "NearestImages" not in ran(capsys, "sweep", *asked, "--chunks", "1,2", "--modes", "sync")
    ran(
        capsys, "decode", "random:0.1s", "--decoder", "mine_of_media:NearestAudio", "--out", "a.wav"
    )
    for option, value in (
        ("variant", "fast"),
        ("device", "cpu"),
        ("dtype", "float16"),
        ("halo", 3),
    ):
        refused = ran(capsys, "bench", *asked, f"--{option}", value, status=2)
        assert f"decoder 'mine_of_media:Pictures' is made as it is; leave out --{option}" in refused
    for name, words in (("NO", "is of type int; give MODULE:NAME"), ("None_", "give MODULE:NAME")):
        given = ("bench", "--decoder", f"mine_of_media:{name}", "--out", tmp_path)
        assert words in ran(capsys, *given, status=2)
    assert "or MODULE:NAME" in ran(capsys, "bench", "--decoder", "nowhere", status=2).replace(
        "MODULE:NAME of your own", "or MODULE:NAME"
    )


def test_video_as_a_folder_of_pictures(tmp_path, capsys):
    out = tmp_path / "frames"
    ran(capsys, "decode", "random:9x16x16", "--device", "cpu", "--out", out)
    assert len(list(out.iterdir())) == 9


def test_without_latents_they_suit_the_decoder(saved, tmp_path, capsys):
    medium, home, _, _ = saved
    quick = ("--decoder", home, "--device", "cpu", "--runs", 1, "--warmup", 0, "--modes", "sync")
    quick += ("--chunk", {"images": 1, "audio": 200}[medium])  # in small ones 10 s take a minute
    folder = folder_of(ran(capsys, "bench", *quick, "--sink", "null", "--out", tmp_path))
    work = read_recording(folder).workload
    size = {"images": (4, 256, 256), "audio": (240000, 1, 1)}[medium]
    assert (work.frames, work.height, work.width) == size
    assert work.latents == {"images": "random:4x256x256", "audio": "random:10s"}[medium]


def test_a_chunk_beyond_what_there_is(saved, tmp_path, capsys):
    refused = ran(capsys, "bench", *options(saved, tmp_path), "--chunk", 17, status=2)
    assert "so use 1 to " in refused and "first is a chunk" not in refused
    refused = ran(capsys, "bench", *options(saved, tmp_path), "--halo", 2, status=2)
    assert "halo is 2, but " in refused and " has none; leave it out" in refused


def test_a_halo_longer_than_the_video_is_refused(tmp_path, capsys):
    config = {"_class_name": "AutoencoderKLLTXVideo", **CONFIGS["AutoencoderKLLTXVideo"]}
    load_decoder(config, "cpu").model.save_pretrained(tmp_path / "ltx")
    given = ("--decoder", tmp_path / "ltx", "--latents", "random:33x64x64", "--device", "cpu")
    asked = (*given, "--sink", "null", "--out", tmp_path, "--runs", 1)
    refused = ran(capsys, "bench", *asked, "--halo", 9, status=2)
    assert "halo is 9, but there are 5 latents: every chunk would decode all" in refused
    assert not list(tmp_path.glob("*ltx*/record.json"))
    record = read_recording(folder_of(ran(capsys, "bench", *asked, "--halo", 4)))
    assert any("by a halo of 4 latents" in note for note in record.workload.notes)


# --- latents --------------------------------------------------------------------------------------


class Short(NearestAudio):
    """Gives 5 samples less than its factor says."""

    def plan(self, latents, chunk_size):
        count = latents.shape[2]
        return [(0, count, 6 * count - 5)]


class Spectral(NearestAudio):
    features = 3


@pytest.mark.parametrize(
    ("make", "spec", "shape"),
    [
        (NearestImages, "random:8x1024x64", (8, 4, 256, 8)),
        (NearestImages, "random:1x4x8", (1, 4, 1, 1)),
        (NearestAudio, "random:60s", (1, 4, 240000)),
        (NearestAudio, "random:0.0011s", (1, 4, 5)),  # 26.4 samples
        (NearestAudio, "random:.001s", (1, 4, 4)),  # 24
        (NearestAudio, "random:1.s", (1, 4, 4000)),
        (Short, "random:.001s", (1, 4, 5)),  # 4 would become 19
        (Spectral, "random:.001s", (1, 4, 4, 3)),
    ],
)
def test_random_latents(make, spec, shape):
    latents = load_latents(spec, make(), seed=3)
    assert latents.shape == shape and latents.dtype is torch.float32
    assert torch.equal(latents, load_latents(spec, make(), seed=3))
    assert not torch.equal(latents, load_latents(spec, make(), seed=4))


@pytest.mark.parametrize(
    ("make", "spec", "message"),
    [
        (NearestImages, "random:0x8x8", "0 images; use 1 or more"),
        (NearestImages, "random:2x6x8", "height 6 is not a multiple of 4, use 8"),
        (NearestImages, "random:2x8x12", "width 12 is not a multiple of 8, use"),
        (NearestImages, "random:9s", "'nearest-images' makes images; write random:IMAGESxHxW in p"),
        (NearestImages, "random:8x8", "8x8': write random:IMAGESxHxW in pixels, e.g. random:4x256"),
        (NearestAudio, "random:0s", "there is nothing to decode; use more than 0 s"),
        (NearestAudio, "random:0.00s", "use more than 0 s"),
        (NearestAudio, "random:-1s", "write random:SECONDSs, e.g. random:10s"),
        (NearestAudio, "random:1e3s", "write random:SECONDSs"),
        (NearestAudio, "random:s", "write random:SECONDSs"),
        (NearestAudio, "random:9x8x8", "'nearest-audio' makes audio; write random:SECONDSs"),
        (NearestAudio, "random:99999999999s", "do not fit in memory"),
        (NearestAudio, f"random:{10**30}s", "do not fit in memory"),
        (NearestDecoder, "random:9s", "'nearest' makes video; write random:FRAMESxHxW in pixels"),
    ],
)
def test_impossible_sizes(make, spec, message):
    with pytest.raises(ValueError, match=message):
        load_latents(spec, make())


def test_seed_and_features_have_to_be_numbers_that_can_be():
    with pytest.raises(ValueError, match="seed is -1"):
        load_latents("random:1s", NearestAudio(), seed=-1)

    class Odd(NearestAudio):
        features = -1

    with pytest.raises(ValueError, match="features is -1; use whole numbers"):
        load_latents("random:1s", Odd())


IMAGES, AUDIO = torch.randn(2, 4, 5, 6), torch.randn(1, 4, 7)
FILES = [
    (NearestImages, IMAGES, [AUDIO, IMAGES[:, :3], IMAGES[None]]),
    (NearestImages, IMAGES[0], [AUDIO]),
    (NearestAudio, AUDIO, [IMAGES, torch.randn(2, 4, 7)]),
    (NearestAudio, AUDIO[0], [IMAGES, torch.randn(7, 4)]),
    (NearestAudio, AUDIO[..., None], [IMAGES, torch.randn(3, 7)]),
]


@pytest.mark.parametrize("case", FILES)
def test_files(case, tmp_path):
    from safetensors.torch import save_file

    make, right, others = case
    path = save_latents(tmp_path / "l.safetensors", right)
    assert torch.equal(load_latents(path, make()), right)
    others = {f"other {i}": one.clone() for i, one in enumerate(others)}
    save_file({"right": right.contiguous(), **others}, path)
    with pytest.warns(UserWarning, match="taking 'right' of"):
        assert torch.equal(load_latents(path, make()), right)
    save_file(others | {"more": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="no tensor 'latents', and 0 that fit 4 channels"):
        load_latents(path, make())
