"""What the explorer draws: a setting predicted and measured, or two runs beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vdkit.measure.forecast import MODES, Forecast
from vdkit.measure.stalls import stalls_from_records
from vdkit.present.explorer_words import ring_words
from vdkit.present.live_timeline import Panel

if TYPE_CHECKING:
    from vdkit.present.explorer_session import SessionRun


def setting_panels(forecast: Forecast, run: SessionRun | None) -> list[Panel]:
    """Both paths of a setting; its run, if there is one, below the prediction in each lane."""
    panels = []
    for mode in MODES:
        made = forecast.predictions[mode]
        title = f"{mode}: predicted {made.run.latency_s:.3f} s"
        measured = None
        if run is not None:
            measured = run.result.typical(mode)
            title += f", measured {measured.latency_s:.3f} s"
        panels.append(Panel(title, made.run, measured, made.stalls))
    return panels


def pair_panels(runs: Sequence[SessionRun]) -> list[Panel]:
    """Mode async of each run, the one nearest to its median."""
    panels = []
    for run in runs:
        measured = run.result.typical("async")
        title = f"run {run.number}, async: {measured.latency_s:.3f} s, "
        stalls = stalls_from_records(measured, run.result.config)
        panels.append(Panel(title + ring_words(run.setting.config), None, measured, stalls))
    return panels
