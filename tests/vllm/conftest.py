"""Real engines: skipped where vLLM is not installed, run by `make test-vllm`."""

import time

import pytest

from s2d_lib.engines.version import installed


def pytest_collection_modifyitems(items):
    """Skip what needs vLLM."""
    for item in items:
        if "tests/vllm/" in item.path.as_posix() and installed() is None:
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed: `make test-vllm`"))


@pytest.fixture
def clocked(request):
    """Says what part of a test takes how long."""

    def clock(label: str):
        class Clock:
            def __enter__(self):
                self.began = time.perf_counter()

            def __exit__(self, *error):
                print(f"\n{label}: {time.perf_counter() - self.began:.1f} s", end="")

        return Clock()

    return clock
