"""The stages from a prompt to frames: what goes in and out of each, how long it takes, how much
memory. No torch: it reads shapes and sizes from whatever holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vdkit.present.table import markdown_table

if TYPE_CHECKING:
    from vdkit.decode.chunks import DecodeResult


class TimedStage(Protocol):
    """What is read of `vdkit.models.pipeline.Stage`."""

    @property
    def name(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def peak_vram_bytes(self) -> int | None: ...
    @property
    def expert(self) -> str | None: ...


class Generation(Protocol):
    """What is read of `vdkit.models.pipeline.GeneratedLatents`."""

    @property
    def stages(self) -> Sequence[TimedStage]: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def embedding(self) -> Any: ...
    @property
    def latents(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage in sum.

    Attributes:
        name: ``text encoder``, ``denoise, high-noise expert``, ..., ``decode and write``.
        expert: which transformer; None where none ran.
        takes, gives: in words, with shapes.
        gives_bytes: of all that the stage gives.
        spans_s: (start, stop) of each call, s since the first stage began, stages end to end:
            steps of an expert, chunks of a decode.
        seconds: wall clock of the stage; more than its spans where it does other work too.
        peak_vram_bytes: allocated at most, the weights of all stages included; None on a CPU.
    """

    name: str
    expert: str | None
    takes: str
    gives: str
    gives_bytes: int
    spans_s: tuple[tuple[float, float], ...]
    seconds: float
    peak_vram_bytes: int | None


def stage_rows(made: Generation, decoded: DecodeResult) -> list[StageRow]:
    """Text encoder, denoising by expert, decode; in the order they ran.

    Args:
        made: of `vdkit.generate_latents`.
        decoded: of a decode of its latents, on a chunked path.
    """
    latents, embedding = made.latents, made.embedding
    ids, shape = len(made.token_ids), list(latents.shape)
    video = decoded.info
    rows: list[StageRow] = []
    clock_s = 0.0
    for name in dict.fromkeys(_shown(stage) for stage in made.stages):
        mine = [stage for stage in made.stages if _shown(stage) == name]
        spans = []
        for stage in mine:
            spans.append((clock_s, clock_s + stage.seconds))
            clock_s += stage.seconds
        peaks = [stage.peak_vram_bytes for stage in mine if stage.peak_vram_bytes is not None]
        expert = mine[0].expert
        takes = f"latents {shape}" if any(row.expert for row in rows) else f"noise {shape}"
        encoder_takes = f"{ids} token ids, padded to [1, {embedding.shape[1]}]"
        rows.append(
            StageRow(
                name,
                expert,
                takes if expert else encoder_takes,
                f"latents {shape}" if expert else f"embedding {list(embedding.shape)}",
                latents.nbytes if expert else embedding.nbytes,
                tuple(spans),
                sum(stage.seconds for stage in mine),
                max(peaks, default=None),
            )
        )
    steady = decoded.chunks[-1]
    part = [*shape[:2], steady.latent_stop - steady.latent_start, *shape[3:]]
    pixels = [steady.frame_stop - steady.frame_start, video.height, video.width, 3]
    rows.append(
        StageRow(
            "decode and write",
            None,
            f"latents {part} a chunk",
            f"frames {pixels} a chunk, uint8",
            video.frames * video.frame_bytes,
            tuple(
                (clock_s + chunk.decode_start_s, clock_s + chunk.decode_done_s)
                for chunk in decoded.chunks
                if chunk.decode_start_s is not None and chunk.decode_done_s is not None
            ),
            decoded.latency_s,
            decoded.vram_peak_bytes,
        )
    )
    return rows


def _shown(stage: TimedStage) -> str:
    if stage.expert is None:
        return stage.name
    return "denoise" if stage.expert == "only" else f"denoise, {stage.expert} expert"


def stages_table(rows: Sequence[StageRow]) -> str:
    """`stage_rows` as a Markdown table; peak VRAM only where there is a GPU."""
    whole_s = sum(row.seconds for row in rows)
    on_gpu = any(row.peak_vram_bytes is not None for row in rows)
    cells = []
    for row in rows:
        one = {
            "stage": row.name,
            "takes": row.takes,
            "gives": row.gives,
            "in all": size_words(row.gives_bytes),
            "calls": str(len(row.spans_s)),
            "seconds": f"{row.seconds:.3f}",
            "share %": f"{100 * row.seconds / whole_s:.1f}",
        }
        if on_gpu:
            peak = row.peak_vram_bytes
            one["peak VRAM GB"] = "-" if peak is None else f"{peak / 1e9:.3f}"
        cells.append(one)
    return markdown_table(cells)


def size_words(size_bytes: int) -> str:
    """Three digits and a unit of 1000s: ``262 kB``, ``1.52 MB``."""
    value, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        del units[0]
    return f"{value:.0f} {units[0]}" if value >= 99.95 else f"{value:.3g} {units[0]}"
