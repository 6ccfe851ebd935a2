"""The NVML sampler on the real device: what it answers while kernels run."""

import time

import torch

from vdkit.measure.nvml import NvmlSampler
from vdkit.record.runs import gpu_uuid

_BUSY_S = 0.3


def known(samples, column):
    return [value for value in samples.columns[column] if value is not None]


def test_the_sampler_sees_a_busy_device():
    device = torch.device("cuda", torch.cuda.current_device())
    matrix = torch.randn(4096, 4096, device=device, dtype=torch.float16)
    (matrix @ matrix).sum().item()  # the library's own start is no load
    with NvmlSampler(gpu_uuid(device)) as sampler:
        stop_s = time.perf_counter() + _BUSY_S
        while time.perf_counter() < stop_s:
            for _ in range(20):
                matrix @ matrix
            torch.cuda.synchronize()
    samples = sampler.samples
    answered, refused = set(samples.columns), samples.unsupported

    assert all(refused.values())  # each with a reason
    assert not answered & set(refused)
    times = samples.columns["time_s"]
    assert times == sorted(times) and len(times) >= 2
    assert {len(column) for column in samples.columns.values()} == {len(times)}
    for column in ("power_w", "sm_clock_mhz"):
        assert column in answered or column in refused
        if column in answered:
            assert min(known(samples, column)) > 0
    energy_j = samples.energy_j()
    assert (energy_j is None) == ("energy_j" in refused)
    assert energy_j is None or energy_j > 0
    if torch.cuda.get_device_capability(device) >= (9, 0):
        assert "sm_active_percent" in answered, refused.get("sm_active_percent")
        assert 1 < max(known(samples, "sm_active_percent")) <= 101  # percent, and no fraction
