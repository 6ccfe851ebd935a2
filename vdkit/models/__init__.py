"""Models, and the ways to run one by name. No torch: options list them before it is loaded."""

VARIANTS = {
    "diffusers": "wan.WanDecoder",
    "channels_last": "wan.ChannelsLastWanDecoder",
    "compiled": "wan.CompiledWanDecoder",
    "fast": "fast.checked.CheckedFastDecoder",
}
"""Ways to run the same weights, by the name that options, records and tables use, and what makes
each of a VAE and the decoder's name. A new one is one more entry."""
BY_CHUNK_ONLY = frozenset({"compiled", "fast"})
"""Those that cannot decode a whole video at once, as mode diffusers does."""
