"""Time and memory of ``vdkit analyze`` against HolisticTraceAnalysis (HTA) on one Kineto trace.

Why: HTA says from the same file how busy the GPU was, and is what one would otherwise reach for.

Each tool runs as a whole process, start-up and imports included, after one untimed run of each,
and the order turns each round (A B, B A, ...). HTA runs with its defaults: one process for one
file. By default it rounds each start up and each end down to whole microseconds, and what the
events lose becomes idle time; a last, untimed run has that off (``HTA_DISABLE_NS_ROUNDING=1``),
to tell how much of a disagreement it is. A trace with fewer than ``--min-events`` is laid end to
end with itself in a temporary folder, metadata once: the recorded 447,760 events are the 223,911 of
``data/kineto_h200_async.json.gz`` twice (``trace.source.events`` and ``trace.copies`` say so).

    python -m venv hta && hta/bin/pip install HolisticTraceAnalysis==0.5.0
    python tools/analyze_vs_hta.py --trace trace.json.gz --hta-python hta/bin/python
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import torch

from vdkit.record import check_out, result_folder, write_atomically
from vdkit.record.runs import collect_provenance
from vdkit.record.stats import geometric_ratio

LABEL = "analyze-vs-hta"
NO_ROUNDING = "HTA_DISABLE_NS_ROUNDING"
IDS = ("id", "External id", "correlation", "Sequence number", "wait_on_cuda_event_record_corr_id")

HTA_PROGRAM = """\
import json, platform, sys
from importlib.metadata import version
from hta.trace_analysis import TraceAnalysis
analysis = TraceAnalysis(trace_files={0: sys.argv[1]})
temporal = analysis.get_temporal_breakdown(visualize=False)
idle, _ = analysis.get_idle_time_breakdown(visualize=False)
rows = lambda frame: json.loads(frame.to_json(orient="records", double_precision=15))
packages = ("HolisticTraceAnalysis", "pandas", "numpy")
versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
print(json.dumps({"versions": versions, "temporal": rows(temporal), "idle": rows(idle)}))
"""

# A child's peak memory starts at the size of the process that forks it, so a small one does.
STARTER = """\
import json, os, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(child.pid, 0)
seconds = time.perf_counter() - start
peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
cpu = usage.ru_utime + usage.ru_stime
code = os.waitstatus_to_exitcode(status)
print("\\n" + json.dumps({"seconds": seconds, "cpu_s": cpu, "peak_bytes": peak, "code": code}))
"""


def read_trace(path: Path) -> dict[str, Any]:
    """A Kineto trace, numbers as `Decimal`: floats do not hold epoch times to 1 ns."""
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if path.suffix == ".gz" else data
        trace = json.loads(text, parse_float=Decimal)
        if all(event["ph"] == "M" for event in trace["traceEvents"]):
            raise ValueError("it has no events")
    except (EOFError, KeyError, OSError, TypeError, ValueError, zlib.error) as error:
        remedy = "give a .json or .json.gz of torch.profiler"
        raise ValueError(f"--trace {str(path)!r} is no trace ({error!r}); {remedy}") from error
    return cast(dict[str, Any], trace)


def facts(path: Path, trace: dict[str, Any]) -> dict[str, Any]:
    """What identifies a trace file and tells its size."""
    counts = Counter(event.get("cat") for event in trace["traceEvents"])
    found = {f"{name}s": counts[name] for name in ("kernel", "gpu_memcpy", "gpu_memset")}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"events": counts.total(), **found, "bytes": path.stat().st_size, "sha256": digest}


def write_repeated(trace: dict[str, Any], copies: int, path: Path) -> int:
    """Write ``trace`` end to end with itself, ids unique, metadata once; returns the shift, us.

    The shift is the span in whole microseconds, so that rounding falls alike on each copy.
    """
    once = [event for event in trace["traceEvents"] if event.get("ph") == "M"]
    events = [event for event in trace["traceEvents"] if event.get("ph") != "M"]
    stop = max(event["ts"] + event.get("dur", 0) for event in events)
    shift = math.ceil(stop - min(event["ts"] for event in events))
    used = [item[n] for e in events for item in (e, e.get("args", {})) for n in IDS if n in item]
    stride = max((value for value in used if isinstance(value, int)), default=0) + 1

    def moved(item: dict[str, Any], copy: int) -> dict[str, Any]:
        ids = {name: item[name] for name in IDS if isinstance(item.get(name), int)}
        return item | {name: i + copy * stride for name, i in ids.items() if i > 0}

    def line(event: dict[str, Any], copy: int) -> str:
        rest = {name: value for name, value in event.items() if name not in ("ts", "dur")}
        if "args" in rest:
            rest["args"] = moved(rest["args"], copy)
        times = f'"ts": {event["ts"] + copy * shift}'
        times += f', "dur": {event["dur"]}' if "dur" in event else ""
        return f"{json.dumps(moved(rest, copy), default=float)[:-1]}, {times}}}"

    trace = {name: value for name, value in trace.items() if name != "traceEvents"}
    head = json.dumps(trace | {"traceEvents": []}, default=float).removesuffix("]}")
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        file.write(head.encode())
        for copy in range(copies):
            file.write((",\n" * (copy > 0) + ",\n".join(line(e, copy) for e in events)).encode())
        file.write("".join(f",\n{json.dumps(e, default=float)}" for e in once).encode() + b"]}\n")
    return shift


def measured(command: list[str], **environment: str) -> dict[str, Any]:
    """One process from start to end: seconds, peak memory, and the JSON of its last line."""
    kept = {name: value for name, value in os.environ.items() if name != NO_ROUNDING}
    starter = [sys.executable, "-I", "-S", "-c", STARTER, *command]
    done = subprocess.run(starter, capture_output=True, text=True, env=kept | environment)
    said = [line for line in done.stdout.splitlines() if line.strip()]
    words = done.stderr.strip().rpartition("\n")[2]
    try:
        run = json.loads(said[-1]) | {"output": json.loads(said[-2])}
    except (IndexError, TypeError, json.JSONDecodeError):
        run = {"code": "no JSON from it"}
    if code := run.pop("code"):
        raise RuntimeError(f"{shown(command)} failed ({code}): {words}")
    return cast(dict[str, Any], run)


def shown(command: list[str]) -> str:
    """A command line without folders and without the inline program, for records and messages."""
    return shlex.join("HTA_PROGRAM" if "\n" in word else Path(word).name for word in command)


def disagreement(vdkit_json: dict[str, Any], hta_json: dict[str, Any]) -> dict[str, Any]:
    """Seconds per tool, first to last GPU event, streams united; HTA minus vdkit.

    HTA's compute time leaves out kernels named ``nccl*Kernel`` or ``*Sync*``.
    """
    ours, (theirs,) = vdkit_json["windows"]["trace"], hta_json["temporal"]
    span, busy = ours["stop_s"] - ours["start_s"], ours["gpu_busy_s"]
    mine = {"kernel": ours["busy_s"], "idle": span - busy, "gpu_busy": busy, "span": span}
    kernel, idle, total = (theirs[f"{name}_time(us)"] for name in ("compute", "idle", "kernel"))
    hta = {"kernel": kernel, "idle": idle, "gpu_busy": total - idle, "span": total}
    rows = ((name, round(mine[name], 9), round(hta[name] / 1e6, 9)) for name in mine)
    return {n: {"vdkit_s": v, "hta_s": h, "difference_s": round(h - v, 9)} for n, v, h in rows}


def compare(commands: dict[str, list[str]], rounds: int) -> dict[str, Any]:
    """One untimed run of each command, then ``rounds`` of both, the order turning each time."""
    runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in commands}
    outputs: dict[str, Any] = {}
    for index in range(rounds + 1):
        for tool in list(commands)[:: 1 if index % 2 else -1]:
            run = measured(commands[tool]) | {"round": index, "warmup": index == 0}
            outputs[tool] = run.pop("output")
            runs[tool].append(run)
            print(f"round {index} {tool}: {run['seconds']:.2f} s", file=sys.stderr, flush=True)
    outputs["hta_unrounded"] = measured(commands["hta"], **{NO_ROUNDING: "1"})["output"]
    (ours := outputs["vdkit"]).pop("trace", None)  # a path
    ratios = {}
    for name in ("seconds", "peak_bytes"):
        vdkit, hta = ([run[name] for run in of_tool[1:]] for of_tool in runs.values())
        ratios[name] = asdict(geometric_ratio(hta, vdkit))
    apart = {way: disagreement(ours, outputs[way]) for way in ("hta", "hta_unrounded")}
    return {"hta_over_vdkit": ratios, "disagreement": apart, "runs": runs, "outputs": outputs}


def measure(source: Path, hta_python: str, rounds: int, min_events: int) -> dict[str, Any]:
    """The whole record but for its provenance."""
    hta = [hta_python, "-c", HTA_PROGRAM]
    try:
        measured([hta_python, "-c", "import hta.trace_analysis; print(0)"])
    except RuntimeError as error:
        remedy = f"{error}; run there: pip install HolisticTraceAnalysis==0.5.0"
        raise RuntimeError(f"--hta-python {hta_python!r} has no HTA: {remedy}") from error
    trace = read_trace(source)
    about: dict[str, Any] = {"source": facts(source, trace), "copies": 1, "shift_us": None}
    with tempfile.TemporaryDirectory() as folder:
        path = source.absolute()
        if (events := about["source"]["events"]) < min_events:
            once = sum(event["ph"] == "M" for event in trace["traceEvents"])
            about["copies"] = math.ceil((min_events - once) / (events - once))
            path = Path(folder) / "repeated.json.gz"
            about["shift_us"] = write_repeated(trace, about["copies"], path)
            trace = read_trace(path)
        about |= facts(path, trace)
        del trace  # hundreds of megabytes
        analyze = [sys.executable, "-m", "vdkit", "analyze", str(path), "--json"]
        commands = {"vdkit": analyze, "hta": [*hta, str(path)]}
        told = {tool: shown(command) for tool, command in commands.items()}
        told["HTA_PROGRAM"] = HTA_PROGRAM
        return {"commands": told, "trace": about} | compare(commands, rounds)


def report(record: dict[str, Any]) -> str:
    """The table for the terminal."""
    trace = record["trace"]
    lines = ["{events:,} events, {kernels:,} kernels".format_map(trace)]
    if trace["copies"] > 1:
        lines[0] += (
            f": {trace['copies']} times the {trace['source']['events']:,} events of the file"
        )
    for name, unit, scale in (("seconds", "s", 1.0), ("peak_bytes", "MB", 1e-6)):
        for tool, runs in record["runs"].items():
            values = [run[name] * scale for run in runs if not run["warmup"]]
            every = " ".join(f"{value:.2f}" for value in values)
            lines.append(f"{tool:>6} {statistics.median(values):9.2f} {unit:<3} of {every}")
        ratio = record["hta_over_vdkit"][name]
        ends = [f"{ratio[end]:.2f}" for end in ("low", "high") if ratio[end] is not None]
        interval = " to ".join(ends) or "none from one pair"
        lines.append(f" ratio {ratio['value']:9.2f} HTA over vdkit, 95 % interval {interval}")
    for title, rows in record["disagreement"].items():
        for name, row in rows.items():
            figures = ", ".join(f"{key} {value:.9f}" for key, value in row.items())
            lines.append(f"{title:>13} {name:>8}: {figures}")
    return "\n".join(lines)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--trace", type=Path, required=True, help="Kineto trace, .json or .json.gz")
    add("--hta-python", default=sys.executable, help="Python that has HTA (default: this one)")
    add("--rounds", type=int, default=5, help="timed runs of each tool (default: %(default)s)")
    add("--min-events", type=int, default=300_000, help="repeat a shorter trace (%(default)s)")
    add("--out", type=Path, default=Path("results"), help="folder of results (%(default)s)")
    args = parser.parse_args()
    try:
        if args.rounds < 1:
            raise ValueError(f"--rounds {args.rounds}: give 1 or more")
        check_out(args.out, LABEL)
        record = measure(args.trace, args.hta_python, args.rounds, args.min_events)
        provenance = collect_provenance(torch.device("cpu"))
        record = {"label": LABEL, "provenance": provenance.model_dump()} | record
        path = result_folder(args.out, LABEL, provenance) / "result_hta.json"
        write_atomically(path, json.dumps(record) + "\n")
    except (OSError, RuntimeError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{report(record)}\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
