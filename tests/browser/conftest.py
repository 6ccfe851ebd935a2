"""A real JupyterLab in a real Chromium, for the tests in this folder; both end with its last test.

Package scope, not session: the browser holds an event loop in this thread, and the tests that
execute notebooks without a browser need one of their own.
"""

import importlib.util
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.browser.lab import Lab
from tests.browser.server import serving

SCREENSHOTS = Path(__file__).parent / "screenshots"
# No name or address but this one resolves, for pages and for Chromium's own services alike.
ONLY_THIS_MACHINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


def require_browser():
    """Path of Chromium. Skip without what these tests need, or fail if VDKIT_REQUIRE_BROWSER=1."""
    chromium = shutil.which("chromium")
    missing = [] if chromium else ["chromium (a system package)"]
    packages = ("playwright", "jupyterlab")
    missing += [f"{name} (pip)" for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        if os.environ.get("VDKIT_REQUIRE_BROWSER") == "1":
            pytest.fail(f"VDKIT_REQUIRE_BROWSER=1, but missing: {', '.join(missing)}")
        reason = f"needs {', '.join(missing)}; set VDKIT_REQUIRE_BROWSER=1 to make this a failure"
        pytest.skip(reason)
    return chromium


@pytest.fixture(scope="package")
def chromium():
    return require_browser()


@pytest.fixture(scope="package")
def server(chromium, tmp_path_factory):
    """A running JupyterLab over a copy of the notebooks."""
    with serving(tmp_path_factory.mktemp("jupyterlab")) as running:
        yield running


@pytest.fixture(scope="package")
def browser(chromium):
    """The system's Chromium, without a window; it reaches this machine only."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", ONLY_THIS_MACHINE]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield running
        running.close()


@pytest.fixture
def page(browser):
    """An empty page of 1280 x 900 pixels that knows nothing of earlier tests."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


@pytest.fixture
def lab(server, page):
    """JupyterLab, with no notebook open and no kernel running (see tests/browser/lab.py)."""
    lab = Lab(page, server)
    yield lab
    server.stop_kernels()
    assert not lab.errors(), "\n".join(lab.errors())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows where its screenshot is, and what the console said."""
    report = yield
    page, lab = item.funcargs.get("page"), item.funcargs.get("lab")
    if report.failed and page and not page.is_closed():
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', item.name)}-{report.when}.png"
        page.screenshot(path=path)
        report.sections.append(("screenshot", str(path)))
        if lab and lab.errors():
            report.sections.append(("browser", "\n".join(lab.errors())))
    return report
