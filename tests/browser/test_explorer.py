"""The explorer as a person uses it: notebook 04, knobs turned, measured, cancelled, exported."""

import io
from xml.etree import ElementTree

import pandas as pd
from PIL import Image

from tests.notebook.test_notebooks import SMALL
from vdkit.record.results import read_recording

SETUP = """\
import contextlib, threading, vdkit
from tests.helpers import NearestDecoder
from vdkit.sinks import NullSink

class Full(NullSink):
    def write(self, frames):
        raise OSError(28, "No space left on device")

@contextlib.contextmanager
def full(label):
    yield Full()

explorer = vdkit.explore(
    decoder="waiting", decoders={"waiting": lambda: NearestDecoder(delay_s=0.01)}, size="32x48",
    latent_frames=9, rounds=1, sink="null", sinks={"full": full}, device="cpu",
)
explorer"""
THREADS = "print([t.name for t in threading.enumerate() if t.name.startswith('vdkit-explorer')])"
JOB_S = 120
"""For a measurement that takes a few seconds where nothing else runs."""

CUT = "(all) => all.filter((l) => l.scrollWidth > l.clientWidth + 1).map((l) => l.innerText)"
BEYOND = """(all) => all.filter((b) => b.getBoundingClientRect().right >
  b.parentElement.closest('.widget-box').getBoundingClientRect().right + 1).length"""


def ended(w, timeout_s=JOB_S):
    """Wait until no job is in hand; the explorer's words below the picture."""
    w.wait_until(lambda: w.button("Cancel").is_enabled(), lambda on: not on, timeout_s, "job done")
    return remarks(w)


def begun(w):
    w.wait_until(lambda: w.button("Cancel").is_enabled(), bool, 20, "a job in hand")


def remarks(w):
    return w.scope.locator(".vdkit-remarks").first.inner_text()


def turn(lab, w, slider, value):
    """Set a slider and wait until the kernel has followed this and all earlier changes.

    As one would before pressing a button: a click can overtake values that are still on their way.
    The picture need not change: of what is not known there is none.
    """
    w.set_slider(slider, value)
    seen = []

    def look():
        seen.append((lab.state()["kernel"], w.image_bytes()))
        return seen[-4:] == 4 * [("idle", seen[-1][1])]

    w.wait_until(look, bool, 60, f"{slider} is {value}, all is still for 2 s", every_ms=500)


def where(w):
    """(top, height) of the picture on the page, px."""
    box = w.image().bounding_box()
    return round(box["y"]), round(box["height"])


def test_notebook_04(lab):
    lab.open("04_explorer", SMALL["04"])
    lab.run_all(timeout_s=600)
    assert not lab.error_outputs() and lab.executed()
    assert len(lab.pictures()) >= 4
    w = lab.widgets(cell=2)
    assert w.chosen("machine") == "NVIDIA H200, recorded"
    before = w.image_bytes()
    w.move_slider("chunk size", 1)
    after = w.changed(w.image_bytes, before)
    assert Image.open(io.BytesIO(after)).size == Image.open(io.BytesIO(before)).size
    assert not w.button("Run").is_enabled(), "a recorded machine cannot be measured"

    w.choose("machine", "this machine (CPU)")
    w.choose("sink", "raw")
    w.scope.locator(".widget-text input").nth(0).fill("tiny-wan")
    w.scope.locator(".widget-text input").nth(0).press("Enter")
    w.scope.locator(".widget-text input").nth(1).fill("16x16")
    w.scope.locator(".widget-text input").nth(1).press("Enter")
    turn(lab, w, "slots", 3)
    turn(lab, w, "latent frames", 5)
    for menu, choice in (("content", "grain"), ("sink", "mp4"), ("format", "nv12")):
        w.choose(menu, choice)
    w.choose("encoders", "2")
    boxes = w.scope.locator(".widget-dropdown, .widget-text, .widget-slider")
    assert boxes.count() > 12 and not boxes.evaluate_all(BEYOND), "controls that are not seen"
    assert not w.scope.locator(".widget-label").evaluate_all(CUT), "labels that are cut off"
    w.page.wait_for_timeout(5000)  # nothing is known of it, so no picture says that it arrived
    w.wait_until(lambda: w.button("Run").is_enabled(), bool, 20, "Run can be pressed")
    runs = w.scope.locator("table").last.locator("tbody tr")
    assert runs.count() == 2, "the two that the cells made"
    w.button("Run").click()
    begun(w)
    assert "Run 3: sync took" in ended(w)
    assert w.progress() == 1.0
    assert runs.count() == 3

    w.button("Export").click()
    folder = w.wait_until(lambda: exported(lab), lambda found: found and len(found[1]) == 8, 30)[0]
    made = read_recording(folder)
    assert (made.workload.latent_frames, made.workload.content) == (5, "grain")
    assert (made.sink.pixel_format, made.sink.options["encoders"]) == ("nv12", 2)
    assert Image.open(folder / "timeline.png").size[0] > 1000
    assert ElementTree.parse(folder / "timeline.svg").getroot().tag.endswith("svg")
    assert (folder / "timeline.pdf").read_bytes().startswith(b"%PDF")
    assert list(pd.read_csv(folder / "table.csv")["run"]) == [1, 2, 3]
    assert folder.name in w.scope.locator(".vdkit-remarks").last.inner_text()


def exported(lab):
    """(folder, files) of the newest export; None before there is one."""
    folders = sorted((lab.server.root / "results").glob("*_explorer*"))
    return (folders[-1], list(folders[-1].iterdir())) if folders else None


def test_cancel_failing_sink_and_nothing_left_behind(lab):
    lab.write("by_hand", SETUP, THREADS)
    lab.open("by_hand")
    lab.run_all(timeout_s=120)
    w = lab.widgets(cell=0)
    assert "Costs of each step on this machine (CPU): measured" in ended(w)

    turn(lab, w, "latent frames", 161)
    still = where(w)
    w.button("Run").click()
    begun(w)
    w.wait_until(w.progress, lambda share: 0 < share < 1, JOB_S, "the bar moves")
    assert where(w) == still, "the page jumped"
    state = w.scope.get_by_text("s left")
    w.wait_until(state.count, bool, JOB_S, "the time left is shown")
    w.button("Cancel").click()
    assert "cancelled" in ended(w).lower()
    assert where(w) == still, "the page jumped"

    turn(lab, w, "latent frames", 5)
    w.choose("sink", "full")
    w.button("Run").click()
    begun(w)
    assert "No space left on device" in ended(w)
    w.choose("sink", "null")
    w.button("Run").click()
    begun(w)
    assert "Run 1: sync took" in ended(w)

    turn(lab, w, "latent frames", 161)
    w.button("Run").click()
    begun(w)
    lab.command("notebook:run-all-cells")  # a new explorer; the old one's job has to end
    lab.wait(lambda: lab.state()["cells"][1]["count"], lambda n: n == 4, JOB_S, "cells run again")
    names = lab.cell_outputs(1)[0]["text"]
    assert names.count("vdkit-explorer'") <= 1, f"an old measurement goes on: {names}"
    ended(lab.widgets(cell=0))

    turn(lab, w := lab.widgets(cell=0), "latent frames", 161)
    w.button("Run").click()
    begun(w)
    lab.run_all(timeout_s=JOB_S)  # restarts the kernel in the middle of the job
    assert not lab.error_outputs() and lab.executed()


MEDIA = """\
import vdkit
from tests.helpers import NearestAudio, NearestDecoder, NearestImages

class Plain(NearestDecoder):
    name = "plain"

explorer = vdkit.explore(
    decoder="plain", decoders={"plain": Plain, "pictures": NearestImages, "sounds": NearestAudio},
    size="32x48", latent_frames=9, rounds=1, sink="null", device="cpu",
)
explorer"""


def typed(w, index, text):
    """Into a field that is also a menu: decoder, size."""
    field = w.scope.locator(".widget-text input").nth(index)
    field.fill(text)
    field.press("Enter")


def test_another_medium(lab):
    """Its decoders, its size and length, its sinks; a run, with its units."""
    lab.write("media", MEDIA)
    lab.open("media")
    lab.run_all(timeout_s=120)
    w = lab.widgets(cell=0)
    assert "Costs of each step" in ended(w) and w.chosen("medium") == "Video"
    figures = w.scope.locator("table").first
    assert "real-time factor" in figures.inner_text()
    sinks = w._box("dropdown", "sink").locator("option")
    top = where(w)[0]
    for medium, decoder, length, shown, hidden, kind in (
        ("Images", "pictures", "images", "images / s", "real-time factor", "jpeg"),
        ("Audio", "sounds", "seconds", "real-time factor", "images / s", "flac"),
    ):
        w.choose("medium", medium)
        w.wait_until(w._box("slider", length).is_visible, bool, 20, f"{length} instead of frames")
        figures.get_by_text(shown, exact=True).wait_for()
        assert kind in sinks.all_inner_texts() and "mp4" not in sinks.all_inner_texts()
        assert w.scope.get_by_text("size, HxW").is_visible() == (medium == "Images")
        assert abs(where(w)[0] - top) <= 2, "the page jumped"
        typed(w, 0, decoder)
        if medium == "Images":
            typed(w, 1, "32x48")
        turn(lab, w, length, 5)
        w.button("Run").click()
        begun(w)
        number = {"Images": 1, "Audio": 2}[medium]
        assert f"Run {number}: sync took" in ended(w)
        assert shown in figures.inner_text() and hidden not in figures.inner_text()
    assert "2 channels" in w.scope.locator("table").last.inner_text()
    cut = w.scope.locator(".widget-label").evaluate_all(CUT)
    assert not cut, "labels that are cut off"
