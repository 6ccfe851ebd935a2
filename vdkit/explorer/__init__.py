"""What the explorer says and draws: of each run the one nearest to the median.

`vdkit.present.timeline` makes a figure for every call, which a report can wait for and a slider can
not: here one figure is kept, each lane is one collection of bars, and only they are replaced.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from html import escape
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vdkit.decode.chunks import PRIMITIVES, DecodeResult, pixel_frames
from vdkit.decode.media import MEDIA, Medium
from vdkit.predict import Outcome, video_info
from vdkit.predict.advise import MODES, Setting, SettingPrediction
from vdkit.present import Cell, Number, Table, ratio_of, significant, summary_decimals
from vdkit.present.style import CAUSE_COLORS, STYLE, WIDTH_IN
from vdkit.present.timeline import (
    BAR,
    cause_handle,
    draw_lanes,
    draw_stalls,
    lane_handles,
    two_chunks,
)
from vdkit.present.words import config_words, size_words
from vdkit.record.recording import Recording
from vdkit.sinks import sink_takes
from vdkit.trace.stalls import Stalls

_STEPS = ("decode", "copy", "convert", "write")
SIZES = {
    "video": ("64x96", "96x160", "480x832", "720x1280"), "av": ("96x160", "480x832", "704x1280"),
    "images": ("128x128", "256x256", "512x512", "1024x1024"), "audio": (),
}  # fmt: skip
USUAL = {
    "video": (("wan2.1", "480x832", 41, 1), ("tiny-wan", "96x160", 17, 1)),
    "images": (("flux", "1024x1024", 8, 1), ("thin-flux", "128x128", 8, 1)),
    "audio": (("mimi", "", 60, 8), ("thin-mimi", "", 10, 8)),
    "av": (("ltx2:av", "480x832", 16, 1), ("ltx2:av", "96x160", 4, 1)),
}
"""Decoder, size, length (latent frames, images, seconds) and chunk size at first, on a GPU and on a
CPU. A redraw takes as long as there are chunks, and audio has many latent frames."""
LARGEST_CHUNK = {"video": 8, "images": 8, "audio": 64, "av": 8}
GRAIN = 3.0
"""Levels of 255."""

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


@dataclass(frozen=True, eq=False)
class SessionRun:
    """One measured setting.

    Attributes:
        number: from 1.
        predicted: made before it was measured.
        recording: the benchmark, modes sync and async.
    """

    number: int
    predicted: SettingPrediction
    recording: Recording

    @property
    def setting(self) -> Setting:
        """What was measured."""
        return self.predicted.setting

    @cached_property
    def shown(self) -> dict[str, Outcome]:
        """Of each path what picture, table and words are of: the run nearest the median."""
        one, found = self.recording, {}
        told: dict[str, Any] = {"device": one.provenance.device, "started_s": 0.0}
        told |= {"info": video_info(one), "config": one.config}
        names = [field.name for field in fields(DecodeResult) if field.name not in told]
        for mode in MODES:
            run = one.arms[mode].typical()
            given = {name: getattr(run, name) for name in names}
            found[mode] = Outcome.of(DecodeResult(**told, **given))
        return found


FIGURES: dict[str, Callable[[Outcome], float | None]] = {
    "latency, s": lambda one: one.run.latency_s,
    "first {unit}, s": lambda one: one.run.ttff_s,
    "real-time factor": lambda one: one.run.rtf,
    "{unit}s / s": lambda one: 1 / one.run.rtf,
    "compute busy, steady, %": lambda one: one.utilization_percent.get("steady"),
    "stalls of compute, s": lambda one: sum(gap.length_ns for gap in one.stalls.gaps) / 1e9,
    "device memory, GB": lambda one: one.run.vram_peak_bytes and one.run.vram_peak_bytes / 1e9,
    "ring, MB": lambda one: one.run.ring_bytes / 1e6,
    "pinned on the host, MB": lambda one: one.run.pinned_bytes / 1e6,
}


def figures_table(*sides: tuple[str, Medium, Mapping[str, Outcome]]) -> Table:
    """Every figure in a row, each path in two columns and their ratio; always of the same size.

    Args:
        sides: two: the title of its columns, the medium, and its runs by mode, if there are any.
    """
    found: dict[str, dict[tuple[str, str], float | None]] = {}
    for title, medium, runs in sides:
        other = "{unit}s / s" if medium.timed else "real-time factor"
        for name, figure in FIGURES.items():
            if name != other:
                row = found.setdefault(name.format(unit=medium.unit), {})
                row |= {(mode, title): figure(one) for mode, one in runs.items()}
    (first, *_), (second, *_) = sides
    rows = []
    for name, values in found.items():
        shown: dict[str, Cell] = {"": name}
        for mode in MODES:
            one, two = values.get((mode, first)), values.get((mode, second))
            shown |= {f"{mode} {first}": _short(one), f"{mode} {second}": _short(two)}
            ratio = Number(two / one, 3) if one and two is not None else None
            shown[f"{mode} {second} / {first}"] = ratio
        rows.append(shown)
    return Table(rows)


def _short(value: float | None) -> Number | None:
    """Four significant digits and four decimals at the most."""
    number = significant(value, 4)
    return number and Number(number.value, min(4, number.decimals))


def runs_table(runs: Sequence[SessionRun]) -> Table:
    """The runs of a session; one at least."""
    return Table(
        [_row(run) for run in runs],
        f"Measured with the explorer on {runs[0].recording.provenance.device}",
        "Of each path the run nearest to the median of n, which the picture shows; sync / async "
        "alone is of all: the geometric mean over n pairs. RTF (real-time factor): seconds over "
        "those of what was decoded. Predicted before each run was measured. Busy: compute stream "
        "at work in the steady window, from event records.",
    )


def _row(run: SessionRun) -> dict[str, Cell]:
    recording, setting = run.recording, run.setting
    decoding, config, work = setting.decoding, setting.config, recording.workload
    sync, arm = (recording.arms[mode].latency for mode in MODES)
    one = run.shown["async"]
    latency_s = one.run.latency_s
    predicted_s = run.predicted.predictions["async"].run.latency_s

    def over(seconds: float) -> Number:
        """The latency in units of so many seconds, with the digits that its interval allows."""
        return Number(latency_s / seconds, summary_decimals(arm, 1 / seconds))

    rate = Number(work.frames / latency_s, 2)
    return {
        "run": Number(run.number, 0),
        "decoder": f"{decoding.decoder} ({decoding.variant})",
        "size": size_words(work),
        "latent frames": Number(work.latent_frames, 0),
        "chunk": Number(config.chunk_size, 0),
        "slots": Number(config.slots, 0),
        "without": ", ".join(
            words for name, words in PRIMITIVES.items() if not getattr(config, name)
        ),
        "sink": sink_told(setting),
        "storage MB/s": significant(setting.mb_per_s),
        "n": Number(arm.n, 0),
        "sync s": Number(run.shown["sync"].run.latency_s, summary_decimals(sync)),
        "async s": over(1),
        "predicted async s": Number(predicted_s, summary_decimals(arm)),
        "measured / predicted": over(predicted_s),
        "sync / async": ratio_of(recording.speedup("async")),
        **({"RTF async": over(work.seconds)} if work.kind.timed else {"images / s async": rate}),
        "busy steady %": _short(FIGURES["compute busy, steady, %"](one)),
        "VRAM GB": _short(FIGURES["device memory, GB"](one)),
        "pinned MB": _short(FIGURES["pinned on the host, MB"](one)),
    }


def difference_words(run: SessionRun) -> str:
    """How the runs that are shown differ from the prediction, and what async gains."""
    said = []
    for mode, one in run.predicted.predictions.items():
        made, measured = one.run, run.shown[mode].run
        ratio = measured.latency_s / made.latency_s
        words = f"{mode} took {measured.latency_s:.3f} s, {_against(ratio, 'predicted')}"
        more_s = {step: _sum_s(measured, step) - _sum_s(made, step) for step in _STEPS}
        step = max(_STEPS, key=lambda name: abs(more_s[name]))
        if abs(ratio - 1) >= 0.005 and abs(more_s[step]) >= 0.0005:
            words += f" (most of it: {step}, {1e3 * more_s[step]:+.0f} ms)"
        said.append(words)
    sync_s, async_s = (run.predicted.predictions[mode].run.latency_s for mode in MODES)
    n = run.recording.base.latency.n
    of = f" Of each the run nearest to the median of {n} is shown." if n > 1 else ""
    gain = f"sync / async{' over all' * (n > 1)}: {ratio_of(run.recording.speedup('async'))}"
    return f"Run {run.number}: {'; '.join(said)}.{of} {gain}, predicted {sync_s / async_s:.3g}."


def _sum_s(run: DecodeResult, step: str) -> float:
    return sum(chunk.span_s(step) or 0.0 for chunk in run.chunks)


def pair_words(a: SessionRun, b: SessionRun) -> str:
    """Run B against run A, in a sentence for each path."""
    said = []
    for mode in MODES:
        before, after = (one.shown[mode].run.latency_s for one in (a, b))
        said.append(f"{mode} took {after:.3f} s, {_against(after / before, f'{before:.3f} s')}")
    one, other = (run.shown["async"].run.info for run in (a, b))
    note = "" if one == other else f" They are not the same {one.kind.whole}."
    return f"Run {b.number} against run {a.number}: {'; '.join(said)}.{note}"


def _against(ratio: float, what: str) -> str:
    """How a duration compares with another one, ``what``: 3.1 % longer than it, 2.1 times it."""
    if abs(ratio - 1) < 0.0005:
        return f"as {what}"
    if ratio >= 2:
        return f"{ratio:.1f} times as long as {what}"
    return f"{100 * abs(ratio - 1):.1f} % {'longer' if ratio > 1 else 'shorter'} than {what}"


def html_of(remarks: Sequence[str], warning: bool = False) -> str:
    """Sentences under the picture; red if they say what went wrong."""
    kind = " vdkit-warning" if warning else ""
    lines = "".join(f"<div>{escape(line)}</div>" for line in remarks)
    return f"<div class='vdkit-remarks{kind}'>{lines}</div>"


def setting_words(setting: Setting) -> str:
    """The knobs of a setting, short enough for a menu."""
    decoding = setting.decoding
    limit = "" if setting.mb_per_s is None else f" at {setting.mb_per_s:g} MB/s"
    what = f"{setting.length:g} x {decoding.height}x{decoding.width} ({decoding.content})"
    if decoding.medium == "audio":
        what = f"{setting.length:g} s"
    return (
        f"{decoding.decoder} ({decoding.variant}), {what} to {sink_told(setting)}{limit}. "
        f"{config_words(setting.config)}"
    )


def sink_options(setting: Setting) -> dict[str, Any]:
    """What its sink has to be told: pixel format and encoders that are not its usual ones."""
    usual = sink_takes(setting.decoding.sink)
    asked = {"pixel_format": setting.decoding.pixel_format, "encoders": setting.encoders}
    return {name: one for name, one in asked.items() if usual.get(name, one) != one}


def sink_told(setting: Setting) -> str:
    """Its sink and the options of it: ``mp4, nv12, 4 encoders``."""
    told = [f"{one} {n}" if n == "encoders" else one for n, one in sink_options(setting).items()]
    return ", ".join([setting.decoding.sink, *told])


def latents_words(setting: Setting, factor: int) -> str:
    """The latents of a setting, as `vdkit.load_latents` takes them.

    Args:
        factor: frames that a latent frame of the video becomes.
    """
    decoding, count = setting.decoding, setting.length
    if decoding.medium == "audio":
        return f"random:{count:.6g}s"
    if MEDIA[decoding.medium].first_units:
        count = pixel_frames(int(count), factor)
    kind = "clips" if decoding.content in ("flat", "grain") else "random"
    return f"{kind}:{count:g}x{decoding.height}x{decoding.width}"


def bench_command(setting: Setting, rounds: int, folder: str = "", factor: int = 4) -> str:
    """The command line that measures a setting again; ``factor`` as of `latents_words`."""
    decoding, config = setting.decoding, setting.config
    words = ["vdkit", "bench", "--decoder", decoding.decoder, "--variant", decoding.variant]
    words += ["--dtype", decoding.dtype, "--modes", ",".join(MODES), "--runs", str(rounds)]
    words += ["--latents", latents_words(setting, factor)]
    words += ["--chunk", str(config.chunk_size), "--slots", str(config.slots)]
    if decoding.content == "grain":
        words += ["--grain", f"{GRAIN:g}"]
    sink = ",".join([decoding.sink, *(f"{n}={one}" for n, one in sink_options(setting).items())])
    words += ["--sink", f"{sink}:{folder}" if folder else sink]
    if setting.mb_per_s is not None:
        words += ["--throttle-mb-s", f"{setting.mb_per_s:g}"]
    off = [name for name in PRIMITIVES if not getattr(config, name)]
    return shlex.join([*words, *(f"--no-{name.replace('_', '-')}" for name in off)])


HEIGHT_IN = 2.6
"""With the controls above it, the whole picture is seen in JupyterLab on 1280 x 800 pixels."""
SCREEN_DPI = 190
LANES = 4  # room for compute, copy, convert and write in every panel, so that nothing jumps
LEGEND_PART = 0.135
"""Of the picture's height, at its bottom: the legend's alone."""
_FONT: Any = {**STYLE, "font.size": 7.0, "axes.titlesize": 7.0}
DASHES: tuple[Any, ...] = ((0, (4, 2)), ":")
WHOSE = ("predicted: ", "measured: ")
"""Lines of the first run of a panel, and of the second, and what they are called."""
_LINE: Any = {"color": "black", "linewidth": 0.8}


class Panel(NamedTuple):
    """One row of the picture: the title above it; one run, or a predicted and a measured one, which
    lies below the other in each lane; the stalls of the first, shaded by cause."""

    title: str
    runs: tuple[DecodeResult, ...]
    stalls: Stalls


def setting_panels(predicted: SettingPrediction, run: SessionRun | None) -> list[Panel]:
    """Both paths of a setting; its run, if there is one, below the prediction in each lane."""
    panels = []
    for mode, made in predicted.predictions.items():
        title, runs = f"{mode}: predicted {made.run.latency_s:.3f} s", [made.run]
        if run:
            runs.append(run.shown[mode].run)
            title += f" (upper bars), measured {runs[1].latency_s:.3f} s (lower bars)"
        panels.append(Panel(title, tuple(runs), made.stalls))
    return panels


def pair_panels(runs: Sequence[SessionRun]) -> list[Panel]:
    """Mode async of each run."""
    panels = []
    for number, setting, one in ((run.number, run.setting, run.shown["async"]) for run in runs):
        title = f"run {number}, async: {one.run.latency_s:.3f} s. {config_words(setting.config)}"
        title += f"; {setting.decoding.content} to {sink_told(setting)}"
        panels.append(Panel(title, (one.run,), one.stalls))
    return panels


class LiveTimeline:
    """Two panels above each other: whole runs at the left, two consecutive chunks at the right."""

    def __init__(self) -> None:
        with mpl.rc_context(_FONT):
            self.figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=SCREEN_DPI)
            self._canvas = FigureCanvasAgg(self.figure)
            add = self.figure.add_axes
            self._axes: list[tuple[Axes, Axes]] = [
                (add((0.078, bottom, 0.552, 0.308)), add((0.66, bottom, 0.322, 0.308)))
                for bottom in (0.624, 0.238)
            ]
            for ax in self.figure.axes:
                ax.tick_params(axis="y", length=0)
                ax.tick_params(axis="x", length=2, pad=1.5)
                ax.spines["left"].set_visible(False)
                ax.set_ylim(LANES - 0.45, -0.55)
                ax.set_title(" ", loc="left", pad=2)
            for _, zoom in self._axes:
                zoom.tick_params(labelleft=False)
            self._axes[1][1].set_xlabel("time, ms", labelpad=0.5)
        self._drawn: list[Any] = []
        self._legends: dict[tuple[str, ...], tuple[Any, np.ndarray]] = {}

    def draw(self, panels: Sequence[Panel], what: str = "") -> None:
        """Show these panels, two at the most, of ``what``; fewer leave some of the room empty."""
        for artist in self._drawn:
            artist.remove()
        self._drawn.clear()
        with mpl.rc_context(_FONT):
            self._axes[1][0].set_xlabel(f"time since the call, s{what}", labelpad=0.5)
            runs = [run for panel in panels for run in panel.runs]
            longest = max((run.latency_s for run in runs), default=1.0)
            windows = {id(run): window for run in runs if (window := two_chunks(run))}
            widest = max((stop - start for start, stop in windows.values()), default=0.0)
            causes: set[str] = set()
            for ax in self.figure.axes:
                ax.set_visible(False)
            for (whole, zoom), panel in zip(self._axes, panels, strict=False):
                ends = [(0.0, run.latency_s) for run in panel.runs]
                causes |= self._panel(whole, panel, panel.title, ends, longest, 1.0)
                if all(id(run) in windows for run in panel.runs):
                    ends = [windows[id(run)] for run in panel.runs]
                    took = " / ".join(f"{1e3 * (stop - start):.1f}" for start, stop in ends)
                    title = f"two chunks, to the line: {took} ms"
                    causes |= self._panel(zoom, panel, title, ends, widest, 1e3)
            for upper, lower in zip(*self._axes, strict=True):
                upper.tick_params(labelbottom=not lower.get_visible())
            self._name(panels, causes)

    def say(self, words: str) -> None:
        """Show words in place of timelines: why there are none."""
        self.draw([])
        style: Any = {"ha": "center", "va": "center", "fontsize": 7, "color": "#444444"}
        self._drawn.append(self.figure.text(0.5, 0.6, words, wrap=True, **style))

    def _panel(
        self, ax: Axes, panel: Panel, title: str, spans: Sequence[tuple[float, float]],
        widest_s: float, scale: float,
    ) -> set[str]:  # fmt: skip
        """Bars of one panel on one axis, and a line where each run's (start, stop) ends.

        x is the time since that start, times ``scale``. Returns the causes of stalls to be seen.
        """
        ax.set_visible(True)
        limits = (0.0, 1.005 * widest_s * scale)
        begins = [begin for begin, _ in spans]
        ax.set_title(title, loc="left", pad=2)
        self._drawn += draw_lanes(ax, panel.runs, limits, begins, scale, numbers=False)
        ax.xaxis.set_major_locator(MaxNLocator(6 if scale == 1 else 5))
        for (begin, end), dashes in zip(spans, DASHES, strict=False):
            self._drawn.append(ax.axvline((end - begin) * scale, linestyle=dashes, **_LINE))
        height = 2 * BAR / len(panel.runs)
        drawn, seen = draw_stalls(ax, panel.stalls, limits, begins[0], scale, height)
        self._drawn += drawn
        return set(seen)

    def _name(self, panels: Sequence[Panel], causes: set[str]) -> None:
        """The legend: lanes, causes, and whose end each line is; drawn once for each that it is."""
        self.figure.legends.clear()
        if not panels:
            return
        handles: list[Any] = [
            *lane_handles([run for panel in panels for run in panel.runs]),
            *(cause_handle(cause) for cause in CAUSE_COLORS if cause in causes),
        ]
        whose = WHOSE if any(len(panel.runs) == 2 for panel in panels) else ("",)
        for name, dashes in zip(whose, DASHES, strict=False):
            handles.append(Line2D([], [], label=f"{name}sink closed", linestyle=dashes, **_LINE))
        labels = tuple(handle.get_label() for handle in handles)
        if labels not in self._legends:
            legend = self.figure.legend(
                handles=handles, loc="lower center", ncols=4, frameon=False, fontsize=6,
                handlelength=1.8, columnspacing=1.1, bbox_to_anchor=(0.5, -0.012), labelspacing=0.3,
            )  # fmt: skip
            alone = self._pixels(self.figure.patch, legend)
            self._legends[labels] = legend, alone[int((1 - LEGEND_PART) * len(alone)) :]
        self.figure.legends[:] = [self._legends[labels][0]]

    def png(self) -> bytes:
        """The picture for the screen, with a strip of pixels for its legend."""
        from PIL import Image

        shown = list(self.figure.legends)
        self.figure.legends.clear()
        pixels = self._pixels(self.figure)
        self.figure.legends[:] = shown
        for strip in (strip for legend, strip in self._legends.values() if legend in shown):
            pixels[-len(strip) :] = strip
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "png", compress_level=1)
        return data.getvalue()

    def _pixels(self, *artists: Any) -> np.ndarray:
        """Of these alone, RGB, uint8 [height, width, 3]."""
        renderer = self._canvas.get_renderer()
        renderer.clear()
        for artist in artists:
            artist.draw(renderer)
        return np.array(np.asarray(self._canvas.buffer_rgba())[..., :3])
