"""Fixtures of the suite: processes that end with the test, and the kar under test."""

import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from support.kar import Kar, Topics
from support.processes import EMBEDDED_KAR, Processes

REAL_KAR = os.environ.get("KAR")
KAR_PATHS = {"embedded": EMBEDDED_KAR}
if REAL_KAR:
    KAR_PATHS["real"] = Path(REAL_KAR)


def pytest_configure(config: pytest.Config) -> None:
    if REAL_KAR and not os.access(REAL_KAR, os.X_OK):
        raise pytest.UsageError(f"KAR={REAL_KAR} is not an executable file")
    # SIGTERM and SIGHUP end the processes of running tests, as Ctrl-C does. A shell lets its
    # background processes ignore Ctrl-C, and their children inherit that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def pytest_report_header() -> str:
    if REAL_KAR:
        return f"kar: embedded and real ({REAL_KAR})"
    return "kar: embedded only; set KAR=/path/to/kar to run the same tests on the real KAR as well"


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the tests for each KAR, and keep those together that share services.

    Tests of the real KAR that only the embedded one can pass are deselected. Slow tests run first,
    so that at the end no worker is left with one.
    """

    def kar_of(item: pytest.Item) -> str | None:
        callspec = getattr(item, "callspec", None)
        return callspec.params.get("kar_path") if callspec else None

    deselected = [
        item
        for item in items
        if kar_of(item) == "real" and item.get_closest_marker("embedded_only")
    ]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if "module_processes" in getattr(item, "fixturenames", []):
            # One worker of pytest-xdist runs them, so that their services are started only once.
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{kar_of(item)}"))


@pytest.fixture(scope="session", params=KAR_PATHS)
def kar_path(request: pytest.FixtureRequest) -> Path:
    """The kar command under test: each test that uses it runs on each KAR."""
    return KAR_PATHS[request.param]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of asynchronous tests."""
    return "asyncio"


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    processes.end()


@pytest.fixture(scope="session")
def topics(kar_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topics | None]:
    """The Kafka topics of applications, if the kar under test is the real one."""
    if kar_path == EMBEDDED_KAR:
        yield None
        return
    processes = Processes(tmp_path_factory.mktemp("topics"))
    yield Topics(kar_path, processes)
    processes.end()


@pytest.fixture
def kar(kar_path: Path, processes: Processes, topics: Topics | None) -> Kar:
    return Kar(kar_path, processes, topics)


@pytest.fixture(scope="module")
def module_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Processes for all tests of a module, which start nothing that disturbs another."""
    processes = Processes(tmp_path_factory.mktemp("module"))
    yield processes
    processes.end()


@pytest.fixture(scope="module")
def module_kar(kar_path: Path, module_processes: Processes, topics: Topics | None) -> Kar:
    """A kar for all tests of a module."""
    return Kar(kar_path, module_processes, topics)


@pytest.fixture(scope="session")
def timed_client() -> ModuleType:
    """The script timed-client.py, whose hyphen an import statement does not allow."""
    return importlib.import_module("timed-client")
