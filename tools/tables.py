"""The fast decoder cut as for another GPU, to be run on the one at hand.

``vdkit bench --decoder tools.tables:of_12_0 --latents clips:161x480x832 --modes compute_only``
records what those kernels take here, which is not what they take there.
"""

from __future__ import annotations

from vdkit.models.fast.checked import CheckedFastDecoder
from vdkit.models.fast.tiles import Gpu
from vdkit.models.loading import load_decoder


def _cut_for(name: str, capability: tuple[int, int], shared_bytes: int) -> CheckedFastDecoder:
    stock = load_decoder("wan2.1")
    made = CheckedFastDecoder(stock.vae, f"wan2.1, kernels cut for {name}", "off")
    if made.kernels is None:
        raise ValueError(f"the kernels do not run here: {made.notes[0]}")
    made.kernels.choices.gpu = Gpu(name, capability, shared_bytes)
    return made


def of_12_0() -> CheckedFastDecoder:
    """Of an RTX PRO 6000 Blackwell."""
    return _cut_for("compute capability 12.0", (12, 0), 101376)


def of_8_6() -> CheckedFastDecoder:
    """Of an A10G: no tensor memory accelerator. The faster of it and the exact variants runs."""
    return _cut_for("compute capability 8.6", (8, 6), 101376)
