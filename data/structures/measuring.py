"""How costs are measured: random weights at any width, operations, time in turns, peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import sqrt
from statistics import mean, variance
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from data.structures.recipe import STRUCTURES
from data.structures.record import Row
from vdkit.record.stats import mean_half_width

META = torch.device("meta")
Value = TypeVar("Value")


def filled(model: Any, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """A model made on meta, on ``device``: its weights drawn so that values keep their size."""
    model = nn.Module.to(model, dtype).to_empty(device=device).eval().requires_grad_(False)
    if device == META:
        return model
    generator = torch.Generator(device).manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and not name.endswith("gamma"):
            weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)
        else:
            weight.fill_(not name.endswith("bias"))
    return model


def full_size(name: str, device: torch.device, dtype: torch.dtype, times: int = 12) -> Any:
    """A structure whose widths are ``times`` the miniature's, 96 for 8; latents stay what they are.

    ``features``, what the encoder's heads of the own classes share, stay too: latents are made of
    them.
    """
    structure = STRUCTURES[name]
    with META:
        config = structure.make(**structure.config).config
        widths = {key: config[key] for key in config if key.endswith("_dim") and key != "z_dim"}
        wide = {key: times * width for key, width in widths.items()}
        return filled(structure.make(**structure.config | wide), device, dtype)


def flop_by_kind(call: Callable[[], Any]) -> dict[str, int]:
    """Operations, a multiplication and an addition being two: ``all`` and ``attention`` of them.

    By torch's counter: convolutions, products of matrices, attention; norms, activations,
    interpolation and sums not.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    found = {str(kernel): flop for kernel, flop in counter.get_flop_counts()["Global"].items()}
    # on meta attention is taken apart, into products of batches, which nothing else here has
    of_attention = (flop for name, flop in found.items() if "bmm" in name or "attention" in name)
    return {"all": sum(found.values()), "attention": sum(of_attention)}


def wait(device: torch.device) -> None:
    """Until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(prepare: Callable[[], Callable[[], Any]], device: torch.device) -> float:
    """Of what ``prepare`` gives, by the clock, the device idle at both ends."""
    call = prepare()
    wait(device)
    begin = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - begin


def in_turns(arms: dict[str, Callable[[], Value]], rounds: int) -> dict[str, list[Value]]:
    """Each arm's ``rounds`` values: a round to warm up, then there and back, A B B A."""
    found: dict[str, list[Value]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name in list(arms)[:: -1 if number % 2 else 1]:
            value = arms[name]()
            found[name] += [value] if number else []
    return found


def half_width(values: Sequence[float], groups: Sequence[str] | None = None) -> float | None:
    """Half of the 95 % interval of a mean (Student's t); None where there are too few.

    Args:
        groups: what each is of. Groups have their fixed share of the values: what they differ by is
            no uncertainty; each needs two.
    """
    of: dict[str, list[float]] = {}
    for value, group in zip(values, groups or [""] * len(values), strict=True):
        of.setdefault(group, []).append(value)
    if min(map(len, of.values()), default=0) < 2:
        return None
    error = sqrt(sum(len(group) * variance(group) for group in of.values())) / len(values)
    count = len(values) - len(of) + 1
    return mean_half_width(error * sqrt(count), count)


def interval(name: str, values: list[float]) -> Row:
    """The mean, half of its 95 % interval (Student's t; None for one value), and the values."""
    return {
        name: mean(values), f"{name}_half_width": half_width(values), f"{name}_runs": values,
    }  # fmt: skip


def peak_of(call: Callable[[], Any], device: torch.device) -> Row:
    """Bytes allocated at most on a GPU, in all and above what was there; None on a CPU."""
    if device.type != "cuda":
        call()
        return {"peak_bytes": None, "peak_above_weights_bytes": None}
    wait(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    wait(device)
    peak = torch.cuda.max_memory_allocated(device)
    return {"peak_bytes": peak, "peak_above_weights_bytes": peak - before}
