"""The full-size decoders on CUDA: every path the same bytes in half precision."""

import pytest

from tests.helpers import Collect, latents_for
from vdkit import DecodeConfig, decode_async, decode_diffusers, decode_sync, load_decoder


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("source", ["wan2.1", "wan2.2"])
def test_paths_agree_at_full_size(source, dtype):
    decoder = load_decoder(source, "cuda", dtype)
    latents = latents_for(decoder, frames=5, height=480 // decoder.spatial_factor // 2, width=26)
    hashes = {}
    for path in (decode_diffusers, decode_sync, decode_async):
        sink = Collect()
        path(decoder, latents, sink, config=DecodeConfig(slots=3), progress=False)
        assert sink.frames == 17
        hashes[path.__name__] = sink.sha256
    assert len(set(hashes.values())) == 1, hashes
