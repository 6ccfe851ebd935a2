"""What the explorer says in figures and words: predicted against measured, run against run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vdkit.decode.chunks import PRIMITIVES
from vdkit.measure.forecast import MODES, Forecast, Setting
from vdkit.measure.stalls import stalls_from_records
from vdkit.measure.windows import busy_percent
from vdkit.present.digits import mean_decimals, mean_words, ratio_words, shown
from vdkit.present.report_html import escape

if TYPE_CHECKING:
    from vdkit.decode.chunks import DecodeConfig, DecodeResult
    from vdkit.measure.predict import Prediction
    from vdkit.measure.records import BenchmarkResult, Run
    from vdkit.measure.stalls import Stalls
    from vdkit.present.explorer_session import SessionRun

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
_STEPS = ("decode", "copy", "convert", "write")


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
    result, typical = run.result, run.result.typical(mode)
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


def difference_words(forecast: Forecast, result: BenchmarkResult) -> str:
    """How the measured runs differ from the prediction, in two sentences."""
    said = []
    for mode in MODES:
        made, run = forecast.predictions[mode].run, result.typical(mode)
        change = run.latency_s / made.latency_s - 1
        words = f"{mode} took {_seconds(run.latency_s)}, {_percent(change)} than predicted"
        step, more_s = _largest_step(made, run)
        if abs(change) >= 0.005 and step:
            words += f" (most of it: {step}, {1e3 * more_s:+.0f} ms)"
        said.append(words)
    ratio = result.modes["async"].speedup
    assert ratio is not None
    predicted = (
        forecast.predictions["sync"].run.latency_s / forecast.predictions["async"].run.latency_s
    )
    return f"{said[0]}; {said[1]}. sync / async: {ratio_words(ratio)}, predicted {predicted:.3g}."


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
        before, after = (one.result.modes[mode].latency_s.mean for one in (a, b))
        said.append(
            f"{mode}: {_seconds(before)} and {_seconds(after)}, {_percent(after / before - 1)}"
        )
    same = a.setting.info() == b.setting.info()
    note = "" if same else " They are not the same video."
    return f"Run {b.number} against run {a.number}: {'; '.join(said)}.{note}"


def _percent(change: float) -> str:
    if abs(change) < 0.0005:
        return "no more and no less"
    if change >= 1:
        return f"{1 + change:.1f} times as long"
    return f"{abs(change):.1%} {'longer' if change > 0 else 'shorter'}".replace("%", " %")


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


def run_rows(runs: Sequence[SessionRun]) -> list[dict[str, str]]:
    """The runs of a session, a row each, every cell ready to show; units in the headers."""
    rows = []
    for run in runs:
        result, setting = run.result, run.setting
        decoding, config = setting.decoding, setting.config
        modes = result.modes
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
                "sync s": mean_words(result.latencies("sync")),
                "async s": mean_words(result.latencies("async")),
                "predicted async s": shown(predicted_s, mean_decimals(latency)),
                "measured / predicted": mean_words(result.latencies("async"), 1 / predicted_s),
                "sync / async": ratio_words(modes["async"].speedup),
                "RTF async": mean_words(result.latencies("async"), 1 / result.workload.seconds),
                "busy steady %": _short(values["compute busy, steady, %"]),
                "VRAM GB": _short(values["device memory, GB"]),
                "pinned MB": _short(values["pinned on the host, MB"]),
            }
        )
    return rows


def remarks_html(remarks: Sequence[str], warning: bool = False) -> str:
    """Sentences under the picture; red if they say what went wrong."""
    kind = " vdkit-warning" if warning else ""
    lines = "".join(f"<div>{escape(line)}</div>" for line in remarks)
    return f"<div class='vdkit-remarks{kind}'>{lines}</div>"
