"""The tests of failures again, on CUDA."""

from tests.cpu.test_failures import *  # noqa: F403
