import gc
import os
import signal

import pytest
import torch

from vdkit.record.machine import keep_freed_memory

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


@pytest.fixture(scope="session", autouse=True)
def imported_once():
    """A benchmark collects garbage before each run: not among all modules of this process too."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def pytest_configure(config):
    """Ctrl-C means KeyboardInterrupt, also where a shell's background job was told to ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
