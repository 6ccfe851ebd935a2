"""An ablation as plain data: what is switched off in each arm, and how long its runs took.

Torch-free, so that tables and pictures of one open anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vdkit.decode.chunks import PRIMITIVES, DecodeConfig
from vdkit.measure.provenance import Provenance
from vdkit.measure.records import Record, Run, SinkInfo, Workload
from vdkit.measure.stats import Decision, Ratio, Summary

ALL_ON, ONE_SLOT, NONE = "all on", "one slot", "none (sync)"
CUDA_ONLY = frozenset({"pinned_memory", "copy_stream"})
"""Primitives that exist on CUDA only: elsewhere the same code runs with them on or off."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to decode.

    Attributes:
        mode: key of `vdkit.measure.bench.MODES`.
        config: of the decode.
        same_code: on this device it runs what "all on" runs, so that its ratio to it shows noise
            and nothing else: an A/A control.
    """

    mode: str
    config: DecodeConfig
    same_code: bool = False


class Arm(Record):
    """All timed runs of one setting.

    Attributes:
        setting: what ran.
        runs: by round.
        latency_s: summary of ``runs``.
        decision: whether it differs from "all on", paired by round, as `vdkit compare` asks; None
            for "all on" itself. A ratio above 1: what is off had made the decode faster.
    """

    setting: Setting
    runs: tuple[Run, ...]
    latency_s: Summary
    decision: Decision | None

    def typical(self) -> Run:
        """The run nearest to the median latency: the one to draw."""
        return min(self.runs, key=lambda run: abs(run.latency_s - self.latency_s.median))

    @property
    def ratio(self) -> Ratio | None:
        """Latency over that of "all on", round by round, with its 95 % interval."""
        return None if self.decision is None else self.decision.ratio

    @property
    def called(self) -> bool:
        """A difference from "all on" was called, and it is not the same code."""
        return self.decision is not None and self.decision.called and not self.setting.same_code


class Ablation(Record):
    """What `vdkit.measure.ablation.run_ablation` gives.

    Attributes:
        arms: name of the setting to its runs, "all on" first.
        frames_identical: every setting gave the same bytes; None if only one ran.
    """

    provenance: Provenance
    workload: Workload
    config: DecodeConfig
    sink: SinkInfo
    arms: dict[str, Arm]
    frames_identical: bool | None

    def round_ratios(self, name: str) -> list[float]:
        """Latency over that of "all on", round by round."""
        base = self.arms[ALL_ON].runs
        return [
            run.latency_s / other.latency_s
            for run, other in zip(self.arms[name].runs, base, strict=True)
        ]


def ablation_settings(config: DecodeConfig, on_gpu: bool) -> dict[str, Setting]:
    """All on, then each primitive off alone, one slot, and none of them (`decode_sync`).

    Args:
        config: chunk size and slots; every primitive has to be on.
        on_gpu: whether the decoder is on CUDA.

    Raises:
        ValueError: a primitive is off already, or there is no second slot to take away.
    """
    off = [words for field, words in PRIMITIVES.items() if not getattr(config, field)]
    if off:
        raise ValueError(f"off already: {', '.join(off)}; begin with every primitive on")
    if config.slots < 2:
        raise ValueError(f"slots is {config.slots}; use 2 or more, so that one can be taken away")
    settings = {ALL_ON: Setting("async", config)}
    for field, words in PRIMITIVES.items():
        same = field in CUDA_ONLY and not on_gpu
        without = replace(config, **{field: False})
        settings[f"no {words}"] = Setting("async", without, same)
    settings[ONE_SLOT] = Setting("async", replace(config, slots=1))
    settings[NONE] = Setting("sync", config)
    return settings
