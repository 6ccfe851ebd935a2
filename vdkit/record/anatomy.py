"""The temporal anatomy of a decoder: what `vdkit.probe` found of it, and what follows from that.

Distances are in latents (latent frames, images of a batch) from the output that is a latent's own:
0.25 is a pixel frame away where a latent becomes four.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vdkit.trace.figures import Check


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a latent counts to one side: from where its influence is below 1 % and 0.1 %, and 0.

    None: not within ``tried``, the longest distance that there was.
    """

    percent: float | None
    permille: float | None
    zero: float | None
    tried: float


@dataclass(frozen=True, slots=True)
class Apart:
    """Chunks against the whole decode; or what two parts give of the two latents where they meet.

    Attributes:
        size: latents a chunk; or of halo: how many of the other part each is decoded with.
        db: PSNR; None if nothing differs but by rounding.
        max_abs: the largest difference, in the decoder's value range.
        missing: output units that the parts do not give, and that are not compared.
    """

    size: int
    db: float | None
    max_abs: float
    missing: int = 0

    @property
    def exact(self) -> bool:
        """Whether they are equal but for rounding."""
        return self.db is None and not self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What was found of one decoder.

    Attributes:
        medium: ``video``, ``images`` or ``audio``.
        dtype, latents: in what, and of which shape, it was tried.
        value_range: what decibels are against.
        lengths: output units (frames, images, samples) of the first 1, 2, 3 ... latents alone; 0
            where the decoder raised an error.
        first_units, units_per_latent: of the first latent, and of each later one.
        history, look_ahead: how far a latent counts in later and in earlier output, away from
            the ends; None, and no ``influence``, if the output is not finite or ignores its
            latents.
        influence: (distance, norm of the change there over that at 0); below 0: earlier output.
        borders: of ``max(borders)`` latents and of one less: after how many the decode of those
            alone equals that part of all.
        streamed: by chunk size; none for a whole decode, and where it failed.
        target_db: what `verdict` asks of a seam.
        state_chunk, state_bytes: latents a chunk, and bytes remembered after each.
    """

    name: str
    medium: str
    dtype: str
    latents: tuple[int, ...]
    value_range: tuple[float, float]
    lengths: tuple[int, ...]
    first_units: int
    units_per_latent: int
    history: Reach | None = None
    look_ahead: Reach | None = None
    influence: tuple[tuple[float, float], ...] = ()
    borders: dict[int, tuple[int, ...]]
    seams: tuple[Apart, ...] = ()
    streamed: tuple[Apart, ...] = ()
    checks: tuple[Check, ...] = ()
    target_db: float
    state_chunk: int = 0
    state_bytes: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<Anatomy of {self.name}: {' '.join(self.verdict)}>"

    @property
    def failed(self) -> list[Check]:
        """Checks that it did not pass."""
        return [check for check in self.checks if not check.ok]

    @property
    def causal(self) -> bool | None:
        """Whether no output changes with a later latent; None if that cannot be told."""
        return None if self.look_ahead is None else self.look_ahead.zero == 0

    @property
    def exact_from(self) -> int | None:
        """Number of latents from which on any first ones alone give what they do in a longer decode

        1: every prefix is exact. None: there is no such number.
        """
        every = [set(range(1, longest)) - set(cuts) for longest, cuts in self.borders.items()]
        first = max(set().union(*every), default=0) + 1
        return first if first < min(self.borders) else None

    @property
    def state_growth(self) -> int:
        """Bytes that each later chunk adds to what is remembered, in the second half."""
        half = self.state_bytes[len(self.state_bytes) // 2 :]
        return (half[-1] - half[0]) // (len(half) - 1) if len(half) > 1 else 0

    def halo_for(self, db: float) -> int | None:
        """The smallest halo that was tried whose seam has ``db`` or more; inf: that is exact."""
        whole = (one for one in self.seams if not one.missing)
        return next((one.size for one in whole if one.db is None or one.db >= db), None)

    @property
    def verdict(self) -> list[str]:
        """Sentences that a person can act on; what is wrong comes first."""
        wrong, advice = [f"{one.name}: {one.detail}." for one in self.failed], [*self._verdict()]
        if self.history is None or self.look_ahead is None:
            wrong.append("What depends on what cannot be told.")
        return (
            [*wrong, "Once that is mended:", *advice] if self.failed and advice else wrong + advice
        )

    def _verdict(self) -> Iterator[str]:
        exact = [one.size for one in self.streamed if one.exact]
        if exact and len(exact) == len(self.streamed):
            yield f"Stream it with chunks of {exact[0]} or more latents: exact."
        elif exact:
            yield f"Exact in chunks of {_listed(exact)} latents."
        said = [check.name for check in self.failed]
        for one in self.streamed:
            if one.db is not None and f"chunks of {one.size}" not in said:
                yield f"Chunks of {_latents(one.size)}: {one.db:.1f} dB against the whole."
        if self.history is None or self.look_ahead is None or exact:
            return
        far = self.history.zero
        if far == self.look_ahead.zero == 0:
            yield "Every latent is decoded by itself: cut it anywhere, exact."
            return
        if self.causal and (begins := self.exact_from):
            left = "all latents" if far is None else f"the {_latents(math.ceil(far))}"
            first = f", and the first has {begins} or more" * (begins > 1)
            yield f"Causal: chunks are exact if what {left} before leave behind is kept{first}."
        elif any(self.borders.values()):
            cuts = (f"{_listed(cuts) or 'none'} of {n}" for n, cuts in self.borders.items())
            yield f"What came before a cut is exact after latents {'; '.join(cuts)}."
        if self.seams:
            yield self._halo("before" if self.causal else "on each side of")

    def _halo(self, where: str) -> str:
        enough, exact, most = *map(self.halo_for, (self.target_db, math.inf)), self.seams[-1].size
        some = f"{_latents(enough)} of" if enough else "no"
        words = f"needs {some} halo {where} a cut for {self.target_db:g} dB"
        if enough is None:
            words = f"does not reach {self.target_db:g} dB with a halo of {most} {where} a cut"
        also = "" if exact is None else f", {exact} to be exact"
        return f"With nothing kept it {words}{also}."


def _latents(count: int) -> str:
    return f"{count} latent" + "s" * (count != 1)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
