"""Run a component's process, copy its output, and find kar's exit status."""

import asyncio
import os
from contextlib import suppress

from .output import write_lines

CHUNK = 64 * 1024  # bytes of output that are read at once
POLL = 0.05  # seconds between two looks at the process
PAUSE = 0.01  # seconds until output is read again, so that many short lines are read at once
IDLE = 0.25  # seconds of silence after which the output of an exited process is complete


class ProcessError(Exception):
    """The process cannot be started; str() is the message of KAR."""


async def run_process(command: list[str], environment: dict[str, str], stop: asyncio.Event) -> int:
    """Run a command until it exits, and return its exit status, or 0 if a signal killed it.

    When stop is set, the process is killed, and the exit status is 0. Raises ProcessError.
    """
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=pipe, stderr=pipe
        )
    except OSError as error:
        raise ProcessError(_start_message(command[0], error)) from error
    assert process.stdout
    assert process.stderr
    copying = asyncio.gather(
        _copy_output(process, process.stdout, b"[STDOUT] "),
        _copy_output(process, process.stderr, b"[STDERR] "),
    )

    async def kill_when_stopped() -> None:
        """Kill the process when stop is set, and show nothing more of its output.

        Ctrl-C in a terminal also interrupts the process, which may print a message before that.
        """
        await stop.wait()
        with suppress(ProcessLookupError):  # the same signal has already ended it
            process.kill()
        copying.cancel()

    stopping = asyncio.create_task(kill_when_stopped())
    # Process.wait() would wait for grandchildren, too, that hold the output open.
    while process.returncode is None:
        await asyncio.sleep(POLL)
    with suppress(asyncio.CancelledError):
        await copying
    stopping.cancel()
    return 0 if stop.is_set() else max(0, process.returncode)


async def _copy_output(
    process: asyncio.subprocess.Process, source: asyncio.StreamReader, prefix: bytes
) -> None:
    """Write each line of a stream to standard output, with a prefix.

    Returns at the end of the stream, or when it is silent after the process has exited: the
    processes that it started may hold the stream open.
    """
    unfinished = bytearray()
    while True:
        has_exited = process.returncode is not None
        try:
            async with asyncio.timeout(IDLE):
                chunk = await source.read(CHUNK)
        except TimeoutError:
            if has_exited:
                break
            continue
        if not chunk:
            break
        end_of_line, *lines = chunk.split(b"\n")
        unfinished += end_of_line
        if lines:
            await write_lines(prefix, [bytes(unfinished), *lines[:-1]])
            unfinished = bytearray(lines[-1])
        if len(chunk) < CHUNK:
            await asyncio.sleep(PAUSE)
    if unfinished:
        await write_lines(prefix, [bytes(unfinished)])


def _start_message(command: str, error: OSError) -> str:
    if os.sep not in command:
        return f'failed to start service: exec: "{command}": executable file not found in $PATH'
    reason = (error.strerror or str(error)).lower()
    return f"failed to start service: fork/exec {command}: {reason}"
