"""What a person does in JupyterLab: open a notebook, run all of it, look at the outputs.

    def test_my_notebook(lab):
        lab.open("03_my_notebook")
        lab.run_all(timeout_s=120)
        assert lab.executed() and not lab.error_outputs()
        assert lab.cell(4).locator("img").count() == 1
        lab.widgets(cell=5).button("Run").click()     # see tests/browser/widgets.py

After each test the `lab` fixture asserts that `lab.errors()` is empty.
"""

import json
import re
import time

from tests.browser.widgets import Widgets

# Whole messages, on the console or uncaught, that are JupyterLab's own, each with its reason.
NOISE = (
    # The kernel restarts or dies while JupyterLab still asks the old one: for the debugger's state,
    # for a subshell.
    r"(Could not restore the debugger state|Error): Canceled future for "
    r"(debug|create_subshell)_request message before replies were done",
)

# What the page knows of the open notebook. Mimetypes instead of contents: pictures are large.
STATE = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  const context = panel?.sessionContext;
  if (!panel?.content?.model || !context?.isReady) return null;
  const shown = (output) => ({
    type: output.output_type,
    name: output.name ?? null,
    mimetypes: Object.keys(output.data ?? {}),
    text: [output.text ?? output.data?.['text/plain'] ?? ''].flat().join(''),
    error: output.ename ? `${output.ename}: ${output.evalue}` : null,
  });
  const cells = panel.content.widgets.map((cell) => cell.model.toJSON());
  return {
    kernel: context.session?.kernel?.status ?? 'none',
    connection: context.session?.kernel?.connectionStatus ?? 'none',
    dialog: document.querySelector('.jp-Dialog-content')?.innerText ?? null,
    cells: cells.map((cell) => ({
      type: cell.cell_type,
      source: [cell.source].flat().join(''),
      count: cell.execution_count ?? null,
      outputs: (cell.outputs ?? []).map(shown),
    })),
  };
}"""


class Lab:
    """One page in the browser, in which one notebook at a time is open."""

    def __init__(self, page, server):
        self.page = page
        self.server = server
        self._errors = []
        page.set_default_timeout(20_000)  # ms, for clicks and the like
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._on_error("uncaught in the page", str(error)))
        page.on("request", lambda request: self._on_address(request.url))
        page.on("websocket", lambda socket: self._on_address(socket.url))

    def _on_console(self, message):
        if message.type == "error":
            self._on_error("console", message.text, f" ({message.location.get('url')})")

    def _on_error(self, kind, text, where=""):
        if not any(re.fullmatch(noise, text) for noise in NOISE):
            self._errors.append(f"{kind}: {text}{where}")

    def _on_address(self, url):
        """The browser cannot reach any other host; that a page tried to is an error as well."""
        own = self.server.url.removeprefix("http")
        if not url.startswith((f"http{own}/", f"ws{own}/", "data:", "blob:", "about:")):
            self._errors.append(f"request to {url}")

    def errors(self):
        """Errors so far: of the console, uncaught ones, requests that would leave this machine."""
        return list(self._errors)

    def forget_errors(self):
        """For a test that causes an error on purpose."""
        self._errors.clear()

    def open(self, name, parameters="", timeout_s=60):
        """Open notebooks/NAME.ipynb, without side bars, and wait until its kernel is idle.

        ``parameters``: a line that is added to its second cell first.
        """
        path = f"notebooks/{name}.ipynb"
        assert (self.server.root / path).exists(), f"{path} is not in {self.server.root}"
        if parameters:
            notebook = json.loads((self.server.root / path).read_text())
            notebook["cells"][1]["source"] += ["\n", parameters]
            (self.server.root / path).write_text(json.dumps(notebook))
        self.page.goto(
            f"{self.server.url}/doc/tree/{path}?token={self.server.token}", timeout=timeout_s * 1e3
        )
        self.wait(self.state, _is_idle, timeout_s, f"{path} opened, kernel idle")

    def write(self, name, *sources):
        """A notebook of the test's own, from the code of its cells; then `open` it.

        lab.write("small", "value = 1", "value + 1")
        """
        cells = [
            {
                "cell_type": "code",
                "id": f"cell-{index}",
                "metadata": {},
                "source": source,
                "outputs": [],
                "execution_count": None,
            }
            for index, source in enumerate(sources)
        ]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = {"metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
        path = self.server.root / "notebooks" / f"{name}.ipynb"
        path.write_text(json.dumps(notebook | {"cells": cells}))

    def run_all(self, timeout_s=120):
        """Clear the outputs, restart the kernel, run every cell; wait for the last one or an error.

        By the button in the toolbar, with its question answered.
        """
        self.command("editmenu:clear-all")
        self.wait(self.state, lambda state: not _counts(state), 10, "outputs cleared")
        self.page.locator('[data-command="notebook:restart-run-all"]:visible').first.click()
        self.page.locator(".jp-Dialog button.jp-mod-accept").click()
        self.page.locator(".jp-Dialog").wait_for(state="hidden")
        self.wait(self.state, _is_done, timeout_s, "every cell run, kernel idle", every_ms=300)

    def command(self, name):
        """Run a command of JupyterLab as a menu does: `lab.command("docmanager:save")`."""
        self.page.evaluate("(name) => { window.jupyterapp.commands.execute(name); }", name)

    def state(self):
        """The open notebook, or None before it is ready: dict of `kernel`, `connection`, `cells`
        and `dialog` (the text of an open one, or None).

        A cell: `type`, `source`, `count` (of its execution, or None), `outputs`: `type`, `name`
        (of a stream), `mimetypes`, `text`, `error` ("Name: value").
        """
        return self.page.evaluate(STATE)

    def cell_outputs(self, cell):
        """Outputs of the cell with this index (from 0, as in the file), see `state`."""
        return self.state()["cells"][cell]["outputs"]

    def error_outputs(self):
        """What cells raised, as "cell 3: Name: value"."""
        return _errors(self.state())

    def executed(self):
        """Whether every code cell was executed once, in order."""
        counts = [cell["count"] for cell in _code(self.state())]
        return counts == list(range(1, len(counts) + 1))

    def cell(self, index):
        """Locator of a cell on the page."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def pictures(self):
        """(width, height) in pixels of each picture in an output that is on the page and loaded."""
        images = self.page.locator(".jp-OutputArea-output img")
        sizes = "(all) => all.map((i) => [i.naturalWidth, i.naturalHeight, i.offsetWidth])"
        return [(wide, high) for wide, high, seen in images.evaluate_all(sizes) if wide and seen]

    def widgets(self, cell=None):
        """The widgets in the output of a cell, or of the whole page."""
        where = self.page if cell is None else self.cell(cell)
        return Widgets(self.page, where, self.wait)

    def wait(self, read, accept, timeout_s, what, every_ms=100):
        """Call `read` until `accept` is true of what it gives and return that; else fail."""
        end = time.monotonic() + timeout_s
        while not accept(value := read()):
            assert time.monotonic() < end, (
                f"not within {timeout_s} s: {what}; last: {value!s:.2000}"
            )
            self.page.wait_for_timeout(every_ms)  # not time.sleep: the browser's events must arrive
        return value


def _code(state):
    return [cell for cell in state["cells"] if cell["type"] == "code" and cell["source"].strip()]


def _counts(state):
    return [cell["count"] for cell in _code(state) if cell["count"] is not None]


def _errors(state):
    return [
        f"cell {index}: {output['error']}"
        for index, cell in enumerate(state["cells"])
        for output in cell["outputs"]
        if output["type"] == "error"
    ]


def _is_idle(state):
    return state is not None and state["kernel"] == "idle" and state["connection"] == "connected"


def _is_done(state):
    """Counts are set when a cell is done, so all of them or an error (which stops the rest)."""
    if state is not None:
        asked = state["dialog"]  # that a dead kernel was started again, above all
        assert not asked, f"JupyterLab stopped with a dialog: {asked}"
    ended = state is not None and (len(_counts(state)) == len(_code(state)) or _errors(state))
    return bool(ended) and _is_idle(state)
