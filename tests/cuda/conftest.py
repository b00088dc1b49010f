"""The CUDA kernels run on the CPU by shim.h; all of it is skipped where there is no g++."""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

if (root := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(0, root)  # `tests` is no installed package, and `pytest` alone leaves the root out

STREAMS: Counter[str] = Counter()


def pytest_runtest_setup(item: pytest.Item) -> None:
    from tests.cuda import shim

    if shim.COMPILER is None and item.get_closest_marker("gpu") is None:
        pytest.skip("g++ is not installed")


@pytest.fixture(scope="session", autouse=True)
def builds(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what g++ makes for the session, for the processes that tests start too."""
    os.environ["CUDA_SHIM_BUILDS"] = str(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(scope="session")
def streams() -> Counter[str]:
    """How many streams the kernels have agreed on with the codec, by kind; printed at the end."""
    return STREAMS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if STREAMS:
        kinds = ", ".join(f"{number} {kind}" for kind, number in STREAMS.items())
        terminalreporter.write_line(f"CUDA kernels on the CPU: {STREAMS.total()} streams compared: {kinds}")
