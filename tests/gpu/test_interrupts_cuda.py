"""The tests of interrupts again, on CUDA."""

from tests.cpu.test_interrupts import *  # noqa: F403
