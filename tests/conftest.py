import gc
import os
import signal

import pytest
import torch

from vdkit.record.runs import keep_freed_memory

LONGEST = (
    "notebook/test_notebooks.py", "browser/test_explorer.py", "cpu/test_goldens.py",
    "cpu/test_fanout.py", "cpu/test_structures.py",
    "cpu/test_variants.py", "cpu/test_decoders.py", "browser/test_lab.py", "cpu/test_explorer.py",
    "cpu/test_interrupts.py", "cpu/test_tiny_wan.py", "cpu/test_profile.py", "cpu/test_sweep.py",
    "cpu/test_generate.py", "cpu/test_paths.py", "cpu/test_wan_fast.py", "cpu/test_cli.py",
)  # fmt: skip
os.environ.pop("COLUMNS", None)  # of a worker of pytest-xdist; vdkit wraps what it says to that
keep_freed_memory()  # on a CPU it halves the time of a decode


@pytest.fixture
def device():
    """The device under test; tests/gpu replaces it."""
    return "cpu"


@pytest.fixture(autouse=True)
def no_writer_left_behind():
    """After every test, whatever happened in it, no writer thread is alive."""
    from tests.helpers import writer_threads

    yield
    assert not writer_threads()


@pytest.fixture(scope="module", autouse=True)
def imported_once():
    """A benchmark collects garbage before each run: not among all modules of this process too."""
    gc.collect()
    gc.freeze()


def pytest_configure(config):
    """Ctrl-C means KeyboardInterrupt, also where a shell's background job was told to ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that two processes end at about the same time."""
    files = {f"{path.parent.name}/{path.name}": None for path in (one.path for one in items)}
    ranks = {name: rank for rank, name in enumerate(dict.fromkeys((*LONGEST, *files)))}
    items.sort(key=lambda one: ranks[f"{one.path.parent.name}/{one.path.name}"])


def pytest_collection_finish(session):
    """Running nothing is a failure, never a success."""
    if not session.items and not session.config.option.collectonly:
        pytest.exit("no tests were collected", returncode=5)


def require_cuda():
    """Skip without a GPU, or fail if VDKIT_REQUIRE_CUDA=1."""
    if not torch.cuda.is_available():
        if os.environ.get("VDKIT_REQUIRE_CUDA") == "1":
            pytest.fail("VDKIT_REQUIRE_CUDA=1, but torch sees no CUDA GPU")
        pytest.skip("needs a CUDA GPU; set VDKIT_REQUIRE_CUDA=1 to make this a failure")


@pytest.fixture(scope="module")
def one_thread():
    """Small pictures: more threads only wait for each other, long where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
