"""A JupyterLab server for the tests alone: own folders, own settings, no process left behind.

It serves a copy of the notebooks and of what they read, so that no test can write into the
checkout, and it reads nothing of the user's own Jupyter configuration.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 15

SETTINGS = {
    "apputils-extension/notification": {
        "fetchNews": "false",  # else a pop-up asks
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "docmanager-extension/plugin": {"autosave": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight stay in the page
}


@dataclass(frozen=True)
class Server:
    """Where a running JupyterLab answers, and the folder that it serves."""

    url: str
    token: str
    root: Path
    log: Path

    def request(self, path, method="GET"):
        """The answer of the REST API, read as JSON (None if it is empty)."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.url}/{path}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or "null")

    def stop_kernels(self):
        for session in self.request("api/sessions"):
            self.request(f"api/sessions/{session['id']}", "DELETE")


def copy_work(folder):
    """A copy of the notebooks and of what they read by relative paths; returns its root."""
    left_out = shutil.ignore_patterns(".ipynb_checkpoints", "demo")
    for name in ("notebooks", "results", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    return folder


def environment(home, token):
    """The environment of the server: whatever Jupyter reads or writes is under `home`."""
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    return os.environ | {
        "JUPYTER_TOKEN": token,  # not on the command line, which every user may read
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "OMP_NUM_THREADS": "1",  # the browser needs a core, and a decode spins while it has none
        # the checkout under test, wherever the kernel starts
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(folder):
    """A `Server` over a copy of the notebooks; at the end it and its kernels are gone."""
    port, token = free_port(), secrets.token_hex(16)
    root, home = copy_work(folder / "work"), folder / "jupyter"
    server = Server(f"http://127.0.0.1:{port}", token, root, folder / "jupyterlab.log")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
    ]
    command += [f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True"]
    with server.log.open("w") as log:
        process = subprocess.Popen(
            command,
            env=environment(home, token),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the tests, and they stop it
        )
    try:
        wait_for_answer(server, process)
        yield server
    finally:
        stop(process)


def wait_for_answer(server, process):
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError, urllib.error.URLError):
            server.request("api/status")
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(
        f"JupyterLab does not answer; its log ends:\n{server.log.read_text()[-3000:]}"
    )


def stop(process):
    """The server first, which ends its kernels; then whatever of them is still there."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    _, alive = psutil.wait_procs(family, timeout=2)
    for left in alive:  # kernels have process groups of their own
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    if process.poll() is None:
        process.kill()
    process.wait()
