"""Decoders: the same frames as diffusers, and every way to load one."""

import functools
import hashlib
import http.server
import json
import pickle
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from tests.cpu.test_wan_fast import random_vae
from tests.helpers import Collect, latents_for
from vdkit import decode_async, load_decoder, load_pipeline
from vdkit.decode import frames_to_uint8
from vdkit.decode.chunks import plan_chunks
from vdkit.models.wan import WanDecoder

EVERY = (1, 2, 3, 5, 9)
CASES = {
    "tiny-wan": ([(3, 5), (1, 1)], EVERY),
    "wan2.1": ([(2, 2)], [3]),  # full size: minutes for more
    "wan2.2": ([(1, 3)], [2]),
    "narrow wan2.2": ([(2, 3)], EVERY),
    "folder": ([(5, 4)], EVERY),
}
"""Latent sizes and numbers of latent frames that a decoder is tried with."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A VAE saved as diffusers does, in its own folder and as part of a pipeline."""
    home = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        vae = AutoencoderKLWan(base_dim=8, num_res_blocks=1)
    vae.save_pretrained(home / "vae")
    return home


@pytest.fixture(scope="module", params=CASES)
def decoder(request, folder):
    if request.param == "narrow wan2.2":
        return WanDecoder(random_vae(48), request.param), *CASES[request.param]
    if request.param == "folder":
        return load_decoder(folder, "cpu", "float32"), *CASES[request.param]
    return published(request.param), *CASES[request.param]


@functools.cache
def published(name):
    """A decoder of full size, or the miniature, made once: 705 million weights take a while."""
    return load_decoder(name, "cpu", "float32")


@pytest.fixture(scope="module", autouse=True)
def let_go():
    yield
    published.cache_clear()


def streamed(decoder, latents, chunk_size):
    state = decoder.begin(latents)
    chunks = plan_chunks(latents.shape[2], chunk_size)
    return [decoder.decode_chunk(state, c.latent_start, c.latent_stop) for c in chunks]


def test_frames_equal_diffusers(decoder):
    decoder, sizes, counts = decoder
    with torch.inference_mode():
        for height, width in sizes:
            for count in counts:
                latents = latents_for(decoder, count, height, width, seed=count)
                whole = decoder.vae.decode(latents).sample
                levels = frames_to_uint8(whole).int()
                assert whole.std() > 0.05, "a flat picture would compare equal for the wrong reason"
                for chunk_size in range(1, min(4, max(1, count - 1)) + 1):
                    case = (decoder.name, height, width, count, chunk_size)
                    frames = torch.cat(streamed(decoder, latents, chunk_size), 2)
                    if chunk_size == 1:
                        assert torch.equal(frames, whole), case
                    off = (frames_to_uint8(frames).int() - levels).abs().max().item()
                    assert off <= 1, (*case, off)


def test_chunks_must_come_in_order():
    decoder = load_decoder("tiny-wan", "cpu")
    state = decoder.begin(latents_for(decoder, 4, 2, 2))
    for start, stop in ((1, 2), (0, 2), (0, 0)):
        with pytest.raises(ValueError, match="cannot follow latent frame 0 of 4"):
            decoder.decode_chunk(state, start, stop)
    with torch.inference_mode():
        decoder.decode_chunk(state, 0, 1)
    for start, stop in ((0, 1), (2, 3), (1, 5)):
        with pytest.raises(ValueError, match="cannot follow latent frame 1 of 4"):
            decoder.decode_chunk(state, start, stop)


def test_denormalize_is_the_pipelines_arithmetic():
    decoder = published("wan2.2")
    latents = latents_for(decoder, 2, 2, 3)
    config = decoder.vae.config
    assert len(config.latents_mean) == len(config.latents_std) == 48
    mean = torch.tensor(config.latents_mean).view(1, 48, 1, 1, 1)
    std = torch.tensor(config.latents_std).view(1, 48, 1, 1, 1)
    ours = decoder.denormalize(latents)
    torch.testing.assert_close(ours, latents * std + mean)
    assert torch.equal(ours, latents / (1.0 / std) + mean)
    assert torch.equal(decoder.denormalize(latents[0]), ours[0])


def test_architectures_are_the_published_ones():
    wan21, wan22 = map(published, ("wan2.1", "wan2.2"))
    millions = [sum(p.numel() for p in d.vae.parameters()) / 1e6 for d in (wan21, wan22)]
    assert millions == pytest.approx([126.89, 704.69], abs=0.01)  # as Wan's reports have them
    assert (wan21.latent_channels, wan21.spatial_factor, wan21.temporal_factor) == (16, 8, 4)
    assert (wan22.latent_channels, wan22.spatial_factor, wan22.temporal_factor) == (48, 16, 4)


def test_random_weights_are_seeded_and_leave_the_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = load_decoder("tiny-wan", "cpu")
    assert torch.equal(torch.rand(3), expected)
    assert first.weights_sha256() == load_decoder("tiny-wan", "cpu").weights_sha256()
    assert first.weights_sha256() != load_decoder("tiny-wan", "cpu", "float16").weights_sha256()


def test_folder_with_and_without_vae(folder):
    outer, inner = load_decoder(folder, "cpu"), load_decoder(str(folder / "vae"), "cpu")
    assert outer.weights_sha256() == inner.weights_sha256()
    saved = AutoencoderKLWan.from_pretrained(folder / "vae")
    latents = latents_for(outer, 3)
    with torch.inference_mode():
        frames = torch.cat(streamed(outer, latents, 1), 2)
        assert torch.equal(frames, saved.decode(latents).sample)
    sink = Collect()
    decode_async(outer, latents, sink, progress=False)
    assert sink.frames == 9
    assert load_decoder(folder, "cpu", "bfloat16").dtype is torch.bfloat16


def damaged(folder, tmp_path):
    home = tmp_path / "model"
    shutil.copytree(folder / "vae", home)
    return home, home / "diffusion_pytorch_model.safetensors"


def test_truncated_safetensors(folder, tmp_path):
    home, weights = damaged(folder, tmp_path)
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged or cut short"):
        load_decoder(home, "cpu")


def test_weights_of_another_model(folder, tmp_path):
    home, _ = damaged(folder, tmp_path)
    config = json.loads((home / "config.json").read_text()) | {"num_res_blocks": 2}
    (home / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not fit its configuration"):
        load_decoder(home, "cpu")


def test_pickles_are_refused(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('a pickle was read')",))

    home, weights = damaged(folder, tmp_path)
    weights.unlink()
    pickled = home / "diffusion_pytorch_model.bin"
    pickled.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"only as a pickle .* refused"):
        load_decoder(home, "cpu")
    with pytest.raises(ValueError, match="is a pickle, which can run code"):
        load_decoder(pickled, "cpu")


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("wan3", ValueError, "'wan3' is unknown; use wan2.1, wan2.2, .*tiny-wan, a folder"),
        ("", ValueError, "unknown"),
        ("../somewhere/else", FileNotFoundError, "'../somewhere/else' does not exist"),
    ],
)
def test_unknown_sources(source, kind, message):
    with pytest.raises(kind, match=message):
        load_decoder(source, "cpu")


class Hub(http.server.SimpleHTTPRequestHandler):
    """The files of ``folder`` as the repository someone/vae, by the few words of the hub."""

    folder, asked = Path(), 0

    def do_GET(self):
        type(self).asked += 1
        asked = re.match(r"/someone/vae/resolve/\w+/(.*)", self.path)
        file = self.folder / asked[1] if asked else None
        content = file.read_bytes() if file and file.is_file() else b""
        self.send_response(200 if content else 404)
        self.send_header("X-Error-Code", "EntryNotFound" if asked else "RepoNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_): ...


def test_the_hub_and_its_cache(folder, tmp_path, monkeypatch):
    """A repository is loaded; without a network again from the cache, or refused at once."""
    Hub.folder = folder
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"a retry in {seconds} s"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        loaded = load_decoder("someone/vae", "cpu").weights_sha256()
        with pytest.raises(FileNotFoundError, match="the hub gave no decoder: someone/none is not"):
            load_decoder("someone/none", "cpu")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert loaded == load_decoder(folder, "cpu").weights_sha256() and Hub.asked > 0
    assert load_decoder("someone/vae", "cpu").weights_sha256() == loaded
    for load, what in ((load_decoder, "decoder"), (load_pipeline, "Wan pipeline")):
        with pytest.raises(
            FileNotFoundError,
            match=rf"'someone/none' is no local folder, and the hub gave no {what}: {address} "
            rf"cannot be reached \(.*refused.*{tmp_path} does not hold it whole; give a folder",
        ):
            load("someone/none", "cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_decoder("someone/vae", "cpu").weights_sha256() == loaded
    with pytest.raises(FileNotFoundError, match="offline mode is enabled"):
        load_decoder("someone/none", "cpu")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"), (b"", "is empty")],
)
def test_weights_that_are_another_kind_of_file(folder, tmp_path, content, words):
    home, weights = damaged(folder, tmp_path)
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{weights.name} {words}"):
        load_decoder(home, "cpu")


def test_folders_that_hold_no_vae(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"neither config.json nor vae/config.json"):
        load_decoder(tmp_path, "cpu")
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(ValueError, match="describes 'VQModel'; vdkit decodes AutoencoderKLWan, "):
        load_decoder(tmp_path, "cpu")
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(ValueError, match="not a JSON configuration"):
        load_decoder(tmp_path, "cpu")
    shutil.copy(folder / "vae" / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no \*.safetensors"):
        load_decoder(tmp_path, "cpu")


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:99", ""])
def test_bad_devices(device):
    with pytest.raises(ValueError, match="device"):
        load_decoder("tiny-wan", device)


@pytest.mark.parametrize("dtype", ["float64", "int8", "half"])
def test_bad_dtypes(dtype):
    with pytest.raises(ValueError, match=r"dtype .* use float16, bfloat16, float32"):
        load_decoder("tiny-wan", "cpu", dtype)
