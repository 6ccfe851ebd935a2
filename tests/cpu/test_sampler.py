"""The NVML sampler against a library that answers, refuses, and fails midway."""

import threading
from types import SimpleNamespace

import pytest

from vdkit.measure import nvml as nvml_module
from vdkit.measure.nvml import GPM_COLUMNS, PCIE_EVERY, NvmlSampler, Samples, _next_tick


class FakeError(Exception):
    TEXTS = {3: "Not Supported", 6: "Not Found", 12: "NVML Shared Library Not Found"}  # noqa: RUF012

    def __init__(self, value, text=None):
        super().__init__(text or self.TEXTS[value])
        self.value = value


class FakeNvml:
    """Answers everything; ``refuse`` calls always, ``refuse_later`` after the probe, ``fail`` once.

    ``refuse`` and ``fail`` name calls as in ``calls``, or GPM metrics by their number.
    """

    NVMLError = FakeError
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_PCIE_UTIL_TX_BYTES, NVML_PCIE_UTIL_RX_BYTES = 0, 1
    NVML_GPM_METRICS_GET_VERSION = 1
    NVML_GPM_METRIC_SM_UTIL = 2
    NVML_GPM_METRIC_SM_OCCUPANCY = 3
    NVML_GPM_METRIC_ANY_TENSOR_UTIL = 5
    NVML_GPM_METRIC_DRAM_BW_UTIL = 10
    NVML_GPM_METRIC_PCIE_TX_PER_SEC = 20
    NVML_GPM_METRIC_PCIE_RX_PER_SEC = 21

    def __init__(self, refuse=(), fail=None, error=None, gpm=True, refuse_later=()):
        self.refuse, self.fail, self.error, self.gpm = refuse, fail, error, gpm
        self.refuse_later = refuse_later
        self.calls = {}
        self.held = []
        self.filled = {}
        self.pairs = []
        self.energy_mj = 5000
        self.moved = threading.Condition()

    def _answer(self, name, value):
        with self.moved:
            self.calls[name] = self.calls.get(name, 0) + 1
            self.moved.notify_all()
        if name in self.refuse or (name in self.refuse_later and self.calls[name] > 1):
            raise FakeError(3)
        if name == self.fail and self.calls[name] > 2:
            raise self.error
        return value

    def wait_for(self, name, count):
        """Until ``name`` was called ``count`` times, the probe included."""
        with self.moved:
            assert self.moved.wait_for(lambda: self.calls.get(name, 0) >= count, timeout=30)

    def nvmlInit(self):
        self._answer("init", None)

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-1":
            raise FakeError(6)
        return "handle"

    def nvmlSystemGetDriverVersion(self):
        return "580.1"

    def nvmlDeviceGetUtilizationRates(self, handle):
        return self._answer("utilization", SimpleNamespace(gpu=90, memory=40))

    def nvmlDeviceGetMemoryInfo(self, handle):
        return self._answer("memory", SimpleNamespace(used=1000))

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._answer("power", 250_000)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._answer("energy", self.energy_mj)

    def nvmlDeviceGetClockInfo(self, handle, which):
        return self._answer("clock", 1980 if which == 1 else 3201)

    def nvmlDeviceGetTemperature(self, handle, which):
        return self._answer("temperature", 55)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._answer("reasons", 0x4 | 0x40)

    def nvmlDeviceGetEncoderUtilization(self, handle):
        return self._answer("encoder", [7, 100_000])

    def nvmlDeviceGetCurrPcieLinkGeneration(self, handle):
        return self._answer("generation", 5)

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle):
        return self._answer("width", 16)

    def nvmlDeviceGetPcieThroughput(self, handle, which):
        return self._answer(f"pcie {which}", 1000)

    def nvmlGpmQueryDeviceSupport(self, handle):
        return SimpleNamespace(isSupportedDevice=self._answer("gpm", int(self.gpm)))

    def nvmlGpmSampleAlloc(self):
        sample = self._answer("alloc", f"sample {len(self.held)}")
        self.held.append(sample)
        return sample

    def nvmlGpmSampleFree(self, sample):
        self.held.remove(sample)
        self._answer("free", None)

    def nvmlGpmSampleGet(self, handle, sample):
        assert sample in self.held
        self._answer("gpm sample", None)
        self.filled[sample] = self.calls["gpm sample"]

    def c_nvmlGpmMetricsGet_t(self):
        metrics = [SimpleNamespace(metricId=0, nvmlReturn=0, value=0.0) for _ in range(10)]
        return SimpleNamespace(metrics=metrics)

    def nvmlGpmMetricsGet(self, request):
        assert request.version == self.NVML_GPM_METRICS_GET_VERSION
        self.pairs.append((self.filled[request.sample1], self.filled[request.sample2]))
        self._answer("gpm metrics", None)
        for metric in request.metrics[: request.numMetrics]:
            metric.value = 10.0 * metric.metricId
            metric.nvmlReturn = 3 if metric.metricId in self.refuse else 0


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "vdkit-nvml"]


@pytest.fixture(autouse=True)
def what_moves_slowly_answers_at_once(monkeypatch):
    monkeypatch.setattr(nvml_module, "GPM_INTERVAL_S", 0.0)
    monkeypatch.setattr(nvml_module, "COUNTER_INTERVAL_S", 0.001)


def sampled(nvml, rounds=6, interval_s=0.001):
    """The samples of a block that lasts ``rounds`` readings of the temperature."""
    with NvmlSampler("GPU-1", interval_s, nvml) as sampler:
        nvml.wait_for("temperature", rounds)
    assert nvml.held == []
    return sampler.samples


def last(samples, column):
    return [value for value in samples.columns[column] if value is not None][-1]


def test_a_device_that_answers_everything():
    nvml = FakeNvml()
    samples = sampled(nvml)
    assert samples.unsupported == {}
    expected = {
        "gpu_util_percent": 90, "memory_util_percent": 40, "memory_used_bytes": 1000,
        "power_w": 250, "energy_j": 5, "sm_clock_mhz": 1980, "memory_clock_mhz": 3201,
        "temperature_c": 55, "clock_event_reasons": 0x44, "encoder_util_percent": 7,
        "pcie_link_generation": 5, "pcie_link_width": 16,
        "sm_active_percent": 20, "sm_occupancy_percent": 30, "tensor_active_percent": 50,
        "dram_bandwidth_percent": 100,
        "pcie_tx_mb_per_s": 200 * 2**20 / 1e6, "pcie_rx_mb_per_s": 210 * 2**20 / 1e6,
    }  # fmt: skip
    assert set(samples.columns) == {"time_s", *expected}
    for column, value in expected.items():
        assert last(samples, column) == pytest.approx(value), column
    assert "pcie 0" not in nvml.calls and "pcie 1" not in nvml.calls  # GPM has it, and is faster
    bits = [bits for bits in samples.columns["clock_event_reasons"] if bits is not None]
    assert bits and all(type(value) is int for value in bits)
    times = samples.columns["time_s"]
    assert times == sorted(times) and len(times) >= 6 and times[0] > 0
    assert {len(column) for column in samples.columns.values()} == {len(times)}
    assert samples.throttle_reasons == {
        "software power cap": len(bits),
        "hardware thermal": len(bits),
    }
    assert samples.mean_cost_ms == pytest.approx(1e3 * samples.cost_s / len(times))
    assert samples.cost_s > 0


def test_energy_spans_the_block_even_where_no_tick_falls_into_it():
    nvml = FakeNvml()
    with NvmlSampler("GPU-1", 10.0, nvml) as sampler:
        nvml.energy_mj = 9000
    assert len(sampler.samples.columns["time_s"]) == 2
    assert sampler.samples.columns["energy_j"] == [5.0, 9.0]
    assert sampler.samples.energy_j() == 4.0


@pytest.mark.parametrize(
    ("call", "columns"),
    [
        ("utilization", ["gpu_util_percent", "memory_util_percent"]),
        ("power", ["power_w"]),
        ("energy", ["energy_j"]),
        ("encoder", ["encoder_util_percent"]),
        ("reasons", ["clock_event_reasons"]),
        (FakeNvml.NVML_GPM_METRIC_DRAM_BW_UTIL, ["dram_bandwidth_percent"]),
    ],
)
def test_what_is_refused_is_absent_with_its_reason_and_never_zero(call, columns):
    samples = sampled(FakeNvml(refuse=(call,)))
    assert samples.unsupported == dict.fromkeys(columns, "Not Supported")
    assert not set(columns) & set(samples.columns)
    assert last(samples, "temperature_c") == 55 and last(samples, "sm_active_percent") == 20
    if call == "energy":
        assert samples.energy_j() is None
    if call == "reasons":
        assert samples.throttle_reasons == {}


@pytest.mark.parametrize("options", [{"gpm": False}, {"refuse": ("gpm",)}, {"refuse": ("alloc",)}])
def test_without_gpm_pcie_comes_from_nvml_now_and_then(options):
    nvml = FakeNvml(**options)
    samples = sampled(nvml, rounds=PCIE_EVERY + 10)
    absent = [name for name in GPM_COLUMNS if not name.startswith("pcie")]
    assert list(samples.unsupported) == absent and not set(absent) & set(samples.columns)
    reason = samples.unsupported["sm_active_percent"]
    assert "Hopper" in reason if "gpm" in options else reason == "Not Supported"
    for name in ("pcie_tx_mb_per_s", "pcie_rx_mb_per_s"):
        column = samples.columns[name]
        wanted = [i > 0 and (i - 1) % PCIE_EVERY == 0 for i in range(len(column) - 1)] + [False]
        assert [value is not None for value in column] == wanted
        assert last(samples, name) == pytest.approx(1.024)


def test_what_moves_slowly_is_asked_now_and_then(monkeypatch):
    """And in the first and the last sample, so that energy spans the block."""
    monkeypatch.setattr(nvml_module, "COUNTER_INTERVAL_S", 0.01)
    samples = sampled(FakeNvml(), rounds=5)
    for name, every in (("temperature_c", 10), ("energy_j", 10), ("sm_clock_mhz", 1)):
        column = samples.columns[name]
        wanted = [(i - 1) % every == 0 for i in range(len(column))]
        assert [value is not None for value in column[1:-1]] == wanted[1:-1], name
        assert column[0] is not None and column[-1] is not None


def test_each_pcie_direction_falls_back_alone():
    nvml = FakeNvml(refuse=(FakeNvml.NVML_GPM_METRIC_PCIE_RX_PER_SEC,))
    samples = sampled(nvml)
    assert samples.unsupported == {} and "pcie 0" not in nvml.calls
    assert last(samples, "pcie_tx_mb_per_s") == pytest.approx(209.7152)
    assert last(samples, "pcie_rx_mb_per_s") == pytest.approx(1.024)
    neither = sampled(FakeNvml(gpm=False, refuse=("pcie 1",)))
    assert neither.unsupported["pcie_rx_mb_per_s"] == "Not Supported"
    assert "pcie_tx_mb_per_s" in neither.columns


def test_gpm_metrics_lie_between_neighboring_readings():
    nvml = FakeNvml()
    sampled(nvml)
    assert len(nvml.pairs) >= 6
    assert nvml.pairs == [(number, number + 1) for number in range(1, len(nvml.pairs) + 1)]


def test_gpm_is_not_asked_faster_than_its_counters_move(monkeypatch):
    monkeypatch.setattr(nvml_module, "GPM_INTERVAL_S", 1000.0)
    nvml = FakeNvml()
    samples = sampled(nvml)
    assert set(samples.columns["sm_active_percent"]) == {None} and len(nvml.pairs) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gpm_value_that_is_no_number_is_empty(monkeypatch, value):
    monkeypatch.setitem(nvml_module._GPM, "sm_active_percent", ("NVML_GPM_METRIC_SM_UTIL", value))
    samples = sampled(FakeNvml())
    assert set(samples.columns["sm_active_percent"]) == {None}


def test_a_field_refused_later_is_empty_in_that_sample():
    samples = sampled(FakeNvml(refuse_later=("power",)))
    assert set(samples.columns["power_w"]) == {None} and samples.unsupported == {}
    assert 55 in set(samples.columns["temperature_c"])
    later = sampled(FakeNvml(refuse_later=("gpm metrics",)))
    assert set(later.columns["sm_active_percent"]) == {None}


FAILURES = [
    ("power", FakeError(15, "GPU is lost"), RuntimeError, "failed at power_w: GPU is lost"),
    ("gpm metrics", FakeError(15, "GPU is lost"), RuntimeError, "sm_active_percent: GPU is lost"),
    ("power", ZeroDivisionError("oops"), ZeroDivisionError, "^oops$"),
]


@pytest.mark.parametrize(("call", "error", "kind", "message"), FAILURES)
def test_a_failure_midway_surfaces(call, error, kind, message):
    nvml = FakeNvml(fail=call, error=error)
    sampler = NvmlSampler("GPU-1", 0.001, nvml)
    with pytest.raises(kind, match=message) as caught, sampler:
        nvml.wait_for(call, 3)
    assert caught.value is error or caught.value.__cause__ is error
    assert nvml.held == [] and nvml.calls[call] == 3  # it ended there
    assert len(sampler.samples.columns["time_s"]) == 1  # what came before it, in whole rows
    assert {len(column) for column in sampler.samples.columns.values()} == {1}


@pytest.mark.parametrize(("call", "error", "kind", "message"), FAILURES)
def test_the_error_of_the_block_comes_first(call, error, kind, message):
    nvml = FakeNvml(fail=call, error=error)
    with pytest.raises(KeyError) as caught, NvmlSampler("GPU-1", 0.001, nvml):
        nvml.wait_for(call, 3)
        raise KeyError("mine")
    assert kind.__name__ in caught.value.__notes__[0]


@pytest.mark.parametrize("call", ["gpm sample", "temperature", "gpm metrics"])
def test_gpm_samples_are_freed_where_the_start_fails(call):
    class Broken(FakeNvml):
        def _answer(self, name, value):
            if name == call and self.calls.get(name, 0) >= (call == "temperature"):
                raise ZeroDivisionError("oops")
            return super()._answer(name, value)

    nvml = Broken()
    with pytest.raises(ZeroDivisionError), NvmlSampler("GPU-1", 0.001, nvml):
        pytest.fail("the block ran")
    assert nvml.calls["alloc"] == 2 and nvml.held == []


def test_gpm_refused_after_its_samples_are_there_frees_them():
    nvml = FakeNvml(refuse=("gpm sample",))
    assert sampled(nvml).unsupported["sm_active_percent"] == "Not Supported"
    assert nvml.calls["alloc"] == nvml.calls["free"] == 2


def test_a_refusal_to_free_keeps_neither_the_other_sample_nor_the_result():
    nvml = FakeNvml(refuse=("free",))
    assert last(sampled(nvml), "power_w") == 250
    assert nvml.calls["free"] == 2


@pytest.mark.parametrize("interval_s", [0, -1, 0.0009, 10.1, float("nan")])
def test_the_interval_has_a_range(interval_s):
    with pytest.raises(ValueError, match=rf"{interval_s} s; use 0\.001 to 10 s"):
        NvmlSampler("GPU-1", interval_s, FakeNvml())


def test_nvml_that_cannot_be_used_says_why(monkeypatch):
    with pytest.raises(RuntimeError, match="NVML cannot read GPU-2: Not Found"):
        NvmlSampler("GPU-2", 0.02, FakeNvml())
    with pytest.raises(RuntimeError, match="NVML cannot read GPU-1: Not Supported"):
        NvmlSampler("GPU-1", 0.02, FakeNvml(refuse=("init",)))
    fake = FakeNvml()
    monkeypatch.setitem(__import__("sys").modules, "pynvml", fake)
    NvmlSampler("GPU-1")
    assert fake.calls["init"] == 1


def test_a_sampler_samples_one_block():
    sampler = NvmlSampler("GPU-1", 10.0, FakeNvml())
    with sampler:
        pass
    with pytest.raises(RuntimeError, match="one block"), sampler:
        pass


def test_ticks_stay_on_the_grid_and_missed_ones_are_left_out():
    assert _next_tick(0.004, 0.020, 0) == 1
    assert _next_tick(0.021, 0.020, 1) == 2
    assert _next_tick(0.0399, 0.020, 2) == 3  # woken a little early
    assert _next_tick(0.117, 0.020, 2) == 6


def test_the_thread_waits_for_the_tick_or_for_the_end():
    class Stop:
        waited_s = []  # noqa: RUF012

        def wait(self, timeout):
            self.waited_s.append(timeout)
            return len(self.waited_s) == 3

        def set(self):
            pass

    sampler = NvmlSampler("GPU-1", 10.0, FakeNvml())
    sampler._stop = Stop()
    with sampler:
        pass
    first, second, third = Stop.waited_s
    assert 0 < first <= 10 < second <= 20 < third <= 30
    assert len(sampler.samples.columns["time_s"]) == 4  # the first, two ticks, the last


COLUMNS = {
    "time_s": [0.0, 1.0, 2.0, 3.0],
    "energy_j": [10.0, 11.5, None, 14.0],
    "clock_event_reasons": [0x4, 0x4, 0x1, 0x0],
}


def test_slices():
    samples = Samples(100.0, COLUMNS, {}, 0.4)
    part = samples.between(101.0, 103.5, 101.5)
    assert part.columns["time_s"] == [-0.5, 0.5, 1.5]
    assert part.columns["energy_j"] == [11.5, None, 14.0]
    assert part.start_s == 101.5 and part.energy_j() == 2.5
    assert part.cost_s == pytest.approx(0.3) and part.throttle_reasons == {"software power cap": 1}
    assert samples.between(101.0, 102.0).columns["time_s"] == [0.0, 1.0]
    nothing = samples.between(200.0, 300.0)
    assert nothing.columns["time_s"] == [] and nothing.energy_j() is None
    assert nothing.mean_cost_ms == 0
    assert COLUMNS["time_s"] == [0.0, 1.0, 2.0, 3.0]
