"""README's figures come from recorded runs: ``make readme`` writes them, a test compares them.

README has generated parts between markers, each by name; `PAGE` is generated as a whole. What
stands there are the documents, tables and sentences that the commands print, chosen here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from statistics import mean

from vdkit.predict.grid import PLAN, read_sweep
from vdkit.present import Number, Table, ratio_of, significant
from vdkit.present.columns import Asked
from vdkit.present.document import Document, Picture
from vdkit.present.documents import document_of
from vdkit.present.results_list import published_lines, results_table, session_range
from vdkit.present.sweep_document import verdict
from vdkit.record import write_atomically, written
from vdkit.record.fanout import FANOUT, read_fanout
from vdkit.record.recording import Recording
from vdkit.record.results import find_recordings, read_recording

PAGE = "results/README.md"
PICTURE = "timeline.png"
SPLIT, CAUSES = "split.json", ("compute", "halo", "gather", "launches")

MAIN = "20261125T201846Z_nvidia-h100-80gb-hbm3_c4ae14f_aws-float16"
"""The run that README shows."""
VARIANTS = "20261126T143707Z_nvidia-h100-80gb-hbm3_166c337_finished-file"
"""The run of several variants that README shows."""
WAN_2_2 = "20261126T211201Z_nvidia-h100-80gb-hbm3_714e1c7_z48-121-frames"
"""The run of several variants of the VAE of Wan 2.2, at its own size."""
PROFILES = (
    "20261126T031009Z_nvidia-h100-80gb-hbm3_17d76ad-dirty_aws-profile",
    "20261121T151948Z_nvidia-h200_90fbdee_fast-profile",
)
"""The profiles that are shown whole: diffusers' decoder and the fast one."""
SWEEP = "20261121T114058Z_nvidia-h200_6a035e9_sweep-14-threads"
"""The sweep whose pictures are shown."""
ENDS = {
    "a playable MP4": (VARIANTS, "diffusers, export_to_video"),
    "raw frames in memory": (
        "20261126T034316Z_nvidia-h100-80gb-hbm3_02f42ae_variants-480p-float16", "diffusers"
    ),
}  # fmt: skip
"""What a decode may end in, the run of variants that shows it, and its arm that people write."""
AGAIN = "20261126T150724Z_nvidia-h100-80gb-hbm3_df61b67_finished-file-our-settings"
"""Another session with the same arms, and with what people write at our settings."""


class Recorded:
    """Everything recorded under ``root/results``, by folder in it, the oldest first.

    `all` is what lists are of: arm ``slow`` of an A/A control is left out of it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        home = root / "results"
        plans = sorted([*home.glob(f"2*/{PLAN}"), *home.glob(f"2*/*/{PLAN}")])
        names = [str(plan.parent.relative_to(home)) for plan in plans]
        self.sweeps = {name: read_sweep(home / name) for name in names}
        found = find_recordings(home / "2*")
        named = [(str(path.parent.relative_to(home)), path, one) for path, one in found]
        self.all = {name: (path, one) for name, path, one in named if name not in self.sweeps}

    def __getitem__(self, name: str) -> Recording:
        return read_recording(self.root / "results" / name)

    def of(self, *kinds: str) -> dict[str, Recording]:
        return {name: one for name, (_, one) in self.all.items() if one.kind in kinds}

    @cached_property
    def main(self) -> Document:
        return document_of(self[MAIN])


def headline(made: Recorded) -> str:
    """For README's first screen: seconds from latents to what they end in."""
    rows = []
    for end, (name, usual) in ENDS.items():
        recording = made[name]
        arms = recording.arms
        shown = {
            "what people write": arms[f"diffusers/{usual}"],
            **{mode: arms[f"diffusers/{mode}"] for mode in ("sync", "async")},
            **{f"{mode}, fast": arms[f"fast/{mode}"] for mode in ("async", "compute_only")},
        }
        rows.append(
            {"seconds to": end}
            | {words: significant(arm.latency.mean) for words, arm in shown.items()}
            | {"first / async, fast": ratio_of(recording.ratio(f"diffusers/{usual}", "fast/async"))}
            | {"n": f"[{arms['fast/async'].latency.n}](results/{name})"}
        )
    recording = made[VARIANTS]
    work, machine = recording.base.workload, recording.provenance
    encoder = recording.arms["fast/async"].sink.encoder
    ways = ("export_to_video", "mp4 pixel_format=rgb24")
    again = {way: made[AGAIN].ratio(f"diffusers/diffusers, {way}", "fast/async") for way in ways}
    return paragraphs(
        f"From latents to {work.frames} frames of {work.height}x{work.width}, "
        f"{work.seconds:.2f} s of video: {work.decoder} in {work.dtype} on one {machine.device} "
        f"with {machine.host_cores} host cores; means, ratios of pairs with their 95 % interval.",
        Table(rows).markdown(),
        f"The MP4 is {encoder}, of drawn clips with film grain; what people write is "
        f"diffusers' decode and `export_to_video` (of raw frames, its way without an encoder). In "
        f"[another session](results/{AGAIN}) the first ratio was "
        f"{ratio_of(again['export_to_video'])}, and "
        f"{ratio_of(again['mp4 pixel_format=rgb24'])} with the MP4's settings. "
        f"{sessions(made).partition('. Between')[0]}.",
    )


def sessions(made: Recorded) -> str:
    """How far the headline moves from one session to the next, and without its slow runs."""
    main = made[MAIN]
    over, under = (min(main.arms[name].latencies) for name in ("sync", "async"))
    found = session_range([one for _, one in made.all.values()], like=main)
    return (
        f"sync / async into raw frames on this kind of GPU: **{found}**. Between the fastest runs "
        f"above it is {significant(over / under)}: in sync single conversions on the host stall."
    )


def readings(made: Recorded) -> str:
    """What the published figures leave open, for the list of traps."""
    return "\n".join(f"- {line}" for line in published_lines()[:2])


def results(made: Recorded) -> str:
    """README's results: one run whole, and what a faster decoder changes."""
    fast, wan_2_2 = (" ".join(document_of(made[one]).lead[1:]) for one in (VARIANTS, WAN_2_2))
    size = made[WAN_2_2].base.workload
    return paragraphs(
        f"{made.main.lead[1]} {made.main.lead[2]}",
        f"![Chunks of sync above those of async on one time axis](results/{MAIN}/{PICTURE})",
        f"The same with the variants of the decoder, in turns. {fast}\n"
        f"[{size.decoder}](results/{WAN_2_2}), {size.frames} frames of "
        f"{size.height}x{size.width}: {wan_2_2}",
        f"![Kernels by family, milliseconds per latent frame](results/{VARIANTS}/families.png)",
        f"All recorded tables and pictures are in [{PAGE}]({PAGE}), the raw values of the run "
        f"above in [{MAIN}](results/{MAIN}). `make readme` writes that page and these parts; a "
        "test fails when they differ from what is recorded.",
    )


def more_gpus(made: Recorded) -> str:
    """For README: the fast decoder on one GPU, two and four, and where all of it stands."""
    home = made.root / "results"
    many, one = (table(home).frame() for table in (many_videos, one_video))
    many = many[(many.variant == "fast") & (many.sink == "raw") & (many.engine == "processes")]
    one = one[(one.variant == "fast") & (one.decoder == "wan2.1")].sort_values("GPUs")
    rates, whole = (
        ", ".join(f"{rate:,.0f}" for rate in many[name])
        for name in ("videos / h", "of the whole run")
    )
    ms = ", ".join(f"{ms:.1f}" for ms in (one["one GPU ms"].iloc[0], *one["measured ms"]))
    return (
        f"Recorded on 1, 2 and 4 {many.device.iloc[0]} of one host, variant `fast`: {rates} videos "
        f"of 161 frames of 480x832 an hour, raw, once warm ({whole} with each worker's start); one "
        f"video of 720x1280 in {ms} ms per latent frame. "
        f"[All of it, and what was predicted]({PAGE}#more-than-one-gpu)."
    )


PARTS: dict[str, Callable[[Recorded], str]] = {
    "headline": headline,
    "readings": readings,
    "results": results,
    "more GPUs": more_gpus,
}
"""The generated parts of README, in no order."""


def markers(name: str) -> tuple[str, str]:
    """The lines that a part stands between."""
    return f"<!-- {name}: written by `make readme` -->", f"<!-- end of {name} -->"


def with_part(readme: str, name: str, text: str) -> str:
    """README with a generated part replaced; ValueError unless each marker is there once."""
    begin, end = markers(name)
    if readme.count(begin) != 1 or readme.count(end) != 1:
        raise ValueError(f"README needs the markers {begin!r} and {end!r}, once each")
    before, rest = readme.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def page(made: Recorded) -> str:
    """The whole page of recordings; its links are relative to ``results``."""
    variants = made.of("variants")
    whole = {name: one for name, one in variants.items() if len(one.benchmarks) > 1}
    steps = {name: one for name, one in variants.items() if name not in whole}
    return paragraphs(
        "# Recorded results",
        "Written by `make readme` from the records in this folder; a test fails when they differ. "
        "A folder is one recording, with its raw values; "
        "[README](../README.md#cite-and-reproduce) says how to read it again. "
        "[LOG.md](LOG.md) has what was expected before a measurement, and what came out.",
        "## One run, whole",
        made.main.text(),
        sessions(made),
        f"![Chunks of sync above those of async on one time axis]({MAIN}/{PICTURE})",
        "## By GPU",
        by_gpu(made),
        "## Every benchmark",
        listed(made, made.of("bench", "ablation")),
        "Up to commit ef89707 the diffusers path converted on the host, which is slower than what "
        "pipelines do; its ratios of those commits are not comparable with later ones.",
        "## Variants of the decoder",
        *(part for name in whole for part in shown(made, name)),
        f"![Kernels by family, milliseconds per latent frame]({VARIANTS}/families.png)\n"
        f"![Sync and async on the fast decoder]({VARIANTS}/timeline_fast.png)",
        "With `fast` a convolution's kernel is also norm, SiLU, the way around and what leads to "
        "the next size. What a bar lacks to the table's milliseconds is no kernel's: the table is "
        "timed, the bar profiled.",
        "Steps on the way to it:",
        listed(made, steps),
        "## More than one GPU",
        many_videos(made.root / "results").markdown(),
        one_video(made.root / "results").markdown(),
        "## Which latents",
        claims(made.root / "results"),
        "## Profiles",
        *(part for name in PROFILES for part in shown(made, name)),
        f"![Sync over async, stalls shaded by cause]({PROFILES[0]}/timeline.png)\n"
        f"![Where the milliseconds went from sync to async]({PROFILES[0]}/waterfall.png)",
        f"Other profiles: {links(made.of('profile').keys() - set(PROFILES))}.",
        "## Sweeps",
        "Latency predicted from the cells of the fit, then measured:",
        "\n".join(f"- {links([name])}: {verdict(one)}" for name, one in made.sweeps.items()),
        f"![Predicted against measured latency]({SWEEP}/scatter.png)\n"
        f"![Latency by chunk size, slots and sink speed]({SWEEP}/heatmap.png)",
        "## Is the comparison to be trusted?",
        *(part for name in made.of("aa") for part in shown(made, name)),
        "## Money",
        "What the published figures imply, computed from them:",
        "\n".join(f"- {line}" for line in published_lines()),
    ) + "\n"  # fmt: skip


def by_gpu(made: Recorded) -> str:
    """What is recorded of each device, the newest first."""
    found: dict[str, list[str]] = {}
    recorded = {name: one.provenance for name, (_, one) in made.all.items()}
    recorded |= {name: one.plan.provenance for name, one in made.sweeps.items()}
    for name, where in sorted(recorded.items(), reverse=True):
        capability = where.compute_capability and f", compute capability {where.compute_capability}"
        found.setdefault(f"{where.device}{capability or ''}", []).append(f"[{name}]({name})")
    lines = [f"- **{device}**: {', '.join(names)}" for device, names in sorted(found.items())]
    return "\n".join(lines)


def listed(made: Recorded, recordings: Iterable[str]) -> str:
    """The list of these recordings, as `vdkit results` prints it; where each is, what it shows."""
    names = list(recordings)
    lines = [results_table([made.all[name] for name in names]).markdown(), ""]
    for number, name in enumerate(names, 1):
        whole = made[name].ratio("diffusers", "async")
        also = f" diffusers / async is {ratio_of(whole)}." if whole else ""
        lines.append(f"{number}. {links([name])}: {document_of(made[name]).lead[1]}{also}")
    return "\n".join(lines)


def many_videos(home: Path) -> Table:
    """Videos an hour by the number of workers, each one's first, which warms it up, left out."""
    rows, alone = [], dict[tuple[str, ...], float]()
    for folder in sorted(path.parent for path in home.glob(f"2*/{FANOUT}")):
        one = read_fanout(folder)
        warm = {worker: [v for v in one.videos if v.worker == worker][1:] for worker in one.workers}
        an_hour = sum(3600 / mean(v.taken_s for v in videos) for videos in warm.values())
        kind = (one.provenance.device, one.videos[0].workload.variant, one.sink.kind)
        engine = one.engine.split()[0]
        count = len(one.workers)
        rows.append({
            **dict(zip(("device", "variant", "sink"), kind, strict=True)),
            "GPUs": Number(count, 0), "engine": engine,
            "s a video": Number(mean(v.run.latency_s for of in warm.values() for v in of), 3),
            "videos / h": Number(an_hour, 0),
            "of the whole run": Number(3600 * len(one.videos) / one.window_s, 0),
            "times one GPU": Number(an_hour / alone.setdefault(kind, an_hour / count), 2),
            "recording": links([folder.name]),
        })  # fmt: skip
    note = (
        "161 frames of 480x832. Videos / h: 3600 over the mean time from one video taken to the "
        "next, each worker's\nfirst left out, summed over workers; s a video: its decode alone. Of "
        "the whole run: from the first video taken\nto the last in place, warming up and waiting "
        "for the last with it."
    )
    return Table(rows, "Many videos, `vdkit fanout`", note)


def one_video(home: Path) -> Table:
    """Milliseconds per latent frame of a video split by rows, and what was foretold of them."""
    rows = []
    for file in sorted(home.glob(f"2*/{SPLIT}")):
        found = json.loads(file.read_text())
        asked, ranks, foretold = found["asked"], found["ranks_ms"], found["predicted_ms"]
        took = max(rank["split"] for rank in ranks)
        causes = {f"{cause} ms": [rank[cause] for rank in ranks] for cause in CAUSES}
        rows.append({
            "device": found["provenance"]["device"], "decoder": asked["decoder"],
            "variant": asked["variant"], "latents": asked["latents"],
            "GPUs": Number(asked["gpus"], 0), "one GPU ms": Number(found["alone_ms"], 2),
            "from": "a strip" if "strip" in ranks[0] else "the whole",
            "predicted ms": Number(foretold["split"], 2), "measured ms": Number(took, 2),
            "off %": Number(100 * (took / foretold["split"] - 1), 1, sign=True),
            "times as fast": Number(found["alone_ms"] / took, 2),
            **{cause: Number(mean(of), 2) for cause, of in causes.items()},
            "recording": links([file.parent.name]),
        })  # fmt: skip
    note = (
        "Predicted from one GPU's time of the whole picture, or of the largest strip alone. "
        "Causes: of a profiled run, mean\nof ranks; halo: exchange of rows, and "
        "waiting for who sends them."
    )
    rows.sort(key=lambda row: [str(row[key]) for key in ("decoder", "variant", "GPUs")])
    return Table(rows, "One video, each GPU with some of the rows; per latent frame", note)


def claims(home: Path) -> str:
    """The newest verdicts on what articles claim, their links from here."""
    newest = max(home.glob("2*_latents-claims/claims.md"))
    said = newest.read_text().partition("\n\n")[2].partition("\n\n## Conditions")[0]
    where = "[Notebook 11](../notebooks/11_which_latents.ipynb) has the pictures"
    return (
        f"{said.replace('](../', '](')}\n\n{where}, {links([newest.parent.name])} the conditions."
    )


def shown(made: Recorded, name: str) -> Sequence[str]:
    """A recording's document under a heading."""
    recording = made[name]
    text = document_of(recording, Asked(energy=True)).text()
    return f"### {recording.label}", text, f"All of it: {links([name])}."


def links(names: Iterable[str]) -> str:
    return ", ".join(f"[{name}]({name})" for name in sorted(names))


def paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def main(path: Path) -> None:
    """Rewrite ``path`` and the page of results, and draw the picture beside the recorded run."""
    made = Recorded(path.resolve().parent)
    text = path.read_text()
    for name, make in PARTS.items():
        text = with_part(text, name, make(made))
    write_atomically(path, text)
    write_atomically(made.root / PAGE, page(made))
    (picture,) = (
        part
        for part in made.main.parts(page=True)
        if isinstance(part, Picture) and part.name == Path(PICTURE).stem
    )
    with written(made.root / "results" / MAIN / PICTURE) as partial:
        picture.draw().savefig(partial)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
