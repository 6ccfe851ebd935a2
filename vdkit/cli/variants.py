"""``vdkit bench --variants``: ways to run one decoder, side by side."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdkit.cli.decoders import getting, latents_of, load_variant, start_device
from vdkit.cli.money import money
from vdkit.cli.workload import VARIANTS, asked_modes, check, command_line, sources

if TYPE_CHECKING:
    from vdkit.measure.plans import Measured
    from vdkit.record.old_variants import Comparison


def add_variants(bench: argparse.ArgumentParser) -> None:
    """The options of several variants at once."""
    bench.add_argument(
        "--variants",
        metavar="NAME,...",
        help=f"all of these side by side, in turns, of {VARIANTS}, or all; the first is what the "
        "others are compared with",
    )
    bench.add_argument(
        "--no-families",
        dest="families",
        action="store_false",
        help="with --variants: do not profile kernels by family afterwards",
    )


def asked_variants(options: argparse.Namespace) -> list[str]:
    """The names; ValueError for what is none."""
    known = VARIANTS.split(",")
    names = known if options.variants == "all" else options.variants.split(",")
    names = [name.strip() for name in names]
    if "" in names:
        raise ValueError(f"a name is missing in --variants {options.variants!r}")
    if options.variant != "diffusers":
        raise ValueError("--variant and --variants exclude each other; name all in --variants")
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"variants {', '.join(map(repr, unknown))}: use any of {', '.join(known)}, or all"
        )
    return names


def run_variants_bench(options: argparse.Namespace) -> int:
    """Run, record and print; returns the exit status."""
    from vdkit.measure.plans import run_variants
    from vdkit.present.variants_table import variants_text
    from vdkit.record.runs import SinkInfo

    asked = money(options)
    names = asked_variants(options)
    spec, config, label = check(options)
    start_device(options)
    exact = argparse.Namespace(**{**vars(options), "dtype": "float32"})

    def say(line: str) -> None:
        if not options.json:
            print(line, flush=True)

    done = run_variants(
        [(name, partial(load_variant, options, name)) for name in names],
        lambda decoder: latents_of(decoder, options),
        spec.fresh,
        sink_info=SinkInfo(**spec.describe()),
        modes=asked_modes(options),
        baseline=options.baseline,
        config=config,
        fps=options.fps,
        runs=options.runs,
        warmup=options.warmup,
        seed=options.seed,
        label=label,
        command=command_line(options),
        families=options.families,
        exact=partial(load_variant, exact, "diffusers"),
        guard=getting,
        say=say,
        progress=not options.json and sys.stderr.isatty(),
        **sources(options),
    )
    made = done.comparison
    if done.why_no_families and options.families:
        say(f"no kernel families: {done.why_no_families}")
    say(f"\n{variants_text(made, **asked)}\n")  # first, for where it is to be recorded may be full
    home = _record(done, options.out, asked)
    if done.families:
        say(f"Picture: {home / 'families.png'}")
    say(f"Recorded in {home}")
    print(_one_line(made, home, whole=options.json))
    if any(result.frames_identical is False for result in made.results.values()):
        print("vdkit: error: the modes of a variant gave different frames", file=sys.stderr)
        return 1
    return 0


def _record(done: Measured, out: Path, asked: dict[str, Any]) -> Path:
    """Everything into a new folder, the records first."""
    from vdkit.present.tables import what_and_where
    from vdkit.present.variants_table import variants_frame, variants_text, write_families
    from vdkit.record.old_variants import write_variants
    from vdkit.record.store import result_folder, write_atomically

    made = done.comparison
    write = partial(write_variants, made)
    home = result_folder(out, made.index.label, made.index.provenance, write)
    write_atomically(home / "runs.csv", variants_frame(made).to_csv(index=False))
    text = variants_text(made, **asked)
    write_atomically(home / "table.md", f"# {made.index.label}\n\n{text}\n")
    if done.families:
        write_families(done.families, home, what_and_where(made.baseline))
    return home


def _one_line(made: Comparison, home: Path, whole: bool) -> str:
    """The folder and the answer; not ``whole``: only what fits a terminal."""
    if whole:
        answer: dict[str, Any] = {name: one.summary() for name, one in made.results.items()}
    else:
        answer = {
            name: {mode: round(one.latency_s.mean, 6) for mode, one in result.arms.items()}
            for name, result in made.results.items()
        }
    return json.dumps({"folder": str(home), "variants": answer}, separators=(",", ":"))
