"""The explorer: knobs, what they would give, and a button that measures whether it is so.

Every change is predicted and drawn at once; Run measures on a thread of its own, so that the knobs
stay alive. `vdkit.explore` gives it decoders and sinks; the state lives in
`vdkit.present.explorer_session`.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import ipywidgets as w

from vdkit.measure.cost_book import Decoding
from vdkit.measure.forecast import Forecast, Setting
from vdkit.present.explorer_controls import SIDE_BY_SIDE, Controls, style_html
from vdkit.present.explorer_export import export, runs_table
from vdkit.present.explorer_panels import pair_panels, setting_panels
from vdkit.present.explorer_session import Session, SessionRun
from vdkit.present.explorer_tables import numbers_html, predicted_and_measured, run_and_run
from vdkit.present.explorer_words import (
    difference_words,
    exported_words,
    pair_words,
    remarks_html,
    setting_words,
)
from vdkit.present.live_timeline import LiveTimeline
from vdkit.present.table import Table
from vdkit.present.workshop import Workshop

TICK_S = 0.25
"""Between two looks at a job in hand: rare, because a look takes the interpreter from it."""


class Explorer(w.VBox):
    """Choose, predict, measure, compare, export.

    Args:
        workshop: decoders, latents and sinks.
        results: folder of recorded benchmarks, read for predictions and written by Export.
        **start: first values of the controls, by the names of `Controls`.
    """

    remarks: tuple[str, ...] = ()
    """What stands below the picture, in sentences."""
    _ticker: threading.Thread | None = None
    _closed = False

    def __init__(self, workshop: Workshop, results: Path, **start: Any) -> None:
        self.session = Session(workshop, results)
        self.results = results
        self.controls = Controls(workshop, self.session.machines(), **start)
        self._picture = LiveTimeline()
        self._lock = threading.RLock()
        self._forecast: Forecast | None = None
        self._image = w.Image(format="png", layout={"width": "100%", "height": "auto"})
        self._numbers, self._remarks, self._table, self._exported = (w.HTML() for _ in range(4))
        super().__init__([style_html(), *self.controls.rows, self._body()])
        self.add_class("vdkit-explorer")
        self.controls.observe(self._changed)
        self.controls.machine.observe(self._machine_changed, names="value")
        self.controls.run.on_click(lambda _: self.run())
        self.controls.calibrate.on_click(lambda _: self.calibrate())
        self.controls.cancel.on_click(lambda _: self.session.cancel())
        self.controls.export.on_click(self._on_export)
        self._redraw()

    def _body(self) -> w.VBox:
        c = self.controls
        heading = w.HBox([c.view, c.first, c.second], layout={"margin": "6px 0 0 0"})
        saving = w.HBox([c.label, c.export], layout={"margin": "6px 0 0 0"})
        shown = [self._image, self._remarks, self._numbers, self._table]
        return w.VBox([heading, *shown, saving, self._exported])

    @property
    def setting(self) -> Setting:
        """What the controls ask for; ValueError if no run can have it."""
        c = self.controls
        height, width = c.size_pixels
        machine = c.machine.value
        decoding = Decoding(
            machine, c.decoder.value.strip(), c.variant.value, self._dtype(machine), height, width,
            c.sink.value,
        )  # fmt: skip
        return Setting(decoding, c.latent_frames.value, c.config, c.mb_per_s)

    def _dtype(self, machine: str) -> str:
        """This machine's, or for a recorded one what it was measured in, float16 first."""
        if machine == self.session.workshop.machine:
            return self.session.workshop.dtype
        known = {
            key.dtype
            for key in self.session.book.known(machine)
            if key.decoder == self.controls.decoder.value.strip()
        }
        return next((d for d in ("float16", "bfloat16", "float32") if d in known), "float16")

    def run(self, wait_s: float | None = None) -> Explorer:
        """Measure what the controls ask for, as the button does.

        Args:
            wait_s: wait for it, and first for a job in hand, each so long at the most; None: not
                at all.
        """
        return self._begin("run", wait_s)

    def calibrate(self, wait_s: float | None = None) -> Explorer:
        """Measure only what it costs, with a short video; arguments as for `run`."""
        return self._begin("calibrate", wait_s)

    def _begin(self, what: str, wait_s: float | None) -> Explorer:
        self._check_open()
        if wait_s is not None:
            self.wait(wait_s)
        try:
            setting, folder = self.setting, self.controls.folder.value.strip()
            if what == "run":
                self.session.run(setting, self.controls.rounds.value, folder)
            else:
                self.session.calibrate(setting, folder)
        except (RuntimeError, ValueError) as error:
            self._say([str(error)], warning=True)
            return self
        self.controls.busy(True)
        self._ticker = threading.Thread(target=self._tick, name="vdkit-explorer-progress")
        self._ticker.daemon = True
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
                    self.controls.offer([(r.number, setting_words(r.setting)) for r in runs])
                    self._table.value = self.table()._repr_html_()
                self._redraw()
        finally:
            self.controls.busy(False)  # last: what the job found is on the page by now

    def _changed(self, _: Any) -> None:
        """A knob was turned: what went wrong before has been read."""
        if not self.session.running:
            self.session.error = None
        self._redraw()

    def _machine_changed(self, _: Any) -> None:
        """Go to something that is known of the machine, if what is chosen is not."""
        c, known = self.controls, self.session.book.known(self.controls.machine.value)
        chosen = (c.decoder.value.strip(), c.variant.value)
        here = c.machine.value == self.session.workshop.machine
        if not here and chosen not in {(key.decoder, key.variant) for key in known}:
            c.go_to(known[0])

    def _redraw(self) -> None:
        """Predict and draw; an impossible setting is explained in place of the picture."""
        with self._lock:
            self.controls.adapt(self.session)
            if self.controls.view.value == SIDE_BY_SIDE:
                self._draw_pair()
                return
            self._forecast, run, remarks, warning = None, None, [], False
            try:
                setting = self.setting
                run = self.session.measured(setting)
                self._forecast = run.forecast if run else self.session.forecast(setting)
                remarks = [self._origin(), *self._forecast.remarks]
                if run is not None:
                    remarks.insert(
                        0, f"Run {run.number}: {difference_words(run.forecast, run.result)}"
                    )
                self._picture.draw(setting_panels(self._forecast, run))
            except LookupError as missing:
                words = str(missing.args[0])
                remarks = [words[0].upper() + words[1:] + "." + self._remedy()]
                self._picture.say(remarks[0])
            except ValueError as error:
                remarks, warning = [str(error)], True
                self._picture.say(str(error))
            self._image.value = self._picture.png()
            self._numbers.value = numbers_html(predicted_and_measured(self._forecast, run))
            self._say(remarks, warning)

    def _say(self, remarks: list[str], warning: bool = False) -> None:
        if self.session.error is not None and not self.session.running:
            remarks, warning = [self.session.error, *remarks], True
        self.remarks = tuple(remarks)
        self._remarks.value = remarks_html(remarks, warning)

    def _origin(self) -> str:
        assert self._forecast is not None
        return (
            f"Costs of each step on {self.controls.machine.value}: {self._forecast.known.origin}."
        )

    def _remedy(self) -> str:
        if self.controls.machine.value == self.session.workshop.machine:
            return " Calibrate measures it, as Run does before it starts."
        known = self.session.book.known(self.controls.machine.value)
        listed = dict.fromkeys(f"{k.decoder} ({k.variant}) to {k.sink}" for k in known)
        return f" Recorded there: {', '.join(listed)}."

    def _draw_pair(self) -> None:
        """Two runs of the session, mode async, above each other on one time axis."""
        chosen = self._pair()
        if len(chosen) < 2:
            words = "Two runs are needed side by side: measure some, then choose them above."
            self._picture.say(words)
            self._say([words])
        else:
            self._picture.draw(pair_panels(chosen))
            self._say([pair_words(*chosen)])
            self._numbers.value = numbers_html(run_and_run(*chosen))
        self._image.value = self._picture.png()

    def _pair(self) -> list[SessionRun]:
        """The two runs that the menus name; fewer before there are two."""
        numbers = (self.controls.first.value, self.controls.second.value)
        return [run for number in numbers for run in self.session.runs if run.number == number]

    def table(self) -> Table:
        """The runs of this session; ValueError before the first one."""
        if not self.session.runs:
            raise ValueError("nothing is measured yet; press Run")
        return runs_table(self.session.runs)

    def snapshot(self) -> Any:
        """The picture as it is now, for a page that shows no widgets."""
        from IPython.display import Image

        with self._lock:
            return Image(self._picture.png())

    def export(self) -> list[Path]:
        """Write a run's record, its picture and the table of all runs, into a new folder.

        The run of the setting that is shown, or, if that was not measured, the last one. With two
        runs side by side the picture is theirs and the record is the second's.

        Returns:
            The files written.

        Raises:
            RuntimeError: nothing is measured yet, or the explorer is closed.
            OSError: the results folder cannot be written to.
            ValueError: the label is too long for a file name.
        """
        self._check_open()
        runs, picture = self.session.runs, LiveTimeline()
        if not runs:
            raise RuntimeError("nothing is measured yet, so there is nothing to export; press Run")
        run = next((one for one in reversed(runs) if one.forecast is self._forecast), runs[-1])
        pair = self._pair() if self.controls.view.value == SIDE_BY_SIDE else []
        if len(pair) == 2:
            run = pair[1]
            picture.draw(pair_panels(pair))
        else:
            picture.draw(setting_panels(run.forecast, run))
        written = export(run, runs, picture, self.controls.label.value.strip(), self.results)
        self._exported.value = remarks_html([exported_words(run, written)])
        return written

    def _on_export(self, _: Any) -> None:
        try:
            self.export()
        except (OSError, RuntimeError, ValueError) as error:
            self._exported.value = remarks_html([str(error)], warning=True)

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
