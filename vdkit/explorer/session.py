"""The explorer without its widgets: what this machine offers, what was measured, one thread."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vdkit.decode import ChunkDecoder, DecodeCancelled, Traits, wants_float
from vdkit.decode.media import MEDIA, PIXEL_FORMATS
from vdkit.explorer import (
    GRAIN,
    SessionRun,
    bench_command,
    latents_words,
    sink_options,
)
from vdkit.measure.plans import run_benchmark
from vdkit.measure.study import SinkFactory, prepare
from vdkit.models import VARIANTS
from vdkit.models.latents import load_latents
from vdkit.models.loading import ARCHITECTURES, TINY_WAN, load_decoder, medium_of, resolve_device
from vdkit.predict.advise import MODES, Setting, SettingPrediction, predict_setting
from vdkit.predict.fit import CostBook, Decoding
from vdkit.record.recording import Recording
from vdkit.record.runs import SinkInfo, keep_freed_memory
from vdkit.sinks import SINKS, SinkSpec, held, sink_takes

CALIBRATION_LATENT_FRAMES = 9  # enough for steady chunks of one and of two latent frames
SMALLEST_SPATIAL_FACTOR = 8  # pixels per latent of Wan 2.1's VAE; that of Wan 2.2 has 16
LARGEST_SIDE = 8192  # pixels: beyond it nothing fits, and a slip of the finger would take hours
MOST_ENCODERS = 16
Job = Callable[[Setting, str], None]
_ANY_CHUNK_SIZE = frozenset({"diffusers", "channels_last"})
"""Variants that need no set-up for a chunk size, so that calibration may take several."""


class ThisMachine:
    """What can be measured here: decoders by name, folder or hub id; vdkit's sinks; your own.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        decoders: further decoders by name: functions that load one.
        sinks: further sinks by name: factories, called with a run's label, of a context that gives
            a fresh sink and removes its output; one with an attribute ``pixel_format`` has that of
            its sinks, else it is rgb24.
    """

    def __init__(
        self,
        device: str = "auto",
        decoders: Mapping[str, Callable[[], ChunkDecoder]] | None = None,
        sinks: Mapping[str, SinkFactory] | None = None,
    ) -> None:
        self.device = resolve_device(device)
        self.on_gpu = self.device.type == "cuda"
        self.dtype = "float16" if self.on_gpu else "float32"
        gpu = torch.cuda.get_device_properties(self.device) if self.on_gpu else None
        self.name = f"this machine ({gpu.name if gpu else 'CPU'})"
        self.vram_bytes = gpu.total_memory if gpu else None
        if gpu is None:
            keep_freed_memory()
        self.own_decoders, self.own_sinks = dict(decoders or {}), dict(sinks or {})
        self.variants = tuple(VARIANTS)

    def medium_of(self, decoder: str) -> str | None:
        """What a decoder makes, as far as can be told before it is loaded."""
        if (own := self.own_decoders.get(decoder)) is not None:
            found = getattr(own, "medium", "video" if isinstance(own, type) else None)
            return found if isinstance(found, str) else None
        named = {TINY_WAN.name: "video", "ltx2:audio": "audio", "ltx2:av": "av"}
        return medium_of(ARCHITECTURES[decoder]) if decoder in ARCHITECTURES else named.get(decoder)

    @property
    def media(self) -> tuple[str, ...]:
        """What can be made here; video with sound only by large decoders, and by your own."""
        sounds = self.on_gpu or "av" in map(self.medium_of, self.own_decoders)
        return tuple(name for name in MEDIA if name != "av" or sounds)

    def decoders(self, medium: str) -> tuple[str, ...]:
        """Names of those that make it, or may."""
        names = (TINY_WAN.name, *ARCHITECTURES, "ltx2:audio", "ltx2:av", *self.own_decoders)
        return tuple(name for name in names if self.medium_of(name) in (medium, None))

    def sinks(self, medium: str) -> tuple[str, ...]:
        """Names of those that take it."""
        kinds = {name: kind for name, (kind, _) in SINKS.items() if not wants_float(kind)}
        named = (name for name in kinds if medium in getattr(kinds[name], "media", MEDIA))
        return (*named, "null", *self.own_sinks)

    def contents(self, decoder: str) -> tuple[str, ...]:
        """What there is to decode, see `vdkit.models.grain`; the first is the usual one."""
        drawn = decoder in (TINY_WAN.name, "wan2.1") and decoder not in self.own_decoders
        return ("flat", "grain", "noise") if drawn else ("noise",)

    def formats(self, sink: str, medium: str) -> tuple[str, ...]:
        """Pixel formats that a sink can ask for, its own first."""
        if sink in self.own_sinks:
            return (getattr(self.own_sinks[sink], "pixel_format", "rgb24"),)
        own = sink_takes(sink).get("pixel_format") if medium in ("video", "av") else None
        return tuple(dict.fromkeys((own, *PIXEL_FORMATS))) if own else ("rgb24",)

    def encoders(self, sink: str) -> tuple[int, ...]:
        """How many a sink can have side by side; 1 of those that have none."""
        many = sink not in self.own_sinks and "encoders" in sink_takes(sink)
        return tuple(range(1, MOST_ENCODERS + 1)) if many else (1,)

    def load(self, decoder: str, variant: str, grain: float | None = None) -> ChunkDecoder:
        """A decoder by its name here, else as `vdkit.load_decoder` finds it."""
        own = self.own_decoders.get(decoder)
        make = partial(load_decoder, decoder, self.device, variant=variant, grain=grain)
        loaded: ChunkDecoder = own() if own else make()
        Traits.of(loaded)  # or it says what is wrong with it
        return loaded

    def sink(self, setting: Setting, folder: str) -> tuple[SinkFactory, SinkInfo]:
        """A factory of fresh sinks, held to the storage's speed, and its words in records."""
        name, mb_per_s = setting.decoding.sink, setting.mb_per_s
        if name in self.own_sinks:
            wanted = setting.decoding.pixel_format
            info = SinkInfo(
                kind=name, storage=None, throttle_mb_per_s=mb_per_s, pixel_format=wanted
            )
            return held(self.own_sinks[name], mb_per_s), info
        where = Path(folder) if folder and name != "null" else None
        spec = SinkSpec(name, where, False, mb_per_s, sink_options(setting))
        return spec.fresh, SinkInfo(**spec.describe())


class JobProgress(NamedTuple):
    """How far the job in hand is: what it does, its share done (0 to 1), seconds left if known."""

    doing: str
    share: float = 0.0
    left_s: float | None = None


class Session:
    """Runs of one notebook, and at most one job at a time, on a thread of its own.

    Args:
        here: decoders and sinks.
        results: folder of recordings that predictions may use.
    """

    def __init__(self, here: ThisMachine, results: Path) -> None:
        self.here = here
        self.book = CostBook()
        if results.is_dir():
            self.book.read(results)
        self.runs: list[SessionRun] = []
        self.error: str | None = None
        self.progress = JobProgress("")
        """Of the job in hand, or of the last one."""
        self._decoder: tuple[tuple[str, str, float | None], ChunkDecoder] | None = None
        self._thread: threading.Thread | None = None
        self._cancel = threading.Event()

    @property
    def running(self) -> bool:
        """Whether a job is in hand."""
        return self._thread is not None and self._thread.is_alive()

    def predict(self, setting: Setting) -> SettingPrediction:
        """What a setting would give; raises as `vdkit.predict.advise.predict_setting`.

        ValueError too for sides that the decoder has no latents for.
        """
        self._check_sides(setting.decoding)
        here = setting.decoding.machine == self.here.name
        return predict_setting(self.book, setting, self.here.vram_bytes if here else None)

    def _check_sides(self, decoding: Decoding) -> None:
        """Sides are multiples of the decoder's factor: 8, or what the loaded one says."""
        if decoding.medium == "audio":
            return
        factors = (SMALLEST_SPATIAL_FACTOR, SMALLEST_SPATIAL_FACTOR)
        if self._decoder and self._decoder[0][0] == decoding.decoder:
            factors = Traits.of(self._decoder[1]).spatial_factor
        for name, factor in zip(("height", "width"), factors, strict=True):
            side = getattr(decoding, name)
            if side > LARGEST_SIDE:
                raise ValueError(f"{name} is {side}; use {LARGEST_SIDE} pixels at the most")
            if side % factor:
                near = max(factor, round(side / factor) * factor)
                raise ValueError(f"{name} is {side}; use a multiple of {factor}, e.g. {near}")

    def measured(self, setting: Setting) -> SessionRun | None:
        """The latest run of a setting."""
        return next((run for run in reversed(self.runs) if run.setting == setting), None)

    def run(self, rounds: int, setting: Setting, folder: str = "") -> None:
        """Measure a setting on the thread: ``rounds``, 1 or more, of sync and async, in turns.

        The sink writes into ``folder``; empty: the system's temporary one. RuntimeError if a job is
        in hand, ValueError if the setting is another machine's.
        """
        self._start(partial(self._measure, rounds), setting, folder)

    def calibrate(self, setting: Setting, folder: str = "") -> None:
        """Measure the costs of a setting on the thread, with a short video; raises as `run`."""
        self._start(self._calibrate, setting, folder)

    def cancel(self) -> None:
        """Stop the job in hand within a chunk; none is no error."""
        self._cancel.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the job in hand; False if it is still at work after ``timeout_s``."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.running

    def close(self) -> None:
        """Stop the job in hand, wait for it, and let go of the decoder."""
        self.cancel()
        self.wait()
        self._release()

    def _start(self, job: Job, setting: Setting, folder: str) -> None:
        if self.running:
            raise RuntimeError(
                f"a job is in hand ({self.progress.doing}); cancel it or wait for it"
            )
        self._check_sides(setting.decoding)
        if setting.decoding.machine != self.here.name:
            raise ValueError(
                f"{setting.decoding.machine} cannot be measured from here; choose {self.here.name}"
            )
        self._cancel.clear()
        self.error = None
        self.progress = JobProgress("starting")
        # A daemon: a kernel that is told to end does not wait for a measurement.
        given = (job, setting, folder)
        self._thread = threading.Thread(None, self._guard, "vdkit-explorer", given, daemon=True)
        self._thread.start()

    def _guard(self, job: Job, setting: Setting, folder: str) -> None:
        ended = "done"
        try:
            job(setting, folder)
        except DecodeCancelled as stopped:
            ended, self.error = "cancelled", f"Cancelled: {stopped}"
        except Exception as error:  # whatever a decoder or a sink raises is shown, not lost
            ended, self.error = "failed", f"{type(error).__name__}: {error}"
        self.progress = JobProgress(ended, self.progress.share if self.error else 1.0)
        if ended == "failed" and "memory" in str(self.error).lower():
            self._release()  # only now: the error's frames held the decoder and its tensors

    def _measure(self, rounds: int, setting: Setting, folder: str) -> None:
        decoding, before = setting.decoding, None
        if decoding in self.book.known(decoding.machine):
            with suppress(LookupError):  # of so many encoders
                before = self.predict(setting)
        if before is None:
            self._calibrate(setting, folder)
            before = self.predict(setting)
        factor = Traits.of(self._load(decoding)).temporal_factor
        here = self.here  # the command line has the others
        own = decoding.decoder in here.own_decoders or decoding.sink in here.own_sinks
        command = None if own else bench_command(setting, rounds, folder, factor)
        plan = {"runs": rounds, "warmup": 1, "command": command}
        made = self._bench(setting, folder, [setting.config.chunk_size], "measuring", plan)
        self.runs.append(SessionRun(len(self.runs) + 1, before, made))

    def _calibrate(self, setting: Setting, folder: str) -> None:
        own, decoder = setting.config.chunk_size, self._load(setting.decoding)
        sizes = {own, 1, 2} if setting.decoding.variant in _ANY_CHUNK_SIZE else {own}
        around: int = 2 * getattr(decoder, "halo", 0)  # which chunks in the middle decode as well
        busy = 2 * setting.encoders if setting.encoders > 1 else 0  # so that all have a segment
        length: float = max(CALIBRATION_LATENT_FRAMES, 1 + 3 * own, busy) + around
        if (traits := Traits.of(decoder)).medium.name == "audio":
            length *= traits.temporal_factor / traits.sample_rate
        free = replace(setting, length=length, mb_per_s=None)
        self._bench(free, folder, sorted(sizes), "measuring costs", {"runs": 2, "warmup": 0})

    def _bench(
        self, setting: Setting, folder: str, sizes: list[int], doing: str, plan: dict[str, Any]
    ) -> Recording:
        """One benchmark for each chunk size, watched and put into the book; the last of them."""
        decoding = setting.decoding
        factory, info = self.here.sink(setting, folder)
        decoder = self._load(decoding)
        source = latents_words(setting, Traits.of(decoder).temporal_factor)
        latents = load_latents(source, decoder)
        for done, size in enumerate(sizes):
            self._say(f"preparing {decoding.decoder} ({decoding.variant})")
            prepare(decoder, latents, size)
            since_s = time.perf_counter()

            def report(frames: int, total: int, done: int = done, since_s: float = since_s) -> None:
                more = total * (len(sizes) - done) / frames - 1
                left_s = more * (time.perf_counter() - since_s)
                self.progress = JobProgress(doing, (done + frames / total) / len(sizes), left_s)

            self._say(doing, done / len(sizes))
            made = run_benchmark(
                decoder, latents, factory, sink_info=info, modes=MODES, fps=setting.fps,
                config=replace(setting.config, chunk_size=size), label="explorer",
                latents_source=source, progress=report, cancel=self._cancel, **plan,
            )  # fmt: skip
            self.book.add(made, decoding.machine, decoding.decoder, decoding.sink)
        return made

    def _say(self, doing: str, share: float = 0.0) -> None:
        if self._cancel.is_set():
            raise DecodeCancelled(f"before {doing}")
        self.progress = JobProgress(doing, share)

    def _load(self, decoding: Decoding) -> ChunkDecoder:
        """The decoder; the one before is let go of first, so that two never share the memory."""
        grain = GRAIN if decoding.content == "grain" else None
        key = (decoding.decoder, decoding.variant, grain)
        if self._decoder is None or self._decoder[0] != key:
            self._release()
            self._say(f"loading {decoding.decoder} ({decoding.variant})")
            self._decoder = (key, self.here.load(*key))
        loaded = self._decoder[1]
        if (made := Traits.of(loaded).medium.name) != decoding.medium:
            raise ValueError(
                f"decoder {decoding.decoder!r} makes {MEDIA[made].called}; set the medium to that"
            )
        return loaded

    def _release(self) -> None:
        """Let go of the decoder and of what torch keeps for it."""
        self._decoder = None
        gc.collect()
        if self.here.on_gpu:
            torch.cuda.empty_cache()
