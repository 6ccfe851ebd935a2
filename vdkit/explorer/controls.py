"""The explorer's knobs and buttons: what they are called, where they sit, when they are shut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from vdkit.decode.chunks import MAX_SLOTS, PRIMITIVES, DecodeConfig
from vdkit.explorer.live_timeline import Panel
from vdkit.explorer.views import ring_words
from vdkit.predict.book import MODES, Forecast
from vdkit.trace.stalls import stalls_from_records

if TYPE_CHECKING:
    from vdkit.explorer.session import Progress, Session, SessionRun, Workshop
    from vdkit.predict.book import Decoding


SIDE_BY_SIDE = "side by side"
SIZES = ("64x96", "96x160", "480x832", "720x1280")
LATENT_FRAMES, CHUNK_SIZES, ROUNDS = (2, 161), (1, 8), (1, 99)
SPEEDS_MB_PER_S = (0.1, 10_000.0)
"""From the least to the most that a control offers."""
_WIDE = {"width": "98%"}
_STYLE = {"description_width": "94px"}

CSS = """<style>
.vdkit-explorer { max-width: 1180px; }
.vdkit-explorer .vdkit-remarks { min-height: 4.4em; max-height: 8.8em; overflow: auto;
  line-height: 1.45; white-space: pre-line; }
.vdkit-explorer .vdkit-warning > div:first-child { color: #C00000; }
.vdkit-explorer table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: 12px; line-height: 1.35; margin: 4px 0; }
.vdkit-explorer th { font-weight: 600; text-align: right; padding: 2px 8px; }
.vdkit-explorer td { text-align: right; padding: 2px 8px; border-top: 1px solid #ddd; }
.vdkit-explorer th:first-child, .vdkit-explorer td:first-child { text-align: left; }
.vdkit-explorer .vdkit-head { font-weight: 600; }
</style>"""


def style_html() -> w.HTML:
    """The style sheet of the explorer's own tables and sentences."""
    return w.HTML(CSS, layout={"display": "none"})


class Controls:
    """Every control by name; ``rows`` is how they are laid out.

    Args:
        workshop: what there is to choose from.
        machines: this one first.
        decoder, variant, size, latent_frames, chunk_size, slots, sink, folder, mb_per_s, rounds:
            first values; ``mb_per_s`` None: storage is not held.

    Raises:
        ValueError: a first value that its control has not; names it and what there is.
    """

    def __init__(
        self,
        workshop: Workshop,
        machines: Sequence[str],
        *,
        decoder: str,
        size: str,
        latent_frames: int,
        variant: str = "diffusers",
        chunk_size: int = 1,
        slots: int = 2,
        sink: str = "raw",
        folder: str = "",
        mb_per_s: float | None = None,
        rounds: int = 3,
    ) -> None:
        for name, value, names in (
            ("variant", variant, workshop.variants),
            ("sink", sink, workshop.sinks),
        ):
            if value not in names:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(names)}")
        for name, number, low, high in (
            ("latent_frames", latent_frames, *LATENT_FRAMES),
            ("chunk_size", chunk_size, *CHUNK_SIZES),
            ("slots", slots, 1, MAX_SLOTS),
            ("rounds", rounds, *ROUNDS),
        ):
            if not low <= number <= high:
                raise ValueError(f"{name} is {number!r}; use {low} to {high}")

        def wide(kind: type[Any], **given: Any) -> Any:
            return kind(style=_STYLE, layout=_WIDE, **given)

        self.machine = wide(w.Dropdown, description="machine", options=machines)
        self.decoder = wide(
            w.Combobox, description="decoder", value=decoder, options=tuple(workshop.decoders),
            ensure_option=False, continuous_update=False,
        )  # fmt: skip
        self.variant = wide(
            w.Dropdown, description="variant", value=variant, options=tuple(workshop.variants)
        )
        self.size = wide(
            w.Combobox, description="size, HxW", value=size, options=SIZES, ensure_option=False,
            continuous_update=False,
        )  # fmt: skip
        self.latent_frames = wide(
            w.IntSlider,
            description="latent frames",
            value=latent_frames,
            min=LATENT_FRAMES[0],
            max=LATENT_FRAMES[1],
        )
        self.chunk_size = wide(
            w.IntSlider,
            description="chunk size",
            value=chunk_size,
            min=CHUNK_SIZES[0],
            max=CHUNK_SIZES[1],
        )
        self.slots = wide(w.IntSlider, description="slots", value=slots, min=1, max=MAX_SLOTS)
        self.primitives = {
            name: w.Checkbox(value=True, description=words, indent=False, layout={"width": "auto"})
            for name, words in PRIMITIVES.items()
        }
        self.sink = wide(w.Dropdown, description="sink", value=sink, options=tuple(workshop.sinks))
        self.folder = wide(
            w.Text, description="folder", placeholder="the system's temporary folder",
            continuous_update=False,
        )  # fmt: skip
        self.held = w.Checkbox(
            value=False, description="hold the storage to this speed:", indent=False
        )
        self.speed = wide(
            w.FloatLogSlider, description="MB/s", value=100.0, min=-1, max=4, step=0.05,
            readout_format=".3g",
        )  # fmt: skip
        self.rounds = wide(
            w.BoundedIntText, description="runs of each", value=rounds, min=ROUNDS[0], max=ROUNDS[1]
        )
        button = {"width": "31%"}
        self.run = w.Button(description="Run", button_style="primary", layout=button)
        self.cancel = w.Button(description="Cancel", disabled=True, layout=button)
        self.calibrate = w.Button(
            description="Calibrate", layout=button, tooltip="measure the costs with a short video"
        )
        self.bar = w.FloatProgress(min=0, max=1, layout=_WIDE)
        self.state = w.HTML("idle", layout={"height": "2.8em", "overflow": "hidden"})
        self.view = w.ToggleButtons(
            options=("this setting", SIDE_BY_SIDE), style={"button_width": "110px"}
        )
        pair = {"width": "330px"}
        self.first = w.Dropdown(options=(), layout=pair, disabled=True)
        self.second = w.Dropdown(options=(), layout=pair, disabled=True)
        self.label = w.Text(
            value="explorer", description="label", style=_STYLE, layout={"width": "330px"}
        )
        self.export = w.Button(description="Export")
        self._knobs = (
            self.machine, self.decoder, self.variant, self.size, self.latent_frames,
            self.chunk_size, self.slots, *self.primitives.values(), self.sink, self.held,
            self.speed,
        )  # fmt: skip
        self.rows = (self._layout(),)
        self.folder.value = folder
        self.hold_storage(mb_per_s)

    def _layout(self) -> w.HBox:
        def column(head: str, width: str, *parts: Any) -> w.VBox:
            title = w.HTML(f"<span class='vdkit-head'>{head}</span>")
            return w.VBox([title, *parts], layout={"width": width})

        switches = w.GridBox(
            list(self.primitives.values()),
            layout={"grid_template_columns": "44% 56%", "margin": "0 0 0 8px"},
        )
        buttons = w.HBox([self.run, self.cancel, self.calibrate])
        return w.HBox(
            [
                column("What", "27%", self.machine, self.decoder, self.variant, self.size,
                       self.latent_frames),
                column("How", "27%", self.chunk_size, self.slots, switches),
                column("Where to", "23%", self.sink, self.folder, self.held, self.speed),
                column("Measure", "23%", self.rounds, buttons, self.bar, self.state),
            ],
            layout={"width": "100%", "justify_content": "space-between"},
        )  # fmt: skip

    def observe(self, redraw: Callable[[Any], None]) -> None:
        """Call ``redraw`` after every change of a knob or of what is shown."""
        for control in (*self._knobs, self.view, self.first, self.second):
            control.observe(redraw, names="value")

    @property
    def config(self) -> DecodeConfig:
        """Chunk size, slots and primitives."""
        switches = {name: box.value for name, box in self.primitives.items()}
        return DecodeConfig(self.chunk_size.value, self.slots.value, **switches)

    @property
    def mb_per_s(self) -> float | None:
        """What the storage is held to; None: nothing."""
        return float(f"{self.speed.value:.3g}") if self.held.value else None

    def hold_storage(self, mb_per_s: float | None) -> None:
        """Hold the storage to this speed; None: let it go. ValueError beyond the slider."""
        if mb_per_s is not None:
            low, high = SPEEDS_MB_PER_S
            if not low <= mb_per_s <= high:
                raise ValueError(
                    f"mb_per_s is {mb_per_s!r}; use {low:g} to {high:g} MB/s, or None for as fast "
                    "as it goes"
                )
            self.speed.value = mb_per_s
        self.held.value = mb_per_s is not None

    def go_to(self, decoding: Decoding) -> None:
        """Choose the decoder, variant, size and sink of ``decoding``."""
        self.decoder.value, self.variant.value = decoding.decoder, decoding.variant
        self.size.value, self.sink.value = f"{decoding.height}x{decoding.width}", decoding.sink

    @property
    def size_pixels(self) -> tuple[int, int]:
        """(height, width); ValueError if what stands there is none."""
        text = self.size.value.strip().lower()
        height, _, width = text.partition("x")
        if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
            raise ValueError(f"size is {text!r}; give height x width in pixels, e.g. 480x832")
        return int(height), int(width)

    def adapt(self, session: Session) -> None:
        """Shut what has no effect now: Run for a machine that is not here, a speed not held."""
        here = self.machine.value == session.workshop.machine
        for button in (self.run, self.calibrate):
            button.disabled = session.running or not here
            button.tooltip = "" if here else f"{self.machine.value} cannot be measured from here"
        self.speed.disabled = not self.held.value
        self.folder.disabled = self.sink.value == "null"

    def busy(self, running: bool) -> None:
        """Buttons while a job is in hand, and after."""
        self.cancel.disabled = not running
        self.run.disabled = self.calibrate.disabled = running

    def show(self, progress: Progress) -> None:
        """The bar, what is being done, and the time left."""
        self.bar.value = progress.share
        style = {"cancelled": "warning", "failed": "danger", "done": "success"}
        self.bar.bar_style = style.get(progress.doing, "info")
        left = "" if progress.left_s is None else f", {progress.left_s:.0f} s left"
        self.state.value = f"{progress.doing}{left}"

    def offer(self, runs: Sequence[tuple[int, str]]) -> None:
        """The runs that can be laid side by side: the newest is B, the one chosen before is A."""
        options = [(f"{number}: {words}", number) for number, words in runs]
        numbers = [number for number, _ in runs]
        kept = self.second.value if self.second.value in numbers else numbers[0]
        for control, value in ((self.first, kept), (self.second, numbers[-1])):
            control.options = options
            control.value = value
            control.disabled = False


def setting_panels(forecast: Forecast, run: SessionRun | None) -> list[Panel]:
    """Both paths of a setting; its run, if there is one, below the prediction in each lane."""
    panels = []
    for mode in MODES:
        made = forecast.predictions[mode]
        title = f"{mode}: predicted {made.run.latency_s:.3f} s"
        measured = None
        if run is not None:
            measured = run.result.arms[mode].typical()
            title += f", measured {measured.latency_s:.3f} s"
        panels.append(Panel(title, made.run, measured, made.stalls))
    return panels


def pair_panels(runs: Sequence[SessionRun]) -> list[Panel]:
    """Mode async of each run, the one nearest to its median."""
    panels = []
    for run in runs:
        measured = run.result.arms["async"].typical()
        title = f"run {run.number}, async: {measured.latency_s:.3f} s, "
        stalls = stalls_from_records(measured, run.result.config)
        panels.append(Panel(title + ring_words(run.setting.config), None, measured, stalls))
    return panels
