"""Run a component's process, copy its output, and find kar's exit status."""

import asyncio
import resource
from contextlib import suppress

from .output import FatalError, warn_once, write_lines

MAX_LINE = 65_535  # bytes of the longest line that the real KAR can read
PAUSE = 0.01  # seconds until output is read again, so that many short lines are read at once
MAX_FILES = 10_240  # open at once, if the system allows so many
FILE_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)  # of the program that kar starts
POLL = 0.01  # seconds between two looks at a process that has been killed


def raise_file_limit() -> None:
    """Let kar have more files open: its sidecar keeps closed connections for some time."""
    soft, hard = FILE_LIMIT
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _restore_file_limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, FILE_LIMIT)


async def run_process(command: list[str], environment: dict[str, str], stop: asyncio.Event) -> int:
    """Run a command, and return its exit status, or 0 if a signal killed it.

    Like KAR, this waits until the output of the process is closed, which other processes that it
    has started may hold open. But when stop is set, the process is killed, and the exit status is
    0. Raises FatalError.
    """
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdout=pipe,
            stderr=pipe,
            close_fds=False,  # the program inherits what kar has inherited, but nothing of kar's
            preexec_fn=_restore_file_limit,
        )
    except OSError as error:
        raise FatalError(f"failed to start service: {command[0]}: {error.strerror}") from error
    exiting = asyncio.create_task(_copy_until_exit(process))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([exiting, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        return max(0, exiting.result())

    # Ctrl-C in a terminal also interrupts the process, which may print a message: do not copy it.
    exiting.cancel()
    with suppress(ProcessLookupError):  # the same signal has already ended it
        process.kill()
    while process.returncode is None:
        await asyncio.sleep(POLL)
    return 0


async def _copy_until_exit(process: asyncio.subprocess.Process) -> int:
    """Copy the output of a process until it is closed, and return the exit status."""
    assert process.stdout
    assert process.stderr
    await asyncio.gather(
        _copy_output(process.stdout, "[STDOUT] "),
        _copy_output(process.stderr, "[STDERR] "),
    )
    return await process.wait()


async def _copy_output(source: asyncio.StreamReader, prefix: str) -> None:
    """Write each line of a stream to standard output, with a prefix, until the stream is closed.

    A line that is too long for the real KAR is written in parts, so that memory is bounded.
    """
    unfinished = b""
    while chunk := await source.read(MAX_LINE + 1):
        *lines, unfinished = (unfinished + chunk).split(b"\n")
        if any(len(line) > MAX_LINE for line in (*lines, unfinished)):
            warn_once(
                f"{prefix}a line has more than {MAX_LINE:,} bytes. The real KAR stops reading "
                "there, and the program hangs: write shorter lines"
            )
        if len(unfinished) > MAX_LINE:
            lines.append(unfinished)
            unfinished = b""
        await write_lines(prefix.encode(), lines)
        if len(chunk) <= MAX_LINE:
            await asyncio.sleep(PAUSE)
    if unfinished:
        await write_lines(prefix.encode(), [unfinished])
