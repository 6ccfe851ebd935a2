"""What the explorer says in figures and words: of each run the one nearest to the median."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vdkit.decode.chunks import PRIMITIVES
from vdkit.predict.advise import MODES, Setting, SettingPrediction
from vdkit.present.table import Cell, Number, Table, ratio_of, significant, summary_decimals
from vdkit.present.words import config_words
from vdkit.record.recording import Recording
from vdkit.trace.figures import busy_percent
from vdkit.trace.stalls import Stalls, stalls_from_records

if TYPE_CHECKING:
    from vdkit.decode.chunks import DecodeResult
    from vdkit.record.runs import Run

Figures = dict[str, float | None]
"""`FIGURES` of one path; None for what it has not."""
_STEPS = ("decode", "copy", "convert", "write")


@dataclass(frozen=True, slots=True)
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

    def shown(self, mode: str) -> Run:
        """The run of a path that picture, table and words are of: the one nearest the median."""
        return self.recording.arms[mode].typical()

    def stalls(self, mode: str) -> Stalls:
        """Of that run."""
        return stalls_from_records(self.shown(mode), self.recording.config)

    def figures(self, mode: str) -> Figures:
        """Of that run."""
        run, seconds = self.shown(mode), self.recording.workload.seconds
        return _figures(run, self.stalls(mode), busy_percent(run), seconds)


FIGURES: dict[str, Callable[[Any, Stalls, Mapping[str, float], float], float | None]] = {
    "latency, s": lambda run, *_: run.latency_s,
    "first frame, s": lambda run, *_: run.ttff_s,
    "real-time factor": lambda run, stalls, busy, seconds: run.latency_s / seconds,
    "compute busy, steady, %": lambda run, stalls, busy, _: busy.get("steady"),
    "stalls of compute, s": lambda run, stalls, *_: sum(g.length_ns for g in stalls.gaps) / 1e9,
    "device memory, GB": lambda run, *_: run.vram_peak_bytes and run.vram_peak_bytes / 1e9,
    "ring, MB": lambda run, *_: run.ring_bytes / 1e6,
    "pinned on the host, MB": lambda run, *_: run.pinned_bytes / 1e6,
}
"""From a run, predicted or measured, its stalls, busy percents and the video's seconds."""


def _figures(run: Run | DecodeResult, *of: Any) -> Figures:
    return {name: read(run, *of) for name, read in FIGURES.items()}


def setting_figures(predicted: SettingPrediction | None, run: SessionRun | None) -> Table:
    """Predicted and measured, of both paths."""
    made = predicted.predictions if predicted else {}
    before = {
        mode: _figures(one.run, one.stalls, one.utilization_percent, one.run.info.seconds)
        for mode, one in made.items()
    }
    return _beside("predicted", before, "measured", _measured(run) if run else {})


def pair_figures(a: SessionRun, b: SessionRun) -> Table:
    """Both paths of two runs."""
    return _beside(f"run {a.number}", _measured(a), f"run {b.number}", _measured(b))


def _measured(run: SessionRun) -> dict[str, Figures]:
    return {mode: run.figures(mode) for mode in MODES}


def _beside(
    first: str, before: Mapping[str, Figures], second: str, after: Mapping[str, Figures]
) -> Table:
    """Every figure in a row, each path in two columns and their ratio; always of the same size."""
    rows = []
    for name in FIGURES:
        row: dict[str, Cell] = {"": name}
        for mode in MODES:
            one, other = (side.get(mode, {}).get(name) for side in (before, after))
            row[f"{mode} {first}"], row[f"{mode} {second}"] = _short(one), _short(other)
            ratio = Number(other / one, 3) if one and other is not None else None
            row[f"{mode} {second} / {first}"] = ratio
        rows.append(row)
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
        "those of the video. Predicted before each run was measured. Busy: compute stream at work "
        "in the steady window, from event records.",
    )


def _row(run: SessionRun) -> dict[str, Cell]:
    recording, setting = run.recording, run.setting
    decoding, config = setting.decoding, setting.config
    sync, arm = (recording.arms[mode].latency for mode in MODES)
    latency_s, figures = run.shown("async").latency_s, run.figures("async")
    predicted_s = run.predicted.predictions["async"].run.latency_s

    def over(one: float) -> Number:
        """The latency in units of so many seconds, with the digits that its interval allows."""
        return Number(latency_s / one, summary_decimals(arm, 1 / one))

    return {
        "run": Number(run.number, 0),
        "decoder": f"{decoding.decoder} ({decoding.variant})",
        "size": f"{decoding.height}x{decoding.width}",
        "latent frames": Number(setting.latent_frames, 0),
        "chunk": Number(config.chunk_size, 0),
        "slots": Number(config.slots, 0),
        "without": ", ".join(
            words for name, words in PRIMITIVES.items() if not getattr(config, name)
        ),
        "sink": decoding.sink,
        "storage MB/s": significant(setting.mb_per_s),
        "n": Number(arm.n, 0),
        "sync s": Number(run.shown("sync").latency_s, summary_decimals(sync)),
        "async s": over(1),
        "predicted async s": Number(predicted_s, summary_decimals(arm)),
        "measured / predicted": over(predicted_s),
        "sync / async": ratio_of(recording.speedup("async")),
        "RTF async": over(recording.workload.seconds),
        "busy steady %": _short(figures["compute busy, steady, %"]),
        "VRAM GB": _short(figures["device memory, GB"]),
        "pinned MB": _short(figures["pinned on the host, MB"]),
    }


def difference_words(run: SessionRun) -> str:
    """How the runs that are shown differ from the prediction, and what async gains."""
    said = []
    for mode, one in run.predicted.predictions.items():
        made, measured = one.run, run.shown(mode)
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


def _sum_s(run: Run | DecodeResult, step: str) -> float:
    return sum(chunk.span_s(step) or 0.0 for chunk in run.chunks)


def pair_words(a: SessionRun, b: SessionRun) -> str:
    """Run B against run A, in a sentence for each path."""
    said = []
    for mode in MODES:
        before, after = (one.shown(mode).latency_s for one in (a, b))
        said.append(f"{mode} took {after:.3f} s, {_against(after / before, f'{before:.3f} s')}")
    same = a.setting.info() == b.setting.info()
    note = "" if same else " They are not the same video."
    return f"Run {b.number} against run {a.number}: {'; '.join(said)}.{note}"


def _against(ratio: float, what: str) -> str:
    """How a duration compares with another one, ``what``: 3.1 % longer than it, 2.1 times it."""
    if abs(ratio - 1) < 0.0005:
        return f"as {what}"
    if ratio >= 2:
        return f"{ratio:.1f} times as long as {what}"
    return f"{100 * abs(ratio - 1):.1f} % {'longer' if ratio > 1 else 'shorter'} than {what}"


def setting_words(setting: Setting) -> str:
    """The knobs of a setting, short enough for a menu."""
    decoding = setting.decoding
    limit = "" if setting.mb_per_s is None else f" at {setting.mb_per_s:g} MB/s"
    return (
        f"{decoding.decoder} ({decoding.variant}), {setting.latent_frames} x "
        f"{decoding.height}x{decoding.width} to {decoding.sink}{limit}. "
        f"{config_words(setting.config)}"
    )


def bench_command(setting: Setting, rounds: int, folder: str = "") -> str:
    """The command line that measures a setting again."""
    decoding, config, info = setting.decoding, setting.config, setting.info()
    words = ["vdkit", "bench", "--decoder", decoding.decoder, "--variant", decoding.variant]
    words += ["--dtype", decoding.dtype, "--modes", ",".join(MODES), "--runs", str(rounds)]
    words += ["--latents", f"random:{info.frames}x{info.height}x{info.width}"]
    words += ["--chunk", str(config.chunk_size), "--slots", str(config.slots)]
    words += ["--sink", f"{decoding.sink}:{folder}" if folder else decoding.sink]
    if setting.mb_per_s is not None:
        words += ["--throttle-mb-s", f"{setting.mb_per_s:g}"]
    off = [name for name in PRIMITIVES if not getattr(config, name)]
    return shlex.join([*words, *(f"--no-{name.replace('_', '-')}" for name in off)])
