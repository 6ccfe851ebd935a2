"""The explorer's controls: what there is to choose from, by machine and medium."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as w

from vdkit import explorer as told
from vdkit.decode.chunks import MAX_SLOTS, PRIMITIVES, DecodeConfig
from vdkit.decode.media import MEDIA
from vdkit.explorer.session import JobProgress, Session, ThisMachine

SIDE_BY_SIDE = "side by side"
SIZES = {
    "video": ("64x96", "96x160", "480x832", "720x1280"),
    "images": ("128x128", "256x256", "512x512", "1024x1024"),
    "audio": (),
    "av": ("96x160", "480x832", "704x1280"),
}
USUAL = {
    "video": (("wan2.1", "480x832", 41, 1), ("tiny-wan", "96x160", 17, 1)),
    "images": (("flux", "1024x1024", 8, 1), ("thin-flux", "128x128", 8, 1)),
    "audio": (("mimi", "", 60, 8), ("thin-mimi", "", 10, 8)),
    "av": (("ltx2:av", "480x832", 16, 1), ("ltx2:av", "96x160", 4, 1)),
}
"""Decoder, size, length (latent frames, images, seconds) and chunk size at first, on a GPU and on a
CPU. A redraw takes as long as there are chunks, and audio has many latent frames."""
LARGEST_CHUNK = {"video": 8, "images": 8, "audio": 64, "av": 8}
_STYLE: Any = {"description_width": "94px"}
_LOOK: Any = {"style": _STYLE, "layout": {"width": "98%"}}

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
    """Every control by name; ``rows`` is how they are laid out, ``drawn`` what a picture is of.

    Args:
        here: what there is to choose from.
        machines: that were recorded.
        start: first values of medium, decoder, variant, size, latent_frames, seconds, chunk_size,
            slots, sink, folder, mb_per_s (None: storage is not held) and rounds.

    Raises:
        ValueError: a first value that its control has not; names it and what there is.
    """

    def __init__(
        self, here: ThisMachine, machines: Sequence[str], start: Mapping[str, Any]
    ) -> None:
        def choice(name: str, names: Sequence[str]) -> Any:
            value = start.get(name, names[0])
            if value not in names:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(names)}")
            return w.Dropdown(description=name, value=value, options=names, **_LOOK)

        def typed(name: str, words: str, names: Sequence[str] = (), hint: str = "") -> Any:
            return w.Combobox(
                description=words, value=start[name], options=names, ensure_option=False,
                continuous_update=False, placeholder=hint, **_LOOK,
            )  # fmt: skip

        def whole(name: str, low: int, high: int, kind: Any = w.IntSlider, words: str = "") -> Any:
            value, words = start[name], words or name.replace("_", " ")
            if not low <= value <= high:
                raise ValueError(f"{name} is {value!r}; use {low} to {high}")
            return kind(description=words, value=value, min=low, max=high, **_LOOK)

        def button(words: str, **look: Any) -> Any:
            return w.Button(description=words, layout={"width": "31%"}, **look)

        self._here, medium = here, start["medium"]
        self.machine = choice("machine", tuple(dict.fromkeys((here.name, *machines))))
        self.medium = choice("medium", here.media)
        self.decoder = typed("decoder", "decoder", here.decoders(medium))
        self.variant = choice("variant", here.variants)
        self.size = typed("size", "size, HxW", SIZES[medium])
        self.latent_frames = whole("latent_frames", 2, 161)
        self.seconds = whole("seconds", 1, 60)
        self.chunk_size = whole("chunk_size", 1, LARGEST_CHUNK[medium])
        self.slots = whole("slots", 1, MAX_SLOTS)
        self.primitives = {
            name: w.Checkbox(value=True, description=words, indent=False, layout={"width": "auto"})
            for name, words in PRIMITIVES.items()
        }
        self.sink = choice("sink", here.sinks(medium))
        self.folder = typed("folder", "folder", hint="temporary files")
        self.held = w.Checkbox(
            description="hold the storage to this speed:", indent=False, layout={"width": "auto"}
        )
        self.speed = w.FloatLogSlider(
            description="MB/s", value=100.0, min=-1, max=4, step=0.05, readout_format=".3g", **_LOOK
        )
        self.rounds = whole("rounds", 1, 99, w.BoundedIntText, "runs of each")
        self.run = button("Run", button_style="primary")
        self.cancel = button("Cancel", disabled=True)
        self.calibrate = button("Calibrate", tooltip="measure the costs with a short video")
        self.bar = w.FloatProgress(min=0, max=1, layout={"width": "98%"})
        self.state = w.HTML("idle", layout={"height": "2.8em", "overflow": "hidden"})
        self.view = w.ToggleButtons(
            options=("this setting", SIDE_BY_SIDE), style={"button_width": "110px"},
            layout={"width": "240px"},
        )  # fmt: skip
        menu = {"width": "auto", "flex": "1 1 0"}
        self.first, self.second = (w.Dropdown(disabled=True, layout=menu) for _ in range(2))
        self.label = w.Text(
            "explorer", description="label", **_LOOK | {"layout": {"width": "330px"}}
        )
        self.export = w.Button(description="Export")
        self.hold_storage(start["mb_per_s"])
        buttons = w.HBox([self.run, self.cancel, self.calibrate])
        grid = {"grid_template_columns": "50% 50%", "margin": "0 0 0 8px"}
        switches = w.GridBox(list(self.primitives.values()), layout=grid)
        columns = (
            ("27%", self.machine, self.medium, self.decoder, self.variant, self.size),
            ("27%", self.latent_frames, self.seconds, self.chunk_size, self.slots, switches),
            ("23%", self.sink, self.folder, self.held, self.speed),
            ("23%", self.rounds, buttons, self.bar, self.state),
        )
        knobs = w.HBox(
            [w.VBox(parts, layout={"width": width}) for width, *parts in columns],
            layout={"width": "100%", "justify_content": "space-between"},
        )
        self.rows = (w.HTML(STYLE_SHEET, layout={"display": "none"}), knobs)
        self.drawn = (
            self.machine, self.medium, self.decoder, self.variant, self.size, self.latent_frames,
            self.seconds, self.chunk_size, self.slots, *self.primitives.values(), self.sink,
            self.held, self.speed, self.view, self.first, self.second,
        )  # fmt: skip
        self._fit_medium()

    def offer_media(self, media: Sequence[str]) -> None:
        """What there is to choose from; hidden if that is one."""
        names = [name for name in MEDIA if name in media]
        _options(self.medium, [(MEDIA[name].called.capitalize(), name) for name in names], names)
        self.medium.layout.display = None if len(names) > 1 else "none"

    def change_medium(self) -> None:
        """To what the medium's control says: its decoders, its sinks, its usual size and length."""
        medium, here = self.medium.value, self._here
        decoder, size, length, chunk = USUAL[medium][not here.on_gpu]
        self.decoder.options, self.size.options = here.decoders(medium), SIZES[medium]
        if self.decoder.value.strip() not in self.decoder.options:
            self.decoder.value = decoder
        self.size.value, self.variant.value = size, here.variants[0]
        (self.seconds if medium == "audio" else self.latent_frames).value = length
        _options(self.sink, here.sinks(medium), here.sinks(medium))
        self._fit_medium()
        self.chunk_size.value = chunk

    def _fit_medium(self) -> None:
        """Show what the medium has, in its words."""
        medium = self.medium.value
        audio = medium == "audio"
        self.latent_frames.description = "images" if medium == "images" else "latent frames"
        for control, on in (
            (self.size, not audio), (self.latent_frames, not audio), (self.seconds, audio)
        ):  # fmt: skip
            control.layout.display = None if on else "none"
        self.chunk_size.max = LARGEST_CHUNK[medium]
        self.variant.disabled = medium != "video"  # the others have but one

    @property
    def length(self) -> int:
        """Latent frames, images or seconds."""
        length: int = (self.seconds if self.medium.value == "audio" else self.latent_frames).value
        return length

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
        low, high = 10**self.speed.min, 10**self.speed.max
        if mb_per_s is not None and not low <= mb_per_s <= high:
            raise ValueError(
                f"mb_per_s is {mb_per_s!r}; use {low:g} to {high:g} MB/s, or None for as fast as "
                "it goes"
            )
        self.speed.value = mb_per_s or self.speed.value
        self.held.value = mb_per_s is not None

    @property
    def size_pixels(self) -> tuple[int, int]:
        """(height, width), of audio 1 and 1; ValueError if what stands there is none."""
        if self.medium.value == "audio":
            return 1, 1
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

    def show(self, progress: JobProgress) -> None:
        """The bar, what is being done, and the time left."""
        self.bar.value = progress.share
        style = {"cancelled": "warning", "failed": "danger", "done": "success"}
        self.bar.bar_style = style.get(progress.doing, "info")
        left = "" if progress.left_s is None else f", {progress.left_s:.0f} s left"
        self.state.value = f"{progress.doing}{left}"

    def offer(self, runs: Sequence[told.SessionRun]) -> None:
        """What can be laid side by side: the newest is B, the last B is A."""
        menu = [(f"{run.number}: {told.setting_words(run.setting)}", run.number) for run in runs]
        kept = self.second.value or runs[0].number
        for control, value in ((self.first, kept), (self.second, runs[-1].number)):
            control.options, control.disabled = menu, False
            control.value = value


def _options(menu: w.Dropdown, options: Sequence[Any], values: Sequence[str]) -> None:
    """Other options, the value kept if it is one of them."""
    kept = menu.value
    menu.options = options
    menu.value = kept if kept in values else values[0]
