"""The tests of the decode paths again, on CUDA."""

from tests.cpu.test_paths import *  # noqa: F403
