"""What the explorer says in figures and words: predicted against measured, run against run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vdkit.decode.chunks import PRIMITIVES
from vdkit.measure.forecast import MODES, Forecast
from vdkit.measure.stalls import stalls_from_records
from vdkit.measure.windows import busy_percent
from vdkit.present.digits import mean_decimals, mean_words, ratio_words, shown

if TYPE_CHECKING:
    from vdkit.decode.chunks import DecodeResult
    from vdkit.measure.predict import Prediction
    from vdkit.measure.records import Run
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
