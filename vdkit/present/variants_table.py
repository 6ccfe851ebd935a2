"""Variants of a decoder side by side: table, runs and kernel families. No torch, no GPU."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vdkit.present.digits import mean_decimals, mean_words, ratio_words, shown
from vdkit.present.money_cells import money_cells, money_legend, price_line
from vdkit.present.style import FAMILY_COLORS, STYLE, WIDTH_IN
from vdkit.present.table import Table, markdown_table
from vdkit.present.tables import NAMES, legend, noise_note, runs_frame, setting
from vdkit.record.money import mean_energy_j
from vdkit.record.old_variants import alone_bytes, latent_frame_ms

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from vdkit.record.old_variants import Comparison
    from vdkit.record.recording import BenchmarkResult
    from vdkit.trace.figures import Share

WIDE_ENOUGH = 0.04
"""Of the longest bar: a segment that its value fits into."""


def variant_rows(
    made: Comparison, usd_per_hour: float | None = None, energy: bool = False
) -> list[dict[str, str]]:
    """One row per variant and mode, every cell ready to show."""
    rows = []
    base = made.index.baseline
    on_gpu = any(one.vram_peak_bytes for r in made.results.values() for one in r.modes.values())
    throttled = any(one.throttled_runs for r in made.results.values() for one in r.modes.values())
    for variant, result in made.results.items():
        for name, mode in result.modes.items():
            latency, ttff = mode.latency_s, mode.ttff_s
            last = mean_decimals(latency)
            per_frame = latent_frame_ms(result) if name == "compute" else []
            ratio = made.ratio((base, name), (variant, name)) if variant != base else None
            row = {
                "variant": variant,
                "mode": NAMES[name],
                "mean s": shown(latency.mean, last),
                f"P99 s{'†' if latency.n < 100 else ''}": shown(latency.p99, last),
                "max s": shown(latency.max, last),
                "n": str(latency.n),
                "TTFF s": shown(ttff.mean, mean_decimals(ttff)) if ttff else "-",
                "RTF": shown(mode.rtf, mean_decimals(latency, 1 / result.workload.seconds)),
                "ms per latent frame": mean_words(per_frame) if per_frame else "-",
                f"{base} / variant": "1" if variant == base else ratio_words(ratio),
            }
            if on_gpu:
                row["VRAM alone GB"] = f"{(alone_bytes(result, name) or 0) / 1e9:.2f}"
            if throttled:
                row["throttled"] = f"{mode.throttled_runs} of {latency.n}"
            row |= money_cells(
                latency.mean,
                None if name == result.baseline else result.modes[result.baseline].latency_s.mean,
                result.workload.seconds,
                mean_energy_j(result.timed(name)),
                usd_per_hour,
                energy,
            )
            rows.append(row)
    return rows


def variants_text(made: Comparison, usd_per_hour: float | None = None, energy: bool = False) -> str:
    """Caption, table, what else the runs say, and legend."""
    table = variant_table(made, usd_per_hour, energy)
    return "\n\n".join([table.caption, markdown_table(table.rows), table.note])


def variant_table(
    made: Comparison, usd_per_hour: float | None = None, energy: bool = False
) -> Table:
    """Variants of a decoder: a row per variant and mode, in every form."""
    first = made.baseline
    mode = first.baseline
    measured = [
        (result.provenance.device, mean_energy_j(result.timed(name)), one.latency_s.mean)
        for result in made.results.values()
        for name, one in result.modes.items()
    ]
    noise = [f"{variant}: {note}" for variant, r in made.results.items() if (note := noise_note(r))]
    below = [
        "\n".join(f"- {line}" for line in variant_lines(made)),
        variants_legend(made),
        money_legend(measured, usd_per_hour, energy, mode),
        "\n".join(noise),
    ]
    return Table(
        variant_rows(made, usd_per_hour, energy),
        "\n".join(filter(None, (setting(first), price_line(usd_per_hour)))),
        "\n\n".join(filter(None, below)),
    )


def variants_legend(made: Comparison) -> str:
    """What the columns of `variant_rows` mean."""
    return (
        legend(made.baseline)
        + f" {made.index.baseline} / variant: latency of the same mode. ms per latent frame: from "
        "the end of a chunk's decode to the end of the next's, steady chunks only. VRAM alone: "
        "peak without what the other variants hold."
    )


def variant_lines(made: Comparison) -> list[str]:
    """What stands below the table."""
    results, base = made.results, made.index.baseline
    setup = [f"{name} {r.setup_s:.1f} s" for name, r in results.items() if r.setup_s is not None]
    lines = [f"set-up (load and prepare, outside all runs): {', '.join(setup)}"] if setup else []
    overlap = [
        f"{name} {ratio_words(ratio)}"
        for name in results
        if (ratio := made.ratio((name, "sync"), (name, "async"))) is not None
    ]
    if overlap:
        lines.append(f"sync / async: {', '.join(overlap)}")
    for name in results:
        both = made.ratio((base, "diffusers"), (name, "async")) if name != base else None
        if both is not None:
            lines.append(f"{base}, mode diffusers / {name}, async: {ratio_words(both)}")
    lines += [_frames_words(name, result) for name, result in results.items()]
    if made.index.psnr_db:
        values = ", ".join(
            f"{name} equal" if psnr is None else f"{name} {psnr:.1f} dB"
            for name, psnr in made.index.psnr_db.items()
        )
        lines.append(
            "uint8 frames against diffusers' in float32 (PSNR, latent frames 0 to "
            f"{made.index.psnr_latent_frames - 1}): {values}"
        )
    for name, modes in made.index.skipped.items():
        lines.append(f"{name}: mode {', '.join(modes)} was skipped, it decodes by chunk only")
    for name, result in results.items():
        lines += [f"{name}: {note}" for note in result.workload.notes if name != base]
    return lines


def _frames_words(name: str, result: BenchmarkResult) -> str:
    words = {
        True: "identical, byte for byte",
        False: "NOT IDENTICAL",
        None: "not compared: that takes two modes that deliver them at one chunk size",
    }
    hashes = {mode: one.frame_sha256 for mode, one in result.modes.items() if one.frame_sha256}
    whole = hashes.pop("diffusers", None)
    if result.frames_identical is False and len(hashes) > 1 and len({*hashes.values()}) == 1:
        return (
            f"{name}: frames of {', '.join(hashes)}: identical, byte for byte; those of mode "
            f"diffusers are NOT ({str(whole)[:8]} against {next(iter(hashes.values()))[:8]})"
        )
    return f"{name}: frames of its modes: {words[result.frames_identical]}"


def variants_frame(made: Comparison) -> pd.DataFrame:
    """`runs_frame` of every variant, with its name in front."""
    import pandas as pd

    frames = []
    for variant, result in made.results.items():
        frame = runs_frame(result)
        frame.insert(0, "variant", variant)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def families_csv(families: Mapping[str, tuple[Share, ...]]) -> str:
    """Kernels of the steady window by variant and family, in full precision."""
    lines = ["variant,family,kernels,seconds,ms_per_latent_frame,percent"]
    for variant, shares in families.items():
        for share in shares:
            one = share.family
            lines.append(
                f'{variant},"{one.name}",{one.kernels},{one.seconds!r},'
                f"{share.ms_per_latent_frame!r},{one.percent!r}"
            )
    return "\n".join(lines) + "\n"


def read_families(path: Path) -> dict[str, tuple[Share, ...]]:
    """What `families_csv` wrote, by variant; ValueError, with the file, if it is something else."""
    from vdkit.trace.figures import Family, Share

    shares: dict[str, list[Share]] = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                numbers = (float(row[name]) for name in ("seconds", "percent"))
                family = Family(row["family"], int(row["kernels"]), *numbers)
                share = Share(family, float(row["ms_per_latent_frame"]))
                shares.setdefault(row["variant"], []).append(share)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a table of kernel families: {error}") from error
    return {variant: tuple(rows) for variant, rows in shares.items()}


def plot_families(families: Mapping[str, tuple[Share, ...]], title: str | None = None) -> Figure:
    """A stacked bar per variant: ms of kernels per latent frame, by family."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    totals = {name: sum(s.ms_per_latent_frame for s in shares) for name, shares in families.items()}
    longest = max(totals.values())
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(
            figsize=(WIDTH_IN, 1.3 + 0.34 * len(families)), layout="constrained"
        )
        plt.close(figure)
        for row, (name, shares) in enumerate(families.items()):
            values = {share.family.name: share.ms_per_latent_frame for share in shares}
            left = 0.0
            for family, (color, ink) in FAMILY_COLORS.items():
                value = values.get(family, 0.0)
                ax.barh(row, value, left=left, color=color, height=0.7)
                if value >= WIDE_ENOUGH * longest:
                    ax.text(
                        left + value / 2, row, f"{value:.2f}", color=ink, fontsize=6,
                        ha="center", va="center",
                    )  # fmt: skip
                left += value
            ax.text(left + 0.01 * longest, row, f"{totals[name]:.2f}", va="center", fontsize=7)
        ax.set_yticks(range(len(families)), list(families))
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.1 * longest)
        ax.set_xlabel("kernels by family, ms per latent frame (profiled, steady window)")
        there = {share.family.name for shares in families.values() for share in shares}
        handles = [
            Patch(color=color) for family, (color, _) in FAMILY_COLORS.items() if family in there
        ]
        figure.legend(
            handles, [family for family in FAMILY_COLORS if family in there],
            loc="outside lower center", ncols=4, frameon=False, fontsize=6,
        )  # fmt: skip
        if title:
            ax.set_title(title, loc="left", fontsize=7)
    return figure


def write_families(
    families: Mapping[str, tuple[Share, ...]], folder: Path, title: str | None = None
) -> list[Path]:
    """``families.csv`` and ``families.png`` into ``folder``; the paths."""
    table, picture = folder / "families.csv", folder / "families.png"
    table.write_text(families_csv(families))
    plot_families(families, title).savefig(picture)
    return [table, picture]
