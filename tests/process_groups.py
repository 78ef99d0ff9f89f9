"""Process groups: the two commands start each program in one, and end the whole group with it."""

import contextlib
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
GRACE = 2.0  # seconds between the signal that asks a group to exit and SIGKILL
POLL_INTERVAL = 0.02  # seconds


class InterruptionError(Exception):
    """This process was asked to exit by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_status = 128 + number


class ProcessGroups:
    """Starts programs and makes sure that none of them, nor their children, is left behind.

    A context manager for the main thread. Each program runs in a session of its own, so Ctrl-C
    reaches this process alone, and a signal to this process alone works the same way. A signal
    raises InterruptionError from the next wait, never while a program is being started or ended.
    """

    def __init__(self) -> None:
        self._stop_signals: dict[subprocess.Popen[bytes], signal.Signals] = {}
        self._received = 0

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end(*self._stop_signals)

    def start(
        self,
        command: list[str],
        directory: Path,
        environment: dict[str, str] | None = None,
        output: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> subprocess.Popen[bytes]:
        """Start a program, by default with the output and the environment of this process.

        The stop signal is the one that asks the program to exit. Raises OSError if the command
        cannot be executed.
        """
        with contextlib.ExitStack() as stack:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stack.enter_context(output.open("wb")) if output else None,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
            )
        self._stop_signals[process] = stop_signal
        return process

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for a program and return its exit status."""
        self.wait_until(lambda: process.poll() is not None)
        self.end(process)
        return process.returncode

    def wait_until(self, condition: Callable[[], object], timeout: float = math.inf) -> bool:
        """Wait until the condition is true; return whether it is after at most timeout seconds."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_INTERVAL)
            if self._received:
                raise InterruptionError(self._received)
        return True

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a program and its group with SIGKILL."""
        _signal_group(process, signal.SIGKILL)
        process.wait()
        del self._stop_signals[process]

    def end(self, *processes: subprocess.Popen[bytes]) -> None:
        """Ask programs to exit, wait for them, and kill what is left of their groups."""
        for process in processes:
            if process.poll() is None:
                _signal_group(process, self._stop_signals[process])
        deadline = time.monotonic() + GRACE
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0, deadline - time.monotonic()))
            self.kill(process)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._received = self._received or number


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # ProcessLookupError: all have exited. PermissionError: macOS, when none is left but zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
