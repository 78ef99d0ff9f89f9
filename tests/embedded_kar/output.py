"""What kar writes: stamped lines in the format of Go's log package.

It uses file descriptors, because Python's streams would report a closed pipe again at exit.
What cannot be written, because a disk is full, is lost without a message.
"""

import asyncio
import os
import select
import signal
from contextlib import suppress
from datetime import datetime
from functools import lru_cache

STDOUT = 1
STDERR = 2
ATOMIC = select.PIPE_BUF  # bytes that a pipe takes without blocking if it is writable at all
NOTICE_DELAY = 5.0  # seconds after which kar logs what a call waits for
POLL = 0.01  # seconds between two checks for room in a full pipe


class FatalError(Exception):
    """kar cannot go on; str() is the message after [FATAL]."""


_stdout_lock = asyncio.Lock()  # a line of standard output is not interrupted by another


def print_text(text: str, descriptor: int) -> None:
    """Write text, and wait for its reader."""
    data = text.encode(errors="surrogateescape")
    with suppress(OSError):
        while data:
            select.select([], [descriptor], [])  # it may be non-blocking
            data = data[os.write(descriptor, data[:ATOMIC]) :]


def log(level: str, message: str, descriptor: int = STDERR) -> None:
    """Write a line, or drop it rather than wait for a slow reader. Cut off what is over ATOMIC."""
    line = f"{_now()} [{level}] {message}".encode(errors="surrogateescape")
    if _is_writable(descriptor):
        with suppress(OSError):
            os.write(descriptor, line[: ATOMIC - 1] + b"\n")


@lru_cache(maxsize=1000)
def warn_once(message: str) -> None:
    """Log a warning, unless it is one of the last 1,000 different ones."""
    log("WARNING", message)


def warn_later(message: str) -> asyncio.TimerHandle:
    """Log a warning after NOTICE_DELAY seconds, unless the handle is canceled before."""
    return asyncio.get_running_loop().call_later(NOTICE_DELAY, warn_once, message)


async def write_lines(prefix: bytes, lines: list[bytes]) -> None:
    """Write lines to standard output, each behind the time and a prefix.

    Waits for a slow reader without blocking the event loop, so that the sidecar goes on. If there
    is no reader any more, kar stops as after SIGTERM.
    """
    start = f"{_now()} ".encode() + prefix
    data = b"".join(start + line.removesuffix(b"\r") + b"\n" for line in lines)
    rest = memoryview(data)
    async with _stdout_lock:
        try:
            while rest:
                if _is_writable(STDOUT):
                    with suppress(BlockingIOError):
                        rest = rest[os.write(STDOUT, rest[:ATOMIC]) :]
                else:
                    await asyncio.sleep(POLL)
        except BrokenPipeError:
            signal.raise_signal(signal.SIGTERM)
        except OSError:
            pass


def _now() -> str:
    return f"{datetime.now():%Y/%m/%d %H:%M:%S.%f}"


def _is_writable(descriptor: int) -> bool:
    return bool(select.select([], [descriptor], [], 0)[1])
