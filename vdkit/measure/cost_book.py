"""What is known of the costs of each step, by machine, decoder, size and sink: for any what-if.

Recorded benchmarks go in; the costs of a setting come out, fitted from those of just this setting
where there are any, else put together from the nearest ones, which the answer then says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vdkit.measure.control_records import is_arm
from vdkit.measure.costs import Cost, StageCosts
from vdkit.measure.fit import fit_costs
from vdkit.measure.records import read_result
from vdkit.measure.variant_records import alone

if TYPE_CHECKING:
    from pathlib import Path

    from vdkit.measure.records import BenchmarkResult

_GROWS_WITH_PIXELS = ("decode", "copy", "pageable_copy", "convert", "video_convert", "write")


@dataclass(frozen=True, slots=True)
class Decoding:
    """What runs where: the part of a setting that costs belong to.

    Attributes:
        machine: as the book was told, e.g. ``here`` or ``NVIDIA H200, recorded``.
        decoder, variant, dtype: as records name them.
        height, width: of the video, pixels.
        sink: ``null``, ``raw``, ``png``, ``mp4``, or another name.
    """

    machine: str
    decoder: str
    variant: str
    dtype: str
    height: int
    width: int
    sink: str

    @property
    def pixels(self) -> int:
        """Pixels of a frame."""
        return self.height * self.width


@dataclass(frozen=True, slots=True)
class Known:
    """Costs of a setting and where they come from.

    Attributes:
        costs: without a throttle.
        origin: in words, e.g. ``measured (3 benchmarks)``.
        exact: fitted from benchmarks of just this machine, decoder, size and sink.
        chunk_sizes: latent frames per call that were measured.
    """

    costs: StageCosts
    origin: str
    exact: bool
    chunk_sizes: tuple[int, ...]


class CostBook:
    """Benchmarks by what they decoded; of two of the same configuration the later one counts."""

    def __init__(self) -> None:
        self._results: dict[Decoding, list[BenchmarkResult]] = {}
        self._fitted: dict[Decoding, StageCosts] = {}

    def add(
        self,
        result: BenchmarkResult,
        machine: str,
        decoder: str | None = None,
        sink: str | None = None,
    ) -> bool:
        """Keep a benchmark; False if it tells no costs: a throttled sink, or diffusers' path only.

        Args:
            machine: whose costs these are.
            decoder, sink: names to file it under; None: those in the record.
        """
        chunked = {run.mode for run in result.runs} - {"diffusers", "compute"}
        if result.sink.throttle_mb_per_s is not None or not chunked:
            return False
        load = result.workload
        key = Decoding(
            machine, decoder or load.decoder, load.variant, load.dtype, load.height, load.width,
            sink or result.sink.kind,
        )  # fmt: skip
        kept = [
            one
            for one in self._results.get(key, [])
            if one.sink == result.sink  # another file system has writes of its own
            and (one.config, one.modes.keys()) != (result.config, result.modes.keys())
        ]
        self._results[key] = [*kept, result]
        self._fitted.pop(key, None)
        return True

    def read(self, folder: Path) -> None:
        """Keep every benchmark recorded below ``folder``, those of sweeps and variants too.

        Their machine is the device with ``, recorded`` after it. Damaged files are left out, as are
        the arms of an A/A control, one of which is slow on purpose.
        """
        for path in sorted(folder.rglob("result*.json")):
            try:
                result = read_result(path)
            except (ValueError, OSError):
                continue
            if not is_arm(path):
                own = result if result.other_bytes is None else alone(result)
                self.add(own, f"{result.provenance.device}, recorded")

    def machines(self) -> tuple[str, ...]:
        """Every machine in the book, the first added first."""
        return tuple(dict.fromkeys(key.machine for key in self._results))

    def known(self, machine: str) -> tuple[Decoding, ...]:
        """All that was measured on a machine."""
        return tuple(key for key in self._results if key.machine == machine)

    def lookup(self, wanted: Decoding) -> Known:
        """Costs of ``wanted``, exact or put together.

        A size that was not measured is scaled by pixels from the nearest one; a sink that was not
        measured with this decoder takes its writes from another decoder's.

        Raises:
            LookupError: nothing of this machine, decoder and variant, or nothing of this sink;
                says what is missing.
        """
        if wanted in self._results:
            count = len(self._results[wanted])
            return Known(
                self._fit(wanted),
                f"measured ({count} benchmark{'s' * (count > 1)})",
                True,
                self._chunk_sizes(wanted),
            )
        near = [
            key
            for key in self._results
            if (key.machine, key.decoder, key.variant, key.dtype)
            == (wanted.machine, wanted.decoder, wanted.variant, wanted.dtype)
        ]
        if not near:
            raise LookupError(
                f"nothing is known yet of {wanted.decoder} ({wanted.variant}) in {wanted.dtype} on "
                f"{wanted.machine}"
            )
        base = min(near, key=lambda key: (_distance(key, wanted), key.sink != wanted.sink))
        costs, said = self._fit(base), []
        if base.pixels != wanted.pixels:
            costs = _scaled(costs, wanted.pixels / base.pixels)
            said.append(f"scaled by pixels from {base.height}x{base.width}")
        if base.sink != wanted.sink:
            costs, words = self._with_sink(costs, wanted)
            said.append(words)
        if not said:  # the same pixels in another shape
            said.append(f"those of {base.height}x{base.width}")
        return Known(costs, "a guess: " + ", ".join(said), False, self._chunk_sizes(base))

    def _fit(self, key: Decoding) -> StageCosts:
        if key not in self._fitted:
            self._fitted[key] = fit_costs(*self._results[key])
        return self._fitted[key]

    def _chunk_sizes(self, key: Decoding) -> tuple[int, ...]:
        return tuple(sorted({result.config.chunk_size for result in self._results[key]}))

    def _with_sink(self, costs: StageCosts, wanted: Decoding) -> tuple[StageCosts, str]:
        if wanted.sink == "null":
            free = replace(costs, write=Cost(), open=Cost(), close=Cost())
            return free, "writes taken as free"
        with_it = [
            key for key in self._results if (key.machine, key.sink) == (wanted.machine, wanted.sink)
        ]
        if not with_it:
            raise LookupError(
                f"what a write to {wanted.sink} costs on {wanted.machine} is not known yet"
            )
        key = min(with_it, key=lambda key: _distance(key, wanted))
        other = _scaled(self._fit(key), wanted.pixels / key.pixels)
        moved = replace(costs, write=other.write, open=other.open, close=other.close)
        return moved, f"writes from {key.decoder} at {key.height}x{key.width}"


def _distance(key: Decoding, wanted: Decoding) -> float:
    """How far apart two frame sizes are, as the larger's pixels over the smaller's."""
    low, high = sorted((key.pixels, wanted.pixels))
    return high / low


def _scaled(costs: StageCosts, factor: float) -> StageCosts:
    """Costs at ``factor`` times the pixels: launches cost the same, memory is not known."""
    grown: dict[str, Any] = {
        name: None if (cost := getattr(costs, name)) is None else cost.times(factor)
        for name in _GROWS_WITH_PIXELS
    }
    return replace(costs, vram_bytes=() if factor != 1 else costs.vram_bytes, **grown)
