"""What the explorer says in figures and words: predicted against measured, run against run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vdkit.decode.chunks import PRIMITIVES
from vdkit.predict.book import MODES, Forecast, Setting
from vdkit.present.digits import mean_decimals, mean_words, ratio_words, shown
from vdkit.present.report_html import escape
from vdkit.present.table import Table
from vdkit.record.recording import write_recording
from vdkit.record.store import check_out, result_folder
from vdkit.trace.figures import busy_percent
from vdkit.trace.stalls import stalls_from_records

if TYPE_CHECKING:
    from pathlib import Path

    from vdkit.decode.chunks import DecodeConfig, DecodeResult
    from vdkit.explorer.live_timeline import LiveTimeline
    from vdkit.explorer.session import SessionRun
    from vdkit.predict.recurrence import Prediction
    from vdkit.record.recording import Recording
    from vdkit.record.runs import Run
    from vdkit.trace.stalls import Stalls


QUANTITIES = (
    "latency, s",
    "first frame, s",
    "real-time factor",
    "compute busy, steady, %",
    "stalls of compute, s",
    "device memory, GB",
    "ring, MB",
    "pinned on the host, MB",
)


def quantities(
    run: Run | DecodeResult, stalls: Stalls, busy: dict[str, float], seconds: float
) -> dict[str, float | None]:
    """`QUANTITIES` of one run, predicted or measured; None for what it has not.

    Args:
        run: with its chunks.
        stalls: of its window ``run``.
        busy: % of each window, as `busy_percent` gives them.
        seconds: playing time of the video, s.
    """
    vram = run.vram_peak_bytes
    values = (
        run.latency_s,
        run.ttff_s,
        run.latency_s / seconds,
        busy.get("steady"),
        sum(gap.stop_ns - gap.start_ns for gap in stalls.gaps) / 1e9,
        None if vram is None else vram / 1e9,
        run.ring_bytes / 1e6,
        run.pinned_bytes / 1e6,
    )
    return dict(zip(QUANTITIES, values, strict=True))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two columns beside each other, with their heads; None: nothing is known of one."""

    heads: tuple[str, str]
    before: dict[str, float | None] | None
    after: dict[str, float | None] | None


def predicted_and_measured(forecast: Forecast | None, run: SessionRun | None) -> list[Pair]:
    """Both paths of a setting."""
    return [
        Pair(
            (f"{mode}\npredicted", f"{mode}\nmeasured"),
            None if forecast is None else _predicted(forecast.predictions[mode]),
            None if run is None else _measured(run, mode),
        )
        for mode in MODES
    ]


def run_and_run(a: SessionRun, b: SessionRun) -> list[Pair]:
    """Both paths of two runs."""
    return [
        Pair(
            (f"{mode}\nrun {a.number}", f"{mode}\nrun {b.number}"),
            _measured(a, mode),
            _measured(b, mode),
        )
        for mode in MODES
    ]


def _predicted(made: Prediction) -> dict[str, float | None]:
    return quantities(made.run, made.stalls, made.utilization_percent, made.run.info.seconds)


def _measured(run: SessionRun, mode: str) -> dict[str, float | None]:
    """Of the run nearest to the median."""
    result, typical = run.result, run.result.arms[mode].typical()
    stalls = stalls_from_records(typical, result.config)
    return quantities(typical, stalls, busy_percent(typical), result.workload.seconds)


def numbers_html(pairs: Sequence[Pair]) -> str:
    """`QUANTITIES` in rows, each pair in two columns and their ratio; always of the same size."""
    heads = []
    for pair in pairs:
        first, second = (name.replace("\n", "<br>") for name in pair.heads)
        words = [head.split("\n")[1] for head in reversed(pair.heads)]
        heads += [first, second, " /<br>".join(words)]
    head = "".join(f"<th>{name}</th>" for name in heads)
    rows = []
    for name in QUANTITIES:
        cells = []
        for pair in pairs:
            before, after = ((one or {}).get(name) for one in (pair.before, pair.after))
            ratio = "-" if not before or after is None else f"{after / before:.3f}"
            cells += [_short(before), _short(after), ratio]
        rows.append(f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return (
        f"<table class='vdkit-numbers'><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _short(value: float | None) -> str:
    """Four significant digits, without an exponent."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.0f}"


def run_rows(runs: Sequence[SessionRun]) -> list[dict[str, str]]:
    """The runs of a session, a row each, every cell ready to show; units in the headers."""
    rows = []
    for run in runs:
        result, setting = run.result, run.setting
        decoding, config = setting.decoding, setting.config
        modes = result.arms
        off = [words for name, words in PRIMITIVES.items() if not getattr(config, name)]
        values = _measured(run, "async")
        predicted_s = run.forecast.predictions["async"].run.latency_s
        latency = modes["async"].latency_s
        rows.append(
            {
                "run": str(run.number),
                "decoder": f"{decoding.decoder} ({decoding.variant})",
                "size": f"{decoding.height}x{decoding.width}",
                "latent frames": str(setting.latent_frames),
                "chunk": str(config.chunk_size),
                "slots": str(config.slots),
                "without": ", ".join(off) or "-",
                "sink": decoding.sink,
                "storage MB/s": "-" if setting.mb_per_s is None else f"{setting.mb_per_s:g}",
                "n": str(latency.n),
                "sync s": mean_words(result.arms["sync"].latencies),
                "async s": mean_words(result.arms["async"].latencies),
                "predicted async s": shown(predicted_s, mean_decimals(latency)),
                "measured / predicted": mean_words(result.arms["async"].latencies, 1 / predicted_s),
                "sync / async": ratio_words(modes["async"].speedup),
                "RTF async": mean_words(
                    result.arms["async"].latencies, 1 / result.workload.seconds
                ),
                "busy steady %": _short(values["compute busy, steady, %"]),
                "VRAM GB": _short(values["device memory, GB"]),
                "pinned MB": _short(values["pinned on the host, MB"]),
            }
        )
    return rows


_STEPS = ("decode", "copy", "convert", "write")


def difference_words(forecast: Forecast, result: Recording) -> str:
    """How the measured runs differ from the prediction, in two sentences."""
    said = []
    for mode in MODES:
        made, run = forecast.predictions[mode].run, result.arms[mode].typical()
        mean_s = result.arms[mode].latency.mean
        ratio = mean_s / made.latency_s
        words = f"{mode} took {_seconds(mean_s)}, {_against(ratio, 'predicted')}"
        step, more_s = _largest_step(made, run)
        if abs(ratio - 1) >= 0.005 and abs(more_s) >= 0.0005:
            words += f" (most of it: {step}, {1e3 * more_s:+.0f} ms)"
        said.append(words)
    speedup = result.speedup("async")
    assert speedup is not None
    predicted = (
        forecast.predictions["sync"].run.latency_s / forecast.predictions["async"].run.latency_s
    )
    return f"{said[0]}; {said[1]}. sync / async: {ratio_words(speedup)}, predicted {predicted:.3g}."


def _largest_step(made: DecodeResult, run: Run) -> tuple[str, float]:
    """The step whose sum over all chunks differs most, and by how many seconds."""
    changes = {step: _sum_s(run, step) - _sum_s(made, step) for step in _STEPS if _sum_s(run, step)}
    return max(changes.items(), key=lambda one: abs(one[1]), default=("", 0.0))


def _sum_s(run: Run | DecodeResult, step: str) -> float:
    spans = ((getattr(c, f"{step}_start_s"), getattr(c, f"{step}_done_s")) for c in run.chunks)
    return sum(done - start for start, done in spans if start is not None and done is not None)


def pair_words(a: SessionRun, b: SessionRun) -> str:
    """Run B against run A, in a sentence for each path."""
    said = []
    for mode in MODES:
        before, after = (one.result.arms[mode].latency.mean for one in (a, b))
        said.append(f"{mode} took {_seconds(after)}, {_against(after / before, _seconds(before))}")
    same = a.setting.info() == b.setting.info()
    note = "" if same else " They are not the same video."
    return f"Run {b.number} against run {a.number}: {'; '.join(said)}.{note}"


def _against(ratio: float, what: str) -> str:
    """How a duration compares with another one, ``what``: 3.1 % longer than it, 2.1 times it."""
    if abs(ratio - 1) < 0.0005:
        return f"as {what}"
    if ratio >= 2:
        return f"{ratio:.1f} times as long as {what}"
    return f"{abs(ratio - 1):.1%} {'longer' if ratio > 1 else 'shorter'} than {what}".replace(
        "%", " %"
    )


def _seconds(value: float) -> str:
    return f"{value:.3f} s"


def ring_words(config: DecodeConfig) -> str:
    """``chunk 1, 2 slots``."""
    return f"chunk {config.chunk_size}, {config.slots} slot{'s' * (config.slots > 1)}"


def setting_words(setting: Setting) -> str:
    """The knobs of a setting, short enough for a menu."""
    config, decoding = setting.config, setting.decoding
    off = [words for name, words in PRIMITIVES.items() if not getattr(config, name)]
    held = "" if setting.mb_per_s is None else f" at {setting.mb_per_s:g} MB/s"
    return (
        f"{decoding.decoder} ({decoding.variant}), {setting.latent_frames} x "
        f"{decoding.height}x{decoding.width}, {ring_words(config)}, "
        f"{decoding.sink}{held}" + (f", without {', '.join(off)}" if off else "")
    )


def exported_words(run: SessionRun, written: Sequence[Path]) -> str:
    """Which run was exported, and where its files are."""
    names = ", ".join(path.name for path in written)
    return f"Run {run.number}, written into {written[0].parent}: {names}"


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


def remarks_html(remarks: Sequence[str], warning: bool = False) -> str:
    """Sentences under the picture; red if they say what went wrong."""
    kind = " vdkit-warning" if warning else ""
    lines = "".join(f"<div>{escape(line)}</div>" for line in remarks)
    return f"<div class='vdkit-remarks{kind}'>{lines}</div>"


def runs_table(runs: Sequence[SessionRun]) -> Table:
    """The runs of a session as a table in any form; one run at least."""
    return Table(
        run_rows(runs),
        caption=f"Measured with the explorer on {runs[0].result.provenance.device}",
        note="Seconds are means of n runs in turns. Predicted before each run was measured. Busy: "
        "compute stream at work in the steady window, from event records.",
    )


def export(
    run: SessionRun, runs: Sequence[SessionRun], picture: LiveTimeline, label: str, out: Path
) -> list[Path]:
    """Write a new folder under ``out``; nothing recorded earlier is touched.

    Args:
        run: whose record is written, as ``result.json``.
        runs: of the table, as ``table.csv``, ``table.md`` and ``table.tex``.
        picture: of that run, as ``timeline.png``, ``.svg`` and ``.pdf``.
        label: end of the folder's name.
        out: parent of the new folder, which is made if need be.

    Returns:
        The files written.

    Raises:
        ValueError: a label too long for a file name.
        OSError: ``out`` cannot be written to.
    """
    check_out(out, label, "results folder")
    result = run.result.model_copy(update={"label": label or setting_words(run.setting)})
    folder = result_folder(out, result.label, result.provenance, partial(write_recording, result))
    written = [folder / "result.json"]
    written += [picture.save(folder / f"timeline.{ending}") for ending in ("png", "svg", "pdf")]
    return written + runs_table(runs).write(folder, "table")
