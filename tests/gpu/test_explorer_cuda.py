"""The explorer on a GPU: what it predicts of memory, and that running out of it is survived."""

import threading

import pytest
import torch

import vdkit


@pytest.fixture
def explorer(tmp_path):
    made = vdkit.explore(
        decoder="tiny-wan", size="96x160", latent_frames=17, rounds=1, sink="null",
        results=tmp_path, calibrate=False,
    )  # fmt: skip
    yield made
    made.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("vdkit-explorer")]


def test_memory_is_predicted_as_it_is_measured(explorer):
    explorer.calibrate(wait_s=120)
    assert explorer.session.error is None
    predicted = explorer._predicted.predictions["async"].run
    explorer.run(wait_s=120)
    (run,) = explorer.session.runs
    measured = run.recording.arms["async"]
    assert predicted.vram_peak_bytes == pytest.approx(measured.vram_peak_bytes, rel=0.05)
    assert predicted.pinned_bytes == measured.pinned_bytes > 0
    assert torch.cuda.get_device_name() in explorer.session.here.name


def test_out_of_memory_is_shown_and_leaves_it_usable(explorer):
    explorer.run(wait_s=120)
    assert explorer.session.error is None
    _decode(explorer, "wan2.1", "480x832")
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(1.5e9 / total)
    try:
        explorer.run(wait_s=300)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory" in explorer.remarks[0] and "estimated need" in explorer.remarks[0]
    assert torch.cuda.memory_allocated() < 0.2e9, "the failed decoder is still there"
    _decode(explorer, "tiny-wan", "96x160")
    explorer.run(wait_s=120)
    assert explorer.session.error is None and len(explorer.session.runs) == 2


def test_a_setting_that_does_not_fit_is_said_before_it_runs(explorer):
    explorer.calibrate(wait_s=120)
    explorer.session.here.vram_bytes = 10**6
    explorer.controls.slots.value = 3
    assert any("This does not fit" in remark for remark in explorer.remarks)


def _decode(explorer, decoder, size):
    explorer.controls.decoder.value, explorer.controls.size.value = decoder, size
