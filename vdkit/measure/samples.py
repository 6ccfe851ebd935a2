"""What the NVML sampler collects: columns over time, and what follows from them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from vdkit.measure.nvml import THROTTLE_BITS

Value = float | None


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples as columns.

    Attributes:
        start_s: `time.perf_counter` of time 0.
        columns: ``time_s``, the middle of each reading, and one column for each field that the
            device answers; None where a value was refused, or is due less often (what moves
            slowly: every `COUNTER_INTERVAL_S`; GPM: every
            `GPM_INTERVAL_S`; PCIe without GPM: every `PCIE_EVERY` samples). PCIe is in MB (10^6
            bytes; NVML's KB taken as 1024) per second, tx from the GPU to the host.
        unsupported: field to NVML's reason for not answering it; such a field has no column.
        throttle_reasons: name (see `THROTTLE_BITS`) to the number of samples that had it set.
        interval_s: between samples, as asked for.
        cost_s: wall-clock time spent asking NVML; of a slice, its share by number of samples.
    """

    start_s: float
    columns: dict[str, list[Value]]
    unsupported: dict[str, str]
    throttle_reasons: dict[str, int]
    interval_s: float
    cost_s: float

    @property
    def mean_cost_ms(self) -> float:
        """Mean time to take one sample, ms."""
        return 1e3 * self.cost_s / max(len(self.columns["time_s"]), 1)

    def between(self, start_s: float, stop_s: float, zero_s: float | None = None) -> Samples:
        """The samples between two `time.perf_counter` readings; time 0 is ``zero_s``, or start."""
        zero_s = start_s if zero_s is None else zero_s
        moved = zero_s - self.start_s
        times = [time_s for time_s in self.columns["time_s"] if time_s is not None]
        low = bisect_left(times, start_s - self.start_s)
        high = bisect_right(times, stop_s - self.start_s)
        columns = {name: values[low:high] for name, values in self.columns.items()}
        columns["time_s"] = [time_s - moved for time_s in times[low:high]]
        share = (high - low) / max(len(times), 1)
        return Samples(
            zero_s, columns, self.unsupported, throttle_counts(columns), self.interval_s,
            self.cost_s * share,
        )  # fmt: skip

    def energy_j(self) -> float | None:
        """Difference of the energy counter from first to last sample, J; None if not answered."""
        values = [v for v in self.columns.get("energy_j", []) if v is not None]
        return values[-1] - values[0] if len(values) > 1 else None

    def summary(self) -> dict[str, dict[str, float]]:
        """Mean, min and max of each column that holds a value, except of ``time_s``."""
        found = {}
        for name, column in self.columns.items():
            values = [value for value in column if value is not None]
            if values and name != "time_s":
                mean = sum(values) / len(values)
                found[name] = {"mean": mean, "min": min(values), "max": max(values)}
        return found

    def to_csv(self) -> str:
        """A header and a line per sample, in full precision; None is left empty."""
        lines = [",".join(self.columns)]
        for row in zip(*self.columns.values(), strict=True):
            lines.append(",".join("" if value is None else repr(value) for value in row))
        return "\n".join(lines) + "\n"


def throttle_counts(columns: dict[str, list[Value]]) -> dict[str, int]:
    """Throttle reason to the number of samples that had it set."""
    bits = [int(value) for value in columns.get("clock_event_reasons", []) if value is not None]
    counts = {name: sum(bool(b & bit) for b in bits) for name, bit in THROTTLE_BITS.items()}
    return {name: count for name, count in counts.items() if count}
