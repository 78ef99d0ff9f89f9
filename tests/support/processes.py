"""Processes in sessions of their own, which end with the test or the demo that started them.

The demo uses this outside of the virtual environment, so psutil is imported only where it is used.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED_KAR = ROOT / "tests" / "bin" / "kar"
TIMEOUT = 60.0  # seconds for a condition to become true: the real KAR can take long to settle

# Prefixes of variables that are removed, because they would change how the programs behave. With
# PYTHONUNBUFFERED, for example, output would appear without being flushed.
OWN_VARIABLES = ("KAR_APP_HOST", "KAR_APP_PORT", "KAR_RUNTIME_PORT", "HELLO_DELAY", "PYTHON")


def wait_until(condition: Callable[[], object], description: str, timeout: float = TIMEOUT) -> None:
    """Return once the condition is true; fail with the description after timeout seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {description}"
        time.sleep(0.02)


def free_port() -> int:
    """Return a port on which nothing listens at the moment.

    The system takes the local ports of outgoing connections from 32768 up (Linux) or from 49152 up
    (macOS), so a port below stays free until the test uses it.
    """
    while True:
        port = random.randrange(10_000, 32_768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def accepts_connections(port: int) -> bool:
    """Return whether something listens on a port of 127.0.0.1."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


class Process:
    """A process in a session of its own, whose output goes to two files."""

    def __init__(self, command: list[str], environment: dict[str, str], directory: Path) -> None:
        self.command = command
        self.stdout_path = directory / f"{uuid.uuid4().hex}.stdout"
        self.stderr_path = self.stdout_path.with_suffix(".stderr")
        with self.stdout_path.open("wb") as stdout, self.stderr_path.open("wb") as stderr:
            self.popen = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self.pid = self.popen.pid

    def stdout_lines(self) -> list[str]:
        """Return the lines on standard output, without the time stamp if kar wrote one."""
        lines = self.stdout_path.read_text(errors="replace").splitlines()
        return [line[27:] if line[27:28] == "[" else line for line in lines]

    def stderr_lines(self) -> list[str]:
        return self.stderr_path.read_text(errors="replace").splitlines()

    def is_running(self) -> bool:
        return self.popen.poll() is None

    def has_written(self, text: str, count: int = 1) -> bool:
        """Return whether so many lines of either output contain the text."""
        lines = [*self.stdout_lines(), *self.stderr_lines()]
        return sum(text in line for line in lines) >= count

    def wait_for_line(self, text: str, count: int = 1) -> None:
        """Wait until so many lines of either output contain the text."""
        assert self.writes(text, count), f"{self.command}: {self.stderr_lines()}"

    def writes(self, text: str, count: int = 1) -> bool:
        """Wait until the lines are there, or the process has exited; return whether they are."""
        wait_until(
            lambda: not self.is_running() or self.has_written(text, count),
            f"{count} lines with {text!r}",
        )
        return self.has_written(text, count)

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait for the exit of the process and return its status."""
        wait_until(lambda: not self.is_running(), f"the exit of {self.command}", timeout)
        return self.popen.wait()

    def error_line(self) -> str:
        """Wait for the exit with status 1 and return the only line on standard error."""
        assert self.wait() == 1
        (line,) = self.stderr_lines()
        return line

    def send_signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def terminate(self) -> None:
        self.popen.terminate()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def child(self) -> psutil.Process:
        """Return the process that this one, a kar, has started.

        For a moment kar has a child that runs its own program: the one that will start the command,
        or one with which Go, the language of the real kar, tests the operating system.
        """
        import psutil

        kar = psutil.Process(self.pid)
        kar_command = kar.cmdline()
        found: list[psutil.Process] = []

        def has_command() -> bool:
            for process in kar.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.cmdline() not in ([], kar_command):
                        found.append(process)
            return bool(found)

        wait_until(has_command, "a child process")
        return found[0]

    def descendant(self, program: str) -> psutil.Process:
        """Return the first process below this one that runs a program, such as server.py."""
        import psutil

        kar = psutil.Process(self.pid)
        return next(each for each in kar.children(recursive=True) if program in each.cmdline())

    def kill_with_child(self) -> None:
        """Kill a kar and the process that it has started."""
        child = self.child()
        self.kill()
        child.kill()

    def end_session(self) -> None:
        """End the process and all that it has started: with SIGTERM, after 5 s with SIGKILL."""
        if self.is_running():
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait()
        if self.popen.stdin:
            self.popen.stdin.close()


@dataclass(frozen=True)
class Server:
    """A process that serves HTTP on a port of 127.0.0.1."""

    process: Process
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Processes:
    """Starts processes, and ends them all."""

    def __init__(self, directory: Path, python: str = sys.executable) -> None:
        """Take the directory for their output and their sidecars, and what python stands for."""
        self.directory = directory
        self.started: list[Process] = []
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)
        }
        self.environment["XDG_RUNTIME_DIR"] = str(directory)
        self.environment["PATH"] = f"{Path(python).parent}:{os.environ['PATH']}"

    def end(self) -> None:
        for process in self.started:
            process.end_session()

    def start(self, *command: str | Path, **environment: str) -> Process:
        """Start a command in the top directory of the project, with more environment variables."""
        arguments = [str(argument) for argument in command]
        process = Process(arguments, {**self.environment, **environment}, self.directory)
        self.started.append(process)
        return process

    def start_server(self, **environment: str) -> Server:
        """Start server.py without kar and wait until it serves."""
        port = free_port()
        process = self.start("python", "server.py", **environment, KAR_APP_PORT=str(port))
        process.wait_for_line("Running on")
        return Server(process, port)
