"""What `vdkit probe` says of a decoder: a verdict, its checks, how far a latent counts, seams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vdkit.present.document import Document, Part, Picture, Text, lines, section
from vdkit.present.table import Cell, Table, number
from vdkit.record.anatomy import Anatomy, Reach

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = {"video": "frames", "images": "images", "audio": "samples"}


def anatomy_document(found: Anatomy) -> Document:
    """Everything that was found of one decoder."""
    failed = lines(*(f"{one.name}: {one.found}." for one in found.failed))
    rest = found.verdict[len(found.failed) :]
    checks = [{"check": one.name, "kept": "yes" if one.passed else "NO", "found": one.found}
              for one in found.checks]  # fmt: skip
    parts: list[Part] = [
        Text(failed, "warning"),
        Text(" ".join(rest)),
        Table(checks, _tried(found)),
    ]
    if found.history and found.look_ahead:
        sides = {"later output": found.history, "earlier output": found.look_ahead}
        words = "Latents from which on the influence of a latent is below 1 %, below 0.1 % and 0:"
        parts.append(Table([_side(*side) for side in sides.items()], words))
    if rows := [*_compared(found)]:
        parts.append(Table(rows, "Against the whole decode; of a halo the two latents at the cut:"))
    if found.influence:
        alt = f"Influence over the distance in latents{', and error over halo' * bool(found.seams)}"
        parts.append(Picture(lambda: plot_anatomy(found), alt, " ".join(rest), "anatomy"))
    made = section("anatomy", "Temporal anatomy", *parts)
    return Document(found.name, f"Probe · {found.medium}", tuple(found.verdict), (made,))


def _tried(found: Anatomy) -> str:
    units, first, later = UNITS[found.medium], found.first_units, found.units_per_latent
    per = f"{later} {units} a latent" if first == later else f"{first} + {later} {units} a latent"
    cuts = "; ".join(
        f"{', '.join(map(str, cuts)) or '-'} of {n}" for n, cuts in found.borders.items()
    )
    return (
        f"{found.name}: {found.medium}, latents {list(found.latents)} in {found.dtype}, {per} "
        f"(of the first 1, 2, ... alone: {', '.join(map(str, found.lengths))}). First latents "
        f"that give alone what they give in a longer decode: {cuts}."
    )


def _side(name: str, reach: Reach) -> Mapping[str, Cell]:
    def cell(value: float | None) -> Cell:
        return f"> {reach.tried:g}" if value is None else number(value, 2)

    return {"influence on": name, "below 1 %": cell(reach.percent),
            "below 0.1 %": cell(reach.permille), "0": cell(reach.zero)}  # fmt: skip


def _compared(found: Anatomy) -> Iterator[Mapping[str, Cell]]:
    for what, several in (("chunks", found.streamed), ("halo", found.seams)):
        for one in several:
            yield {
                "decoded in": f"{what} of {one.size}",
                "PSNR dB": "exact" if one.exact else number(one.db, 1),
                "largest difference": f"{one.max_abs:.1e}",
                "missing": f"{one.missing} {UNITS[found.medium]}" if one.missing else None,
            }


def plot_anatomy(found: Anatomy) -> Figure:
    """Influence over the distance in latents, on a log axis, and seam error over halo.

    Raises:
        ValueError: nothing is known of its influence.
    """
    from vdkit.present.style import TONES, chart, keep_data

    if not found.influence:
        raise ValueError(f"of {found.name} no influence could be measured; mend what failed first")
    seams = [one for one in found.seams if one.db is not None]
    shown = [(at, value) for at, value in found.influence if value > 0]
    blue, orange = TONES["compute"][0], TONES["copy"][0]
    with chart(2.3, 1, 1 + bool(seams), f"{found.name}: {' '.join(found.verdict)}") as (
        figure,
        axes,
    ):
        left = axes[0, 0]
        left.plot(*zip(*shown, strict=True), ".-", color=blue, linewidth=0.8, markersize=3)
        for least, words in ((0.01, "1 %"), (0.001, "0.1 %")):
            left.axhline(least, color="#888888", linewidth=0.5)
            left.annotate(words, (1, least), xycoords=("axes fraction", "data"), fontsize=6)
        ends = (min(at for at, _ in found.influence), max(at for at, _ in found.influence))
        left.set(yscale="log", xlim=(ends[0] - 1, ends[1] + 1), ylabel="influence, of that at 0")
        left.set_xlabel("latents: earlier output | its own | later output")
        if seams:
            right, (sizes, db) = axes[0, 1], zip(*((s.size, s.db) for s in seams), strict=True)
            right.plot(sizes, db, ".-", color=orange, linewidth=0.8, label="seam")
            right.axhline(found.target_db, color="#888888", linewidth=0.5)
            right.set(xlabel="halo, latents", ylabel="PSNR at the seam, dB")
            right.set_xscale("symlog", base=2, linthresh=1)
            right.set_xlim(-0.2, 1.2 * max(sizes))
            right.set_xticks(sizes, map(str, sizes))
    rows = [{"panel": "influence", "x": at, "y": value} for at, value in found.influence]
    return keep_data(figure, [*rows, *({"panel": "seam", "x": s.size, "y": s.db} for s in seams)])
