"""Run a component's process, copy its output, and find kar's exit status."""

import asyncio
import contextlib
import os

from .output import copy_lines

POLL = 0.05  # seconds between two looks whether the process has exited
LAST_OUTPUT = 0.2  # seconds for output after a signal, whose reader may be slow


class ProcessError(Exception):
    """The process cannot be started; str() is the message of KAR."""


async def run_process(command: list[str], environment: dict[str, str], stop: asyncio.Event) -> int:
    """Run a command until it exits, and return its exit status, or 0 if a signal killed it.

    When stop is set, the process is killed, and the exit status is 0. Raises ProcessError.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise ProcessError(_start_message(command[0], error)) from error
    assert process.stdout
    assert process.stderr
    has_exited = asyncio.Event()
    copies = [
        asyncio.create_task(copy_lines(process.stdout, b"[STDOUT] ", has_exited)),
        asyncio.create_task(copy_lines(process.stderr, b"[STDERR] ", has_exited)),
    ]
    exited = asyncio.create_task(_wait_for_exit(process))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([exited, stopped], return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        with contextlib.suppress(ProcessLookupError):  # it has just exited, of the same signal
            process.kill()
    else:
        stopped.cancel()
    status = await exited
    has_exited.set()
    _, unfinished = await asyncio.wait(copies, timeout=LAST_OUTPUT if stop.is_set() else None)
    for copy in unfinished:
        copy.cancel()
    return 0 if stop.is_set() else max(0, status)


async def _wait_for_exit(process: asyncio.subprocess.Process) -> int:
    """Return the exit status; Process.wait() waits for grandchildren that hold the output open."""
    while process.returncode is None:
        await asyncio.sleep(POLL)
    return process.returncode


def _start_message(command: str, error: OSError) -> str:
    if os.sep not in command:
        return f'failed to start service: exec: "{command}": executable file not found in $PATH'
    reason = (error.strerror or str(error)).lower()
    return f"failed to start service: fork/exec {command}: {reason}"
