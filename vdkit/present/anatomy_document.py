"""What `vdkit probe` says of a decoder: a verdict, its checks, how far a latent counts, seams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from vdkit.decode.media import MEDIA
from vdkit.present.document import Document, Part, Picture, Text, lines, section
from vdkit.present.table import Cell, Table, number
from vdkit.record.anatomy import Anatomy, Reach

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def anatomy_document(found: Anatomy) -> Document:
    """Everything that was found of one decoder."""
    count = len(found.failed)
    wrong, rest = lines(*found.verdict[:count]), " ".join(found.verdict[count:])
    checks = [
        {"check": one.name, "kept": "yes" if one.ok else "NO", "found": one.detail}
        for one in found.checks
    ]
    parts: list[Part] = [Text(wrong, "warning"), Text(rest), Table(checks, _tried(found))]
    if found.history and found.look_ahead:
        rows = [_side("later", found.history), _side("earlier", found.look_ahead)]
        words = "Latents from which on the influence of a latent is below 1 %, below 0.1 % and 0:"
        parts.append(Table(rows, words))
    compared: list[dict[str, Cell]] = [
        {
            "decoded in": f"{what} of {one.size}",
            "PSNR dB": "exact" if one.exact else number(one.db, 1),
            "largest difference": f"{one.max_abs:.1e}",
            "missing": f"{one.missing} {_units(found)}" if one.missing else None,
        }
        for what, several in (("chunks", found.streamed), ("parts, halo", found.seams))
        for one in several
    ]
    if compared:
        parts.append(Table(compared, "Against the whole; of parts the two latents at the cut:"))
    if found.influence:
        alt = "Influence over the distance in latents, and PSNR at the seam over halo"
        parts.append(Picture(lambda: plot_anatomy(found), alt, rest, "anatomy"))
    made = section("anatomy", "Temporal anatomy", *parts)
    return Document(found.name, f"Probe · {found.medium}", tuple(found.verdict), (made,))


def anatomies_table(several: Iterable[Anatomy]) -> Table:
    """A row for each: how far a latent counts at all, and what follows from that."""
    return Table(
        [
            {
                "decoder": found.name,
                "medium": found.medium,
                "causal": {None: None, True: "yes", False: "no"}[found.causal],
                "history": found.history and _ends(found.history.zero, found.history),
                "look-ahead": found.look_ahead and _ends(found.look_ahead.zero, found.look_ahead),
                "verdict": " ".join(found.verdict[len(found.failed) :]),
                "not kept": "; ".join(f"{one.name}: {one.detail}" for one in found.failed) or None,
            }
            for found in several
        ],
        note="History, look-ahead: latents from which on the influence of one on later, and on "
        "earlier, output is 0.",
    )


def _units(found: Anatomy) -> str:
    return MEDIA[found.medium].unit + "s"


def _state(found: Anatomy) -> str:
    if not found.state_bytes:
        return ""
    last, growth = found.state_bytes[-1], found.state_growth
    more = f", {growth:,} bytes more with every chunk" if growth else ", of any length"
    return f" It remembers {last:,} bytes at the end in chunks of {found.state_chunk}{more}."


def _tried(found: Anatomy) -> str:
    sizes = dict.fromkeys((found.first_units, found.units_per_latent))
    cuts = (f"{', '.join(map(str, cuts)) or 'none'} of {n}" for n, cuts in found.borders.items())
    per, each = " + ".join(map(str, sizes)), ", ".join(map(str, found.lengths))
    return (
        f"{found.name}: latents {list(found.latents)} in {found.dtype}, {per} "
        f"{_units(found)} a latent ({each} of the first 1, 2, ...). "
        f"First latents that give the same alone: {'; '.join(cuts)}.{_state(found)}"
    )


def _side(name: str, reach: Reach) -> Mapping[str, Cell]:
    ends = {"below 1 %": reach.percent, "below 0.1 %": reach.permille, "0": reach.zero}
    cells = {what: _ends(end, reach) for what, end in ends.items()}
    return {"influence on": f"{name} output", **cells}


def _ends(end: float | None, reach: Reach) -> Cell:
    return f"> {reach.tried:g}" if end is None else number(end, 2)


def plot_anatomy(found: Anatomy) -> Figure:
    """Influence over the distance in latents, on a log axis, and PSNR at the seam over halo.

    Raises:
        ValueError: nothing is known of its influence.
    """
    from vdkit.present.style import TONES, chart, keep_data

    if not found.influence:
        raise ValueError(f"of {found.name} no influence could be measured; mend what failed first")
    look = {"marker": ".", "linewidth": 0.8, "markersize": 3}
    seams = [(one.size, one.db) for one in found.seams if one.db is not None]
    with chart(2.3, 1, 1 + bool(seams), " ".join([f"{found.name}:", *found.verdict])) as (
        figure,
        axes,
    ):
        left, right = axes[0, 0], axes[0, -1]
        shown = [one for one in found.influence if one[1] > 0]
        left.plot(*zip(*shown, strict=True), color=TONES["compute"][0], **look)
        left.set(yscale="log", ylabel="influence, of that at 0")
        left.set_xlabel("latents: earlier output | its own | later output")
        for ax, levels in ((left, (0.01, 0.001)), (right, (found.target_db,) if seams else ())):
            for level in levels:
                ax.axhline(level, color="#888888", linewidth=0.5)
        if seams:
            sizes, db = zip(*seams, strict=True)
            right.plot(sizes, db, color=TONES["copy"][0], **look)
            right.set_xscale("symlog", base=2, linthresh=1)
            right.set_xticks(sizes, map(str, sizes))
            right.set(xlim=(-0.2, 1.2 * max(sizes) + 0.2), xlabel="halo, latents")
            right.set_ylabel("PSNR at the seam, dB")
    panels = {"influence": found.influence, "seam": seams}
    rows = [{"panel": panel, "x": x, "y": y} for panel, dots in panels.items() for x, y in dots]
    return keep_data(figure, rows)
