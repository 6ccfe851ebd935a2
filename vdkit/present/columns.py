"""Every figure of an arm, once: its name, how it is read, what it means, which tables have it.

A new figure is one `Column` in `CATALOGUE`; terminal, Markdown, HTML, CSV, LaTeX, README and
notebooks follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vdkit.present import (
    DIGITS_LEGEND,
    Cell,
    Number,
    decimals_for,
    mean_of,
    number,
    ratio_of,
    significant,
    summary_decimals,
)
from vdkit.record.recording import Arm, saving_usd, usd_per_video_hour
from vdkit.record.runs import MODES, Workload
from vdkit.record.stats import geometric_ratio


def mode_name(mode: str, work: Workload) -> str:
    """What tables and plots call a mode of this workload: a batch or a clip is no video."""
    return MODES.get(mode, mode).replace("video", work.kind.whole)


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
            usd_per_video_hour(1.0, self.usd_per_hour)  # checks it

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


Read = Callable[[Row, Asked], Cell]
Rows = Sequence[Row]


@dataclass(frozen=True, slots=True)
class Column:
    """A figure.

    Attributes:
        name: with the unit; may hold `_terms`.
        read: gives the cell, None where it is missing.
        tables: those that have it, parted by spaces.
        meaning: for the legend; may hold `_terms`.
        wanted: for which rows, and what was asked, the column is there.
    """

    name: str
    read: Read
    tables: str
    meaning: str = ""
    wanted: Callable[[Rows, Asked], object] = lambda rows, asked: True


def _terms(rows: Rows, against: str) -> dict[str, str]:
    """What names and meanings say of these rows; ``against``: what ratios or savings are."""
    arms, works = [row.arm for row in rows], [row.arm.workload for row in rows]
    few = min(len(arm.timed) for arm in arms) < ENOUGH_FOR_P99
    held = any(arm.other_bytes for arm in arms)
    seconds = {work.seconds for work in works}
    sampled = {arm.file.frames for arm in arms if arm.file is not None and arm.file.frames}
    return {
        "against": against,
        "few": "†" * few,
        "p99": "† n < 100: read P99 as the maximum." * few,
        "units": " or ".join(dict.fromkeys(work.kind.unit for work in works)),
        "length": f"{seconds.pop():.2f} s" if len(seconds) == 1 else "(frames / fps)",
        "peak": "Peak VRAM: without what other variants hold." * held,
        "per": works[0].medium.removesuffix("s").replace("av", "video"),
        "whole": works[0].kind.whole,
        "joules": energy_words(works[0])[0],
        "energy": _energy_says(rows),
        "sampled": f"{sampled.pop()}, " if len(sampled) == 1 else "",
    }


def _latency(name: str) -> Read:
    """A figure of the runs to the place where their mean ends."""
    return lambda row, _: Number(getattr(row.arm.latency, name), summary_decimals(row.arm.latency))


def _std(row: Row, _: Asked) -> Cell:
    std = row.arm.latency.std
    return Number(std, decimals_for(std)) if len(row.arm.timed) > 1 else None


def _mean(values: Callable[[Arm], Sequence[float]]) -> Read:
    return lambda row, _: mean_of(found) if (found := values(row.arm)) else None


def _whole_db(row: Row, _: Asked) -> Cell:
    said = ("equal" if math.isinf(db) else f"{db:.1f}" for db in row.arm.whole_db or ())
    return "{} ({})".format(*said) if row.arm.whole_db else None


def _file(name: str, decimals: int, scale: float = 1) -> Read:
    def read(row: Row, _: Asked) -> Cell:
        value = getattr(row.arm.file, name, None)
        if value is not None and math.isinf(value):
            return "equal"
        return number(value, decimals, scale)

    return read


def _ratio(row: Row, _: Asked) -> Cell:
    """The base's latency over the arm's, paired by round."""
    if row.base is None:
        return Number(1, 0)
    return ratio_of(geometric_ratio(row.base.latencies, row.arm.latencies))


def _bytes(name: str, unit: float, decimals: int = 1) -> Read:
    def read(row: Row, _: Asked) -> Cell:
        count = getattr(row.arm, name)
        if count and count < unit / 10:  # as of one picture or a second of sound
            return significant(count / unit, 2)
        return number(count, decimals, 1 / unit)

    return read


def _timed(rows: Rows, asked: Asked = NOTHING) -> bool:
    """Whether any of them has a playing time."""
    return any(row.arm.workload.kind.timed for row in rows)


def _of(timed: bool, read: Read) -> Read:
    """For rows that have a playing time, or have none."""
    return lambda row, asked: read(row, asked) if row.arm.workload.kind.timed is timed else None


def cost_of(rtf: float, asked: Asked) -> Number | None:
    """US dollars for an hour of video; None without a price."""
    price = asked.usd_per_hour
    return None if price is None else significant(usd_per_video_hour(rtf, price), 4)


def _saving(row: Row, asked: Asked) -> Cell:
    other = row.saves_against or row.base
    if other is None or asked.usd_per_hour is None:
        return None
    saved = saving_usd(other.rtf, row.arm.rtf, asked.usd_per_hour)
    return Number(saved, 0 if abs(saved) >= 10 else 2)


def _priced(rows: Rows, asked: Asked) -> bool:
    return asked.usd_per_hour is not None and _timed(rows)


def _filed(rows: Rows, asked: Asked) -> bool:
    return any(row.arm.file is not None for row in rows)


COST, SAVING, ENERGY = "USD / video h", "saves USD / 1000 h", "J / video s"


def energy_words(work: Workload) -> tuple[str, str]:
    """What joules are per, as a column's name, and what NVML's energy counter counts."""
    per = work.medium.removesuffix("s")
    over = f"seconds of {per}" if work.kind.timed else "images"
    counted = f"the whole GPU and nothing else, mean, over the {over}."
    return f"J / {per}{' s' * work.kind.timed}", counted


def _energy_says(rows: Rows) -> str:
    known = [row for row in rows if row.arm.energy_j is not None]
    short = any(row.arm.latency.mean < _COUNTER_S for row in known)
    without = {row.device for row in rows if row.arm.energy_j is None}
    gpus = ", ".join(sorted(without - {"cpu"}))
    name, counted = energy_words(rows[0].arm.workload)
    said = {
        f"{name}: difference of NVML's energy counter over each run, {counted}": known,
        f"{name} is imprecise for runs below {_COUNTER_S:g} s: the counter moves only about "
        "every 100 ms.": short,
        "No energy: runs on a CPU have no NVML counter.": "cpu" in without,
        f"No energy: NVML gave no counter around every run on {gpus}.": gpus,
    }
    return "\n".join(words for words, true in said.items() if true)


_ALL = "bench variants results"
_SHORT = f"{_ALL} demo"

CATALOGUE = (
    Column(
        "mean s", _latency("mean"), f"{_ALL} ablation demo",
        "Latency: wall clock from the call until the sink was closed (compute only: until the "
        "device was done).",
    ),
    Column("median s", _latency("median"), "bench"),
    Column("P99 s{few}", _latency("p99"), _ALL, "{p99}"),
    Column("min s", _latency("min"), "bench ablation demo"),
    Column("max s", _latency("max"), f"{_ALL} ablation demo"),
    Column("std s", _std, "bench"),
    Column("n", lambda row, _: Number(len(row.arm.timed), 0), f"{_ALL} ablation demo"),
    Column(
        "TTFF s", _mean(lambda arm: arm.values("ttff_s")), _SHORT,
        "TTFF (time to first {units}): until the sink had it, mean.",
    ),
    Column(
        "RTF",
        _of(True, lambda row, _: mean_of(row.arm.latencies, 1 / row.arm.workload.seconds)), _SHORT,
        "RTF (real-time factor): mean latency / {length}.", _timed,
    ),
    Column(
        "images / s",
        _of(False, lambda row, _: significant(row.arm.workload.frames / row.arm.latency.mean)),
        _ALL,
        "images / s: images / mean latency.",
        lambda rows, _: any(row.arm.workload.medium == "images" for row in rows),
    ),
    Column(
        "ms per latent frame",
        _mean(lambda arm: arm.latent_frame_ms if arm.mode == "compute_only" else []), "variants",
        "ms per latent frame: from the end of a chunk's decode to the end of the next's, steady "
        "chunks only.",
    ),
    Column(
        "{against}", _ratio, "bench variants ablation demo",
        "Ratios: geometric mean over interleaved pairs, with a Student-t 95 % interval on their "
        "logarithms.",
    ),
    Column(
        "D2H MB", _bytes("d2h_bytes", 1e6), "bench ablation",
        "D2H: copied from the device to the host.",
    ),
    Column("pinned MB", _bytes("pinned_bytes", 1e6), "bench ablation"),
    Column(
        "dB of whole (worst chunk)", _whole_db, f"{_ALL} ablation",
        "dB of whole: of frames against those of the decoder's own whole decode, where chunks need "
        "not have its bytes: PSNR, of audio signal to noise.",
        lambda rows, _: any(row.arm.whole_error is not None for row in rows),
    ),
    Column(
        "file MB", _file("bytes", 2, 1e-6), _ALL,
        "File: of one that was written, all its bytes, and PSNR and SSIM of frames decoded from it "
        "({sampled}spread over the video) against those that went in, RGB.", _filed,
    ),
    Column("file PSNR dB", _file("psnr_db", 1), _ALL, "", _filed),
    Column("file SSIM", _file("ssim", 4), _ALL, "", _filed),
    Column(
        "peak VRAM GB", _bytes("vram_peak_bytes", 1e9, 2), "bench variants", "{peak}",
        lambda rows, _: any(row.arm.vram_peak_bytes is not None for row in rows),
    ),
    Column(
        "throttled", lambda row, _: f"{row.arm.throttled_runs} of {len(row.arm.timed)}", _ALL,
        "Throttled: runs in which the GPU named a reason for a lower clock.",
        lambda rows, _: any(row.arm.throttled_runs for row in rows),
    ),
    Column(
        "USD / {per} h", _of(True, lambda row, asked: cost_of(row.arm.rtf, asked)), f"{_ALL} money",
        "USD / {per} h: RTF x price, with one {whole} on the machine at a time.", _priced,
    ),
    Column(
        SAVING, _of(True, _saving), f"{_ALL} money",
        SAVING + ": against {against}, over 1,000 hours of {per}; below 0 it costs more.", _priced,
    ),
    Column(
        "{joules}", lambda row, _: number(row.arm.energy_j, 1, 1 / row.arm.workload.seconds),
        f"{_ALL} money", "{energy}", lambda _, asked: asked.energy,
    ),
)  # fmt: skip
"""In the order of the tables. A new figure is one more entry."""


def _there(table: str, rows: Rows, against: str, asked: Asked) -> list[tuple[str, Read, str]]:
    """Name, how it is read, and meaning of each column that this table of these rows has."""
    terms = _terms(rows, against) if rows else {}
    mine = [c for c in CATALOGUE if table in c.tables.split() and rows and c.wanted(rows, asked)]
    return [(c.name.format(**terms), c.read, c.meaning.format(**terms)) for c in mine]


def cells(table: str, rows: Rows, over: str = "", asked: Asked = NOTHING) -> list[dict[str, Cell]]:
    """A row per arm: what tells it apart, then its figures.

    Args:
        table: its name in `Column.tables`.
        over: what the ratio's column is called.
    """
    there = {name: read for name, read, _ in _there(table, rows, over, asked)}
    return [
        {**row.labels, **{name: read(row, asked) for name, read in there.items()}} for row in rows
    ]


def meanings(table: str, rows: Rows, against: str, asked: Asked = NOTHING) -> list[str]:
    """What each column means. ``against``: the words for what savings are against."""
    return [words for *_, words in _there(table, rows, against, asked) if words]


def legend(table: str, rows: Rows, against: str = "the baseline", asked: Asked = NOTHING) -> str:
    """`meanings` as a paragraph, and how many digits are shown."""
    return " ".join([*meanings(table, rows, against, asked), DIGITS_LEGEND])
