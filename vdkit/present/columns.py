"""Every figure of an arm, once: its name, how it is read, what it means, which tables have it.

A new figure is one `Column` in `CATALOGUE`; terminal, Markdown, HTML, CSV, LaTeX, README and
notebooks follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vdkit.present.table import (
    DIGITS_LEGEND,
    Cell,
    Number,
    decimals_for,
    mean_of,
    ratio_of,
    significant,
    summary_decimals,
)
from vdkit.record.money import check_price, mean_energy_j, saving_usd, usd_per_video_hour
from vdkit.record.recording import Arm
from vdkit.record.stats import Ratio, paired_ratio

NAMES = {
    "diffusers": "diffusers (whole video)",
    "sync": "sync (chunked)",
    "async": "async (chunked)",
    "compute_only": "compute only (floor)",
}
"""What tables and plots call the modes."""

ENOUGH_FOR_P99 = 100
_COUNTER_S = 1.0  # shorter runs are too few steps of NVML's energy counter


@dataclass(frozen=True, slots=True)
class Asked:
    """What a reader wants beside the figures: a price per hour, joules.

    Raises:
        ValueError: the price is not finite and above 0.
    """

    usd_per_hour: float | None = None
    energy: bool = False

    def __post_init__(self) -> None:
        if self.usd_per_hour is not None:
            check_price(self.usd_per_hour)

    @property
    def line(self) -> str:
        """For a caption: the price, and that it was given; empty without one."""
        if self.usd_per_hour is None:
            return ""
        cents = f"{self.usd_per_hour:.2f}"
        price = cents if float(cents) == self.usd_per_hour else f"{self.usd_per_hour:g}"
        return f"Price: ${price} per hour of the machine (an input, not a part of the record)."


NOTHING = Asked()


@dataclass(frozen=True, slots=True)
class Row:
    """An arm in a table.

    Attributes:
        labels: what tells it from the other rows, ready to show.
        base: the arm that its ratio is against; None for that arm itself.
        saves_against: the arm that its savings are against, if another.
        device: that ran it.
    """

    labels: Mapping[str, Cell]
    arm: Arm
    base: Arm | None = None
    saves_against: Arm | None = None
    device: str = ""

    @property
    def ratio(self) -> Ratio | None:
        """The base's latency over the arm's, paired by round."""
        return None if self.base is None else paired_ratio(self.base.latencies, self.arm.latencies)


Read = Callable[[Row, Asked], Cell]
Rows = Sequence[Row]


@dataclass(frozen=True, slots=True)
class Column:
    """A figure.

    Attributes:
        name: with the unit; a callable is given the rows and the words for the ratio's base.
        read: gives the cell, None where it is missing.
        tables: those that have it.
        meaning: for the legend; a callable is given rows and the words for what savings are
            against.
        wanted: for which rows, and what was asked, the column is there.
    """

    name: str | Callable[[Rows, str], str]
    read: Read
    tables: frozenset[str]
    meaning: str | Callable[[Rows, str], str] = ""
    wanted: Callable[[Rows, Asked], bool] = field(default=lambda rows, asked: True)

    def title(self, rows: Rows, over: str) -> str:
        return self.name if isinstance(self.name, str) else self.name(rows, over)

    def says(self, rows: Rows, against: str) -> str:
        return self.meaning if isinstance(self.meaning, str) else self.meaning(rows, against)


def _latency(pick: Callable[[Arm], float]) -> Read:
    """A figure of the runs to the place where their mean ends."""
    return lambda row, _: Number(pick(row.arm), summary_decimals(row.arm.latency))


def _few(rows: Rows) -> bool:
    return min(len(row.arm.timed) for row in rows) < ENOUGH_FOR_P99


def _std(row: Row, _: Asked) -> Cell:
    std = row.arm.latency.std
    return Number(std, decimals_for(std)) if len(row.arm.timed) > 1 else None


def _rtf(row: Row, _: Asked) -> Cell:
    return mean_of(row.arm.latencies, 1 / row.arm.workload.seconds)


def _rtf_says(rows: Rows, _: str) -> str:
    seconds = {row.arm.workload.seconds for row in rows}
    length = f"{seconds.pop():.2f} s" if len(seconds) == 1 else "(frames / fps)"
    return f"RTF (real-time factor): mean latency / {length}."


def _vram(row: Row, _: Asked) -> Cell:
    peak = row.arm.vram_peak_bytes
    return None if peak is None else Number(peak / 1e9, 2)


def _cost(row: Row, asked: Asked) -> Cell:
    assert asked.usd_per_hour is not None
    return significant(usd_per_video_hour(row.arm.rtf, asked.usd_per_hour), 4)


def _saving(row: Row, asked: Asked) -> Cell:
    other = row.saves_against or row.base
    if other is None or asked.usd_per_hour is None:
        return None
    saved = saving_usd(
        other.latency.mean, row.arm.latency.mean, row.arm.workload.seconds, asked.usd_per_hour
    )
    return Number(saved, 0 if abs(saved) >= 10 else 2)


def _joules(row: Row, _: Asked) -> Cell:
    joules = mean_energy_j(row.arm.timed)
    return None if joules is None else Number(joules / row.arm.workload.seconds, 1)


def _priced(rows: Rows, asked: Asked) -> bool:
    return asked.usd_per_hour is not None


COST, SAVING, ENERGY = "USD / video h", "saves USD / 1000 h", "J / video s"


def _energy_says(rows: Rows, _: str) -> str:
    lines = []
    joules = [(row, mean_energy_j(row.arm.timed)) for row in rows]
    if any(value is not None for _, value in joules):
        lines.append(
            f"{ENERGY}: difference of NVML's energy counter over each run, the whole GPU and "
            "nothing else, mean, over the seconds of video."
        )
    if any(value is not None and row.arm.latency.mean < _COUNTER_S for row, value in joules):
        lines.append(
            f"{ENERGY} is imprecise for runs below {_COUNTER_S:g} s: the counter moves only about "
            "every 100 ms."
        )
    without = {row.device for row, value in joules if value is None}
    if "cpu" in without:
        lines.append("No energy: runs on a CPU have no NVML counter.")
    if gpus := sorted(without - {"cpu"}):
        lines.append(f"No energy: NVML gave no counter around every run on {', '.join(gpus)}.")
    return "\n".join(lines)


_ALL = frozenset({"bench", "variants", "results"})
_MONEY = _ALL | {"money"}

CATALOGUE = (
    Column(
        "mean s",
        _latency(lambda arm: arm.latency.mean),
        _ALL | {"ablation"},
        "Latency: wall clock from the call until the sink was closed (compute only: until the "
        "device was done).",
    ),
    Column("median s", _latency(lambda arm: arm.latency.median), frozenset({"bench"})),
    Column(
        lambda rows, _: f"P99 s{'†' * _few(rows)}",
        _latency(lambda arm: arm.latency.p99),
        _ALL,
        lambda rows, _: "† n < 100: read P99 as the maximum." if _few(rows) else "",
    ),
    Column("min s", _latency(lambda arm: arm.latency.min), frozenset({"bench", "ablation"})),
    Column("max s", _latency(lambda arm: arm.latency.max), _ALL | {"ablation"}),
    Column("std s", _std, frozenset({"bench"})),
    Column("n", lambda row, _: Number(len(row.arm.timed), 0), _ALL | {"ablation"}),
    Column(
        "TTFF s",
        lambda row, _: mean_of(row.arm.ttffs) if row.arm.ttffs else None,
        _ALL,
        "TTFF (time to first frame): until the sink had it, mean.",
    ),
    Column("RTF", _rtf, _ALL, _rtf_says),
    Column(
        "ms per latent frame",
        lambda row, _: (
            mean_of(row.arm.latent_frame_ms)
            if row.arm.mode == "compute_only" and row.arm.latent_frame_ms
            else None
        ),
        frozenset({"variants"}),
        "ms per latent frame: from the end of a chunk's decode to the end of the next's, steady "
        "chunks only.",
    ),
    Column(
        lambda _, over: over,
        lambda row, _: ratio_of(row.ratio) if row.base else Number(1, 0),
        frozenset({"bench", "variants", "ablation"}),
        "Ratios: geometric mean over interleaved pairs, with a Student-t 95 % interval on their "
        "logarithms.",
    ),
    Column(
        "D2H MB",
        lambda row, _: Number(row.arm.d2h_bytes / 1e6, 1),
        frozenset({"bench", "ablation"}),
        "D2H: copied from the device to the host.",
    ),
    Column(
        "pinned MB",
        lambda row, _: Number(row.arm.pinned_bytes / 1e6, 1),
        frozenset({"bench", "ablation"}),
    ),
    Column(
        "peak VRAM GB",
        _vram,
        frozenset({"bench", "variants"}),
        lambda rows, _: (
            "Peak VRAM: without what other variants hold."
            if any(row.arm.other_bytes for row in rows)
            else ""
        ),
        wanted=lambda rows, _: any(row.arm.vram_peak_bytes is not None for row in rows),
    ),
    Column(
        "throttled",
        lambda row, _: f"{row.arm.throttled_runs} of {len(row.arm.timed)}",
        _ALL,
        "Throttled: runs in which the GPU named a reason for a lower clock.",
        wanted=lambda rows, _: any(row.arm.throttled_runs for row in rows),
    ),
    Column(
        COST,
        _cost,
        _MONEY,
        f"{COST}: RTF x price, with one video on the machine at a time.",
        wanted=_priced,
    ),
    Column(
        SAVING,
        _saving,
        _MONEY,
        lambda _, against: (
            f"{SAVING}: against {against}, over 1,000 hours of video; below 0 it costs more."
        ),
        wanted=_priced,
    ),
    Column(ENERGY, _joules, _MONEY, _energy_says, wanted=lambda _, asked: asked.energy),
)
"""In the order of the tables. A new figure is one more entry."""


def columns_of(table: str, rows: Rows, asked: Asked = NOTHING) -> Iterator[Column]:
    """The columns that this table of these rows has."""
    return (c for c in CATALOGUE if table in c.tables and c.wanted(rows, asked))


def cells(table: str, rows: Rows, over: str = "", asked: Asked = NOTHING) -> list[dict[str, Cell]]:
    """A row per arm: what tells it apart, then its figures.

    Args:
        table: its name in `Column.tables`.
        over: what the ratio's column is called.
    """
    there = list(columns_of(table, rows, asked))
    return [
        {**row.labels, **{c.title(rows, over): c.read(row, asked) for c in there}} for row in rows
    ]


def legend(table: str, rows: Rows, against: str = "the baseline", asked: Asked = NOTHING) -> str:
    """What the columns mean. ``against``: the words for what savings are against."""
    said = [c.says(rows, against) for c in columns_of(table, rows, asked)]
    return " ".join([*filter(None, said), DIGITS_LEGEND])
