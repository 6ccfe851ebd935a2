"""What `vdkit doctor` says of machines as they are, and as they should not be."""

import contextlib
import json
import os
import sys
from fractions import Fraction
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from tests.cpu.test_sampler import FakeError, FakeNvml
from tests.helpers import file_size_limit
from vdkit.__main__ import main
from vdkit.cli import machine as command
from vdkit.decode.media import MediaInfo
from vdkit.measure import doctor
from vdkit.present.instruments import doctor_table
from vdkit.record.runs import Finding


class GpuNvml(FakeNvml):
    """Of a machine with a GPU, whose link sleeps until it is asked a second time."""

    link, power, reasons = {"Generation": (5, 5), "Width": (16, 16)}, (600, 600, 600), 0x4
    cuda, gpus, idle = 13000, 1, 5

    def nvmlSystemGetCudaDriverVersion(self):
        return self.cuda

    def nvmlDeviceGetCount(self):
        return self.gpus

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._answer("reasons", self.reasons)

    def nvmlDeviceGetCurrPcieLinkGeneration(self, handle):
        value = self._answer("generation", self.link["Generation"][0])
        return self.idle if self.calls["generation"] == 1 else value

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle):
        return self._answer("width", self.link["Width"][0])

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle):
        return self.link["Generation"][1]

    def nvmlDeviceGetMaxPcieLinkWidth(self, handle):
        return self.link["Width"][1]

    def nvmlDeviceGetPowerManagementLimit(self, handle):
        return self._answer("limit", 1000 * self.power[0])

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle):
        return 1000 * self.power[1]

    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle):
        return [100_000, 1000 * self.power[2]]


class Profile:
    """A profiler that sees a kernel for each that is launched, or none."""

    kernels = doctor._LAUNCHES

    def __init__(self, activities):
        assert {one.name for one in activities} == {"CPU", "CUDA"}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def events(self):
        types = torch.autograd.DeviceType
        return [
            SimpleNamespace(device_type=kind) for kind in [types.CUDA] * self.kernels + [types.CPU]
        ]


@pytest.fixture(autouse=True)
def a_small_file(monkeypatch):
    monkeypatch.setattr(doctor, "_VIDEO", MediaInfo(2, 480, 832, Fraction(16)))


@pytest.fixture
def plug(monkeypatch):
    """Plug in a GPU: what NVML, torch and the profiler then say, changed by what is given."""

    def plug(nvml=None, kernels=doctor._LAUNCHES, codes=("sm_90", "sm_120"), **nvml_says):
        nvml, ones = nvml or GpuNvml(), torch.ones
        for name, value in nvml_says.items():
            setattr(nvml, name, value)
        gpu = SimpleNamespace(name="A GPU", major=12, minor=0, uuid="1")
        cuda = {
            "is_available": lambda: True, "device_count": lambda: 1, "synchronize": lambda _: None,
            "get_device_properties": lambda _: gpu, "get_arch_list": lambda: list(codes),
            "mem_get_info": lambda _: (95e9, 96e9), "memory_reserved": lambda _: 0,
        }  # fmt: skip
        for name, value in cuda.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        monkeypatch.setattr(torch, "ones", lambda *size, **_: ones(*size))
        monkeypatch.setattr(doctor, "on_device", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(Profile, "kernels", kernels)
        monkeypatch.setattr(doctor, "profile", Profile)
        ceiling = SimpleNamespace(tflop_per_s=400.25)
        monkeypatch.setattr(doctor, "measure_ceiling", lambda *_: ceiling)
        monkeypatch.setattr(doctor.Machine, "_copy", lambda self, pinned: lambda: None)
        monkeypatch.setattr(
            doctor, "seconds_on", lambda *_: [1.0] * 3 + [doctor._COPY_BYTES / 5e10]
        )

    return plug


def found(folder, name):
    (one,) = (one for one in doctor.examine(folder) if one.name == name)
    return one


def no_nvml(monkeypatch, tmp_path, **devices):
    """NVML has no library, and these are the makers and kinds of what is on the PCI bus."""

    def init():
        raise FakeError(12)

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=FakeError, nvmlInit=init))
    for name, codes in devices.items():
        (tmp_path / name).mkdir()
        for file, code in zip(("vendor", "class"), codes, strict=True):
            (tmp_path / name / file).write_text(f"{code}\n")
    monkeypatch.setattr(doctor, "_PCI", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_a_gpu_one_line_says_so_and_the_rest_is_there(tmp_path, monkeypatch):
    no_nvml(monkeypatch, tmp_path, network=("0x10de", "0x020000"), other=("0x1234", "0x030000"))
    findings = {one.name: one for one in doctor.examine(tmp_path)}
    gpu = findings["GPU"]
    assert (gpu.state, gpu.remedy) == ("note", "") and "runs on the CPU" in gpu.value
    assert list(findings) == [
        "system", "cores", "memory", "GPU", "torch", "packages", "caches", "results",
    ]  # fmt: skip
    assert findings["torch"].value.startswith(torch.__version__)
    assert findings["results"].figures["fsync_mb_s"] > 0
    assert findings["results"].value.startswith(f"{tmp_path.name}: ")  # it may be handed in
    assert metadata.version("ipywidgets") in findings["packages"].value
    assert sorted(one.name for one in tmp_path.iterdir()) == ["network", "other"]


def test_a_gpu_without_a_driver_is_wrong(tmp_path, monkeypatch):
    no_nvml(monkeypatch, tmp_path, gpu=("0x10de", "0x030200"))
    one = found(tmp_path, "GPU")
    assert one.state == "wrong" and "NVML Shared Library Not Found" in one.value
    assert "install NVIDIA's driver" in one.remedy


@pytest.mark.parametrize(
    ("cuda", "built", "masked", "state", "remedy"),
    [
        (11040, "13.0", None, "wrong", "update the driver, or install torch's build for CUDA 11.4"),
        (13000, None, None, "wrong", "install torch's build for CUDA"),
        (13000, "13.0", "", "wrong", "unset CUDA_VISIBLE_DEVICES"),
        (13000, "13.0", None, "wrong", "restart"),
    ],
)
def test_a_gpu_that_torch_does_not_see(
    tmp_path, monkeypatch, plug, cuda, built, masked, state, remedy
):
    plug(cuda=cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(os, "environ", {**os.environ})
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if masked is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = masked
    one = found(tmp_path, "GPU")
    assert one.state == state and remedy in one.remedy
    assert "driver 580.1" in one.value and torch.__version__ in one.value
    plug(cuda=cuda, gpus=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert found(tmp_path, "GPU").state == "note"


def test_a_gpu_as_it_should_be(tmp_path, plug, monkeypatch):
    plug()
    encoder = SimpleNamespace(encoder="NVENC H.264 p4 cq 18", open=id, abort=lambda: None)
    monkeypatch.setattr(doctor, "Mp4Sink", lambda path, codec: encoder)
    findings = {one.name: one for one in doctor.examine(tmp_path) if one.group == "GPU"}
    assert {one.state for one in findings.values()} == {"ok"}
    assert list(findings) == list(doctor.CHECKS["GPU"])
    assert findings["GPU"].value == (
        "A GPU, compute capability 12.0, driver 580.1, 95.0 of 96.0 GB free"
    )
    assert findings["matrix rate"].figures == {"tflop_per_s": 400.25}
    assert findings["power"].value == (
        "limit 600 W, default 600, at most 600; held back by software power cap"
    )
    assert findings["PCIe link"].value == "generation 5 x16 while copying, at most 5 x16"
    assert findings["to the host"].figures == {"pinned_gb_s": 50.0, "pageable_gb_s": 50.0}
    assert findings["NVML"].value == "18 of 18 fields answer, of GPM's 6 of 6"
    assert findings["CUPTI"].value == "10 of 10 kernels arrive in a profile"


@pytest.mark.parametrize(
    ("name", "says", "state", "words"),
    [
        ("GPU", {"codes": ("sm_80", "sm_90a")}, "wrong", "code for sm_80, sm_90a"),
        ("GPU", {"codes": ("sm_80", "compute_90")}, "ok", ""),
        ("GPU", {"codes": ("sm_121",)}, "wrong", "code for sm_121"),
        ("power", {"power": (300, 600, 600)}, "note", "sudo nvidia-smi -pl 600"),
        ("power", {"reasons": 0x40}, "wrong", "PERFORMANCE"),
        ("PCIe link", {"link": {"Generation": (5, 5), "Width": (8, 16)}}, "wrong", "another slot"),
        ("PCIe link", {"link": {"Generation": (4, 5), "Width": (16, 16)}}, "wrong", "another slot"),
        ("PCIe link", {"idle": 1}, "note", "idles at generation 1"),
        ("CUPTI", {"kernels": 0}, "wrong", "end other profilers"),
    ],
)
def test_what_is_wrong_with_a_gpu_is_named(tmp_path, plug, name, says, state, words):
    plug(**says)
    one = found(tmp_path, name)
    assert one.state == state and words in one.remedy


def test_what_nvml_refuses_is_no_fault_and_not_zero(tmp_path, plug):
    plug(GpuNvml(refuse=("limit", "generation", "encoder"), gpm=False))
    assert found(tmp_path, "power").state == "note"
    assert found(tmp_path, "PCIe link").value == "NVML does not say: Not Supported"
    one = found(tmp_path, "NVML")
    assert one.state == "note" and "of GPM's 2 of 6" in one.value  # PCIe, by NVML itself
    assert "Not Supported: encoder_util_percent, pcie_link_generation" in one.value
    assert "this GPU has no GPM (Hopper and later do): sm_active_percent" in one.value
    assert one.figures["refused"]["encoder_util_percent"] == "Not Supported"


def test_nvenc_is_opened_for_real(tmp_path, plug):
    if torch.cuda.is_available():
        pytest.skip("there may be one")
    plug()
    one = found(tmp_path, "NVENC")
    assert one.state == "note" and "x264" in one.value and "h264_nvenc: FFmpeg said" in one.value


@pytest.mark.parametrize("wrong", ["a file", "nowhere", "full", "no room"])
def test_a_results_folder_that_takes_nothing(tmp_path, monkeypatch, wrong):
    folder, limit = tmp_path / "results", contextlib.nullcontext()
    if wrong == "a file":
        folder.write_text("")
    elif wrong == "nowhere":
        folder = doctor.Path("/proc/none")
    elif wrong == "full":
        limit = file_size_limit(4096)
    else:
        usage = SimpleNamespace(free=5e8)
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    with limit:
        one = found(folder, "results")
    assert one.state == "wrong" and "--out" in one.remedy
    assert ("free some" in one.remedy) == (wrong == "no room")
    assert one.value.startswith(str(folder) if wrong != "no room" else tmp_path.name)
    assert not folder.is_dir() and not [p for p in tmp_path.iterdir() if p != folder]


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(tmp_path, monkeypatch):
    def broken(machine):
        raise RuntimeError("CUDA error: out of luck\nCompile with ...")

    findings = doctor.examine(
        tmp_path, more={"decoders": {"mine": broken, "next": lambda _: doctor.told("runs")}}
    )
    assert findings[-2].state == "wrong" and findings[-1].value == "runs"
    assert findings[-2].value == "RuntimeError: CUDA error: out of luck"


def test_cores_of_a_container_and_other_programs(tmp_path, monkeypatch):
    limit = tmp_path / "cpu.max"
    limit.write_text("150000 100000\n")
    monkeypatch.setattr(doctor, "_CPU_MAX", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0, 0))
    one = found(tmp_path, "cores")
    assert one.state == "note" and "OMP_NUM_THREADS=1" in one.remedy
    assert one.value.startswith("1.5 usable of")
    limit.write_text("max 100000\n")
    assert found(tmp_path, "cores").state == "ok"
    monkeypatch.setattr(os, "getloadavg", lambda: (7.5, 0, 0))
    assert "other programs" in found(tmp_path, "cores").remedy


def test_packages_that_do_not_fit(tmp_path, monkeypatch):
    real = metadata.version

    def version(name):
        if name == "av":
            raise metadata.PackageNotFoundError(name)
        return "1.1.11" if name == "jupyterlab_widgets" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    one = found(tmp_path, "packages")
    assert one.state == "wrong" and "constraints.txt" in one.remedy
    assert "av>=14" in one.value and "jupyterlab_widgets~=3" in one.value


def test_caches_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", "/proc/self/fdinfo")
    monkeypatch.setattr(os, "access", lambda place, _: "proc" not in str(place))
    one = found(tmp_path, "caches")
    assert one.value == "/proc/self/fdinfo cannot be written to"
    assert one.state == "wrong" and one.remedy.startswith("set TRITON_CACHE_DIR")


def test_variants_and_why_not(tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    cpu, gpu = (doctor.Machine(tmp_path, torch.device(kind)) for kind in ("cpu", "cuda"))
    assert command._variant("diffusers", cpu) == doctor.told("runs")
    compiled = command._variant("compiled", cpu)
    assert compiled["state"] == "note"
    assert compiled["value"] == "does not run without no-such-compiler"
    assert "its kernels need CUDA" in command._variant("fast", cpu)["value"]
    monkeypatch.setattr("vdkit.models.fast.why_plain", lambda *_: None)
    monkeypatch.setenv("CC", "cc-of-nobody")
    assert command._variant("fast", gpu)["value"] == "does not run without cc-of-nobody"
    monkeypatch.setattr("vdkit.models.fast.why_plain", lambda *_: "too old")
    fast = command._variant("fast", gpu)
    assert (
        fast["value"] == "runs in plain torch: too old" and "compiled is faster" in fast["remedy"]
    )


def test_known_faults_are_wrong(tmp_path, monkeypatch):
    gpu = doctor.Machine(tmp_path, torch.device("cuda"))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90900)
    assert command._faults(gpu)["state"] == "wrong" and "bfloat16" in command._faults(gpu)["value"]
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91501)
    assert command._faults(gpu)["state"] == "ok"


def test_the_command_ends_in_what_it_found(tmp_path, capsys, monkeypatch):
    """0 unless something is wrong, with every variant, unrounded as JSON."""
    no_nvml(monkeypatch, tmp_path)
    status = main(["doctor", "--json", "--out", str(tmp_path)])
    (line,) = capsys.readouterr().out.splitlines()
    whole = json.loads(line)
    findings = [Finding(**one) for one in whole["findings"]]
    states = [one.state for one in findings]
    assert (whole["wrong"], status) == (states.count("wrong"), int("wrong" in states))
    decoders = [one.name for one in findings if one.group == "decoders"]
    assert decoders == ["known faults", "diffusers", "channels_last", "compiled", "fast"]
    monkeypatch.setattr(
        command, "examined", lambda _: [Finding(group="g", name="n", state="wrong", value="v")]
    )
    assert main(["doctor"]) == 1 and "1 wrong" in capsys.readouterr().out
    monkeypatch.setattr(
        command, "examined", lambda _: [Finding(group="g", name="n", state="note", value="v")]
    )
    assert main(["doctor"]) == 0 and "1 note" in capsys.readouterr().out


def test_the_table_keeps_to_the_width_and_loses_nothing():
    long, what = "a long story of many words " * 8, "-> and what to do about it"
    one = Finding(group="group", name="a", state="wrong", value=long, remedy=what[3:])
    two = Finding(group="group", name="b", state="ok", value="short")
    text = doctor_table([one, two]).text(80)
    assert max(map(len, text.splitlines())) <= 80 and text.count("group") == 1
    assert " ".join(text.split()).count("a long story") >= 7 and what in text
    assert text.endswith("1 wrong, 1 ok")
    assert len(doctor_table([one, two]).rows) == 2
