import pytest

from tests.conftest import require_cuda


@pytest.fixture(autouse=True)
def _needs_cuda():
    require_cuda()


@pytest.fixture
def device():
    return "cuda"
