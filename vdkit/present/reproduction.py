"""The published benchmark reproduced: a folder of stages, and what it says beside the post's.

``reproduce.json`` is the plan. Nothing in it or below names a place: a copy of the folder reads,
and goes on, like the folder itself. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import MappingProxyType

from vdkit.predict import grid
from vdkit.present import Cell, Number, Table, mean_of, number, significant
from vdkit.present.columns import COST, NOTHING, Asked, cost_of
from vdkit.present.document import Document, Part, Section, Text, lines, section
from vdkit.present.documents import document_of, source_of
from vdkit.present.instruments import doctor_table
from vdkit.present.results_list import PUBLISHED, USD_PER_HOUR, published_lines, published_table
from vdkit.present.sweep_document import sweep_document
from vdkit.present.words import noise_note, sink_words, size_words
from vdkit.record.recording import Recording
from vdkit.record.results import read_record, read_recording
from vdkit.record.runs import Finding, Provenance, Record

PLAN, DOCTOR, SCHEMA_VERSION = "reproduce.json", "doctor.json", 1
ON_CPU = (
    "This is NOT the published workload: the miniature decodes a short clip on a CPU. Its figures "
    "say nothing of a GPU; they show that every stage runs here, and what the report looks like."
)
_MACHINE = ("device", "device_uuid", "driver", "cpu", "host_cores", "git_commit")
_SHOWN = ("min s", "mean s", "P99 s", "n", "utilization %, two chunks")


class StagePlan(Record):
    """A part of a reproduction; what it leaves is the subfolder of its name.

    Attributes:
        title: what it does, for people.
        commands: of vdkit, as typed, but for where to write.
        decodes, setup_s: how many usual decodes it takes, and what else, s; both about.
    """

    name: str
    title: str
    commands: tuple[str, ...]
    decodes: int = 0
    setup_s: float = 0.0


class ReproducePlan(Record):
    """What is to be run, in this order.

    Attributes:
        provenance: of the machine that it was begun on; that of a stage is its recording's.
        decoder: what was asked for, of a folder its name; None: the usual one.
        decode_s: what a decode takes, about, until the benchmark has measured it.
    """

    schema_version: int = SCHEMA_VERSION
    provenance: Provenance
    decoder: str | None
    decode_s: float
    stages: tuple[StagePlan, ...]

    @property
    def on_cpu(self) -> bool:
        """Whether this is the miniature's version."""
        return self.provenance.compute_capability is None


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A reproduction as far as it has come; ``made``: finished stages that are recordings."""

    folder: Path
    plan: ReproducePlan
    made: Mapping[str, Recording | grid.Sweep]

    @property
    def left(self) -> list[StagePlan]:
        """Stages that are not finished: the folder of one appears with all that is in it."""
        return [stage for stage in self.plan.stages if not (self.folder / stage.name).is_dir()]

    def recording(self, name: str) -> Recording | None:
        """A finished stage that is one recording."""
        return one if isinstance(one := self.made.get(name), Recording) else None

    def expected_s(self, stage: StagePlan) -> float:
        """Seconds that a stage takes, about: by what a decode took here, once that is known."""
        decode_s = self.plan.decode_s
        if bench := self.recording("bench"):
            decode_s = fmean(arm.latency.median for arm in bench.arms.values())
        return stage.setup_s + stage.decodes * decode_s


def read_reproduction(folder: Path) -> Reproduction:
    """Read a reproduction, finished or not; errors as of `read_recording`."""
    plan = read_record(folder / PLAN, ReproducePlan, SCHEMA_VERSION)
    homes = [folder / stage.name for stage in plan.stages]
    made = {
        home.name: grid.read_sweep(home) if (home / grid.PLAN).exists() else read_recording(home)
        for home in homes
        if home.is_dir() and not (home / DOCTOR).exists()
    }
    return Reproduction(folder, plan, made)


def figures_table(bench: Recording, profile: Recording | None, asked: Asked = NOTHING) -> Table:
    """The published figures of sync and async, ours beside them, a row each.

    Args:
        bench: with both arms.
        profile: of the same setting, for the utilization.
        asked: a price, for what an hour of video costs on either basis.
    """
    stands = published_table({"ours": bench}, {"ours": profile} if profile else {}, NOTHING).rows
    work, shown = bench.workload, list[tuple[str, Cell, Cell]]()
    for place, (path, post) in enumerate(PUBLISHED.items()):
        pair = stands[place], stands[place + len(PUBLISHED)]
        shown += [(f"{path}, {name}", pair[0][name], pair[1][name]) for name in _SHOWN]
        # Frames and rate as the post counts them, then what the decoder gives and Wan plays; of
        # another video ours has a row of its own.
        for basis, own, rtf in (
            ((164, 24.0), (4 * work.latent_frames, 24.0), post.rtf),
            ((161, 16.0), (work.frames, work.fps), post.mean_s * 16 / 161),
        ):
            mean = mean_of(bench.arms[path].latencies, own[1] / own[0])
            figures: dict[str, tuple[Cell, Cell]] = {"RTF": (number(rtf, 2), mean)}
            if asked.usd_per_hour is not None:
                figures[COST] = cost_of(rtf, Asked(USD_PER_HOUR)), cost_of(mean.value, asked)
            for at in dict.fromkeys((basis, own)):
                for name, (one, other) in figures.items():
                    of = f"{path}, {name}, {at[0]} frames at {at[1]:g} fps"
                    shown.append((of, one if at == basis else None, other if at == own else None))
    shown.append(("sync / async", stands[1]["sync / path"], stands[3]["sync / path"]))
    rows: list[dict[str, Cell]] = []
    for name, one, other in shown:
        rows.append({"figure": name, "published": one, "ours": other})
        if bench.provenance.compute_capability and isinstance(one, Number):
            both = isinstance(other, Number) and not name.endswith(", n")
            ratio = other.value / one.value if both else None  # type: ignore[union-attr]
            rows[-1]["ours / published"] = significant(ratio)
    note = (
        "Latency: seconds of a whole decode. RTF (real-time factor): mean latency over playing "
        "time; the post takes a latent frame for 4 frames, at 24 fps (41 are 164), Wan gives 161 "
        "of them and plays 16 a second. Utilization: kernels over two consecutive chunks, of a "
        "profiled run. P99 of ten is nearly the maximum. Published: AWS and Synthesia, 2026-05-19."
    )
    price = f"{asked.line} Published: ${USD_PER_HOUR}." if asked.line else ""
    return Table(rows, price, note)


def differs_table(bench: Recording) -> Table:
    """What else is not the same, a row each."""
    made, work = bench.provenance, bench.workload
    driver = f", driver {made.driver}, CUDA {made.cuda}" if made.compute_capability else ""
    weights = f", weights {work.weights_sha256[:12]}" if work.weights_sha256 else ""
    versions = ", ".join(f"{name} {made.packages.get(name)}" for name in ("torch", "diffusers"))
    frames = f"{work.latent_frames} latent frames, {work.frames} frames of {size_words(work)}"
    facts: dict[str, tuple[Cell, Cell]] = {
        "device": ("RTX PRO 6000 Blackwell", made.device + driver),
        "host": ("g7e.2xlarge", f"{made.host_cores} cores, {made.cpu}"),
        "decoder": ("VAE of Wan 2.2 14B", f"{work.decoder}, from {work.source}{weights}"),
        "latents": ("41 latent frames", frames),
        "dtype": (None, work.dtype),
        "software": ("diffusers", versions),
        "storage": (None, sink_words(bench.sink)),
    }
    rows = [{"what": what, "published": one, "ours": other} for what, (one, other) in facts.items()]
    return Table(rows, "What differs")


def _about(one: Recording | grid.Sweep) -> Recording | grid.SweepPlan:
    """What says where a stage was recorded, and what of."""
    return one.plan if isinstance(one, grid.Sweep) else one


def machine_lines(made: Reproduction) -> list[str]:
    """Which stages were recorded elsewhere than the first, or with other code or weights."""
    found, told = {}, []
    for name, one in made.made.items():
        own = {key: getattr(_about(one).provenance, key) for key in _MACHINE}
        found[name] = own | {"weights": _about(one).workload.weights_sha256}
        first, facts = next(iter(found.items()))
        unlike = [f"{k} {v} against {facts[k]}" for k, v in found[name].items() if v != facts[k]]
        if unlike:
            told.append(f"{name} is of another machine or code than {first}: {', '.join(unlike)}")
    return told


def recorded_table(made: Reproduction) -> Table:
    """A row per stage: what it is, and when and where it was recorded."""
    rows: list[dict[str, Cell]] = []
    for stage in made.plan.stages:
        state = "NOT RECORDED" if stage in made.left else "recorded"
        rows.append({"stage": stage.name, "what": stage.title, "state": state})
        if stage.name in made.made:
            where = _about(made.made[stage.name]).provenance
            commit = (where.git_commit or "unknown")[:7] + (", changed" if where.git_dirty else "")
            rows[-1] |= {"UTC": where.created_utc[:16], "device": where.device, "commit": commit}
    return Table(rows)


def reproduction_document(
    made: Reproduction, asked: Asked = NOTHING, failed: Mapping[str, str] = MappingProxyType({})
) -> Document:
    """Ours beside the published, the stages, then each stage's own document.

    Args:
        asked: a price.
        failed: stage to why it could not be recorded, as far as that is known.
    """
    bench, parts, lead, noise = made.recording("bench"), list[Part](), tuple[str, ...](), ""
    if bench is not None:
        lead, noise = document_of(bench).lead, noise_note(bench)
        figures = figures_table(bench, made.recording("profile"), asked)
        parts = [figures, differs_table(bench)]
    left = ", ".join(stage.name for stage in made.left)
    care = lines(
        f"Not recorded yet: {left}; vdkit reproduce --resume goes on." if left else "",
        *(f"{name}: {why}" for name, why in failed.items()),
        *machine_lines(made),
    )
    warning = Text(lines(ON_CPU if made.plan.on_cpu else "", noise), "warning")
    sections = [
        section("published", "Ours beside the published", warning, *parts),
        section("stages", "Stages", Text(care, "warning"), recorded_table(made)),
    ]
    implied = Text("\n".join(f"- {one}" for one in published_lines()).replace("**", ""))
    sections.append(section("implied", "What the post implies", implied, page_only=True))
    for stage in made.plan.stages:
        sections += _of_stage(stage, made)
    kicker = f"{made.plan.decoder or 'the usual decoder'} on {made.plan.provenance.device}"
    return Document("The published G7e benchmark, and ours", kicker, lead, tuple(sections))


def _of_stage(stage: StagePlan, made: Reproduction) -> list[Section]:
    """A stage's document as two sections: what its table.md has, and what only its page has."""
    home, head = made.folder / stage.name, Text(f"{stage.name}: {stage.title}", "head")
    if (home / DOCTOR).is_file():
        found = json.loads((home / DOCTOR).read_text())["findings"]
        table = doctor_table([Finding.model_validate(one) for one in found])
        return [section(stage.name, stage.name, head, table)]
    if (one := made.made.get(stage.name)) is None:
        return []
    if isinstance(one, grid.Sweep):
        own = sweep_document(one)
    else:
        own = document_of(one, source=source_of(home))
    said: list[Part] = [head, Text("\n\n".join(own.lead))]
    more: list[Part] = []
    for each in own.sections:
        if each.page_only:
            more += [Text(each.title, "head"), *each.parts]
        else:
            said += each.parts
    pictures = section(f"{stage.name}-page", f"{stage.name}: pictures", *more, page_only=True)
    return [section(stage.name, stage.name, *said), pictures]
