"""The temporal anatomy of any decoder, found by decoding: what depends on what, and is it kept?

One latent is put in place of another and all output compared (influence); parts are decoded by
themselves and compared with the whole (borders, seams). A decoder that works in chunks is held to
all that `vdkit.decode.ChunkDecoder` promises: it is the conformance test of plug-ins.

Distances are in latents (latent frames, images of a batch) from the output that is a latent's own:
0.25 is a pixel frame away where a latent becomes four.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import zip_longest
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch.nn.functional import pad

from vdkit.decode import Traits, begun, to_levels
from vdkit.decode.chunks import chunks_of
from vdkit.decode.engines import on_device
from vdkit.decode.media import MEDIA
from vdkit.decode.terminal import Bar
from vdkit.record.anatomy import Anatomy, Apart, Reach
from vdkit.trace.figures import Check

LATENTS = {"video": (1, 41, 2, 2), "images": (5, 4, 4), "audio": (1, 41)}
"""Shapes, but for the channels, that are tried unless latents are given: Wan remembers 38."""
_BORDERS = 9  # latents whose prefixes are compared
_SHORT = 13  # latents that tests of the state take: several chunks
_BINS = 16  # parts of a latent in which influence is told apart, at the most

_LEADS_AWAY = (type, ModuleType, FunctionType, torch.nn.Module)  # from a state to all there is
Run = Callable[[torch.Tensor], torch.Tensor]
Call = tuple[int, int, int]
Calls = Generator[tuple[Call, torch.Tensor]]
"""(start, stop, units) of a plan, and what they gave."""
Profile = list[tuple[float, float]]
"""(distance from a latent's own output, below 0 before it; influence) of all output."""


def probe(
    decoder: Any = None, latents: torch.Tensor | None = None, *, whole: Run | None = None,
    medium: str = "video", value_range: tuple[float, float] | None = None,
    chunk_sizes: Sequence[int] = (1, 2, 4), target_db: float = 40.0, seed: int = 0,
    progress: bool = False,
) -> Anatomy:  # fmt: skip
    """What depends on what in a decoder, where it may be cut, and whether it keeps its promises.

    Rounding hides what is small: give one in float64 if it can be had, a small size, and more
    latents than it is thought to remember. Some forty decodes.

    Args:
        decoder: a `ChunkDecoder`, of which every promise is tested.
        latents: [1, C, T, h, w], audio [1, C, T] or [1, C, T, F], images [N, C, h, w], as the
            decoder takes them; None: 41 (images: 5) random ones.
        whole: in place of ``decoder``: gives of latents, of any number, the whole output
            [1, 3, F, H, W], [1, channels, samples] or [N, 3, H, W].
        medium, value_range: of ``whole``; range None is not tested, and decibels are of (-1, 1).
        chunk_sizes: latents a call, of ``decoder``.
        target_db: what the verdict asks of a seam.
        seed: of random latents, and of what is put in place of one.
        progress: draw a bar.

    Raises:
        TypeError: no decoder, or a class in place of one.
        ValueError: neither or both of ``decoder`` and ``whole``, an unknown medium, latents that
            are not finite, less than 3 or of several videos, a chunk size below 1, or a
            ``target_db`` that is no number above 0.
    """
    if (decoder is None) == (whole is None) or (decoder is None and latents is None):
        raise ValueError("give a decoder, or whole=, which decodes all it gets, and latents")
    if isinstance(decoder, type):
        raise TypeError(f"{decoder.__name__} is a class; give a decoder, as {decoder.__name__}()")
    if not 0 < target_db < math.inf:
        raise ValueError(f"target_db is {target_db}; give decibels above 0, e.g. 40")
    if wrong := [size for size in chunk_sizes if size < 1]:
        raise ValueError(f"chunk size {wrong[0]} is none; use 1 or more latents")
    traits = None if decoder is None else Traits.of(decoder)
    if traits is not None:
        medium, value_range = traits.medium.name, traits.value_range
    if medium == "av":
        raise ValueError(
            "video with sound is two decoders: probe its video and its sound, each by itself"
        )
    if medium not in MEDIA:
        raise ValueError(f"medium is {medium!r}; use one of {', '.join(MEDIA)}")
    if latents is None:
        batch_or_count, *rest = LATENTS[medium]
        rest += [features] if (features := getattr(decoder, "features", 0)) else []
        size = (batch_or_count, decoder.latent_channels, *rest)
        latents = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    if decoder is not None:
        latents = latents.to(decoder.device, decoder.dtype)
    axis, shape = MEDIA[medium].axis, list(latents.shape)
    if len(shape) < 3 or shape[axis] < 3 or not latents.isfinite().all():
        raise ValueError(f"latents {shape}: {medium} needs 3 or more along axis {axis}, all finite")
    if axis and shape[0] != 1:
        raise ValueError(f"latents {shape}: axis 0 has to be 1, one {MEDIA[medium].whole}")
    if decoder is not None and shape[1] != decoder.latent_channels:
        raise ValueError(f"latents {shape}: axis 1 has to be {decoder.latent_channels} channels")
    name = str(getattr(decoder or whole, "name" if decoder else "__name__", "whole"))
    with torch.inference_mode(), on_device(latents.device), Bar(progress, desc="probe") as bar:
        made = _Probing(decoder, traits, whole, latents, medium, value_range, seed, bar)
        return made.anatomy(name, chunk_sizes, target_db)


class _Probing:
    """One probing: what is decoded, and the checks made on the way."""

    def __init__(
        self, decoder: Any, traits: Traits | None, whole: Run | None, latents: torch.Tensor,
        medium: str, stated: tuple[float, float] | None, seed: int, bar: Bar,
    ) -> None:  # fmt: skip
        self.decoder, self.traits, self.latents, self.medium = decoder, traits, latents, medium
        self.stated, self.seed, self.bar = stated, seed, bar
        self.range = stated or (-1.0, 1.0)
        self.peak = self.range[1] - self.range[0]
        self.axis = MEDIA[medium].axis  # of latents and of output
        self.count = latents.shape[self.axis]
        self.whole = whole or self.one_call
        self.overwritten = False  # whether latents that it was given are others now
        self.checks: list[Check] = []
        self.states: list[int] = []  # bytes, after each chunk of the last decode
        self.kept: tuple[int, ...] = ()
        self.streamed: list[Apart] = []
        # What many layers round; what is wrong is larger by orders of magnitude.
        self.slack = self.peak * torch.finfo(latents.dtype).eps ** 0.6

    def one_call(self, latents: torch.Tensor) -> torch.Tensor:
        """The decoder's own whole decode, else its plan for a whole."""
        if own := getattr(self.decoder, "decode_video", None):
            return own(latents, lambda index: None)
        return self._joined([made for _, made in self.chunks(latents, None)])

    def chunks(self, latents: torch.Tensor, chunk_size: int | None, decode: Any = None) -> Calls:
        """Each call of the plan and what it gave; the state is ended whatever happens."""
        decode = decode or self.decoder.decode_chunk
        plan = chunks_of(self.decoder, latents, chunk_size or latents.shape[self.axis])
        self.states.clear()
        given = latents.clone()
        with begun(self.decoder, given) as state:
            for one in plan:  # a decoder may write into one buffer again and again
                call = one.latent_start, one.latent_stop, one.frames
                made = decode(state, *call[:2])
                if not isinstance(made, torch.Tensor):
                    where = self.traits.medium.positions(*call[:2]) if self.traits else ""
                    raise TypeError(f"it returned {type(made).__name__} for {where}, not a tensor")
                self.states.append(_held(state, given))
                self.overwritten |= not torch.equal(given, latents)
                yield call, made.clone()

    def rows(self, made: torch.Tensor) -> torch.Tensor:
        """Output as float64 [units, values]."""
        return made.movedim(self.axis, 0).flatten(1).double()

    def run(self, latents: torch.Tensor) -> torch.Tensor:
        """The `rows` of the whole decode."""
        self.bar.add()
        given = latents.clone()
        rows = self.rows(self.whole(given))
        self.overwritten |= not torch.equal(given, latents)
        return rows

    def part(self, start: int, stop: int) -> torch.Tensor:
        return self.latents.narrow(self.axis, start, stop - start)

    def own(self, latent: int) -> tuple[int, int]:
        """The output units of a latent."""
        stop = max(1, self.first + self.steady * latent)
        return max(0, stop - self.steady) if latent else 0, stop

    def attempt(self, name: str, look: Callable[[], str]) -> None:
        """Make a check of what ``look`` says is wrong, or raises."""
        self.bar.add()
        try:
            wrong = look()
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}".partition("\n")[0]
        self.checks.append(Check(name, not wrong, wrong or "yes"))

    def anatomy(self, name: str, chunk_sizes: Sequence[int], target_db: float) -> Anatomy:
        """All of it."""
        base = self.run(self.latents)
        self._lengths(len(base))
        self.floor = _apart(self.run(self.latents), base)
        self.attempt("finite and in range", lambda: self._unfit(base))
        same = self.floor <= self.slack
        wrong = "" if same else f"two decodes differ by up to {self.floor:.2g}"
        self.attempt("same twice", lambda: wrong)
        finite = bool(base.isfinite().all())
        found: dict[str, Any] = self._influence(base) if same and finite else {}
        if self.traits:
            for size in (size for size in chunk_sizes if size < self.count):
                self.attempt(f"chunks of {size}", partial(self._streamed, base, size))
            self.attempt("state kept apart", self._kept_apart)
            self.attempt("given up, next one right", self._given_up)
            if hasattr(self.decoder, "decode_into"):
                self.attempt("decode_into", self._into)
        wrong = "it writes into those that it is given, which are the caller's"
        self.attempt("latents left alone", lambda: wrong if self.overwritten else "")
        cached = any(one.exact for one in self.streamed)  # then nobody decodes anything twice
        if found and self.medium != "images" and not cached:
            found["seams"] = tuple(self._seams(base, found["history"], found["look_ahead"]))
        return Anatomy(
            name=name, medium=self.medium, dtype=str(self.latents.dtype).removeprefix("torch."),
            latents=tuple(self.latents.shape), value_range=self.range, first_units=self.first,
            lengths=tuple(len(self.prefixes.get(n, ())) for n in range(1, max(self.prefixes) + 1)),
            units_per_latent=self.steady, borders=self._borders(), streamed=tuple(self.streamed),
            checks=tuple(self.checks), target_db=target_db, state_chunk=(*self.kept, 0)[0],
            state_bytes=self.kept[1:], **found,
        )  # fmt: skip

    def _lengths(self, longest: int) -> None:
        """Decode the first latents by themselves: output, and units of the first and later ones."""
        self.prefixes: dict[int, torch.Tensor] = {}
        for count in range(1, min(self.count, _BORDERS) + 1):
            try:
                self.prefixes[count] = self.run(self.part(0, count))
            except (RuntimeError, ValueError, IndexError):
                if count > 2:  # fewer it need not take
                    raise
        # Over two latents: some decode in pairs.
        last, before = (len(self.prefixes.get(n, ())) for n in (count, count - 2))
        self.steady = max(1, (last - before) // 2)
        self.first = longest - self.steady * (self.count - 1)

    def _borders(self) -> dict[int, tuple[int, ...]]:
        def alike(alone: torch.Tensor, whole: torch.Tensor) -> bool:
            return len(alone) < len(whole) and self._differs(alone, whole[: len(alone)]) == 0

        return {
            most: tuple(n for n, one in self.prefixes.items() if alike(one, self.prefixes[most]))
            for most in sorted(self.prefixes)[:-3:-1]
        }

    def _unfit(self, rows: torch.Tensor) -> str:
        """What is wrong with these values."""
        if bad := int((~rows.isfinite()).sum()):
            return f"{bad} values are NaN or inf"
        low, high = float(rows.min()), float(rows.max())
        inside = self.range[0] - self.slack <= low and high <= self.range[1] + self.slack
        if self.stated is None or inside:
            return ""
        return f"values are {low:.3g} to {high:.3g}, out of [{self.range[0]:g}, {self.range[1]:g}]"

    def _differs(self, made: torch.Tensor, wanted: torch.Tensor) -> float:
        """The largest difference; 0 for rounding, inf for unequal shapes."""
        if made.shape != wanted.shape:
            return math.inf
        most = _apart(made, wanted)
        return 0.0 if most <= self.slack else most

    # --- what depends on what -----------------------------------------------------------------

    def _influence(self, base: torch.Tensor) -> dict[str, Any]:
        """Put another latent in place of one, near both ends and in the middle."""
        near, middle = min(2, (self.count - 1) // 4), self.count // 2
        generator = torch.Generator().manual_seed(self.seed + 1)
        std, mean = float(self.latents.double().std()), float(self.latents.double().mean())
        sides: dict[int, list[Profile]] = {1: [], -1: []}
        for place in sorted({near, middle, middle + 1, self.count - 1 - near}):
            moved = self.latents.clone()
            one = moved.select(self.axis, place)
            one.copy_(torch.randn(one.shape, generator=generator, dtype=torch.double) * std + mean)
            change = self._profile(self.run(moved) - base, place)
            if not change:
                wrong = f"another latent {place} changes nothing in its own output"
                self.checks.append(Check("reads its latents", False, wrong))
                return {}
            for side, profiles in sides.items():
                # Towards the end that is near there is no room, and padding may mirror.
                if (place > near) if side < 0 else (place < self.count - 1 - near):
                    profiles.append([(abs(at), value) for at, value in change if at * side > 0])
        roomiest = {side: max(profiles, key=len) for side, profiles in sides.items()}
        curve = [(side * at, value) for side, one in roomiest.items() for at, value in one]
        return {
            "history": _reach(sides[1]),
            "look_ahead": _reach(sides[-1]),
            "influence": tuple(sorted([(0.0, 1.0), *curve])),
        }

    def _profile(self, change: torch.Tensor, place: int) -> Profile:
        """Influence of latent ``place`` by distance; empty if its own output does not change."""
        width = max(1, self.steady // _BINS)
        change = torch.where(change.abs() > 4 * self.floor, change, 0.0)
        bins = pad(change, (0, 0, 0, -len(change) % width)).unflatten(0, (-1, width)).flatten(1)
        norms = bins.square().mean(1).sqrt()
        start, stop = (edge // width for edge in self.own(place))
        stop = max(stop, start + 1)
        own = float(norms[start:stop].square().mean().sqrt())
        far = [n - start if n < start else max(0, n - stop + 1) for n in range(len(norms))]
        scale = width / self.steady
        return [(n * scale, norm / own) for n, norm in zip(far, norms.tolist(), strict=True) if own]

    def _seams(self, base: torch.Tensor, history: Reach, ahead: Reach) -> Iterator[Apart]:
        """Cut, and decode the two parts with more and more of each other."""
        causal = ahead.zero == 0
        cut = self.count - 2 if causal else self.count // 2
        start, middle, stop = self.own(cut - 1)[0], *self.own(cut)
        halos = {0, *(2**n for n in range(16))}
        if history.zero is not None and ahead.zero is not None:
            special = self.first != self.steady  # what a part begins with
            halos.add(math.ceil(max(history.zero, ahead.zero)) + special)
        for halo in sorted(halos):
            if halo >= cut or (cut + halo >= self.count and not causal):
                return
            left = self.run(self.part(0, min(cut + halo, self.count)))
            right = self.run(self.part(cut - halo, self.count))
            begin = len(base) - len(right)  # they end together
            missing = max(0, begin - middle)
            got = torch.cat([left[start:middle], right[max(0, middle - begin) : stop - begin]])
            wanted = torch.cat([base[start:middle], base[middle + missing : stop]])
            yield (one := self._compared(halo, got - wanted, missing))
            if one.exact:
                return

    def _compared(self, size: int, error: torch.Tensor, missing: int = 0) -> Apart:
        most, square = float(error.abs().max()), float(error.square().mean())
        db = None if most <= self.slack else 10 * math.log10(self.peak**2 / square)
        return Apart(size, db, most, missing)

    # --- what a decoder by chunk promises ------------------------------------------------------

    def _streamed(self, base: torch.Tensor, size: int) -> str:
        """Decode in chunks: plan, shapes, length, range, and the difference to the whole."""
        made = list(self.chunks(self.latents, size))
        self.kept = self.kept or (size, *self.states)
        if wrong := self._broken_promise(made):
            return wrong
        rows = self.rows(self._joined([output for _, output in made]))
        if len(rows) != len(base):
            return f"{len(rows)} units in all, the whole decode has {len(base)}"
        said = (rows - base).isfinite().all() and self._unfit(base)  # of the whole decode
        if (wrong := self._unfit(rows)) and not said:
            return wrong
        self.streamed.append(one := self._compared(size, rows - base))
        if one.db is None or not (self.traits and self.traits.exact):
            return ""
        return f"{one.db:.1f} dB against the whole decode, and it says it is exact"

    def _broken_promise(self, made: list[tuple[Call, torch.Tensor]]) -> str:
        assert self.traits is not None
        like = self.latents
        for (start, stop, units), output in made:
            info = self.traits.info(tuple(like.shape), units, Fraction(1))
            got = (list(output.shape), output.dtype, output.device)
            wanted = (list(info.decoded_shape(units)), like.dtype, like.device)
            if got != wanted:
                words = [" ".join(map(str, one)).replace("torch.", "") for one in (got, wanted)]
                where = self.traits.medium.positions(start, stop)
                return f"{where}: gives {words[0]}, not {words[1]}"
        return ""

    def _joined(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(outputs, self.axis)

    def _videos(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two of a few latents."""
        one = self.part(0, min(self.count, _SHORT))
        return one, one.flip(self.axis) * 0.9

    def _outputs(self, latents: torch.Tensor) -> list[torch.Tensor]:
        return [output for _, output in self.chunks(latents, 1)]

    def _kept_apart(self) -> str:
        """Two in turns, the second begun in the middle of the first, against each alone."""
        videos = self._videos()
        alone = self._joined([one for video in videos for one in self._outputs(video)])
        first, second = (self.chunks(video, 1) for video in videos)
        turns: list[list[torch.Tensor]] = [[next(first)[1]], []]
        for steps in zip_longest(first, second):
            for made, step in zip(turns, steps, strict=True):
                made += [] if step is None else [step[1]]
        apart = self._differs(self._joined([*turns[0], *turns[1]]), alone)
        wrong = f"it is shared: what two decoded in turns give differs by up to {apart:.2g}"
        return wrong if apart else ""

    def _given_up(self) -> str:
        """Whether one that is given up, and ended, leaves the next one alone."""
        video, other = self._videos()
        before, given_up = self._outputs(video), self.chunks(other, 1)
        next(given_up)
        given_up.close()
        apart = self._differs(self._joined(self._outputs(video)), self._joined(before))
        return f"what the next one gives differs by up to {apart:.2g}" if apart else ""

    def _into(self) -> str:
        """Whether it gives the bytes that a sink gets of `decode_chunk`."""
        video, traits = self._videos()[0], self.traits
        assert traits is not None
        outputs = iter(self._outputs(video))

        def wrong_bytes(state: Any, start: int, stop: int) -> torch.Tensor:
            output = next(outputs)
            pixels = to_levels(output, traits)
            out = torch.full_like(pixels, 77)
            bad = bool(self.decoder.decode_into(state, start, stop, out)) == output.isfinite().all()
            return (out != pixels).sum() + bad

        wrong = sum(int(count) for _, count in self.chunks(video, 1, wrong_bytes))
        return f"{wrong} bytes are not those of decode_chunk" if wrong else ""


def _apart(made: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference: NaN where both are is none, and where one is, infinite."""
    alike = (made == wanted) | (made.isnan() & wanted.isnan())
    return float(torch.where(alike, 0.0, (made - wanted).abs()).nan_to_num(math.inf).max())


def _reach(profiles: list[Profile]) -> Reach:
    """Of the (distance, influence) to one side of several latents.

    The farthest that any of them reaches; None if the one with most room reaches to its end.
    """
    room = [max((at for at, _ in one), default=0.0) for one in profiles]

    def until(least: float) -> float | None:
        ends = [max((at for at, v in one if v > least), default=0.0) for one in profiles]
        return None if ends[room.index(max(room))] == max(room) > 0 else max(ends)

    return Reach(until(0.01), until(0.001), until(0.0), max(room))


def _held(state: Any, latents: torch.Tensor) -> int:
    """Bytes of all tensors that a state leads to, but for the latents and the weights."""
    left, visited, sizes = [state], set[int](), dict[int, int]()
    while left:
        one = left.pop()
        if id(one) in visited or isinstance(one, _LEADS_AWAY):
            continue
        visited.add(id(one))
        if isinstance(one, torch.Tensor):
            storage = one.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        else:
            left += gc.get_referents(one)
    sizes.pop(latents.untyped_storage().data_ptr(), None)
    return sum(sizes.values())
