"""What the tests of both clients share."""

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator

from support.processes import Process, Processes, free_port

TRANSCRIPT = [
    "[STDOUT] HTTP/2",
    '[STDOUT] "Hello John Doe"',
    "[STDOUT] HTTP/2",
    "[STDOUT] Hello John Doe",
    "[STDOUT] HTTP/2",
    "[STDOUT] I am healthy",
]


def fake(processes: Processes, behaviour: str) -> tuple[Process, str]:
    """Start a sidecar that behaves badly; return it and its port."""
    port = str(free_port())
    words = [sys.executable, "tests/support/fake_sidecar.py", port]
    sidecar = processes.start(*words, BEHAVIOUR=behaviour)
    sidecar.wait_for_line("Running on")
    return sidecar, port


@contextlib.contextmanager
def answering(data: bytes) -> Iterator[str]:
    """Listen on a port and answer each connection with the data, then close it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.recv(65536)
                    connection.sendall(data)
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield str(server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def one_line(process: Process, status: int) -> str:
    """Return the one line of a client that ends with the status."""
    assert process.wait() == status
    assert len(process.stderr_lines()) == 1, process.stderr_lines()
    return process.stderr_lines()[0]
