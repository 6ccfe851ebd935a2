"""A reading of the GPU's clocks, power, temperature and throttle reasons around each run.

NVML (https://docs.nvidia.com/deploy/nvml-api) is asked before and after a run, never during it;
`vdkit.measure.sampler` is what asks during a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

THROTTLE_BITS = {
    "software power cap": 0x4,
    "hardware slowdown": 0x8,
    "sync boost": 0x10,
    "software thermal": 0x20,
    "hardware thermal": 0x40,
    "hardware power brake": 0x80,
}
"""Clock event reasons that mean the GPU was held below the clock it wanted (nvml.h)."""


class GpuReading(BaseModel):
    """One moment. What the device does not answer is None, with the reason in ``unsupported``.

    Attributes:
        sm_clock_mhz, memory_clock_mhz: current clocks.
        power_w, temperature_c: board power and GPU temperature.
        energy_j: the device's running energy counter; only differences mean something.
        throttle_reasons: names from `THROTTLE_BITS` that were set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    energy_j: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    unsupported: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Device:
    """An open device: the NVML library, its handle, and the driver's version."""

    nvml: Any
    handle: Any
    driver: str


def open_device(uuid: str, nvml: Any = None) -> Device:
    """Open ``GPU-...`` through ``nvml``, None for nvidia-ml-py. RuntimeError if NVML cannot."""
    if nvml is None:
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        return Device(nvml, handle, nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError as error:
        raise RuntimeError(f"NVML cannot read {uuid}: {error}") from error


class Nvml:
    """The NVML device behind a torch CUDA device, found by its UUID."""

    def __init__(self, uuid: str) -> None:
        """``uuid``: ``GPU-...``, as NVML has it. RuntimeError, with why, if NVML cannot be used."""
        device = open_device(uuid)
        self._nvml, self._handle = device.nvml, device.handle
        self.driver: str = device.driver

    def read(self) -> GpuReading:
        """Read once; takes well under a millisecond to a few milliseconds."""
        nvml, handle = self._nvml, self._handle
        unsupported: dict[str, str] = {}

        def ask(name: str, call: Callable[[], float]) -> float | None:
            try:
                return call()
            except nvml.NVMLError as error:
                unsupported[name] = str(error)
                return None

        clock = nvml.nvmlDeviceGetClockInfo
        reasons = ask(
            "throttle_reasons", lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        )
        return GpuReading(
            sm_clock_mhz=ask("sm_clock_mhz", lambda: clock(handle, nvml.NVML_CLOCK_SM)),
            memory_clock_mhz=ask("memory_clock_mhz", lambda: clock(handle, nvml.NVML_CLOCK_MEM)),
            power_w=ask("power_w", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
            temperature_c=ask(
                "temperature_c",
                lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            ),
            energy_j=ask(
                "energy_j", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
            ),
            throttle_reasons=tuple(
                name for name, bit in THROTTLE_BITS.items() if int(reasons or 0) & bit
            ),
            unsupported=unsupported,
        )
