"""Fixtures of the suite: processes that end with the test, and the kar under test."""

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from support.kar import Kar, Topics
from support.processes import EMBEDDED_KAR, ROOT, Processes

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

    def needs_embedded_kar(item: pytest.Item) -> bool:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            return False
        runs_real_kar = item.callspec.params.get("kar_path") == "real"
        return runs_real_kar and item.get_closest_marker("embedded_only") is not None

    deselected = [item for item in items if needs_embedded_kar(item)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if not needs_embedded_kar(item)]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if isinstance(item, pytest.Function) and "module_processes" in item.fixturenames:
            # One worker of pytest-xdist runs them, so that their services are started only once.
            kar_path = item.callspec.params["kar_path"] if "kar_path" in item.fixturenames else None
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{kar_path}"))


@pytest.fixture(scope="session", params=KAR_PATHS)
def kar_path(request: pytest.FixtureRequest) -> Path:
    """The kar command under test: each test that uses it runs on each KAR."""
    return KAR_PATHS[request.param]


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
    """The script timed-client.py, which a hyphen keeps from being imported by name."""
    spec = importlib.util.spec_from_file_location("timed_client", ROOT / "timed-client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["timed_client"] = module  # where its data class is looked up
    spec.loader.exec_module(module)
    return module
