"""What articles claim of video latents, held against what is recorded here: ``claims.md``.

    python -m data.structures.claims results

From the top of the repository. A verdict follows from the newest recording of its kind, by the rule
that stands beside it; without one there is none.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import exp, log
from pathlib import Path
from statistics import mean

import torch

from data.structures.measuring import half_width
from data.structures.recipe import MINIATURE, STRUCTURES
from data.structures.record import FILE, Kind, Latents, Row, recorded
from data.structures.windows_study import windowed
from vdkit.present import Number, decimals_for, ratio_of
from vdkit.record import result_folder
from vdkit.record.runs import collect_provenance
from vdkit.record.stats import geometric_ratio

Rows = Sequence[Row]
Test = Callable[[Rows], tuple[str, bool]]
"""Of rows: what was measured, and whether the claim's rule holds. LookupError: rows lack it."""
VERDICTS = ("confirmed here", "not confirmed here", "cannot be tested here", "not measured yet")
CONFIRMED, NOT_CONFIRMED, CANNOT, NOT_YET = VERDICTS
COMMANDS: dict[Kind, str] = {
    "quality": "evaluate data/structures", "reference": "evaluate data/tiny-wan",
    "windows": "windows_study", "cost": "cost cost",
    "two-stages": "upsample measure --model data/structures/upsampler", "length": "cost length",
    "training": "cost training", "generation": "cost generation",
}  # fmt: skip
STANDARD, SMALL = "z16-8x8x4", "z16-16x16x4"


class Untestable(Exception):
    """Nothing that is here could tell; says why."""


def only(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """Rows with these values."""
    found = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    if not found:
        raise LookupError(f"no row has {wanted}")
    return found


def number(values: Sequence[float], groups: Sequence[str] | None = None) -> Number:
    """Mean and its 95 % interval; ``groups`` as for `half_width`."""
    if (half := half_width(values, groups)) is None:
        raise LookupError(f"{len(values)} values have no interval")
    middle = mean(values)
    return Number(middle, decimals_for(half, middle), middle - half, middle + half)


def ratio(
    top: Sequence[float], bottom: Sequence[float], groups: Sequence[str] | None = None
) -> Number:
    """Geometric, of pairs; ``groups`` as for `half_width`."""
    try:
        made = geometric_ratio(top, bottom)
        if groups:
            logs = [log(a / b) for a, b in zip(top, bottom, strict=True)]
            low, high = (exp(one) for one in (number(logs, groups).low, number(logs, groups).high))
            made = replace(made, low=low, high=high)
        found = ratio_of(made)
    except ValueError as error:
        raise LookupError(str(error)) from error
    if found is None or found.low is None:
        raise LookupError("one pair has no interval")
    return found


def clips(rows: Rows, measure: str, *several: Row) -> tuple[list[str], list[list[float]]]:
    """A measure of the clips for which each of ``several`` has it, in one order, and their
    categories."""
    found = []
    for wanted in several:
        there = [row for row in only(rows, **wanted) if row.get("clip") is not None]
        values = {(row["category"], row["clip"]): row[measure] for row in there}
        found.append({key: value for key, value in values.items() if value is not None})
    shared = [key for key in found[0] if all(key in one for one in found)]
    return [category for category, _ in shared], [[one[key] for key in shared] for one in found]


def lost_db(rows: Rows, one: Row, other: Row) -> Number:
    """What the other has less than the one, clip by clip."""
    categories, both = clips(rows, "psnr_db", one, other)
    return number([a - b for a, b in zip(*both, strict=True)], categories)


def bytes_in(row: Row, key: str = "peak_bytes") -> int:
    if row[key] is None:
        raise LookupError(f"no {key}, which is measured on a GPU")
    return int(row[key])


def full(name: str) -> Row:
    """The rows of a structure's full decode."""
    return {"structure": name, "way": "full"}


def above_30_db(
    rows: Rows, side: int = 8, name: str | None = None, way: str = "full"
) -> tuple[str, bool]:
    """Of the standard structure of 16 channels with latents of that side, or of another."""
    standard = {one.spatial: key for key, one in STRUCTURES.items() if key.startswith("z16")}
    if name is None and side not in standard:
        raise Untestable(f"structures here have {sorted(standard)} pixels to a latent's side")
    there = [row for row in rows if row.get("psnr_db") is not None]
    name = name or standard[side]
    own = only(there, structure=name, way=way)
    found = number([row["psnr_db"] for row in own], [row["category"] for row in own])
    others = [row for row in there if way == "full" == row["way"] and row["structure"] != name]
    said = "; ".join(filter(None, (_means(own, "category"), _means(others, "structure"))))
    what = name if way == "full" else f"{name}, {way}"
    return f"{found} dB of {what}, mean of {len(own)} clips ({said})", found.low > 30


def _means(rows: Iterable[Row], key: str) -> str:
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row["psnr_db"])
    return ", ".join(f"{group} {mean(values):.1f}" for group, values in groups.items())


def memory_of_a_clip(rows: Rows) -> tuple[str, bool]:
    saved: dict[str, dict[int, float]] = {}
    for on in ("clip", "chunk"):
        own, other = (
            {row["clip_s"]: bytes_in(row) for row in only(rows, **full(name), on_device=on)}
            for name in ("factorized", STANDARD)
        )
        saved[on] = {s: 100 * (1 - own[s] / other[s]) for s in own if s > 5}
    if not saved["clip"]:
        raise LookupError("no clip is longer than 5 s")
    text = "; ".join(
        f"with a {on} on the device "
        + ", ".join(f"{1 - less / 100:.2f} at {s} s" for s, less in of.items())
        for on, of in saved.items()
    )
    said = f"times the memory of {STANDARD} (of twice its bytes) at the peak, one run: {text}"
    return said, min(saved["clip"].values()) >= 30


def consistency(rows: Rows) -> tuple[str, bool]:
    size = {name: one.latent_bytes_per_s() for name, one in STRUCTURES.items()}
    other = next(name for name in size if name[0] == "z" and size[name] == size["factorized"])
    keys, both = ("warping_levels", "temporal_stlpips"), (full("factorized"), full(other))
    (categories, pairs), (also, others) = (clips(rows, key, *both) for key in keys)
    warping, seen = ratio(*pairs, categories), ratio(*others, also)
    of: dict[str, list[list[float]]] = {}
    for category, *pair in zip(categories, *pairs, strict=True):
        of.setdefault(category, []).append(pair)
    split = (f"{one} {ratio(*zip(*two, strict=True)).value:.2f}" for one, two in of.items())
    said = f"{warping} times the warping error of {other}, which has as many bytes, by the "
    said += f"geometric mean of clips ({', '.join(split)}); {seen} times the temporal stLPIPS"
    return said, warping.high <= 0.85


def square_law(time: str, operations: str, large: Row, small: Row) -> Test:
    def test(rows: Rows) -> tuple[str, bool]:
        one, other = (only(rows, **wanted)[-1] for wanted in (large, small))
        found, share = ratio(one[time], other[time]), one[operations] / other[operations]
        names = [row.get("structure") or row["latents"] for row in (one, other)]
        said = f"{found} times the time and {share:.2f} times the operations for {names[0]} as for "
        said += names[1]
        if count := one.get("clips_at_once"):
            said += f", {count} clip{'s' * (count > 1)} at once"
        if found.low >= 4.5:
            said += "; more than the square"
        return said, found.low >= 3.5 and found.high < 4.5

    return test


def denoising(name: str) -> Test:
    arms = [{"denoiser": name, "latents": s, "trained": False} for s in ("8x8x4", "16x16x4")]
    return square_law("forward_ms_runs", "forward_flop", *arms)


def training(way: str, most_time: float | None = None, least_less: float = 0.0) -> Test:
    """Of 5 latent frames: the time's interval is below so many times, or the memory at the peak so
    many times less."""

    def test(rows: Rows) -> tuple[str, bool]:
        said, found = [], []
        for count in (5, 1):
            plain, other = (only(rows, way=one, latent_frames=count)[0] for one in ("plain", way))
            keys = ("backward_peak_bytes", "activation_bytes")
            less, kept = (bytes_in(plain, key) / bytes_in(other, key) for key in keys)
            time = ratio(other["step_s_runs"], plain["step_s_runs"])
            of = f"{less:.2f} times less at the peak (kept for backward {kept:.2f} times less)"
            of = of if most_time is None else f"{time} times the time"
            said.append(f"{count} latent frame{'s' * (count > 1)} of {plain['height']}x"
                        f"{plain['width']}: {of}")  # fmt: skip
            found.append(less >= least_less if most_time is None else time.high < most_time)
        return "; ".join(said), found[0]

    return test


def two_stages(rows: Rows) -> tuple[str, bool]:
    ways, stages = ("direct", "two stages"), ("denoise_s", "upsample_s", "decode_s")
    made = [only(rows, study="generated", way=way) for way in ways]
    faster = ratio(*([sum(row[key] for key in stages) for row in several] for several in made))
    lost = lost_db(rows, *({"study": "clips", "way": way} for way in ways))
    right = [f"{sum(row['right'] for row in several)} of {len(several)}" for several in made]
    said = f"{faster} times as fast from a prompt ({right[1]} clips right, directly {right[0]})"
    return f"{said}; held-out clips lose {lost} dB", faster.low > 1 and lost.high <= 0.5


def wrong_space(rows: Rows) -> tuple[str, bool]:
    found: dict[int, Number] = {}
    encoded = only(rows, study="encode")
    for overlap in sorted({row["overlap"] for row in encoded} - {0}):
        ways = (windowed(only(encoded, overlap=overlap, blend=one)) for one in ("ramp", "latents"))
        both = zip(*ways, strict=True)
        found[overlap] = number([one.psnr_db - other.psnr_db for one, other in both])
    said = ", ".join(f"{one} dB at overlap {overlap}" for overlap, one in found.items())
    most = max(one.low for one in found.values())
    return f"joined as latents and not as pixels: {said}", most >= 13


def seams(rows: Rows) -> tuple[str, bool]:
    most = max(row["overlap"] for row in only(rows, study="decode"))
    made = windowed(only(rows, study="decode", overlap=most, blend="ramp"))
    exact = windowed(only(rows, study="decode", blend="latents"))
    own = [replace(one, overlap=most).step for one in exact]
    found = ratio([one.step for one in made], own)
    said = f"overlap {most}: {found} times the change that exact streaming has there; "
    return f"{said}{number([one.psnr_db for one in made])} dB against it", found.high <= 1.1


def adaptive(rows: Rows) -> tuple[str, bool]:
    own = full("hierarchical") | {"way": "adaptive"}
    categories, (shares,) = clips(rows, "bytes_saved_share", own)
    saved, lost = number(shares, categories), lost_db(rows, full("hierarchical"), own)
    said = f"share of the bytes saved {saved}, {lost} dB lost"
    if not any(shares):
        said += "; calibrated on training clips, no chunk may take the coarse decode, and none did"
    return said, saved.low > 0 and lost.high <= 0.5


@dataclass(frozen=True, slots=True)
class Claim:
    """What articles say, with its number; when it is confirmed; by which recording and how."""

    words: str
    rule: str
    kind: Kind
    test: Test


_DB = "the interval of the mean PSNR over clips lies above 30 dB"
_SQUARE = (
    "at twice the ratio per side the time is a quarter: the factor's interval is in 3.5 to 4.5"
)
_PEAK = "of a training step of 5 latent frames, up to the optimizer"
CLAIMS = (
    Claim("Standard VAEs exceed 30 dB at 8 times per side: one as small as its siblings.", _DB,
          "quality", above_30_db),
    Claim("Standard VAEs exceed 30 dB at 8 times per side: the miniature's, larger and trained for "
          "longer.", _DB, "reference", partial(above_30_db, name=MINIATURE)),
    Claim("Standard VAEs exceed 30 dB at 4 times per side.", _DB, "quality",
          partial(above_30_db, side=4)),
    Claim("Hierarchical ones reach 16 times per side.", f"{_DB}, of the coarse level alone",
          "quality", partial(above_30_db, name="hierarchical", way="preview")),
    Claim("Factorized ones save 30 to 50 % of memory beyond 5 seconds.",
          "30 % or more is saved at each length, the clip on the device", "length",
          memory_of_a_clip),
    Claim("Factorized ones are 15 to 20 % more consistent in time.",
          "the interval of the warping error is 15 % or more below", "quality", consistency),
    Claim("Compute falls with the square of the ratio: decoding.", _SQUARE, "cost",
          square_law("ms_per_latent_frame_runs", "flop_per_pixel", full(STANDARD), full(SMALL))),
    Claim("Compute falls with the square of the ratio: denoising, full size.", _SQUARE,
          "generation", denoising("Wan 2.2 A14B")),
    Claim("Compute falls with the square of the ratio: denoising, the miniature.", _SQUARE,
          "generation", denoising("miniature")),
    Claim("Checkpointing takes 3 to 4 times less memory.", f"3 times or more, {_PEAK}", "training",
          training("checkpointed", least_less=3.0)),
    Claim("Checkpointing takes 1.5 times the time at most.", "the interval lies below 1.55, of 5 "
          "latent frames", "training", training("checkpointed", most_time=1.55)),
    Claim("Mixed precision takes 2 times less memory.", f"2 times or more, {_PEAK}", "training",
          training("autocast", least_less=2.0)),
    Claim("A coarse pass and then a fine one are sooner, and as good.", "sooner, and held-out "
          "clips lose 0.5 dB at most, by their intervals", "two-stages", two_stages),
    Claim("Windows that overlap and blend show no seams.", "at the largest overlap the change at "
          "a seam is within 10 % of exact streaming's, by its interval", "windows", seams),
    Claim("Blending in the wrong space costs 13 dB.", "so much at some overlap, by its interval",
          "windows", wrong_space),
    Claim("Adaptive compression saves at equal quality.", "bytes are saved, and 0.5 dB at most "
          "lost, by their intervals", "quality", adaptive),
)  # fmt: skip


def judged(claim: Claim, found: dict[str, tuple[Path, Latents]]) -> Row:
    """A claim, what was measured, the verdict, and the folder of the recording."""
    folder, latents = found.get(claim.kind, (None, None))
    row: Row = {"claim": claim.words, "rule": claim.rule, "recording": None}
    try:
        row["measured"], holds = claim.test(latents.rows if latents else ())
    except Untestable as error:
        return row | {"measured": str(error), "verdict": CANNOT}
    except LookupError as error:
        command = f"`python -m data.structures.{COMMANDS[claim.kind]} --out results`"
        why = f" ({folder.name}: {error})" if folder else ""
        return row | {"measured": f"{command} would tell{why}", "verdict": NOT_YET}
    return row | {"recording": folder and folder.name, "verdict": (NOT_CONFIRMED, CONFIRMED)[holds]}


def claims(results: Path) -> tuple[list[Row], dict[str, tuple[Path, Latents]]]:
    """`judged` of all, and the recordings; those of smoke are none."""
    found = recorded(results)
    return [judged(claim, found) for claim in CLAIMS], found


def page(results: Path) -> str:
    """``claims.md``, for a folder below ``results``."""
    rows, found = claims(results)
    counts = Counter(row["verdict"] for row in rows)
    said = ", ".join(f"{one}: {counts[one]}" for one in VERDICTS if counts[one])
    text = ["# Claims of articles on video latents, one by one", "Of drawn clips, by small models "
            "of our own, one training of each, and networks of full size with random weights: a "
            "verdict says what holds here. Intervals are over clips of fixed categories, or over "
            f"runs. {said.capitalize()}."]  # fmt: skip
    for n, row in enumerate(rows, 1):
        link = f" ([{row['recording']}](../{row['recording']}/{FILE}))" * bool(row["recording"])
        measured = f"{row['measured'][0].upper()}{row['measured'][1:]}"
        text.append(f"{n}. **{row['claim']}** Confirmed if {row['rule']}.\n   {measured}.\n"
                    f"   **{row['verdict'].capitalize()}**{link}")  # fmt: skip
    text += ["## Conditions"] * bool(found)
    for folder, one in found.values():
        steps = sorted({row["training_steps"] for row in one.rows if "training_steps" in row})
        trained = f" Trained for {', '.join(map(str, steps))} steps." * bool(steps)
        text.append(f"- {folder.name}: {one.provenance.device}, `{one.command}`, {len(one.rows)} "
                    f"rows; {one.asked.get('how', '')}.{trained}")  # fmt: skip
    return "\n\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="folder of recordings; it gets a new one")
    results = parser.parse_args().results
    if not results.is_dir():
        parser.error(f"there is no folder {str(results)!r}")
    text, made = page(results), collect_provenance(torch.device("cpu"))
    folder = result_folder(
        results, "latents-claims", made, lambda one: (one / "claims.md").write_text(text)
    )
    print(f"{text}\n{folder / 'claims.md'}")


if __name__ == "__main__":
    main()
