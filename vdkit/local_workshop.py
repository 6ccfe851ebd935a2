"""``vdkit.explore()``: the explorer, with this machine's decoders and sinks."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vdkit.present.explorer import Explorer

if TYPE_CHECKING:
    import torch

    from vdkit.decode.protocols import ChunkDecoder
    from vdkit.measure.bench import SinkFactory
    from vdkit.measure.records import SinkInfo

_open: list[Explorer] = []


class LocalWorkshop:
    """This machine: decoders by name, folder or hub id, the sinks of vdkit, and the caller's own.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        decoders: further decoders by name: functions that load one.
        sinks: further sinks by name: factories, called with a run's label, of a context that gives
            a fresh sink and removes its output.
    """

    def __init__(
        self,
        device: str = "auto",
        decoders: Mapping[str, Callable[[], ChunkDecoder]] | None = None,
        sinks: Mapping[str, SinkFactory] | None = None,
    ) -> None:
        import torch

        from vdkit.measure.host_memory import keep_freed_memory
        from vdkit.models.loading import VARIANTS, resolve_device

        self.device = resolve_device(device)
        on_gpu = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if on_gpu else "CPU"
        self.machine = f"this machine ({name})"
        self.dtype = "float16" if on_gpu else "float32"
        self.vram_bytes = (
            torch.cuda.get_device_properties(self.device).total_memory if on_gpu else None
        )
        if not on_gpu:
            keep_freed_memory()
        self._decoders, self._sinks = dict(decoders or {}), dict(sinks or {})
        self.own: Sequence[str] = (*self._decoders, *self._sinks)
        self.decoders: Sequence[str] = ("tiny-wan", "wan2.1", "wan2.2", *self._decoders)
        self.variants: Sequence[str] = tuple(VARIANTS)
        self.sinks: Sequence[str] = ("raw", "png", "mp4", "null", *self._sinks)

    def load(self, decoder: str, variant: str) -> ChunkDecoder:
        """A decoder by its name here, else as `vdkit.load_decoder` finds it."""
        from vdkit.models.loading import load_decoder

        if decoder in self._decoders:
            return self._decoders[decoder]()
        loaded: ChunkDecoder = load_decoder(decoder, self.device, variant=variant)
        return loaded

    def latents(
        self, decoder: ChunkDecoder, latent_frames: int, height: int, width: int
    ) -> torch.Tensor:
        """Seeded random latents."""
        from vdkit.decode.chunks import pixel_frames
        from vdkit.models.latents import load_latents

        frames = pixel_frames(latent_frames, decoder.temporal_factor)
        return load_latents(f"random:{frames}x{height}x{width}", decoder)

    def sink(self, name: str, folder: str, mb_per_s: float | None) -> tuple[SinkFactory, SinkInfo]:
        """A sink by its name; held to ``mb_per_s`` if that is given."""
        from vdkit.measure.records import SinkInfo
        from vdkit.sink_spec import SinkSpec, default_folder, held

        if name in self._sinks:
            info = SinkInfo(kind=name, storage=None, throttle_mb_per_s=mb_per_s)
            return held(self._sinks[name], mb_per_s), info
        where = None if name == "null" else Path(folder) if folder else default_folder()
        spec = SinkSpec(name, where, throttle_mb_per_s=mb_per_s)
        return spec.fresh, SinkInfo(**spec.describe())


def explore(
    *,
    decoder: str | None = None,
    size: str | None = None,
    latent_frames: int | None = None,
    device: str = "auto",
    results: str | Path | None = None,
    decoders: Mapping[str, Callable[[], ChunkDecoder]] | None = None,
    sinks: Mapping[str, SinkFactory] | None = None,
    calibrate: bool = True,
    variant: str = "diffusers",
    chunk_size: int = 1,
    slots: int = 2,
    sink: str = "raw",
    folder: str = "",
    mb_per_s: float | None = None,
    rounds: int = 3,
) -> Explorer:
    """The explorer as a widget; one that was open before is closed.

    Args:
        decoder, size, latent_frames: first values; None: wan2.1, 480x832 and 41 on a GPU, tiny-wan,
            96x160 and 17 on a CPU.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        results: folder of recorded benchmarks, read for predictions and written by Export; None:
            ``results`` here or in the folder above, whichever there is.
        decoders, sinks: your own, by name; see `LocalWorkshop`.
        calibrate: begin at once to measure, on a thread, what the first setting costs.
        variant, chunk_size, slots, sink, folder, mb_per_s, rounds: first values of the other
            controls.

    Raises:
        ValueError: no such device, variant or sink, or a number that its control has not.
    """
    while _open:
        _open.pop().close()
    workshop = LocalWorkshop(device, decoders, sinks)
    on_gpu = workshop.device.type == "cuda"
    near = [folder for folder in (Path("results"), Path("../results")) if folder.is_dir()]
    made = Explorer(
        workshop,
        Path(results) if results is not None else next(iter(near), Path("results")),
        decoder=decoder or ("wan2.1" if on_gpu else "tiny-wan"),
        size=size or ("480x832" if on_gpu else "96x160"),
        latent_frames=(41 if on_gpu else 17) if latent_frames is None else latent_frames,
        variant=variant,
        chunk_size=chunk_size,
        slots=slots,
        sink=sink,
        folder=folder,
        mb_per_s=mb_per_s,
        rounds=rounds,
    )
    _open.append(made)
    return made.calibrate() if calibrate else made


@atexit.register
def _close() -> None:
    """End a measurement before the interpreter takes its libraries away."""
    while _open:
        _open.pop().session.close()
