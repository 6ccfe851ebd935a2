"""Images, audio, video with sound, and public decoders again, on CUDA."""

import numpy as np
import pytest
import torch

from tests.cpu.test_av import (  # noqa: F401
    test_both_states_are_ended_whatever_happens,
    test_frames_and_samples_are_those_of_each_decoder,
    test_the_whole_decode_and_its_numpy_give_the_same_rows,
)
from tests.cpu.test_media import (  # noqa: F401
    test_every_path_and_primitive_gives_the_same_bytes,
)
from tests.helpers import Collect
from tests.zoo import CONFIGS, latents_of
from vdkit import DecodeConfig, decode_async, decode_diffusers, decode_sync, load_decoder


@pytest.mark.parametrize("name", CONFIGS)
def test_public_decoders_give_the_same_on_every_path(name, device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    decoder = load_decoder({"_class_name": name, **CONFIGS[name]}, device, "float32")
    latents, config = latents_of(decoder, 9), DecodeConfig(2, 2)
    made = {}
    for path in (decode_sync, decode_async, decode_diffusers):
        path(decoder, latents, sink := Collect(), config=config, progress=False)
        made[path] = np.concatenate(sink.chunks).astype(int)
    assert np.array_equal(made[decode_sync], made[decode_async])
    apart = np.abs(made[decode_sync] - made[decode_diffusers])
    if decoder.exact:
        assert apart.max() <= (8 if decoder.medium == "audio" else 1)
    else:
        assert apart.shape == made[decode_sync].shape and "approximate" in decoder.notes[-1]
