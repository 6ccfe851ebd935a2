"""The commands that read recordings: one, two or many, of any kind. No torch, no GPU."""

from __future__ import annotations

import argparse
import glob
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from vdkit import __version__
from vdkit.cli import MONEY, columns, command, numbers, print_json, told, words
from vdkit.decode.chunks import DecodeConfig, check_chunk
from vdkit.predict import StageCosts, Storage, plan_of, usual_plan, video_info
from vdkit.predict.advise import Limits, recommend, seconds
from vdkit.predict.fit import Evidence, fit_costs, fit_evidence
from vdkit.predict.fleet import Hosts, fleet
from vdkit.predict.grid import PLAN, Sweep, read_sweep
from vdkit.present import reproduction
from vdkit.present.columns import Asked
from vdkit.present.comparison import comparison_document, comparison_record
from vdkit.present.document import MARKER, Document
from vdkit.present.documents import document_of, source_of
from vdkit.present.fanout import fanout_document
from vdkit.present.fleet import fleet_document
from vdkit.present.instruments import analysis_document
from vdkit.present.reproduction import Reproduction
from vdkit.present.results_list import results_table, results_text
from vdkit.present.sweep_document import advice_document, advice_record, sweep_document, verdict
from vdkit.present.words import config_words, what_and_where
from vdkit.record import check_file, write_atomically, written
from vdkit.record.compare import Comparison, compare_results
from vdkit.record.fanout import FANOUT, Fanout, read_fanout
from vdkit.record.recording import Arm, Recording, saving_usd, usd_per_video_hour
from vdkit.record.results import Found, find_recordings, frame_of, read_recording, rows_of
from vdkit.record.stats import MORE, runs_needed
from vdkit.trace.figures import analyze
from vdkit.trace.files import read_trace

OTHERS = {
    "result_hta.json": "tools/analyze_vs_hta.py's times of vdkit analyze against "
    "HolisticTraceAnalysis",
    "redraw.json": "tools/explorer_redraw.py's times of the explorer",
    "split.json": "tools/split_times.py's times of one video on several GPUs",
    "latents.json": "what data/structures measured of latents",
}
"""Records of other programs that lie under results/ too; each is in the commit it was made with."""


def left_out(error: Exception) -> None:
    """Name what cannot be read, on standard error."""
    print(f"vdkit: warning: left out: {error}", file=sys.stderr)


def opened(path: Path) -> Recording | Sweep | Fanout:
    """The recording at ``path``, of any kind and age.

    Raises:
        FileNotFoundError, ValueError: there is none; names what is there.
    """
    home = path.parent if path.name in (PLAN, FANOUT) else path
    if (home / PLAN).is_file():
        return read_sweep(home, left_out)
    if (home / FANOUT).is_file():
        return read_fanout(home)
    there = os.listdir(path) if path.is_dir() else [path.name]
    for name in OTHERS.keys() & set(there if path.exists() else ()):
        raise ValueError(f"{path} is no recording: {name} holds {OTHERS[name]}; read that file")
    return read_recording(path)


def document_at(
    path: Path, wants: Asked
) -> tuple[Recording | Sweep | Fanout | Reproduction, Document]:
    """What is recorded at ``path``, and what is said of it."""
    if (path / reproduction.PLAN).is_file():
        made = reproduction.read_reproduction(path)
        return made, reproduction.reproduction_document(made, wants)
    found = opened(path)
    if isinstance(found, Sweep):
        return found, sweep_document(found, wants)
    if isinstance(found, Fanout):
        return found, fanout_document(found, wants)
    return found, document_of(found, wants, source_of(path))


@command(f"<a> <b> modes mode-a mode-b metrics paired across fail-above json {MONEY}")
def run_compare(options: argparse.Namespace) -> int:
    """two recordings: what changed, and what is only chance

    Compares latency, time to the first frame, memory and energy of two recordings, B against A, arm
    by arm. What else differs (machine, decoder, frames) stands above the table; other media are
    refused. The last line of standard output is one line of JSON: what was called; with --json it
    is the only line, and everything.
    """
    limit = None if options.fail_above is None else _percent(options.fail_above)
    if (options.mode_a is None) != (options.mode_b is None):
        raise ValueError("--mode-a and --mode-b belong together; give both")
    modes: Any = words(options.modes)
    if options.mode_a is not None:
        modes = [*(modes or []), (options.mode_a, options.mode_b)]
    comparison = compare_results(
        *_sides(options.a, options.b), paired=options.paired, across=options.across, modes=modes,
        metrics=words(options.metrics),
    )  # fmt: skip
    failed = [] if limit is None else _gate(comparison, limit)
    if not options.json:
        print(f"{told(comparison_document(comparison, options.asked))}\n")
    record = comparison_record(comparison, whole=options.json)
    print_json({"a": str(options.a), "b": str(options.b), **record})
    for line in failed:
        print(f"vdkit: error: {line}", file=sys.stderr)
    return 1 if failed else 0


def _sides(*paths: Path) -> list[Recording]:
    """Recordings to compare: one object for one file; ValueError for a sweep or a fan-out."""
    found = {path.resolve(): opened(path) for path in paths}
    recordings = {at: side for at, side in found.items() if isinstance(side, Recording)}
    if len(recordings) < len(found):
        what = "sweep" if any(isinstance(one, Sweep) for one in found.values()) else "fan-out"
        remedy = "; give two of its cells' files" * (what == "sweep")
        raise ValueError(f"a {what} is no side of a comparison{remedy}")
    return [recordings[path.resolve()] for path in paths]


def _percent(given: str) -> float:
    """``2%`` or ``2`` as 2.0."""
    try:
        percent = float(given.strip().removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not (math.isfinite(percent) and percent >= 0):
        raise ValueError(f"--fail-above is {given!r}; give 0 or more percent, e.g. 2%")
    return percent


def _gate(comparison: Comparison, limit: float) -> list[str]:
    """What is worse by more than ``limit`` percent; ValueError if nothing could have been."""
    if not comparison.tests:
        have = min(min(row.n_a, row.n_b) for row in comparison.rows)
        raise ValueError(
            f"--fail-above can never fail here: {have} run{'s' * (have != 1)} of a side cannot "
            f"tell a difference from chance; record at least {runs_needed(comparison.paired)} "
            + ("pairs" if comparison.paired else "of each side")
        )
    lines, more = [], [row for row in comparison.rows if row.decision.verdict == MORE]
    for row in (row for row in more if row.mean_b > row.mean_a * (1 + limit / 100)):
        mode = row.mode_a if row.mode_a == row.mode_b else f"{row.mode_b} against {row.mode_a}"
        by = f"{100 * (row.mean_b / row.mean_a - 1):+.2f} %" if row.mean_a else "from 0"
        lines.append(f"{row.metric} of {mode} is {row.verdict}: {by}, allowed are +{limit:g} %")
    return lines


@command("<trace> gpu json")
def run_analyze(options: argparse.Namespace) -> int:
    """the figures of a profile for any Kineto trace, on a machine without a GPU

    Utilization, gaps, stalls by cause and kernel families of a PyTorch profiler trace, of vdkit's
    own or any program's.
    """
    timeline = read_trace(options.trace, options.gpu)
    try:
        analysis = analyze(timeline)
    except ValueError as error:
        raise ValueError(f"{options.trace}: {error}") from error
    if options.json:
        print_json({"trace": str(options.trace), **asdict(analysis)})
    else:
        name = timeline.run.mode if timeline.run else options.trace.name
        print(told(analysis_document(name, analysis)))
    if analysis.failed:
        print("vdkit: error: the trace is incomplete", file=sys.stderr)
        return 1
    return 0


@command(f"<result> modes timeline zoom format {MONEY}")
def run_show(options: argparse.Namespace) -> int:
    """print a recording of any kind; draw a benchmark's timeline

    Prints what bench, demo, profile or sweep recorded. --timeline draws the timeline of timed runs;
    other pictures lie beside the recording.
    """
    picture: Path | None = options.timeline
    drawing = [n for n in ("timeline", "zoom", "modes") if getattr(options, n) is not None]
    if drawing and options.format is not None:
        raise ValueError(f"--format prints tables only; leave out --{drawing[0]}")
    if options.zoom is not None and options.zoom < 1:
        raise ValueError(f"zoom is {options.zoom}; draw 1 chunk or more")
    if drawing and picture is None:
        raise ValueError(f"--{drawing[0]} is for a picture; name one with --timeline FILE")
    if picture is not None:
        check_file(picture, "timeline", ".png", ".svg", ".pdf")
    found, document = document_at(options.result, options.asked)
    if drawing and not isinstance(found, Recording):
        kinds = {
            Sweep: "sweep; draw one of its cells, a file in it",
            Fanout: "fan-out, which has no timeline",
            Reproduction: "reproduction; draw one of its stages, a folder in it",
        }
        raise ValueError(f"{options.result} is a {kinds[type(found)]}")
    if options.format is not None:
        tables = document.tables()[: 1 if options.format == "csv" else None]
        print("\n\n".join(getattr(one, options.format)().rstrip("\n") for one in tables))
        return 0
    figure = picture and _timeline(found, options)  # may refuse
    print(told(document))
    if picture and figure:
        with written(picture) as partly:
            figure.savefig(partly)
        print(f"\nTimeline in {picture}")
    return 0


def _timeline(recording: Any, options: argparse.Namespace) -> Any:
    """The timeline of an arm's typical run above another's; ValueError if it cannot be drawn."""
    from vdkit.present.timeline import plot_timeline, steady_window

    wanted = words(options.modes) or list(recording.arms)
    if missing := [name for name in wanted if name not in recording.arms]:
        raise ValueError(
            f"no arm {', '.join(missing)} in this recording; it has {', '.join(recording.arms)}"
        )
    runs = {name: recording.arms[name].typical() for name in wanted}
    window = None
    if options.zoom is not None:
        runs = {name: run for name, run in runs.items() if len(run.chunks) > 1} or runs
        middle = runs.get("async") or next(iter(runs.values()))
        most = len(middle.chunks) - 2
        if options.zoom > most:
            raise ValueError(
                f"zoom is {options.zoom}, but {middle.mode} has {len(middle.chunks)} chunks: "
                + (f"draw {most} at the most" if most > 0 else "draw it whole, without --zoom")
            )
        window = steady_window(middle, options.zoom)
    how = config_words(recording.config)
    title = f"{recording.label}: {how[:1].lower()}{how[1:]}\n{what_and_where(recording)}"
    return plot_timeline(runs, window, title=title)


@command(f"<records> out across {MONEY}")
def run_report(options: argparse.Namespace) -> int:
    """a recording, or two compared, as one self-contained HTML file

    Writes a recording of any kind as one HTML file: summary, tables, pictures drawn anew,
    provenance and command line. It runs no script, loads nothing and prints to A4. Two are
    compared, the second against the first.
    """
    out: Path = options.out
    _check_page(out)
    paths: list[Path] = options.records
    if len(paths) > 2:
        raise ValueError(f"{len(paths)} recordings; give one, or two to compare")
    if len(paths) == 1 and options.across:
        raise ValueError("--across is for a comparison; give two recordings")
    if len(paths) == 1:
        found, document = document_at(paths[0], options.asked)
        where = source_of(paths[0]) if isinstance(found, Recording) else paths[0].resolve()
        made_of: list[Any] = [where]
    else:
        comparison = compare_results(*_sides(*paths), across=options.across)
        made_of = [source_of(path) for path in paths]
        document = comparison_document(comparison, options.asked, made_of)
    names = " and ".join(one.name for one in made_of)
    foot = f"Made by vdkit report {__version__} from {names}; nothing was measured anew."
    text, new = document.html(foot), not out.exists()
    _check_page(out)
    write_atomically(out, text, new)
    print(f"Report in {out} ({len(text) / 1e3:.0f} kB)")
    return 0


def _check_page(out: Path) -> None:
    """Before anything is read: can a report be written at ``out``?"""
    check_file(out, "--out", ".html", ".htm")
    readable = out.is_file() and not out.is_symlink()
    if os.path.lexists(out) and not (readable and MARKER.encode() in out.read_bytes()[:200]):
        raise FileExistsError(
            f"--out {str(out)!r} is there and no report of vdkit; name a new file or remove it"
        )


@command(
    "<results> variant vram-gb pinned-mb ttff-s storage-mb-s burst-mb frames chunks ring-slots "
    "gpus host-gpus cores memory-gb-s pcie-gb-s shared-storage-mb-s picture usd-per-hour "
    "json"
)
def run_recommend(options: argparse.Namespace) -> int:
    """which chunk size and how many slots, within limits, and what to buy next

    Fits the costs of each step from recorded benchmarks (several chunk sizes of one setting are
    best) or takes those of a sweep, predicts mode async at every chunk size and slot count, and
    names the smallest that is as fast as can be told, the reason, and what storage, PCIe and
    decoder of twice the speed would gain. --gpus: what many would give that share cores, storage,
    memory and PCIe, simulated, and where the knee is.
    """
    for name in ("vram_gb", "pinned_mb", "ttff_s", "burst_mb"):
        value = getattr(options, name)
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"--{name.replace('_', '-')} is {value:g}; give 0 or more")
    vram_bytes = options.vram_gb and options.vram_gb * 1e9
    limits = Limits(vram_bytes, options.pinned_mb and options.pinned_mb * 1e6, options.ttff_s)
    chosen = None if options.chunks is None else numbers("chunks", options.chunks, int)
    slots = numbers("ring-slots", options.ring_slots, int)
    for size, count in product(chosen or [1], slots):
        DecodeConfig(size, count)  # says what is wrong with it
    if options.burst_mb is not None and options.storage_mb_s is None:
        raise ValueError("--burst-mb is the cache of a storage; give its --storage-mb-s too")
    hosts = _hosts(options)
    costs, results, evidence, on_gpu = _costs(options.results, options.variant)
    info, sizes = video_info(results[0]), sorted({one.config.chunk_size for one in results})
    chunks = chosen or sizes
    if options.storage_mb_s is not None and options.gpus is None:
        burst_bytes = round((options.burst_mb or 0) * 1e6)
        costs = replace(costs, storage=Storage(options.storage_mb_s, burst_bytes))
    if options.frames is not None:
        if options.frames < 1:
            raise ValueError(f"--frames is {options.frames}; use 1 or more")
        info = replace(info, frames=options.frames)
    whole = usual_plan(results[0].workload, 1, info.frames)[-1].latent_stop
    check_chunk(max(chosen or [1]), whole, info.kind)
    arms = [arm for one in results for arm in one.arms.values()]
    plan = partial(plan_of, arms, frames=options.frames)
    advice = recommend(
        costs, limits, info=info, chunks=chunks, slots=slots, evidence=evidence, plan=plan
    )
    made = None
    if options.gpus is not None:
        config, side = advice.config, advice.encoding.encoders if advice.encoding else None
        made = fleet(
            costs.of_encoders(side), info, hosts, sorted(set(numbers("gpus", options.gpus, int))),
            config=config, plan=plan(config.chunk_size) or (),
            stored=_stored(arms, hosts, bool(side)),
        )  # fmt: skip
    if options.picture is not None and made is not None:
        from vdkit.present.charts import plot_fleet

        with written(options.picture) as partly:
            plot_fleet(made).savefig(partly)
    if not options.json:
        modes = ", ".join(dict.fromkeys(mode for result in results for mode in result.arms))
        at = f"chunk size{'s' * (len(sizes) > 1)} {', '.join(map(str, sizes))}"
        print(f"{what_and_where(results[0])}; fitted at {at} of {modes}")
        print("\n".join([*_on_gpu_words(on_gpu), *_doubts(results, chunks, sizes)]))
        print(f"{told(advice_document(advice, options.asked))}\n")
        print(f"{told(fleet_document(made))}\n\n" if made else "", end="")
    print_json(advice_record(advice) | ({"fleet": made} if made else {}))
    return 0


_SHARED = ("cores", "storage_mb_s", "memory_gb_s", "pcie_gb_s", "shared_storage_mb_s")


def _hosts(options: argparse.Namespace) -> Hosts:
    """What --gpus share; ValueError, with the option, for what does not go together."""
    shared = {name: getattr(options, name) for name in _SHARED}
    if options.gpus is None:
        for name in ("host_gpus", "picture", *(n for n in _SHARED if n != "storage_mb_s")):
            if getattr(options, name) is not None:
                said = f"--{name.replace('_', '-')} is for --gpus"
                raise ValueError(f"{said}; say how many, e.g. --gpus 1,2,8")
        return Hosts(8)
    numbers("gpus", options.gpus, int)  # what is wrong with it first
    if options.burst_mb is not None:
        raise ValueError("--burst-mb is of one decode; with --gpus a cache is full: leave it out")
    if all(one is None for one in shared.values()):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in _SHARED)
        raise ValueError(f"say what --gpus share, e.g. --cores 32; of {names}")
    if options.picture is not None:
        check_file(options.picture, "--picture", ".png", ".svg", ".pdf")
    return Hosts(8 if options.host_gpus is None else options.host_gpus, *shared.values())


def _stored(arms: list[Arm], hosts: Hosts, known: bool) -> float:
    """Bytes that reach the storage for each that the sink gets; ValueError where what is limited
    is not recorded, or not ``known`` of encoders."""
    kind = arms[0].sink.kind
    if hosts.cores is not None and kind not in ("raw", "null") and not known:
        raise ValueError(
            f"what sink {kind} takes of the cores is not recorded; leave out --cores, or record "
            "an MP4 with 2 encoders or more"
        )
    for arm in arms:
        if arm.file is not None:
            return arm.file.bytes / (arm.workload.frames * video_info(arm).frame_bytes)
    stored = hosts.storage_mb_per_s or hosts.shared_storage_mb_per_s
    if stored is not None and kind != "raw":
        raise ValueError(
            f"how large the files of sink {kind} are is not recorded; leave out --storage-mb-s and "
            "--shared-storage-mb-s, or record an MP4"
        )
    return 1.0


def _costs(
    where: list[Path], variant: str | None
) -> tuple[StageCosts, list[Recording], Evidence, list[Recording]]:
    """Costs, the recordings they are fitted from, how good the fit is, and recordings of NVENC
    beside those of another encoder, which are told as they are."""
    sweeps = [path for path in where if (path / PLAN).is_file()]
    if not sweeps:
        results = [read_recording(path) for path in where]
        if variant is not None:
            for one in (one for one in results if variant not in one.benchmarks):
                there = ", ".join(filter(None, one.benchmarks)) or "one alone: leave out --variant"
                raise ValueError(f"{one.label} has no variant {variant!r}, but {there}")
            results = [one.of_variant(variant) for one in results]
        on_gpu = [one for one in results if "NVENC" in (one.sink.encoder or "").partition(";")[0]]
        if len(on_gpu) < len(results):
            results = [one for one in results if one not in on_gpu]
        costs = fit_costs(*results)
        return costs, results, fit_evidence(costs, *results), on_gpu
    if len(where) > 1 or variant is not None:
        raise ValueError(f"{sweeps[0]} is a sweep, which has all it needs: give it alone")
    sweep = opened(sweeps[0])
    assert isinstance(sweep, Sweep)
    fitted = sweep.predictions.fitted_from if sweep.predictions is not None else ()
    results = [sweep.results[cell] for cell in fitted if cell in sweep.results]
    if sweep.predictions is None or not results:
        raise ValueError(
            f"{sweeps[0]} has no fitted costs yet; finish it with vdkit sweep --resume {sweeps[0]}"
        )
    if not any(cell.mode == "async" for cell in fitted):
        raise ValueError(
            f"{sweeps[0]} has no cell of mode async, which is what is recommended for; sweep async"
        )
    return sweep.predictions.costs, results, sweep.evidence(), []


def _on_gpu_words(recordings: list[Recording]) -> list[str]:
    """What NVENC was measured to take in mode async."""
    arms = [one.arms["async"] for one in recordings if "async" in one.arms]
    return [
        f"Measured with {arm.sink.encoder}, chunk {arm.config.chunk_size}, {arm.config.slots} "
        f"slots: {seconds(arm.latency.mean)}."
        for arm in arms
    ]


def _doubts(results: list[Recording], chunks: list[int], sizes: list[int]) -> list[str]:
    """What makes the fit or the advice doubtful; an empty line at the end."""
    machines = {(one.provenance.device_uuid, one.provenance.cpu) for one in results}
    outside = ", ".join(str(size) for size in chunks if not sizes[0] <= size <= sizes[-1])
    several = f"Note: fitted from runs of {len(machines)} machines; costs hold for one."
    beyond = (
        f"Note: chunk size {outside} is beyond the measured ones, so its latency is a guess: what "
        "a call costs by itself is known only from two sizes on."
    )
    return [*([several] if len(machines) > 1 else []), *([beyond] if outside else []), ""]


@command(f"<where> runs cells modes csv format|json {MONEY}")
def run_results(options: argparse.Namespace) -> int:
    """list everything recorded

    One row per recording and arm, the oldest first. Files that cannot be read are named on standard
    error and left out.
    """
    if options.csv is not None:
        check_file(options.csv, "--csv")
        if os.path.lexists(options.csv):
            raise FileExistsError(
                f"--csv {str(options.csv)!r} is there already; name a new file or remove it"
            )
    skipped: list[Exception] = []
    found = find_recordings(options.where, skipped.append)
    for error in skipped:
        left_out(error)
    rows_alone = options.json or options.csv is not None or options.format is not None
    fanouts = [] if rows_alone else _fanouts(options.where)
    if not found and not fanouts:
        named = ", ".join(map(repr, options.where))
        only = f" that can be read ({len(skipped)} left out)" if skipped else ""
        remedy = "give the folder that bench wrote into, or one above it"
        raise FileNotFoundError(f"no recording at {named}{only}; {remedy}")
    frame, modes = frame_of(found), words(options.modes)
    if options.csv is not None:
        write_atomically(options.csv, frame.to_csv(index=False), new=True)
    if options.json:
        rows = rows_of(found, by_run=options.runs)
        rows = [
            _priced(row, options.asked) for row in rows if modes is None or row["mode"] in modes
        ]
        print_json({"rows": rows})
        return 0
    sweeps = [] if options.cells or options.runs else _sweeps(found, options.where)
    shown = [one for one in found if one[0].parent not in sweeps]
    if options.format is not None:
        if not shown:
            raise ValueError("only sweeps are recorded there; add --cells for a row of each cell")
        if sweeps:
            print(f"vdkit: {len(sweeps)} sweeps left out; --cells adds them", file=sys.stderr)
        table = results_table(shown, options.asked, options.runs, modes)
        print(getattr(table, options.format)().rstrip("\n"))
        return 0
    text = results_text(shown, columns(), options.asked, options.runs, modes) if shown else ""
    lines = [_sweep_lines(sweeps) if sweeps else "", "\n".join(_fanout_lines(fanouts))]
    print("\n\n".join(filter(None, [text, *lines])))
    if options.csv is not None:
        print(f"\nAll {len(frame)} runs, {len(frame.columns)} columns, in {options.csv}")
    return 0


def _priced(row: dict[str, Any], wants: Asked) -> dict[str, Any]:
    """A row with the values behind the cells of money and energy, where they are asked for."""
    base_s, video_s, joules, rtf = (row[k] for k in ("baseline_s", "video_s", "energy_j", "rtf"))
    if (price := wants.usd_per_hour) is not None:
        row["usd_per_hour"] = price
        row["usd_per_video_hour"] = rtf and usd_per_video_hour(rtf, price)
        saved = rtf and base_s and saving_usd(base_s / video_s, rtf, price)
        row["saving_usd_per_1000_h"] = saved
    if wants.energy:
        row["energy_j_per_video_s"] = None if joules is None else joules / video_s
    return row


def _sweeps(found: Found, where: Sequence[str]) -> list[Path]:
    """Folders of sweeps among them, but for those that were asked for by name."""
    named = {Path(one) for one in where}
    folders = [one for one in dict.fromkeys(p.parent for p, _ in found) if (one / PLAN).is_file()]
    return [one for one in folders if named.isdisjoint((one, *one.iterdir()))]


def _fanouts(where: Sequence[str]) -> list[Path]:
    """Folders of fan-outs there; patterns are as of `find_recordings`."""
    matched = (
        Path(match)
        for one in where
        for match in ([one] if Path(one).exists() else glob.glob(one, recursive=True))
    )
    files = (file for at in matched for file in (at.rglob(FANOUT) if at.is_dir() else [at]))
    return sorted({file.parent for file in files if file.name == FANOUT})


def _fanout_lines(folders: Sequence[Path]) -> Iterator[str]:
    if folders:
        yield "Fan-outs (vdkit show FOLDER prints one):"
    for folder in folders:
        try:
            one = read_fanout(folder)
        except (ValueError, OSError) as error:
            left_out(error)
        else:
            videos, workers = len(one.videos), len(one.workers)
            made = f"{videos} video{'s' * (videos != 1)} by {workers} worker{'s' * (workers != 1)}"
            yield f"  {folder}: {made} ({one.engine}) into {one.sink.kind}"


def _sweep_lines(folders: Sequence[Path]) -> str:
    lines = ["Sweeps (vdkit show FOLDER prints one, --cells lists their cells here):"]
    for folder in folders:
        try:
            sweep = read_sweep(folder, lambda error: None)  # a cell's file has been named
        except (ValueError, OSError) as error:
            left_out(error)
        else:
            lines += [f"  {folder}", f"    {len(sweep.results)} cells measured. {verdict(sweep)}"]
    return "\n".join(lines)
