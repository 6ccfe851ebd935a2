"""The helpers of this folder find what a notebook does in a browser: widgets, errors, an end."""

import io

import pytest
from PIL import Image

WIDGETS = """
import io, threading, time
import ipywidgets as w
from PIL import Image

def picture(level):
    buffer = io.BytesIO()
    Image.new("L", (64, 48), level).save(buffer, "PNG")
    return buffer.getvalue()

def work():
    for part in range(1, 5):
        time.sleep(0.1)
        bar.value = part
    words.value = f"<b>done</b> {kind.value} {invert.value}"
    image.value = picture(200)
    run.disabled = False

def start(button):
    run.disabled = True
    threading.Thread(target=work).start()

level = w.IntSlider(description="Level", min=0, max=99, value=10)
kind = w.Dropdown(description="Kind", options=["raw", "mp4"])
invert = w.Checkbox(description="Invert", value=False)
run = w.Button(description="Run")
bar = w.IntProgress(min=0, max=4)
words = w.HTML("not yet")
image = w.Image(value=picture(10), format="png")
level.observe(lambda change: setattr(image, "value", picture(change["new"])), "value")
run.on_click(start)
w.VBox([level, kind, invert, run, bar, words, image])
"""


def gray(encoded):
    return Image.open(io.BytesIO(encoded)).getpixel((0, 0))


def test_widgets_work(lab):
    lab.write("widgets", WIDGETS)
    lab.open("widgets")
    lab.run_all()
    assert not lab.error_outputs()
    widgets = lab.widgets(cell=0)
    picture = widgets.wait_until(widgets.image_bytes, bool)
    assert (gray(picture), widgets.slider_value("Level")) == (10, "10")

    widgets.move_slider("Level", 3)
    picture = widgets.changed(widgets.image_bytes, picture)
    widgets.wait_until(lambda: gray(widgets.image_bytes()), lambda level: level == 13)
    widgets.move_slider("Level", -1)
    widgets.wait_until(lambda: gray(widgets.image_bytes()), lambda level: level == 12)
    widgets.set_slider("Level", 77)
    widgets.wait_until(lambda: gray(widgets.image_bytes()), lambda level: level == 77)
    assert widgets.slider_value("Level") == "77"

    # A thread of the kernel's changes them too.
    widgets = lab.widgets()
    widgets.wait_until(widgets.button("Run").count, lambda count: count == 1)
    assert (widgets.progress(), widgets.html()) == (0.0, "not yet")
    before = widgets.image_bytes()
    widgets.choose("Kind", "mp4")
    widgets.check("Invert")
    widgets.button("Run").click()
    widgets.wait_until(widgets.html, lambda text: text == "done mp4 True")
    assert gray(widgets.changed(widgets.image_bytes, before)) == 200
    assert widgets.progress() == 1.0
    widgets.wait_until(widgets.button("Run").is_enabled, bool)
    assert widgets.chosen("Kind") == "mp4" and widgets.checkbox("Invert").is_checked()


def test_an_error_in_a_cell_is_seen(lab):
    lab.write("wrong", "1 + 1", "print('here'); 1 / 0", "2 + 2")
    lab.open("wrong")
    lab.run_all()
    assert lab.error_outputs() == ["cell 1: ZeroDivisionError: division by zero"]
    assert not lab.executed()
    assert [output["text"] for output in lab.cell_outputs(1)] == ["here\n", ""]


def test_a_dead_kernel_is_seen(lab):
    lab.write("dead", "import os", "os._exit(3)")
    lab.open("dead")
    with pytest.raises(AssertionError, match="died"):
        lab.run_all()


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("fetch('http://vdkit.invalid/').catch(() => null)", "request to http://vdkit.invalid/"),
        ("console.error('ours')", "console: ours"),
        ("setTimeout(() => { throw new Error('ours') })", "uncaught in the page: ours"),
    ],
    ids=["request", "console", "uncaught"],
)
def test_an_error_in_the_page_is_seen(lab, script, error):
    lab.page.evaluate(script)
    lab.wait(lab.errors, bool, 5, "an error")
    assert lab.errors()[0].startswith(error)
    lab.forget_errors()
