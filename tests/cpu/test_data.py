"""What data/ ships is what it says it is."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from vdkit import analyze, load_decoder, load_latents, read_recording, read_trace
from vdkit.record.stats import geometric_ratio

DATA = Path(__file__).parents[2] / "data"


def test_every_file_is_what_its_checksum_says():
    lines = (DATA / "SHA256SUMS").read_text().splitlines()
    listed = {name: checksum for checksum, name in (line.split("  ") for line in lines)}
    found = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=DATA, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert set(listed) == set(found) - {"SHA256SUMS"}, "run `make sums`"
    for name, checksum in listed.items():
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == checksum, name


def test_every_file_is_described():
    described = set(re.findall(r"^\| `([^`]+)`", (DATA / "README.md").read_text(), re.MULTILINE))
    latents = {f"latents/{path.name}" for path in (DATA / "latents").iterdir()}
    others = {path.name + "/" * path.is_dir() for path in DATA.iterdir()}
    assert described == latents | others - {"README.md", "SHA256SUMS", "latents/"}


def test_example_latents_load():
    latents = load_latents(DATA / "latents_example.safetensors", load_decoder("tiny-wan", "cpu"))
    assert latents.shape == (16, 5, 8, 12)


def test_example_trace_is_the_recorded_profile():
    """Kineto's own trace gives the figures that the profile recorded from the same run."""
    made = read_trace(DATA / "kineto_h200_async.json.gz")
    analysis = analyze(made)
    (folder,) = (DATA.parent / "results").glob("*2ad74eb_aws-profile")
    recorded = read_recording(folder).arms["async"].profile.analysis
    assert not analysis.failed and analysis.kernels == recorded.kernels
    assert analysis.d2h_bytes == recorded.d2h_bytes
    for mine, theirs in zip(analysis.families, recorded.families, strict=True):
        assert (mine.name, mine.kernels) == (theirs.name, theirs.kernels)
        assert mine.seconds == pytest.approx(theirs.seconds)
    assert "H200" in analysis.device
    exported = analyze(read_trace(folder / "trace_async.json.gz"))
    for name in ("run", "steady"):  # which "two chunks" are taken is another since it was recorded
        window = recorded.windows[name]
        assert exported.windows[name].busy_s == window.busy_s
        assert exported.windows[name].stall_s == window.stall_s


def test_the_recorded_profile_reaches_what_it_should():
    (folder,) = (DATA.parent / "results").glob("*2ad74eb_aws-profile")
    arms = read_recording(folder).arms
    seen = {name: arm.profile for name, arm in arms.items()}
    steady = {name: one.analysis.windows.get("steady") for name, one in seen.items()}
    apart = (
        steady["async"].kernel_utilization_percent
        - steady["compute_only"].kernel_utilization_percent
    )
    assert abs(apart) <= 0.2
    for one in seen.values():
        assert not one.analysis.failed
        assert all(window.explained_percent >= 99 for window in one.analysis.windows.values())
    assert seen["sync"].analysis.agreement.difference_percent <= 5
    sampled = [run.latency_s for run in seen["async"].sampled]
    assert geometric_ratio(sampled, arms["async"].latencies).high <= 1.005
