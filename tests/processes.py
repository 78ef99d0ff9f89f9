"""The processes of a test: started with an environment of its own, watched, and gone after it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = ROOT / "tests" / "bin" / "kar"
PATIENCE = 60.0  # seconds for a condition to come true: the real KAR may take long to settle


def wait_for(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Return when the condition is true; fail with what was waited for if that takes too long."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"not within {patience:g} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def http2(address: str) -> httpx.Client:
    """Return a client that speaks only HTTP/2, without TLS."""
    return httpx.Client(
        base_url=address, http1=False, http2=True, trust_env=False, verify=False, timeout=PATIENCE
    )


def async_http2(address: str) -> httpx.AsyncClient:
    """Return the same for asyncio."""
    return httpx.AsyncClient(
        base_url=address, http1=False, http2=True, trust_env=False, verify=False, timeout=PATIENCE
    )


class Process:
    """A process whose output goes to files."""

    def __init__(
        self, words: list[str], environment: dict[str, str], folder: Path, stdin: int
    ) -> None:
        self.words = words
        self.out = folder / f"{uuid.uuid4().hex}.out"
        self.err = self.out.with_suffix(".err")
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.popen = subprocess.Popen(
                words, cwd=ROOT, env=environment, stdin=stdin, stdout=out, stderr=err
            )
        self.pid = self.popen.pid

    def lines(self) -> list[str]:
        """Return the lines on standard output, without kar's time stamp if they have one."""
        lines = self.out.read_text(errors="replace").splitlines()
        return [line[27:] if line[27:28] == "[" else line for line in lines]

    def errors(self) -> list[str]:
        return self.err.read_text(errors="replace").splitlines()

    def wait_for_line(self, text: str, count: int = 1) -> None:
        """Wait until so many lines of the output have the text."""

        def has_come() -> bool:
            lines = [*self.lines(), *self.errors()]
            found = sum(text in line for line in lines)
            assert found >= count or self.popen.poll() is None, f"{self.words} ended: {lines}"
            return found >= count

        wait_for(has_come, f"{text!r} from {self.words}")

    def wait(self, patience: float = PATIENCE) -> int:
        """Return the exit status."""
        try:
            return self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.words} still runs: {self.lines()[-5:]}") from None

    def has_started(self) -> bool:
        """Return whether a kar has started its process, which may have ended already."""
        return self.popen.poll() is not None or bool(psutil.Process(self.pid).children())

    def child(self) -> psutil.Process:
        """Return the process that this one, a kar, has started."""
        wait_for(lambda: psutil.Process(self.pid).children(), "a child process")
        return psutil.Process(self.pid).children()[0]

    def kill(self) -> None:
        self.popen.kill()
        self.wait()

    def kill_with_process(self) -> None:
        """Kill a kar and the process that it has started."""
        child = self.child()
        self.kill()
        child.kill()


class Processes:
    """Starts processes with a mark in their environment; at the end none with the mark is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Process] = []
        self.stdin = subprocess.PIPE
        self.mark = uuid.uuid4().hex
        ours = {"KAR_APP_PORT", "KAR_APP_HOST", "KAR_RUNTIME_PORT", "HELLO_DELAY"}
        self.environment = {name: os.environ[name] for name in os.environ if name not in ours}
        self.environment["TEST_PROCESSES"] = self.mark
        self.environment["XDG_RUNTIME_DIR"] = str(folder)
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def start(self, *words: str | Path, **environment: str) -> Process:
        everything = {**self.environment, **environment}
        process = Process([str(word) for word in words], everything, self.folder, self.stdin)
        self.started.append(process)
        return process

    def server(self, **environment: str) -> tuple[Process, str]:
        """Start server.py without kar; return it and its address when it serves."""
        port = str(free_port())
        server = self.start(sys.executable, "server.py", **{"KAR_APP_PORT": port, **environment})
        server.wait_for_line("Running on")
        return server, f"http://127.0.0.1:{port}"

    def marked(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("TEST_PROCESSES") == self.mark:
                    yield process

    def end(self) -> None:
        """End what runs; fail if a process then is left behind."""
        for process in self.started:
            process.popen.send_signal(signal.SIGTERM)
        for process in self.started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(10)
            process.popen.kill()
            process.popen.wait()
            if process.popen.stdin:
                process.popen.stdin.close()
        try:
            wait_for(lambda: not list(self.marked()), "all processes of the test to end", 10)
        finally:
            for left in self.marked():
                left.kill()


class Kar:
    """A kar command, embedded or real, and an application of a test's own."""

    def __init__(self, path: Path, processes: Processes) -> None:
        self.path = path
        self.embedded = path == EMBEDDED
        self.processes = processes
        self.app = f"test-{uuid.uuid4().hex}"

    def run(self, *words: str | Path, **environment: str) -> Process:
        """Start `kar run -app` with the test's application and more words."""
        return self.processes.start(self.path, "run", "-app", self.app, *words, **environment)

    def serve(self, *words: str, **environment: str) -> Process:
        """Start a replica of server.py on a free port, and wait until it serves."""
        flags = ["-h2c", "-service", "async-server", "-app_port", str(free_port()), *words]
        for _ in range(2):  # the real KAR sometimes dies when an application is new
            server = self.run(*flags, "python", "server.py", **environment)
            with contextlib.suppress(AssertionError):
                server.wait_for_line("Running on")
                break
        server.wait_for_line("Running on")
        return server

    def sidecar(self, *words: str) -> str:
        """Start a sidecar without a service; return the address of its HTTP API."""
        port = free_port()
        self.run("-runtime_port", str(port), *words, "sleep", "1000")
        address = f"http://127.0.0.1:{port}"

        def listens() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                return True
            return False

        wait_for(listens, "the sidecar to listen")
        return address
