"""The explorer: knobs, what they would give, and a button that measures whether it is so.

`Controls` are what there is to choose from, by machine and medium. Every change is predicted and
drawn at once; Run measures on a thread of its own, so that the knobs stay alive. The state lives in
`vdkit.explorer.session`.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from vdkit import explorer as told
from vdkit.decode.chunks import MAX_SLOTS, PRIMITIVES, DecodeConfig
from vdkit.decode.media import MEDIA
from vdkit.explorer.session import JobProgress, Session, ThisMachine
from vdkit.predict.advise import Setting, SettingPrediction
from vdkit.predict.fit import Decoding
from vdkit.present import Table
from vdkit.present.style import keep_data, save_figure
from vdkit.record import check_out, result_folder
from vdkit.record.recording import FILE, write_recording

if TYPE_CHECKING:
    from vdkit.decode import ChunkDecoder
    from vdkit.measure.study import SinkFactory

SIDE_BY_SIDE = "side by side"


def _look(words_px: int, **layout: str) -> Any:
    """Of a control: how wide its words are; all of its column's width unless ``layout`` says."""
    return {"style": {"description_width": f"{words_px}px"}, "layout": {"width": "98%"} | layout}


_WHAT, _LOOK, _WHERE = (_look(words_px) for words_px in (70, 94, 50))
"""Of the controls of columns 1 to 3."""
_REST = {"width": "auto", "flex": "1 1 0", "min_width": "0"}
_CONTENT = _look(52, width="124px", flex="0 0 auto")
_ENCODERS = _look(60, width="114px", flex="0 0 auto")
"""Two that share a row."""


class Controls:
    """Every control by name; ``rows`` is how they are laid out, ``drawn`` what a picture is of.

    ``start`` has the first values by the names of `explore`; ValueError, with what there is, for
    one that its control has not.
    """

    def __init__(
        self, here: ThisMachine, machines: Sequence[str], start: Mapping[str, Any]
    ) -> None:
        def choice(name: str, names: Sequence[Any], words: str = "", look: Any = _LOOK) -> Any:
            value = names[0] if start.get(name) is None else start[name]
            if value not in names:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(map(str, names))}")
            return w.Dropdown(description=words or name, value=value, options=names, **look)

        def typed(
            name: str, words: str, names: Sequence[str] = (), hint: str = "", look: Any = _LOOK
        ) -> Any:
            return w.Combobox(
                description=words, value=start[name], options=names, ensure_option=False,
                continuous_update=False, placeholder=hint, **look,
            )  # fmt: skip

        def whole(name: str, low: int, high: int, kind: Any = w.IntSlider, words: str = "") -> Any:
            value, words = start[name], words or name.replace("_", " ")
            if not low <= value <= high:
                raise ValueError(f"{name} is {value!r}; use {low} to {high}")
            return kind(description=words, value=value, min=low, max=high, **_LOOK)

        def switch(words: str, on: bool) -> Any:
            look: Any = {"indent": False, "layout": {"width": "auto"}}
            return w.Checkbox(on, description=words, **look)

        self._here, medium = here, start["medium"]
        self.machine = choice("machine", tuple(dict.fromkeys((here.name, *machines))), look=_WHAT)
        self.medium = choice("medium", here.media, look=_WHAT)
        self.decoder = typed("decoder", "decoder", here.decoders(medium), look=_WHAT)
        self.variant = choice("variant", here.variants, look=_WHAT)
        self.size = typed("size", "size, HxW", told.SIZES[medium], look=_look(70, **_REST))
        self.content = choice("content", here.contents(self.decoder.value), look=_CONTENT)
        self.latent_frames = whole("latent_frames", 2, 161)
        self.seconds = whole("seconds", 1, 60)
        self.chunk_size = whole("chunk_size", 1, told.LARGEST_CHUNK[medium])
        self.slots = whole("slots", 1, MAX_SLOTS)
        self.primitives = {name: switch(words, True) for name, words in PRIMITIVES.items()}
        self.sink = choice("sink", here.sinks(medium), look=_WHERE)
        formats, many = here.formats(self.sink.value, medium), here.encoders(self.sink.value)
        self.pixel_format = choice("pixel_format", formats, "format", _look(50, **_REST))
        self.encoders = choice("encoders", many, look=_ENCODERS)
        self.folder = typed("folder", "folder", hint="temporary files", look=_WHERE)
        self.held = switch("hold the storage to this speed:", False)
        self.speed = w.FloatLogSlider(
            description="MB/s",
            value=100.0,
            min=-1,
            max=4,
            step=0.05,
            readout_format=".3g",
            **_WHERE,
        )
        self.rounds = whole("rounds", 1, 99, w.BoundedIntText, "runs of each")
        self.run, self.cancel, self.calibrate = buttons = [
            w.Button(description=words, layout={"width": "31%"})
            for words in ("Run", "Cancel", "Calibrate")
        ]
        self.run.button_style, self.cancel.disabled = "primary", True
        self.bar = w.FloatProgress(min=0, max=1, layout={"width": "98%"})
        self.state = w.HTML("idle", layout={"height": "2.8em", "overflow": "hidden"})
        self.view = w.ToggleButtons(
            options=("this setting", SIDE_BY_SIDE), style={"button_width": "110px"},
            layout={"width": "240px"},
        )  # fmt: skip
        wide = {"width": "auto", "flex": "1 1 0"}
        self.first, self.second = (w.Dropdown(disabled=True, layout=wide) for _ in range(2))
        narrow: Any = _look(94, width="330px")
        self.label = w.Text("explorer", description="label", **narrow)
        self.export = w.Button(description="Export")
        self.hold_storage(start["mb_per_s"])
        grid = {"grid_template_columns": "50% 50%", "margin": "0 0 0 8px"}
        switches = w.GridBox(list(self.primitives.values()), layout=grid)
        pairs = (self.size, self.content), (self.pixel_format, self.encoders)
        size, of_sink = (w.HBox(pair, layout={"width": "98%"}) for pair in pairs)
        columns = (
            ("27%", self.machine, self.medium, self.decoder, self.variant, size),
            ("26%", self.latent_frames, self.seconds, self.chunk_size, self.slots, switches),
            ("24%", self.sink, of_sink, self.folder, self.held, self.speed),
            ("23%", self.rounds, w.HBox(buttons), self.bar, self.state),
        )
        boxes = [w.VBox(parts, layout={"width": width}) for width, *parts in columns]
        look = {"width": "100%", "justify_content": "space-between"}
        self.rows = (
            w.HTML(told.STYLE_SHEET, layout={"display": "none"}),
            w.HBox(boxes, layout=look),
        )
        parts = [part for _, *parts in columns[:3] for part in parts]
        knobs = [knob for part in parts for knob in getattr(part, "children", (part,))]
        self.drawn = (*knobs, self.view, self.first, self.second)
        self._fit_medium()

    def offer_media(self, media: Sequence[str]) -> None:
        """What there is to choose from; hidden if that is one."""
        names = [name for name in MEDIA if name in media]
        _options(self.medium, [(MEDIA[name].called.capitalize(), name) for name in names], names)
        self.medium.layout.display = None if len(names) > 1 else "none"

    def change_medium(self) -> None:
        """To what the medium's control says: its decoders, its sinks, its usual size and length."""
        medium, here = self.medium.value, self._here
        decoder, size, length, chunk = told.USUAL[medium][not here.on_gpu]
        self.decoder.options, self.size.options = here.decoders(medium), told.SIZES[medium]
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
        self.latent_frames.description = "images" if medium == "images" else "latent frames"
        for control in (self.size, self.latent_frames, self.seconds):
            on = (control is self.seconds) == (medium == "audio")
            control.layout.display = None if on else "none"
        self.chunk_size.max = told.LARGEST_CHUNK[medium]
        self.variant.disabled = medium != "video"  # the others have but one

    def fit_choices(self, recorded: Sequence[Decoding] = ()) -> None:
        """Contents of the decoder, formats and encoders of the sink; another one's begin anew.

        Args:
            recorded: of another machine: what was measured there is offered first.
        """
        here, decoder, sink = self._here, self.decoder.value.strip(), self.sink.value
        contents = [one.content for one in recorded if one.decoder == decoder]
        formats = [one.pixel_format for one in recorded if one.sink == sink]
        for menu, found in (
            (self.content, (*contents, *here.contents(decoder))),
            (self.pixel_format, (*formats, *here.formats(sink, self.medium.value))),
            (self.encoders, here.encoders(sink)),
        ):
            if menu.options != (names := tuple(dict.fromkeys(found))):
                menu.options = names
            menu.disabled = len(names) == 1

    def setting(self, dtype: str) -> Setting:
        """What they ask for; ValueError if no run can have it."""
        sound, text = self.medium.value == "audio", self.size.value.strip().lower()
        height, _, width = ("1x1" if sound else text).partition("x")
        if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
            raise ValueError(f"size is {text!r}; give height x width in pixels, e.g. 480x832")
        decoding = Decoding(
            self.machine.value, self.decoder.value.strip(), self.variant.value, dtype,
            int(height), int(width), self.sink.value, self.medium.value, self.content.value,
            self.pixel_format.value,
        )  # fmt: skip
        switches = {name: box.value for name, box in self.primitives.items()}
        config = DecodeConfig(self.chunk_size.value, self.slots.value, **switches)
        mb_per_s = float(f"{self.speed.value:.3g}") if self.held.value else None
        length = (self.seconds if sound else self.latent_frames).value
        return Setting(decoding, length, config, mb_per_s, encoders=self.encoders.value)

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
        menu = [(f"{run.number}: {told.setting_words(run.setting)}", run) for run in runs]
        kept = self.second.value or runs[0]
        for control, run in ((self.first, kept), (self.second, runs[-1])):
            control.options, control.disabled, control.value = menu, False, run


def _options(menu: w.Dropdown, options: Sequence[Any], values: Sequence[str]) -> None:
    """Other options, the value kept if it is one of them."""
    kept = menu.value
    menu.options = options
    menu.value = kept if kept in values else values[0]


TICK_S = 0.25
"""Between two looks at a job in hand: rare, because a look takes the interpreter from it."""


class Explorer(w.VBox):
    """Choose, predict, measure, compare, export; made by `explore`."""

    remarks: tuple[str, ...] = ()
    """What stands below the picture, in sentences."""
    _ticker: threading.Thread | None = None
    _closed = False
    _turning = True

    def __init__(self, here: ThisMachine, results: Path, start: Mapping[str, Any]) -> None:
        self.session = Session(here, results)
        self.results = results
        self.controls = c = Controls(here, self.session.book.machines(), start)
        self._picture = told.LiveTimeline()
        self._lock = threading.RLock()
        self._predicted: SettingPrediction | None = None
        self._image = w.Image(format="png", layout={"width": "100%", "height": "auto"})
        self._remarks, self._figures, self._table, self._exported = (w.HTML() for _ in range(4))
        heading = w.HBox([c.view, c.first, c.second], layout={"margin": "2px 0 0 0"})
        saving = w.HBox([c.label, c.export], layout={"margin": "6px 0 0 0"})
        shown = (self._image, self._remarks, self._figures, self._table)
        super().__init__([*c.rows, heading, *shown, saving, self._exported])
        self.add_class("vdkit-explorer")
        for control in c.drawn:
            control.observe(self._changed, names="value")
        c.run.on_click(lambda _: self.run())
        c.calibrate.on_click(lambda _: self.calibrate())
        c.cancel.on_click(lambda _: self.session.cancel())
        c.export.on_click(self._on_export)
        c.offer_media(here.media)
        self._turning = False
        self._changed()

    @property
    def setting(self) -> Setting:
        """What the controls ask for; ValueError if no run can have it.

        The dtype is this machine's, or of a recorded one what it was measured in, float16 first.
        """
        here, machine = self.session.here, self.controls.machine.value
        decoder, book = self.controls.decoder.value.strip(), self.session.book
        known = {key.dtype for key in book.known(machine) if key.decoder == decoder}
        found = [one for one in ("float16", "bfloat16", "float32") if one in known]
        return self.controls.setting(here.dtype if machine == here.name else (*found, "float16")[0])

    def run(self, wait_s: float | None = None) -> Explorer:
        """Measure what the controls ask for, as the button does.

        ``wait_s``: for it, and first for a job in hand, each at the most; None: not at all.
        """
        return self._begin(partial(self.session.run, self.controls.rounds.value), wait_s)

    def calibrate(self, wait_s: float | None = None) -> Explorer:
        """Measure only what it costs, with a short video; arguments as for `run`."""
        return self._begin(self.session.calibrate, wait_s)

    def _begin(self, job: Callable[[Setting, str], None], wait_s: float | None) -> Explorer:
        self._check_open()
        if wait_s is not None:
            self.wait(wait_s)
        try:
            job(self.setting, self.controls.folder.value.strip())
        except (RuntimeError, ValueError) as error:
            self._say([str(error)], warning=True)
            return self
        self.controls.adapt(self.session)
        self.controls.cancel.disabled = False
        name = "vdkit-explorer-progress"
        self._ticker = threading.Thread(target=self._tick, name=name, daemon=True)
        self._ticker.start()
        if wait_s is not None:
            self.wait(wait_s)
        return self

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the job in hand is done and shown; False if it is not after ``timeout_s``."""
        ticker = self._ticker
        if ticker is not None and ticker is not threading.current_thread():
            ticker.join(timeout_s)
        return ticker is None or not ticker.is_alive()

    def _tick(self) -> None:
        while not self.session.wait(TICK_S):
            self.controls.show(self.session.progress)
        self.controls.show(self.session.progress)
        try:
            with self._lock:
                runs = self.session.runs
                if runs and self.session.error is None:
                    self._table.value = self.table()._repr_html_()
                    self._turning = True
                    try:
                        self.controls.offer(runs)
                    finally:
                        self._turning = False
                self._redraw()
        finally:
            self.controls.adapt(self.session)
            self.controls.cancel.disabled = True  # last: what the job found is on the page by now

    def _changed(self, change: Any = None) -> None:
        """A knob was turned: what goes with it follows, then one picture is drawn."""
        if self._turning:
            return
        c, here, turned = self.controls, self.session.here, change and change.owner
        known, medium = self.session.book.known(c.machine.value), c.medium.value
        self._turning = True
        try:
            if turned is c.machine:
                media = here.media if c.machine.value == here.name else [k.medium for k in known]
                c.offer_media(media)
            if turned is c.medium or c.medium.value != medium:
                c.change_medium()
            there = () if c.machine.value == here.name else known
            if turned in (c.machine, c.medium) and there:
                self._go_to_known([key for key in known if key.medium == c.medium.value])
            c.fit_choices(there)
        finally:
            self._turning = False
        if not self.session.running:  # what went wrong before has been read
            self.session.error = None
        self._redraw()

    def _go_to_known(self, known: Sequence[Decoding]) -> None:
        """To something that was recorded, unless what is chosen was."""
        c, one = self.controls, known[0]
        chosen = (c.decoder.value.strip(), c.variant.value)
        if chosen not in {(key.decoder, key.variant) for key in known}:
            c.decoder.value, c.variant.value, c.sink.value = one.decoder, one.variant, one.sink
            c.size.value = f"{one.height}x{one.width}"

    def _redraw(self) -> None:
        """Predict and draw; an impossible setting is explained in place of the picture."""
        with self._lock:
            self.controls.adapt(self.session)
            if self.controls.view.value == SIDE_BY_SIDE:
                self._draw_pair()
            else:
                self._draw_setting()
            self._image.value = self._picture.png()

    def _draw_setting(self) -> None:
        self._predicted, run, warning = None, None, False
        machine, medium = self.controls.machine.value, MEDIA[self.controls.medium.value]
        try:
            run = self.session.measured(self.setting)
            self._predicted = made = run.predicted if run else self.session.predict(self.setting)
            remarks = [f"Costs of each step on {machine}: {made.known.origin}.", *made.remarks]
            if run is not None:
                remarks.insert(0, told.difference_words(run))
        except LookupError as missing:
            words, known = str(missing.args[0]), self.session.book.known(machine)
            listed = dict.fromkeys(f"{k.decoder} ({k.variant}) to {k.sink}" for k in known)
            remedy = f"Recorded there: {', '.join(listed)}."
            if machine == self.session.here.name:
                remedy = "Calibrate measures it, as Run does before it starts."
            remarks = [f"{words[0].upper()}{words[1:]}. {remedy}"]
        except ValueError as error:
            remarks, warning = [str(error)], True
        if self._predicted is None:
            self._picture.say(remarks[0])
        else:
            self._picture.draw(told.setting_panels(self._predicted, run))
        before = self._predicted.predictions if self._predicted else {}
        after = run.shown if run else {}
        sides = ("predicted", medium, before), ("measured", medium, after)
        self._figures.value = told.figures_table(*sides)._repr_html_()
        self._say(remarks, warning)

    def _draw_pair(self) -> None:
        words = "Two runs are needed side by side: measure some, then choose them above."
        if chosen := self._pair():
            words = told.pair_words(*chosen)
            self._picture.draw(told.pair_panels(chosen))
            sides = [(f"run {r.number}", r.recording.workload.kind, r.shown) for r in chosen]
            self._figures.value = told.figures_table(*sides)._repr_html_()
        else:
            self._picture.say(words)
        self._say([words])

    def _pair(self) -> list[told.SessionRun]:
        """The two runs that the menus name; none before there is one."""
        return [menu.value for menu in (self.controls.first, self.controls.second) if menu.value]

    def _say(self, remarks: list[str], warning: bool = False) -> None:
        if self.session.error is not None and not self.session.running:
            remarks, warning = [self.session.error, *remarks], True
        self.remarks = tuple(remarks)
        self._remarks.value = told.html_of(remarks, warning)

    def table(self) -> Table:
        """The runs of this session; ValueError before the first one."""
        if not self.session.runs:
            raise ValueError("nothing is measured yet; press Run")
        return told.runs_table(self.session.runs)

    def snapshot(self) -> Any:
        """The picture as it is now, for a page that shows no widgets."""
        from IPython.display import Image

        with self._lock:
            return Image(self._picture.png())

    def export(self) -> list[Path]:
        """Write a run's recording, its picture and the table of all runs, into a new folder.

        The run of the setting that is shown, or, if that was not measured, the last one. With two
        runs side by side the picture is theirs and the recording is the second's.

        Returns:
            The files written.

        Raises:
            RuntimeError: nothing is measured yet, or the explorer is closed.
            OSError: the results folder cannot be written to.
            ValueError: the label is too long for a file name.
        """
        self._check_open()
        runs, picture = self.session.runs, told.LiveTimeline()
        if not runs:
            raise RuntimeError("nothing is measured yet, so there is nothing to export; press Run")
        run = next((one for one in reversed(runs) if one.predicted is self._predicted), runs[-1])
        panels, what = told.setting_panels(run.predicted, run), run.setting.decoding.content
        what = f"; {what} to {told.sink_told(run.setting)}"
        if self.controls.view.value == SIDE_BY_SIDE and (pair := self._pair()):
            run, panels, what = pair[1], told.pair_panels(pair), ""
        picture.draw(panels, what)
        data = [
            {"panel": panel.title, "bar from above": place} | asdict(chunk)
            for panel in panels
            for place, one in enumerate(panel.runs, 1)
            for chunk in one.chunks
        ]
        keep_data(picture.figure, data)
        label = self.controls.label.value.strip()
        check_out(self.results, label, "results folder")
        made = run.recording.model_copy(update={"label": label or told.setting_words(run.setting)})
        write = partial(write_recording, made)
        folder = result_folder(self.results, made.label, made.provenance, write)
        pictures = save_figure(picture.figure, folder, "timeline")
        written = [folder / FILE, *pictures, *told.runs_table(runs).write(folder, "table")]
        names = ", ".join(path.name for path in written)
        self._exported.value = told.html_of([f"Run {run.number}, written into {folder}: {names}"])
        return written

    def _on_export(self, _: Any) -> None:
        try:
            self.export()
        except (OSError, RuntimeError, ValueError) as error:
            self._exported.value = told.html_of([str(error)], warning=True)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this explorer is closed; call vdkit.explore() again")

    def close(self) -> None:
        """Stop the job in hand, let go of the decoder, and close the widgets."""
        self._closed = True
        if "session" in self.__dict__:  # else it was never made; ipywidgets closes it all the same
            self.session.close()
        self.wait()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            bundle["text/plain"] = "The explorer: run this cell in JupyterLab to use it."
        return bundle


_open: list[Explorer] = []


def explore(
    *, medium: str | None = None, decoder: str | None = None, size: str | None = None,
    latent_frames: int | None = None, seconds: int | None = None, content: str | None = None,
    device: str = "auto", results: str | Path | None = None,
    decoders: Mapping[str, Callable[[], ChunkDecoder]] | None = None,
    sinks: Mapping[str, SinkFactory] | None = None, calibrate: bool = True,
    variant: str = "diffusers", chunk_size: int | None = None, slots: int = 2, sink: str = "raw",
    pixel_format: str | None = None, encoders: int = 1, folder: str = "",
    mb_per_s: float | None = None, rounds: int = 3,
) -> Explorer:  # fmt: skip
    """The explorer as a widget; one that was open before is closed.

    Args:
        medium: ``video``, ``images``, ``audio`` or, where there is one, ``av``; None: what the
            decoder makes, if that can be told from its name or class, else video.
        decoder, size, latent_frames, seconds: first values; None: of video wan2.1, 480x832 and 41
            on a GPU, tiny-wan, 96x160 and 17 on a CPU; of others see `USUAL`. The number of images
            is ``latent_frames``; ``seconds`` are of audio, which has no other size.
        content: ``flat`` (drawn clips; encoding them takes less than half of what decoding does),
            ``grain`` (with film grain) or ``noise`` (random latents). None: flat where the decoder
            draws, which are tiny-wan and wan2.1; others have noise alone.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        results: folder of recordings, read for predictions and written by Export; None:
            ``results`` here or in the folder above, whichever there is.
        decoders, sinks: your own, by name; see `vdkit.explorer.session.ThisMachine`.
        calibrate: begin at once to measure, on a thread, what the first setting costs.
        pixel_format: that a sink of video asks for; None: its own.
        encoders: side by side, 1 to 16, of sink ``mp4``.
        variant, chunk_size, slots, sink, folder, mb_per_s, rounds: first values of the other
            controls; chunk size None: 1, of audio 8.

    Raises:
        ValueError: no such device, medium, variant, sink, content or format, or a number that its
            control has not.
    """
    while _open:
        _open.pop().close()
    here = ThisMachine(device, decoders, sinks)
    medium = medium or here.medium_of(decoder or "") or "video"
    if medium not in here.media:
        raise ValueError(f"medium is {medium!r}; use one of {', '.join(here.media)}")
    usual = {name: of[not here.on_gpu] for name, of in told.USUAL.items()}
    pictures = usual["video" if medium == "audio" else medium]
    start = {
        "medium": medium, "decoder": decoder or usual[medium][0], "size": size or usual[medium][1],
        "latent_frames": pictures[2] if latent_frames is None else latent_frames,
        "seconds": usual["audio"][2] if seconds is None else seconds,
        "chunk_size": usual[medium][3] if chunk_size is None else chunk_size,
        "variant": variant, "slots": slots, "sink": sink, "content": content, "folder": folder,
        "pixel_format": pixel_format, "encoders": encoders, "mb_per_s": mb_per_s, "rounds": rounds,
    }  # fmt: skip
    near = (one for one in ("results", "../results") if Path(one).is_dir())
    found = Path(next(near, "results") if results is None else results)
    made = Explorer(here, found, start)
    _open.append(made)
    return made.calibrate() if calibrate else made


@atexit.register
def _close() -> None:
    """End a measurement before the interpreter takes its libraries away."""
    while _open:
        _open.pop().session.close()
