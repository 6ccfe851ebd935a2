"""All recordings as a list for people, ``vdkit results``: no torch, no GPU.

What is the same in every row stands above the table instead of in it, so that it fits a terminal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from vdkit.decode.chunks import PRIMITIVES
from vdkit.present.columns import NOTHING, Asked, Row, cells, legend
from vdkit.present.document import lines
from vdkit.present.table import Cell, Number, Table, summary_decimals
from vdkit.present.words import sink_words
from vdkit.record.recording import FILE, Arm, Recording
from vdkit.record.runs import Run
from vdkit.record.upgrade import OLD_FILES

Listed = Sequence[tuple[Path, Recording]]
"""Recordings with the file of each."""

_FEW_FILES = 4  # of one folder that are still listed one by one


def results_text(
    recordings: Listed,
    asked: Asked = NOTHING,
    runs: bool = False,
    modes: Collection[str] | None = None,
) -> str:
    """`results_table` for a terminal, and the path behind each number.

    A folder with many recordings, as of a sweep, is one line of paths, and the table names files.
    """
    made = results_table(recordings, asked, runs, modes).text()
    return f"{made}\n\nFor vdkit show:\n" + "\n".join(_paths(_ordered(recordings)))


def results_table(
    recordings: Listed,
    asked: Asked = NOTHING,
    runs: bool = False,
    modes: Collection[str] | None = None,
) -> Table:
    """A row per recording and arm, or per run; what all rows share above, notes below.

    Args:
        recordings: at least one, of any kind; their cells of one folder stand together.
        asked: a price, joules; savings are against the recording's baseline, of a variant against
            its own, of a run in the same round.
        runs: a row for every run, warm-ups too.
        modes: only arms of these; None: all.

    Raises:
        ValueError: a mode that nothing was recorded of.
    """
    found = [
        (number, path, recording, name, base)
        for number, (path, recording) in enumerate(_ordered(recordings), 1)
        for name, base in _arms(recording)
    ]
    there = list(dict.fromkeys(one[2].arms[one[3]].mode for one in found))
    if modes is not None and (missing := [mode for mode in modes if mode not in there]):
        raise ValueError(
            f"no run of mode {', '.join(missing)} is recorded there; use any of {', '.join(there)}"
        )
    found = [one for one in found if modes is None or one[2].arms[one[3]].mode in modes]
    facts = [_facts(recording, name) for _, _, recording, name, _ in found]
    same = {k: v for k, v in facts[0].items() if all(one[k] == v for one in facts)}
    many = _many([path for path, _ in recordings])
    made = [_when(recording) for _, _, recording, *_ in found]
    years = {when.year for when in made}
    rows: list[Row] = []
    table: list[dict[str, Cell]] = []
    for (number, path, recording, name, base), fact, when in zip(found, facts, made, strict=True):
        labels: dict[str, Cell] = {
            "#": Number(number, 0),
            "date UTC": f"{when:{'%m-%d' if len(years) == 1 else '%Y-%m-%d'} %H:%M}",
            "label": recording.label,
            **{name: value for name, value in fact.items() if name not in same},
        }
        if many:
            labels["file"] = path.name if path.parent in many else None
        arm, device = recording.arms[name], recording.provenance.device
        labels["mode"] = arm.mode
        if not runs:
            rows.append(Row(labels, arm, base, device=device))
            continue
        for run in sorted(arm.runs, key=lambda run: (not run.warmup, run.round)):
            pair = [one for one in (base.runs if base else ()) if one.round == run.round]
            against = _alone(base, pair[0]) if base and pair else None
            rows.append(
                Row(labels | _run_cells(arm, run), _alone(arm, run), against, device=device)
            )
    table = cells("money" if runs else "results", rows, asked=asked)
    told = [f"{name} {value}" for name, value in same.items() if value != "-"]
    told += [f"year {year}" for year in years if len(years) == 1]
    return Table(
        table,
        lines(f"all: {', '.join(told)}" if told else "", asked.line),
        lines(
            _different(found),
            *session_lines([recording for _, recording in recordings]),
            _legend(rows, runs, _against(found, runs), asked),
            *(words for mark, words in _MARKS.items() if any(mark in str(f) for f in facts)),
        ),
    )


_MARKS = {
    "*": "* the code was changed from that commit.",
    "‡": "‡ page cache: written, but not waited for until it was on the disk.",
}
_Found = tuple[int, Path, Recording, str, Arm | None]


def _arms(recording: Recording) -> Iterator[tuple[str, Arm | None]]:
    """Name of each arm, and what its savings are against: a variant's are against its own."""
    for name in recording.arms:
        variant, slash, mode = name.partition("/")
        own = recording.of_variant(variant) if slash else recording
        yield name, None if own.baseline == (mode if slash else name) else own.base


def _when(recording: Recording) -> datetime:
    return datetime.fromisoformat(recording.provenance.created_utc).astimezone(UTC)


def _ordered(recordings: Listed) -> Listed:
    """As they come, but those of one folder together."""
    folders = list(dict.fromkeys(path.parent for path, _ in recordings))
    return sorted(recordings, key=lambda one: folders.index(one[0].parent))


def _many(paths: Sequence[Path]) -> set[Path]:
    """The folders whose files are not listed one by one."""
    folders = [path.parent for path in paths]
    return {folder for folder in folders if folders.count(folder) > _FEW_FILES}


def _paths(recordings: Listed) -> list[str]:
    """A line for each recording, ready for ``vdkit show``; one for all of a folder of many."""
    paths = [path for path, _ in recordings]
    many = _many(paths)
    shown: dict[str, list[int]] = {}
    for number, path in enumerate(paths, 1):
        alone = [one.parent for one in paths].count(path.parent) == 1
        named = path.parent if alone and path.name in (FILE, *OLD_FILES) else path
        text = f"{path.parent}/FILE" if path.parent in many else str(named)
        shown.setdefault(text, []).append(number)
    numbers = [f"{n[0]}-{n[-1]}" if len(n) > 1 else str(n[0]) for n in shown.values()]
    width = max(map(len, numbers))
    return [f"{number:>{width}}  {text}" for number, text in zip(numbers, shown, strict=True)]


def _facts(recording: Recording, name: str) -> dict[str, str]:
    """What was measured, where and how: the columns that may stand above the table."""
    arm, made = recording.arms[name], recording.provenance
    work, config = arm.workload, arm.config
    off = [words for primitive, words in PRIMITIVES.items() if not getattr(config, primitive)]
    by_name = recording.kind in ("ablation", "aa")
    return {
        "kind": recording.kind,
        "commit": (made.git_commit or "unknown")[:7] + ("*" if made.git_dirty else ""),
        "device": made.device.removeprefix("NVIDIA "),
        "decoder": work.decoder,
        "variant": work.variant,
        "dtype": work.dtype,
        "size": f"{work.height}x{work.width}",
        "frames": str(work.frames),
        "fps": f"{work.fps:g}",
        "chunk": str(config.chunk_size),
        "slots": str(config.slots),
        "sink": sink_words(arm.sink).replace(", page cache", "‡"),
        "without": ", ".join(off) or "-",
        "arm": name if by_name else "-",
    }


def _alone(arm: Arm, run: Run) -> Arm:
    """One run as an arm of its own."""
    return arm.model_copy(update={"runs": (run.model_copy(update={"warmup": False}),)})


def _run_cells(arm: Arm, run: Run) -> dict[str, Cell]:
    last, peak = summary_decimals(arm.latency), run.vram_peak_bytes
    return {
        "round": "warm-up" if run.warmup else Number(run.round, 0),
        "latency s": Number(run.latency_s, last),
        "RTF": Number(run.latency_s / arm.workload.seconds, last),
        "TTFF s": None if run.ttff_s is None else Number(run.ttff_s, last),
        "VRAM GB": None if peak is None else Number((peak - (arm.other_bytes or 0)) / 1e9, 2),
        "throttled": "yes" if run.throttled else "no",
    }


def _different(found: Sequence[_Found]) -> str:
    """A warning for recordings whose arms gave different frames: these do not compare."""
    wrong = dict.fromkeys(
        f"{number} ({recording.label})"
        for number, _, recording, *_ in found
        if recording.frames_identical is False
    )
    return f"FRAMES NOT IDENTICAL in {', '.join(wrong)}" if wrong else ""


def _against(found: Sequence[_Found], runs: bool) -> str:
    """What savings are against, in words."""
    modes = {base.mode for *_, base in found if base is not None}
    words = modes.pop() if len(modes) == 1 else "the recording's baseline"
    return f"{words} in the same round" if runs else words


def _legend(rows: Sequence[Row], runs: bool, against: str, asked: Asked) -> str:
    if not runs:
        return legend("results", rows, against, asked)
    return (
        "Latency: wall clock of every run, from the call until the sink was closed. RTF: latency / "
        "(frames / fps). TTFF: until the sink had the first frame. Throttled: the GPU named a "
        f"reason for a lower clock. {legend('money', rows, against, asked)}"
    )


class SessionRange(NamedTuple):
    """How far a ratio moves from one session to the next, which one session's interval hides."""

    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.low:.2f} to {self.high:.2f} over {self.n} session{'s' * (self.n != 1)}"


def session_range(
    recordings: Sequence[Recording],
    over: str = "sync",
    under: str = "async",
    like: Recording | None = None,
) -> SessionRange | None:
    """Smallest and largest ratio of latencies over all recordings of one workload, and how many.

    The same workload: decoder, variant, dtype, size, chunk size and device model, at one speed of
    storage. Each variant of a recording counts as a benchmark of its own.

    Args:
        recordings: of any kind; those without both arms, or of another workload, do not count.
        over, under: the arms.
        like: whose workload it is; None: that of the first recording that has both arms.

    Returns:
        None if none has both arms.
    """
    groups = _ratios(recordings, over, under)
    found = groups.get(_workload(like), []) if like else next(iter(groups.values()), [])
    return SessionRange(min(found), max(found), len(found)) if found else None


def session_lines(recordings: Sequence[Recording]) -> list[str]:
    """`session_range` of sync / async for each workload that more than one session measured."""
    groups = _ratios(recordings, "sync", "async")
    return [
        f"sync / async of {decoder} ({variant}), {dtype}, {height}x{width}, chunk {chunk}, {device}"
        + (f", storage held to {speed:g} MB/s" if speed else "")
        + f": {SessionRange(min(found), max(found), len(found))}"
        for (decoder, variant, dtype, height, width, chunk, device, speed), found in groups.items()
        if len(found) > 1
    ]


_Workload = tuple[str, str, str, int, int, int, str, float | None]


def _workload(recording: Recording) -> _Workload:
    work, device = recording.workload, recording.provenance.device
    return (
        work.decoder, work.variant, work.dtype, work.height, work.width,
        recording.config.chunk_size, device, recording.sink.throttle_mb_per_s,
    )  # fmt: skip


def _ratios(recordings: Sequence[Recording], over: str, under: str) -> dict[_Workload, list[float]]:
    """The ratio of every benchmark that has both arms, by workload."""
    groups: dict[_Workload, list[float]] = {}
    for one in recordings:
        parts = [one.of_variant(v) for v in one.variants] if one.kind == "variants" else [one]
        for part in parts:
            if (ratio := part.ratio(over, under)) is not None:
                groups.setdefault(_workload(part), []).append(ratio.value)
    return groups
