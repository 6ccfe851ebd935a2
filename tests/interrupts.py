"""Interrupts at any moment: does every decode end as promised? The judge, through the public API.

Each way to decode runs with each sink in a child process, interrupted at random moments, in every
phase, at every point where Python looks for signals, and again while it cleans up. After every run
the child looks for what must not be left behind. The parent reports hangs and crashes.

    python -m tests.interrupts                    # all of it
    python -m tests.interrupts --cells async-2:mp4 --single 500 --repeated 500 --seed 3
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.interrupted import (
    CALLS,
    CELLS,
    PHASES,
    SPEEDS,
    VIDEOS,
    WAYS,
    Judge,
    Plan,
    phases,
    tasks,
    threaded,
)

RSS_BOUND_MIB = 8
"""How far resident memory may move over the leak part, once its first fifth is over."""


def rss_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Child(Judge):
    """One process of runs; writes a line into the journal before and after each."""

    def __init__(self, options, folder, journal, traces):
        kinds = {cell.partition(":")[2] for cell in options.cells}
        super().__init__(folder, kinds, options.device, options.limit_s, traces)
        self.options = options
        self.journal = journal
        self.times = {}  # of the last whole run of each cell

    def note(self, **line):
        os.write(self.journal, (json.dumps(line) + "\n").encode())

    def attempt(self, way, kind, mode, plan, follow=True):
        """One run, and a whole one after it; both into the journal. Did it count?"""
        self.note(way=way, kind=kind, mode=mode)
        run, wrong = self.run(way, kind, plan)
        if wrong:
            self.restore(kind)
        if follow:
            whole, bad = self.run(way, kind, Plan(bar="seen" if plan.bar == "seen" else ""))
            if bad:
                self.restore(kind)
            wrong += [f"the next decode: {what}" for what in bad]
            self.times[way, kind] = whole.times
        self.note(
            way=way, kind=kind, mode=mode, counts=self.counts(mode, run), wrong=wrong,
            phases=run.sent if run.arrived else [], lingering=run.lingering,
        )  # fmt: skip
        if os.getppid() != self.options.parent:
            os._exit(0)
        return self.counts(mode, run)

    @staticmethod
    def counts(mode, run):
        """Only what arrived between call and return, and where it was meant to, counts."""
        if mode == "repeated":
            return bool(run.arrived and len(run.sent) > 1)
        if mode in PHASES:
            return bool(run.arrived and run.sent[0] == mode)
        return bool(run.arrived or not run.plan.interrupts)

    def cell(self, way, kind):
        """Interrupts for one way and sink until each mode has its number."""
        random.seed(f"{self.options.seed} {way} {kind}")
        self.attempt(way, kind, "whole", Plan())
        self.rest()  # what the first run of a process makes for good, such as a CUDA context
        for mode, quota in quotas(self.options, way, kind).items():
            if mode.startswith("points") and quota:
                points = self.run(way, kind, self.plan(way, kind, mode, 2**40))[0].points
                quota = min(quota, points)
                for index in range(quota):  # spread over all of them
                    point = 1 + index * points // quota + random.randrange(points // quota)
                    self.attempt(way, kind, mode, self.plan(way, kind, mode, point))
                continue
            counted = tried = 0
            while counted < quota and tried < 20 * (quota + 1):
                counted += self.attempt(way, kind, mode, self.plan(way, kind, mode))
                tried += 1

    def plan(self, way, kind, mode, point=0):
        """A random plan of this mode."""
        chunks = VIDEOS[1 - self.on_disk[kind]]["frames"]
        slots = WAYS[way][1].slots
        times = self.times[way, kind]
        quick, slow_sink, slow_decoder = SPEEDS
        if mode in ("single", "repeated"):
            speed = random.choice(SPEEDS)
            until_s = 1.05 * (times["end"] - times["call"]) + chunks * max(speed)
            gaps = [random.uniform(0, until_s)]
            if mode == "repeated":
                for _ in range(random.randint(1, 4)):
                    scale_s = random.choice((1e-6, 2e-5, 1e-4, 5e-4, 2e-3))
                    gaps.append(random.expovariate(1 / scale_s))
            bar = random.choice(("", "", "", "seen"))
            return Plan(event="call", gaps=tuple(gaps), speed=speed, bar=bar)
        if mode in PHASES:
            nth, until_s, speed = {
                "start": (1, times["decode"] - times["call"], quick),
                "slot wait": (random.randint(min(slots, chunks - 1), chunks - 1), 4e-3, (0, 5e-3)),
                "decode": (random.randint(1, chunks), slow_decoder[0], slow_decoder),
                "write": (random.randint(1, chunks), slow_sink[1], slow_sink),
                "drain": (chunks, slots * slow_sink[1], slow_sink),
                "close": (1, times["end"] - times["close"], quick),
            }[mode]
            gaps = (random.uniform(0, until_s),)
            return Plan(event=PHASES[mode], nth=nth, gaps=gaps, speed=speed)
        what, _, which = mode.partition(" ")
        if what == "points":
            plan = Plan(point=point, in_threading=which == "threading")
            plan.bar = "seen" if which == "bar" else ""
            if which == "again":
                plan.decoder_at, plan.speed = chunks // 2, slow_sink
            return plan
        if what == "thread":
            return Plan(thread=which)
        if what == "bar":
            return Plan(bar=which)
        held, times = which.split()
        return Plan(held=held, held_times=int(times), speed=slow_sink)

    def leaks(self, runs):
        """Short runs of every outcome; what is left behind after each, and memory in the end."""
        random.seed(f"{self.options.seed} leaks")
        memory = []
        cells = [cell.split(":") for cell in self.options.cells if "careless" not in cell]
        for way, kind in cells:
            self.attempt(way, kind, "leaks whole", Plan())
        self.rest()
        for index in range(runs):
            way, kind = random.choice(cells)
            trouble = random.choice(("", "cancel", "decoder", *CALLS, "interrupt"))
            plan = Plan(trouble=trouble, nth=random.choice((1, 2)) if trouble == "write" else 1)
            if trouble == "interrupt":
                plan = self.plan(way, kind, "single")
            self.attempt(way, kind, f"leaks {trouble or 'success'}", plan, follow=False)
            if index % 20 == 0:
                memory.append(rss_mib())
        tenth = max(1, len(memory) // 10)
        settled = statistics.median(memory[2 * tenth : 3 * tenth])
        self.note(memory=[settled, statistics.median(memory[-tenth:])])


def watch_child(options, folder, work, *arguments):
    """Run ``work(child, ...)`` in a fork; (the lines of its journal, how it died or None)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if tasks() > 1:
        raise RuntimeError("threads are running before the fork; set OMP_NUM_THREADS=1")
    options.parent = os.getpid()
    with open(folder / "journal", "w+b") as journal, open(folder / "traces", "w+") as traces:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                work(Child(options, folder, journal.fileno(), traces), *arguments)
                code = 0
            except BaseException:
                traceback.print_exc(file=traces)
                traces.flush()
            finally:
                os._exit(code)
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        lines = [json.loads(line) for line in (folder / "journal").read_text().splitlines()]
        trace = (folder / "traces").read_text()
    if status == 0:
        return lines, None
    how = "the judge failed" if status == 70 else "hang" if "Timeout" in trace else "crash"
    name = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    return lines, f"{how} ({name})\n{trace}"


class Report:
    """Counts over all children."""

    def __init__(self):
        self.cells = {}
        self.faults = []
        self.memory = None

    def take(self, lines, died):
        """Count one child's journal."""
        for line in lines:
            self.memory = line.get("memory", self.memory)
            if "counts" not in line:
                continue
            leaks = line["mode"].startswith("leaks")
            name = "leaks" if leaks else f"{line['way']}:{line['kind']}"
            cell = self.cells.setdefault(name, {"runs": Counter(), "phases": Counter()})
            cell["runs"][line["mode"]] += line["counts"]
            cell["runs"]["lingering"] += line["lingering"]
            if line["mode"] in ("single", "repeated", *PHASES):
                cell["phases"].update(line["phases"])
            self.faults += [(what, line) for what in line["wrong"]]
        if died:
            last = lines[-1] if lines else {"way": "", "kind": "", "mode": "set-up"}
            self.faults.append((died.partition("\n")[0], last | {"trace": died}))

    def too_few(self, per_phase):
        """Phases that were hit too rarely."""
        return [
            f"TOO FEW {name}: {cell['phases'][phase]} interrupts in {phase}"
            for name, cell in self.cells.items()
            if name != "leaks"
            for phase in phases(name.partition(":")[0])
            if cell["phases"][phase] < per_phase
        ]

    def text(self):
        """A table of counts, then each kind of fault with where it was seen."""
        columns = [*PHASES, "between", "end", "again"]
        rows = [("", "single", "repeated", *columns, "points", "lingering", "faults")]
        lines = []
        for name, cell in self.cells.items():
            runs = cell["runs"]
            if name == "leaks":
                lines = [", ".join(f"{mode} {count}" for mode, count in sorted(runs.items()))]
                continue
            bad = sum(name == f"{line['way']}:{line['kind']}" for _, line in self.faults)
            points = sum(count for mode, count in runs.items() if mode.startswith("points"))
            landed = [cell["phases"][column] for column in columns]
            runs = [runs["single"], runs["repeated"], *landed, points, runs["lingering"], bad]
            rows.append((name, *runs))
        widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
        lines[:0] = [
            "  ".join(str(cell).rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        ]
        if self.memory:
            lines.append("resident memory {:.1f} MiB, at the end {:.1f} MiB".format(*self.memory))
        examples = {}
        for what, line in self.faults:
            examples.setdefault(what, []).append(line)
        for what, found in sorted(examples.items(), key=lambda item: -len(item[1])):
            where = Counter(f"{line['way']}:{line['kind']} {line['mode']}" for line in found)
            shown = ", ".join(f"{place} x{count}" for place, count in where.most_common(4))
            lines.append(f"FAULT {what}: {len(found)} ({shown})")
            if "trace" in found[0]:
                lines.append(found[0]["trace"])
        return "\n".join(lines)


def quotas(options, way, kind):
    """How many runs of each mode; `Child.plan` says what they are."""
    if way == "careless":
        return {"single": 3}
    wanted = {"single": options.single, "repeated": options.repeated}
    wanted |= dict.fromkeys(phases(way), options.per_phase)
    wanted |= {"points all": options.points, "points again": options.points}
    wanted |= {f"held {name} {times}": 1 for name in CALLS for times in (1, 4)}
    if threaded(way):
        wanted |= {"thread before": 1, "thread after": 1}
    if way == "async-2" and kind == "raw":
        wanted |= {"points threading": 10**9}
    if kind == "raw":
        wanted |= {"points bar": options.points, "bar gone": 1, "bar full": 1}
    return wanted


def soak(options):
    """Everything that was asked for, child after child."""
    for module in ("av", "PIL.Image"):  # before the forks: each child would import it again
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    report = Report()
    with tempfile.TemporaryDirectory(prefix="vdkit-interrupts-") as name:
        folder = Path(name) / "runs"
        for cell in options.cells:
            report.take(*watch_child(options, folder, Child.cell, *cell.split(":")))
        if options.leaks:
            report.take(*watch_child(options, folder, Child.leaks, options.leaks))
    return report


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", nargs="+", default=CELLS, metavar="WAY:SINK")
    parser.add_argument("--single", type=int, default=100, help="runs with one interrupt")
    parser.add_argument("--repeated", type=int, default=100, help="runs with 2 to 5 interrupts")
    parser.add_argument("--per-phase", type=int, default=20, help="interrupts in each phase")
    parser.add_argument("--points", type=int, default=500, help="places to send one at")
    parser.add_argument(
        "--leaks", type=int, default=10_000, help="runs that look for leaks, 0 or 100 or more"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit-s", type=float, default=20.0, help="a longer run hangs")
    parser.add_argument("--json", action="store_true", help="print counts and faults as JSON")
    options = parser.parse_args(arguments)
    if 0 < options.leaks < 100:
        parser.error(f"--leaks {options.leaks} are too few to see memory settle: 100 or more, or 0")
    start_s = time.perf_counter()
    report = soak(options)
    too_few = report.too_few(options.per_phase)
    moved_mib = abs(report.memory[1] - report.memory[0]) if report.memory else 0
    if options.json:
        print(json.dumps(vars(report)))
    else:
        print(report.text())
        if moved_mib > RSS_BOUND_MIB:
            print(f"FAULT resident memory moved by {moved_mib:.1f} MiB, over {RSS_BOUND_MIB}")
        for line in too_few:
            print(line)
        print(f"Python {sys.version.split()[0]}, {time.perf_counter() - start_s:.0f} s")
    return 1 if report.faults or too_few or moved_mib > RSS_BOUND_MIB else 0


if __name__ == "__main__":
    sys.exit(main())
