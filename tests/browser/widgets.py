"""Find and use ipywidgets on a page, by what a person reads beside them.

    widgets = lab.widgets(cell=5)                # in the output of a cell, or of the whole page
    before = widgets.image_bytes()
    widgets.move_slider("Chunk", steps=2)        # two presses of the right arrow key
    after = widgets.changed(widgets.image_bytes, before, timeout_s=10)

    widgets.choose("Decoder", "tiny-wan")        # Dropdown
    widgets.check("Async", False)                # Checkbox
    widgets.button("Run").click()
    widgets.wait_until(widgets.progress, lambda value: value == 1.0, timeout_s=60)
    assert "done" in widgets.html()

Several images or lines of HTML: by index, in the page's order, `widgets.image_bytes(1)`. Whatever
is not covered is reached by locators: `widgets.scope.locator(".widget-text input")`.
"""

import base64
import re

# The bytes of a picture as the browser has them: the widget's src is a blob of its own.
BYTES = """async (image) => {
  const blob = await (await fetch(image.src)).blob();
  const reader = new FileReader();
  await new Promise((done) => { reader.onload = done; reader.readAsDataURL(blob); });
  return reader.result.split(',')[1] ?? '';
}"""


class Widgets:
    """The widgets inside `scope` (a page or a locator)."""

    def __init__(self, page, scope, wait):
        self.page = page
        self.scope = scope
        self._wait = wait

    def _box(self, kind, description):
        """Widget of a kind ("slider", "dropdown") whose description is exactly this."""
        label = self.page.locator(".widget-label", has_text=_exactly(description))
        return self.scope.locator(f".widget-{kind}").filter(has=label)

    def button(self, text):
        """Locator of a Button by its text: `.click()`, `.is_enabled()`."""
        return self.scope.locator("button.jupyter-button").filter(has_text=_exactly(text))

    def slider(self, description):
        """Locator of a slider's handle (of IntSlider, FloatSlider, SelectionSlider)."""
        return self._box("slider", description).locator("[role=slider]")

    def slider_value(self, description):
        """What the slider shows beside itself, as text: "12"."""
        return self._box("slider", description).locator(".widget-readout").inner_text().strip()

    def move_slider(self, description, steps):
        """Press the arrow keys: `steps` to the right, or to the left if negative.

        The mouse is not used: where it lands depends on the width of the page.
        """
        handle = self.slider(description)
        handle.focus()
        for _ in range(abs(steps)):
            handle.press("ArrowRight" if steps > 0 else "ArrowLeft")

    def set_slider(self, description, value):
        """Type a number into the field beside an IntSlider or FloatSlider."""
        field = self._box("slider", description).locator(".widget-readout")
        field.fill(str(value))
        field.press("Enter")

    def choose(self, description, option):
        """Pick an option of a Dropdown by its text."""
        self._box("dropdown", description).locator("select").select_option(label=option)

    def chosen(self, description):
        """Text of the option that a Dropdown shows."""
        select = self._box("dropdown", description).locator("select")
        shown = select.evaluate("(s) => s.selectedOptions[0]?.text ?? ''")
        return shown.replace("\xa0", " ")  # ipywidgets' own, so that spaces are not folded

    def check(self, description, on=True):
        """Set a Checkbox on or off."""
        self.checkbox(description).set_checked(on)

    def checkbox(self, description):
        """Locator of a Checkbox's box: `.is_checked()`."""
        text = self.page.locator("span", has_text=_exactly(description))
        return self.scope.locator(".widget-checkbox").filter(has=text).locator("input")

    def progress(self, index=0):
        """How far a progress bar is, 0.0 to 1.0."""
        bar = self.scope.locator(".progress-bar").nth(index)
        return round(float(bar.evaluate("(bar) => parseFloat(bar.style.width) || 0")) / 100, 4)

    def html(self, index=0):
        """Text of an HTML widget."""
        return self.scope.locator(".widget-html-content").nth(index).inner_text()

    def image(self, index=0):
        """Locator of an Image widget."""
        return self.scope.locator("img.widget-image").nth(index)

    def image_bytes(self, index=0):
        """The encoded picture that an Image widget shows now: compare, or open with PIL."""
        return base64.b64decode(self.image(index).evaluate(BYTES))

    def changed(self, read, before, timeout_s=10):
        """Wait until `read()` differs from `before`, or fail; returns what it gives then."""
        return self._wait(read, lambda value: value != before, timeout_s, "changed")

    def wait_until(self, read, accept, timeout_s=10, what="condition met", every_ms=100):
        """Wait until `accept(read())` is true, or fail; returns what `read` gave."""
        return self._wait(read, accept, timeout_s, what, every_ms)


def _exactly(text):
    return re.compile(rf"^\s*{re.escape(text)}\s*$")
