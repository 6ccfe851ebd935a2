"""The explorer as a person uses it: notebook 04, knobs turned, measured, cancelled, exported."""

SETUP = """\
import contextlib, vdkit
from vdkit.sinks import NullSink

class Full(NullSink):
    def write(self, frames):
        raise OSError(28, "No space left on device")

@contextlib.contextmanager
def full(label):
    yield Full()

explorer = vdkit.explore(
    size="64x96", latent_frames=5, rounds=1, sinks={"full": full}, device="cpu"
)
explorer"""


def test_look(lab):
    lab.write("explorer_by_hand", SETUP)
    lab.open("explorer_by_hand")
    lab.run_all(timeout_s=120)
    w = lab.widgets(cell=0)
    lab.page.wait_for_timeout(1500)
    lab.page.screenshot(path="/tmp/s1.png")
    lab.page.wait_for_timeout(1500)
    lab.page.screenshot(path="/tmp/s2.png")
    w.wait_until(w.progress, lambda share: share == 1.0, 200)
    lab.page.wait_for_timeout(1000)
    lab.page.screenshot(path="/tmp/s3.png")
    w.button("Run").click()
    lab.page.wait_for_timeout(3000)
    lab.page.screenshot(path="/tmp/s4.png")
    w.wait_until(lambda: w.button("Cancel").is_enabled(), lambda on: not on, 200)
    lab.page.wait_for_timeout(1000)
    lab.page.screenshot(path="/tmp/s5.png")
    lab.page.set_viewport_size({"width": 1280, "height": 1850})
    lab.page.wait_for_timeout(1000)
    w.set_slider("chunk size", 2)
    w.button("Run").click()
    lab.page.wait_for_timeout(3000)
    w.wait_until(lambda: w.button("Cancel").is_enabled(), lambda on: not on, 200)
    w.button("side by side").click()
    lab.page.wait_for_timeout(1000)
    w.button("Export").click()
    lab.page.wait_for_timeout(2000)
    lab.page.screenshot(path="/tmp/s6.png")
