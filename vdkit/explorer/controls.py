"""The explorer's knobs and buttons: what they are called, where they sit, when they are shut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from vdkit.decode.chunks import MAX_SLOTS, PRIMITIVES, DecodeConfig

if TYPE_CHECKING:
    from vdkit.explorer.session import JobProgress, Session, ThisMachine
    from vdkit.predict.fit import Decoding


SIDE_BY_SIDE = "side by side"
SIZES = ("64x96", "96x160", "480x832", "720x1280")
SPEEDS_MB_PER_S = (0.1, 10_000.0)
"""From the least to the most that a control offers."""
_LOOK: Any = {"style": {"description_width": "94px"}, "layout": {"width": "98%"}}

STYLE_SHEET = """<style>
.vdkit-explorer { max-width: 1180px; }
.vdkit-explorer .vdkit-remarks { min-height: 4.4em; max-height: 8.8em; overflow: auto;
  line-height: 1.45; white-space: pre-line; }
.vdkit-explorer .vdkit-warning > div:first-child { color: #C00000; }
.vdkit-explorer table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: 12px; line-height: 1.35; margin: 4px 0; }
.vdkit-explorer th { font-weight: 600; text-align: right; padding: 2px 8px; }
.vdkit-explorer td { padding: 2px 8px; border-top: 1px solid #ddd; }
.vdkit-explorer th:first-child, .vdkit-explorer td:first-child { text-align: left; }
</style>"""


class Controls:
    """Every control by name; ``rows`` is how they are laid out.

    Args:
        here: what there is to choose from.
        machines: this one first.
        start: first values of decoder, variant, size, latent_frames, chunk_size, slots, sink,
            folder, mb_per_s (None: storage is not held) and rounds.

    Raises:
        ValueError: a first value that its control has not; names it and what there is.
    """

    def __init__(
        self, here: ThisMachine, machines: Sequence[str], start: Mapping[str, Any]
    ) -> None:
        def choice(name: str, value: str, names: Sequence[str]) -> Any:
            if value not in names:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(names)}")
            return w.Dropdown(description=name, value=value, options=names, **_LOOK)

        def typed(words: str, name: str, names: Sequence[str]) -> Any:
            return w.Combobox(
                description=words, value=start[name], options=names, ensure_option=False,
                continuous_update=False, **_LOOK,
            )  # fmt: skip

        def whole(name: str, low: int, high: int, kind: Any = w.IntSlider, words: str = "") -> Any:
            value, words = start[name], words or name.replace("_", " ")
            if not low <= value <= high:
                raise ValueError(f"{name} is {value!r}; use {low} to {high}")
            return kind(description=words, value=value, min=low, max=high, **_LOOK)

        self.machine = choice("machine", machines[0], machines)
        self.decoder = typed("decoder", "decoder", here.decoders)
        self.variant = choice("variant", start["variant"], here.variants)
        self.size = typed("size, HxW", "size", SIZES)
        self.latent_frames = whole("latent_frames", 2, 161)
        self.chunk_size = whole("chunk_size", 1, 8)
        self.slots = whole("slots", 1, MAX_SLOTS)
        self.primitives = {
            name: w.Checkbox(value=True, description=words, indent=False, layout={"width": "auto"})
            for name, words in PRIMITIVES.items()
        }
        self.sink = choice("sink", start["sink"], here.sinks)
        self.folder = w.Text(
            description="folder", value=start["folder"], placeholder="temporary files",
            continuous_update=False, **_LOOK,
        )  # fmt: skip
        self.held = w.Checkbox(
            value=False, description="hold the storage to this speed:", indent=False
        )
        self.speed = w.FloatLogSlider(
            description="MB/s", value=100.0, min=-1, max=4, step=0.05, readout_format=".3g", **_LOOK
        )
        self.rounds = whole("rounds", 1, 99, w.BoundedIntText, "runs of each")
        button = {"width": "31%"}
        self.run = w.Button(description="Run", button_style="primary", layout=button)
        self.cancel = w.Button(description="Cancel", disabled=True, layout=button)
        self.calibrate = w.Button(
            description="Calibrate", layout=button, tooltip="measure the costs with a short video"
        )
        self.bar = w.FloatProgress(min=0, max=1, layout={"width": "98%"})
        self.state = w.HTML("idle", layout={"height": "2.8em", "overflow": "hidden"})
        self.view = w.ToggleButtons(
            options=("this setting", SIDE_BY_SIDE), style={"button_width": "110px"},
            layout={"width": "240px"},
        )  # fmt: skip
        menu = {"width": "auto", "flex": "1 1 0"}
        self.first, self.second = (w.Dropdown(disabled=True, layout=menu) for _ in range(2))
        self.label = w.Text(
            value="explorer", description="label", style=_LOOK["style"], layout={"width": "330px"}
        )
        self.export = w.Button(description="Export")
        self.rows = self._layout()
        self.hold_storage(start["mb_per_s"])

    def _layout(self) -> tuple[Any, ...]:
        switches = w.GridBox(
            list(self.primitives.values()),
            layout={"grid_template_columns": "50% 50%", "margin": "0 0 0 8px"},
        )
        columns = (
            ("27%", self.machine, self.decoder, self.variant, self.size, self.latent_frames),
            ("27%", self.chunk_size, self.slots, switches),
            ("23%", self.sink, self.folder, self.held, self.speed),
            ("23%", self.rounds, w.HBox([self.run, self.cancel, self.calibrate]), self.bar,
             self.state),
        )  # fmt: skip
        knobs = w.HBox(
            [w.VBox(parts, layout={"width": width}) for width, *parts in columns],
            layout={"width": "100%", "justify_content": "space-between"},
        )
        return w.HTML(STYLE_SHEET, layout={"display": "none"}), knobs

    def observe(self, redraw: Callable[[Any], None]) -> None:
        """Call ``redraw`` after every change of a knob or of what is shown."""
        for control in (
            self.machine, self.decoder, self.variant, self.size, self.latent_frames,
            self.chunk_size, self.slots, *self.primitives.values(), self.sink, self.held,
            self.speed, self.view, self.first, self.second,
        ):  # fmt: skip
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
        here = self.machine.value == session.here.name
        for button in (self.run, self.calibrate):
            button.disabled = session.running or not here
            button.tooltip = "" if here else f"{self.machine.value} cannot be measured from here"
        self.speed.disabled = not self.held.value
        self.folder.disabled = self.sink.value == "null"

    def busy(self, running: bool) -> None:
        """Buttons while a job is in hand, and after."""
        self.cancel.disabled = not running
        self.run.disabled = self.calibrate.disabled = running

    def show(self, progress: JobProgress) -> None:
        """The bar, what is being done, and the time left."""
        self.bar.value = progress.share
        style = {"cancelled": "warning", "failed": "danger", "done": "success"}
        self.bar.bar_style = style.get(progress.doing, "info")
        left = "" if progress.left_s is None else f", {progress.left_s:.0f} s left"
        self.state.value = f"{progress.doing}{left}"

    def offer(self, runs: Sequence[tuple[str, int]]) -> None:
        """(Words, number) of what can be laid side by side: the newest is B, the last B is A."""
        numbers = [number for _, number in runs]
        kept = self.second.value if self.second.value in numbers else numbers[0]
        for control, value in ((self.first, kept), (self.second, numbers[-1])):
            control.options = runs
            control.value = value
            control.disabled = False
