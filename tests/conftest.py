"""What the tests share: processes that end with the test, and the kar under test."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import EMBEDDED, Kar, Processes

REAL = os.environ.get("KAR")
KARS = [
    "embedded",
    pytest.param("real", marks=pytest.mark.skipif(not REAL, reason="KAR names no real kar")),
]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "embedded_only: what only the embedded KAR promises")
    # A shell lets what it starts in the background ignore Ctrl-C, with all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def make_kar(request: pytest.FixtureRequest, processes: Processes) -> Kar:
    if request.param == "real" and request.node.get_closest_marker("embedded_only"):
        pytest.skip("only the embedded KAR promises this")
    return Kar(EMBEDDED if request.param == "embedded" else Path(str(REAL)), processes)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    processes.end()


@pytest.fixture(params=KARS)
def kar(request: pytest.FixtureRequest, processes: Processes) -> Kar:
    return make_kar(request, processes)


@pytest.fixture(scope="module", params=KARS)
def module_kar(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kar]:
    """The same for all tests of a module, which start nothing that disturbs another."""
    processes = Processes(tmp_path_factory.mktemp("module"))
    yield make_kar(request, processes)
    processes.end()
