"""One self-contained HTML page of a recorded run, or of two compared. matplotlib, no torch."""

from __future__ import annotations

from collections.abc import Sequence

import vdkit
from vdkit.present.money_cells import money_legend, price_line
from vdkit.present.profile_charts import profile_figures
from vdkit.present.profile_report import ON_CPU, cause_lines, ceiling_lines, trust_lines
from vdkit.present.profile_tables import (
    family_rows,
    incomplete,
    mode_legend,
    mode_rows,
    on_cpu,
    stall_rows,
    window_rows,
)
from vdkit.present.report_html import box, escape, heading, page, picture, prose, section, table
from vdkit.present.report_pair import compared, refused, shared_modes
from vdkit.present.report_parts import (
    Source,
    benchmark_parts,
    command_section,
    no_prediction,
    prediction_section,
    provenance_section,
    timeline_parts,
    variant_facts,
)
from vdkit.present.report_words import (
    benchmark_summary,
    pair_summary,
    profile_summary,
    variants_summary,
)
from vdkit.present.tables import noise_note, setting, what_and_where
from vdkit.present.variants_table import (
    plot_families,
    read_families,
    variant_lines,
    variant_rows,
    variants_legend,
)
from vdkit.record.compare import Comparison, compare_results, mismatches
from vdkit.record.money import mean_energy_j
from vdkit.record.old_profile import ProfileResult
from vdkit.record.old_variants import Comparison as Variants
from vdkit.record.old_variants import alone
from vdkit.record.recording import BenchmarkResult

_PICTURES = {
    "timeline": "Sync over async, whole runs and two chunks of each; what the decoder waits for "
    "is shaded by cause.",
    "waterfall": "Where the milliseconds went from sync to async, by cause.",
    "utilization": "Share of each window in which the GPU computes.",
    "latency": "The timed runs, without profiler and sampler.",
    "nvml": "NVML's samples under the timeline of the profiled run.",
}


def report(
    sources: Sequence[Source],
    *,
    across: bool = False,
    usd_per_hour: float | None = None,
    energy: bool = False,
) -> str:
    """The page of one record, or of two benchmarks, the second compared with the first.

    Args:
        sources: one, or two of benchmarks.
        across: compare them in spite of what must be equal and is not.
        usd_per_hour, energy: columns of money and energy, as `benchmark_rows` has them.

    Raises:
        ValueError: more than two, two that are not both benchmarks, or one recording twice.
    """
    if len(sources) > 2 or not sources:
        raise ValueError(f"{len(sources)} records; give one, or two to compare")
    if len(sources) == 2:
        return _pair(sources, across, usd_per_hour, energy)
    (source,) = sources
    record = source.record
    if isinstance(record, ProfileResult):
        return _profile(record, source, usd_per_hour, energy)
    if isinstance(record, Variants):
        return _variants(record, source, usd_per_hour, energy)
    return _benchmark(alone(record), source, usd_per_hour, energy)


def _benchmark(
    result: BenchmarkResult, source: Source, usd_per_hour: float | None, energy: bool
) -> str:
    sections = [
        section("results", "Results", benchmark_parts(result, usd_per_hour, energy)),
        section("timeline", "Timeline", timeline_parts(result)),
        prediction_section([result]),
        provenance_section([result], [source]),
        command_section([("", result.command, result.provenance.git_commit)]),
    ]
    kicker = f"Benchmark · {what_and_where(result)}"
    return _page(result.label, kicker, benchmark_summary(result), sections, [source])


def _profile(
    result: ProfileResult, source: Source, usd_per_hour: float | None, energy: bool
) -> str:
    analyses = {mode: one.analysis for mode, one in result.modes.items()}
    drawn = {
        name: picture(figure, _PICTURES[name], _PICTURES[name])
        for name, figure in profile_figures(result, source.home, titled=False).items()
    }
    missing = "" if "nvml" in drawn else "No picture of NVML: no nvml.csv lies beside the record."
    windows = [name for name in ("run", "steady") if stall_rows(analyses, name)]
    sections = [
        section(
            "results",
            "Results",
            box("\n".join(incomplete(analyses))),
            prose("\n".join(x for x in (setting(result), price_line(usd_per_hour)) if x), "note"),
            table(mode_rows(result, usd_per_hour, energy), "Timed and profiled latency"),
            prose(mode_legend(result, usd_per_hour, energy), "note"),
            prose(ceiling_lines(result), "note"),
            drawn.get("latency", ""),
        ),
        section("timeline", "Timeline", drawn["timeline"]),
        section(
            "stalls",
            "Stalls by cause",
            *(table(stall_rows(analyses, name), f"Where window {name} went") for name in windows),
            prose(cause_lines(analyses), "note"),
            drawn.get("waterfall", ""),
        ),
        section(
            "utilization",
            "Utilization",
            drawn["utilization"],
            table(window_rows(analyses), "Windows"),
            prose(ON_CPU if on_cpu(analyses) else "", "note"),
        ),
        section("families", "Kernel families", table(family_rows(analyses), "Whole trace")),
        section("nvml", "Power, clocks, activity", drawn.get("nvml", ""), prose(missing, "note")),
        section("trust", "How far to trust the traces", _trust(result)),
        no_prediction(),
        provenance_section([result], [source]),
        command_section([("", result.command, result.provenance.git_commit)]),
    ]
    kicker = f"Profile · {what_and_where(result)}"
    return _page(result.label, kicker, profile_summary(result), sections, [source])


def _trust(result: ProfileResult) -> str:
    return "\n".join(
        prose(trust_lines(mode, one.analysis), "note") for mode, one in result.modes.items()
    )


def _variants(made: Variants, source: Source, usd_per_hour: float | None, energy: bool) -> str:
    first, index, results = made.baseline, made.index, made.results
    measured = [
        (one.provenance.device, mean_energy_j(one.timed(name)), mode.latency_s.mean)
        for one in results.values()
        for name, mode in one.modes.items()
    ]
    noise = [f"{name}: {note}" for name, one in results.items() if (note := noise_note(one))]
    below = (variants_legend(made), money_legend(measured, usd_per_hour, energy, first.baseline))
    sections = [
        section(
            "results",
            "Variants side by side",
            box("\n".join(noise)),
            prose("\n".join(x for x in (setting(first), price_line(usd_per_hour)) if x), "note"),
            table(variant_rows(made, usd_per_hour, energy)),
            prose("\n".join(f"- {line}" for line in variant_lines(made))),
            prose("\n".join(line for line in below if line), "note"),
        ),
        section("families", "Kernels by family", _families(source)),
        section(
            "timeline",
            "Timelines",
            *(
                heading(name) + timeline_parts(one, f", variant {name}", dots=False)
                for name, one in results.items()
            ),
        ),
        prediction_section(list(results.values())),
        provenance_section([first], [source], [variant_facts(made, source.home)]),
        command_section([("", index.command, index.provenance.git_commit)]),
    ]
    kicker = f"Variants of a decoder · {what_and_where(first)}"
    return _page(index.label, kicker, variants_summary(made), sections, [source])


def _families(source: Source) -> str:
    path = source.home / "families.csv"
    families = read_families(path) if path.is_file() else {}
    if not families:
        return prose("No kernel families are recorded: no families.csv lies beside the record.")
    words = "Kernels of the steady window by family, milliseconds per latent frame, profiled apart."
    return picture(plot_families(families), words, words)


def _pair(sources: Sequence[Source], across: bool, usd_per_hour: float | None, energy: bool) -> str:
    results = []
    for source in sources:
        if not isinstance(source.record, BenchmarkResult):
            raise ValueError(
                f"{source.name} is no benchmark, and two are compared by their runs; give it alone"
            )
        results.append(alone(source.record))
    a, b = results
    if a == b:
        raise ValueError(f"{sources[0].name} and {sources[1].name} hold the same runs; give one")
    comparison: Comparison | None = None
    refusal = told = ""
    try:
        comparison = compare_results(a, b, across=across)
    except ValueError as error:
        refusal = f"{error}."
        unequal = ", ".join(one.name for one in mismatches(a, b, shared_modes(a, b)))
        told = f"They must not be compared: {unequal} differ." if unequal else refusal
    words = pair_summary(a, b, comparison, told)
    sections = [
        section(
            "comparison",
            "B against A",
            compared(comparison, usd_per_hour, energy)
            if comparison is not None
            else refused(a, b, refusal),
        ),
        *(
            part
            for side, result in zip("AB", results, strict=True)
            for part in (
                section(
                    f"results-{side}",
                    f"{side}: {result.label}",
                    benchmark_parts(result, usd_per_hour, energy),
                ),
                section(
                    f"timeline-{side}", f"Timeline of {side}", timeline_parts(result, f" of {side}")
                ),
            )
        ),
        provenance_section(results, sources),
        command_section(
            [
                (side, one.command, one.provenance.git_commit)
                for side, one in zip("AB", results, strict=True)
            ]
        ),
    ]
    title = f"{b.label} against {a.label}" if a.label != b.label else f"{a.label}, twice"
    return _page(title, "Two benchmarks compared", words, sections, sources)


def _page(
    title: str,
    kicker: str,
    words: Sequence[str],
    sections: Sequence[str],
    sources: Sequence[Source],
) -> str:
    lead = "".join(f"<p>{escape(sentence)}</p>" for sentence in words)
    made_of = " and ".join(source.name for source in sources)
    foot = f"Made by vdkit report {vdkit.__version__} from {made_of}; nothing was measured anew."
    return page(title, kicker, f'<div class="summary">{lead}</div>', sections, foot)
