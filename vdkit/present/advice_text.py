"""A recommendation for people: the setting, the reason, what to buy, and every setting asked."""

from __future__ import annotations

from typing import Any

from vdkit.predict.advise import Recommendation, seconds
from vdkit.present.money_cells import COST, money_cells, price_line
from vdkit.present.table import markdown_table


def advice_line(advice: Recommendation) -> str:
    """Setting, latency and reason in one line."""
    config, run = advice.config, advice.prediction.run
    slots = f"{config.slots} slot{'s' * (config.slots != 1)}"
    return (
        f"chunk {config.chunk_size}, {slots}: {seconds(run.latency_s)} predicted; {advice.reason}"
    )


def what_if_line(advice: Recommendation) -> str:
    """Predicted gain of each resource at twice its speed."""
    gains = ", ".join(
        f"{one.resource} {one.gain_percent:.1f} % (to {seconds(one.latency_s)})"
        for one in advice.what_if
    )
    return f"At twice the speed, latency saved: {gains}"


def candidate_rows(
    advice: Recommendation, usd_per_hour: float | None = None
) -> list[dict[str, str]]:
    """One row per setting, ready to show; with what an hour of video costs if there is a price."""
    rows = []
    words = {"vram_bytes": "VRAM", "pinned_bytes": "pinned memory", "ttff_s": "TTFF"}
    any_vram = any(one.prediction.run.vram_peak_bytes is not None for one in advice.candidates)
    for one in advice.candidates:
        run = one.prediction.run
        row = {
            "chunk": str(one.config.chunk_size),
            "slots": str(one.config.slots),
            "latency s": f"{run.latency_s:.3f}",
            "TTFF s": "-" if run.ttff_s is None else f"{run.ttff_s:.3f}",
            "busy %": f"{one.prediction.utilization_percent['run']:.1f}",
            "pinned MB": f"{run.pinned_bytes / 1e6:.1f}",
        }
        if any_vram:
            peak = run.vram_peak_bytes
            row["VRAM GB"] = "-" if peak is None else f"{peak / 1e9:.2f}"
        cost = money_cells(run.latency_s, None, run.info.seconds, None, usd_per_hour)
        row |= {COST: cost[COST]} if cost else {}
        over = ", ".join(words[name] for name in one.over)
        row["verdict"] = (
            f"over: {over}" if over else "recommended" if one.config == advice.config else "-"
        )
        rows.append(row)
    return rows


def advice_text(advice: Recommendation, usd_per_hour: float | None = None) -> str:
    """All of it, as Markdown that also reads well in a terminal."""
    return "\n".join(
        [
            f"Use {advice_line(advice)}.",
            f"{what_if_line(advice)}.",
            "",
            "\n".join(
                line for line in (price_line(usd_per_hour), "Predicted, mode async:") if line
            ),
            "",
            markdown_table(candidate_rows(advice, usd_per_hour)),
        ]
    )


def advice_record(advice: Recommendation) -> dict[str, Any]:
    """The answer for one line of JSON; s, bytes, %."""
    run = advice.prediction.run
    return {
        "chunk_size": advice.config.chunk_size,
        "slots": advice.config.slots,
        "latency_s": run.latency_s,
        "ttff_s": run.ttff_s,
        "vram_peak_bytes": run.vram_peak_bytes,
        "pinned_bytes": run.pinned_bytes,
        "best_latency_s": advice.best_latency_s,
        "bound": advice.bound,
        "reason": advice.reason,
        "what_if": {
            one.resource: {"latency_s": one.latency_s, "gain_percent": one.gain_percent}
            for one in advice.what_if
        },
    }
