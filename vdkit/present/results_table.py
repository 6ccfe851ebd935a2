"""All recorded benchmarks as a list for people: ``vdkit results``. No torch, no GPU.

What is the same in every row stands above the table instead of in it, so that it fits a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from vdkit.decode.chunks import PRIMITIVES
from vdkit.present.digits import DIGITS_LEGEND, decimals_for, shown
from vdkit.present.money_cells import money_cells, money_legend, price_line
from vdkit.present.table import Table
from vdkit.present.tables import sink_words
from vdkit.record.runs import SinkInfo
from vdkit.record.stats import mean_half_width

_FEW_FILES = 4  # of one folder that are still listed one by one


def results_text(
    rows: Sequence[dict[str, Any]], usd_per_hour: float | None = None, energy: bool = False
) -> str:
    """`results_table` for a terminal, and the path behind each number.

    A folder with many recordings, as of a sweep, is one line of paths, and the table names files.
    """
    files, numbers, many = _numbered(rows)
    made = results_table(rows, usd_per_hour, energy).text()
    return f"{made}\n\nFor vdkit show:\n" + "\n".join(_paths(files, many, numbers))


def _numbered(
    rows: Sequence[dict[str, Any]],
) -> tuple[dict[str, dict[str, None]], dict[tuple[str, str], str], set[str]]:
    """Folders and their files as they come, a number for each recording, folders of many."""
    files: dict[str, dict[str, None]] = {}
    for row in rows:
        files.setdefault(row["folder"], {})[row["file"]] = None
    recordings = [(folder, file) for folder, inside in files.items() for file in inside]
    numbers = {recording: str(i) for i, recording in enumerate(recordings, 1)}
    return files, numbers, {folder for folder, found in files.items() if len(found) > _FEW_FILES}


def results_table(
    rows: Sequence[dict[str, Any]], usd_per_hour: float | None = None, energy: bool = False
) -> Table:
    """A row per recording and mode, or per run; what all rows share above, notes below.

    Args:
        rows: of `vdkit.record.results.rows_by_mode` or ``rows_by_run``, at least one.
        usd_per_hour, energy: as for `vdkit.present.money_cells.money_cells`.

    Raises:
        ValueError: ``usd_per_hour`` is not finite and above 0.
    """
    files, numbers, many = _numbered(rows)
    rows = sorted(rows, key=lambda row: list(files).index(row["folder"]))
    facts = [_facts(row) for row in rows]
    same = {k: v for k, v in facts[0].items() if all(one[k] == v for one in facts)}
    few = any(row.get("n", 100) < 100 for row in rows)
    table = [
        {"#": numbers[_recording(row)]}
        | _named(row)
        | {name: value for name, value in fact.items() if name not in same}
        | ({"file": row["file"] if row["folder"] in many else "-"} if many else {})
        | (_summary_cells(row, few) if "n" in row else _run_cells(row))
        | money_cells(
            _latency_s(row),
            row["baseline_s"],
            row["video_s"],
            row["energy_j"],
            usd_per_hour,
            energy,
        )
        for row, fact in zip(rows, facts, strict=True)
    ]
    return Table(
        table,
        _lines(_same_line(same), price_line(usd_per_hour)),
        _lines(
            _different(rows, numbers),
            _legend("n" in rows[0], few, any(row["git_dirty"] for row in rows)),
            money_legend(
                [(row["device"], row["energy_j"], _latency_s(row)) for row in rows],
                usd_per_hour,
                energy,
                _baseline_words(rows),
            ),
        ),
    )


def _recording(row: dict[str, Any]) -> tuple[str, str]:
    return row["folder"], row["file"]


def _paths(
    files: dict[str, dict[str, None]], many: set[str], numbers: dict[tuple[str, str], str]
) -> list[str]:
    """A line for each recording, ready for ``vdkit show``; one for all of a folder of many."""
    lines = []
    for folder, inside in files.items():
        found = [numbers[folder, file] for file in inside]
        if folder in many:
            lines.append((f"{found[0]}-{found[-1]}", f"{folder}/FILE"))
        elif list(inside) == ["result.json"]:
            lines.append((found[0], folder))
        else:
            lines += [(n, f"{folder}/{file}") for n, file in zip(found, inside, strict=True)]
    width = max(len(number) for number, _ in lines)
    return [f"{number:>{width}}  {path}" for number, path in lines]


def _baseline_words(rows: Sequence[dict[str, Any]]) -> str:
    """What savings are against."""
    modes = {row["baseline"] for row in rows}
    words = modes.pop() if len(modes) == 1 else "the recording's baseline"
    return words if "n" in rows[0] else f"{words} in the same round"


def _latency_s(row: dict[str, Any]) -> float:
    return row["mean_s"] if "n" in row else row["latency_s"]


def _named(row: dict[str, Any]) -> dict[str, str]:
    """When it was recorded, and what it was called: in the table even where all are the same."""
    made = datetime.fromisoformat(row["created_utc"]).astimezone(UTC)
    return {"date UTC": f"{made:%Y-%m-%d %H:%M}", "label": row["label"]}


def _facts(row: dict[str, Any]) -> dict[str, str]:
    """What was measured, where and how: the columns that may stand above the table."""
    sink = SinkInfo(
        kind=row["sink"],
        storage=row["storage"],
        durable=row["durable"],
        throttle_mb_per_s=row["throttle_mb_per_s"],
    )
    off = [words for name, words in PRIMITIVES.items() if not row[name]]
    return {
        "commit": (row["commit"] or "unknown")[:7] + ("*" if row["git_dirty"] else ""),
        "device": row["device"].removeprefix("NVIDIA "),
        "decoder": row["decoder"],
        "dtype": row["dtype"],
        "size": f"{row['height']}x{row['width']}",
        "frames": str(row["frames"]),
        "fps": f"{row['fps']:g}",
        "chunk": str(row["chunk_size"]),
        "slots": str(row["slots"]),
        "sink": sink_words(sink),
        "without": ", ".join(off) or "-",
    }


def _same_line(same: dict[str, str]) -> str:
    """What is the same in every row, but not what says nothing."""
    told = [f"{name} {value}" for name, value in same.items() if value != "-"]
    return f"all: {', '.join(told)}" if told else ""


def _summary_cells(row: dict[str, Any], few: bool) -> dict[str, str]:
    half_s, ttff_s = mean_half_width(row["std_s"], row["n"]), row["ttff_s"]
    last = decimals_for(half_s, row["mean_s"])
    rtf_last = decimals_for(None if half_s is None else half_s / row["video_s"], row["rtf"])
    ttff = "-"
    if ttff_s is not None:
        ttff_half_s = mean_half_width(row["ttff_std_s"], row["n"])
        ttff = shown(ttff_s, decimals_for(ttff_half_s, ttff_s))
    return {
        "mode": row["mode"],
        "n": str(row["n"]),
        "mean s": shown(row["mean_s"], last),
        "P99 s" + "†" * few: shown(row["p99_s"], last),
        "max s": shown(row["max_s"], last),
        "RTF": shown(row["rtf"], rtf_last),
        "TTFF s": ttff,
        "throttled": str(row["throttled_runs"]),
    }


def _run_cells(row: dict[str, Any]) -> dict[str, str]:
    return {
        "mode": row["mode"],
        "round": "warm-up" if row["warmup"] else str(row["round"]),
        "latency s": f"{row['latency_s']:.3f}",
        "RTF": f"{row['rtf']:.3f}",
        "TTFF s": _or_dash(row["ttff_s"], 1, 3),
        "VRAM GB": _or_dash(_alone(row), 1e9, 2),
        "throttled": "yes" if row["throttled"] else "no",
    }


def _alone(row: dict[str, Any]) -> float | None:
    """Peak device memory without what other variants held meanwhile."""
    peak, others = row["vram_peak_bytes"], row["other_bytes"]
    known = peak is not None and others is not None and others == others  # not NaN
    return peak - others if known else peak


def _or_dash(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"


def _different(rows: Sequence[dict[str, Any]], numbers: dict[tuple[str, str], str]) -> str:
    """A warning for recordings whose modes gave different frames: these do not compare."""
    wrong = dict.fromkeys(
        f"{numbers[_recording(row)]} ({row['label']})"
        for row in rows
        if row["frames_identical"] is False
    )
    return f"FRAMES NOT IDENTICAL in {', '.join(wrong)}" if wrong else ""


def _legend(summed: bool, few: bool, dirty: bool) -> str:
    """What the columns mean."""
    what = "timed runs, without warm-ups" if summed else "every run"
    return (
        f"Seconds: wall clock of {what}. RTF: {'mean ' * summed}latency / (frames / fps). TTFF: "
        f"until the sink had the first frame{', mean' * summed}. throttled: "
        f"{'runs with ' * summed}a throttle reason set before or after."
        + (f" {DIGITS_LEGEND}" if summed else "")
        + (" † n < 100: read P99 as the maximum." if few else "")
        + (" * the code was changed from that commit." if dirty else "")
    )


def _lines(*lines: str) -> str:
    return "\n".join(line for line in lines if line)
