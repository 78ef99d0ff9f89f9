"""Fixtures of the clients' tests: sidecars that go wrong, and modules to import."""

import contextlib
import importlib.util
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from support.processes import ROOT, Process, Processes, free_port


class FakeSidecar:
    """A running fake sidecar: its process and its port."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port


@pytest.fixture
def start_fake_sidecar(processes: Processes) -> Callable[..., FakeSidecar]:
    """A function that starts tests/support/fake_sidecar.py with options and waits for it."""

    def start(*options: str) -> FakeSidecar:
        port = free_port()
        script = "tests/support/fake_sidecar.py"
        process = processes.start("python", script, str(port), *options)
        process.wait_for_line("Running on")
        return FakeSidecar(process, port)

    return start


@pytest.fixture
def start_raw_peer() -> Iterator[Callable[[bytes], int]]:
    """A function that starts a listener, which sends bytes to each caller, and returns its port."""
    with contextlib.ExitStack() as stack:

        def serve(listener: socket.socket, data: bytes) -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.recv(65536)
                    connection.sendall(data)
                    connection.close()

        def start(data: bytes) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            thread = threading.Thread(target=serve, args=(listener, data))
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            port: int = listener.getsockname()[1]
            return port

        yield start


@pytest.fixture(scope="session")
def timed_client() -> ModuleType:
    """The script timed-client.py as a module."""
    spec = importlib.util.spec_from_file_location("timed_client", ROOT / "timed-client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["timed_client"] = module
    spec.loader.exec_module(module)
    return module
