"""What kar writes: stamped lines in the format of Go's log package.

A component never waits for the reader of kar's output: where it cannot be written because it is
closed or the disk is full, it is lost without a message. Lines of the component itself wait for a
slow reader, but without blocking the event loop, so that the sidecar goes on.
"""

import asyncio
import os
import select
import sys
from datetime import datetime
from typing import TextIO

CHUNK = 64 * 1024  # bytes that are read at once
ATOMIC = select.PIPE_BUF  # bytes that a pipe takes without blocking if it is writable at all
POLL = 0.01  # seconds between two looks whether a slow reader has made room
IDLE = 0.25  # seconds without output after the exit of a process, whose pipes others may hold

_stdout_lock = asyncio.Lock()  # a line of standard output is not interrupted by another


def log(level: str, message: str, *, stream: TextIO | None = None) -> None:
    """Write one stamped line to a stream, by default standard error, or drop it if that blocks."""
    descriptor = _descriptor(stream or sys.stderr)
    if descriptor is not None and _is_writable(descriptor):
        line = _stamp() + f"[{level}] {message}\n".encode(errors="surrogateescape")
        _write(descriptor, line)


def print_text(text: str, stream: TextIO | None) -> None:
    """Write text to a stream, and wait for its reader."""
    descriptor = _descriptor(stream)
    data = text.encode(errors="surrogateescape")
    while data and descriptor is not None:
        data = data[_write(descriptor, data) :]


def print_fatal(message: str) -> None:
    """Write the stamped line with which kar exits to standard output."""
    print_text(f"{_stamp().decode()}[FATAL] {message}\n", sys.stdout)


async def copy_lines(
    source: asyncio.StreamReader, prefix: bytes, process_has_exited: asyncio.Event
) -> None:
    """Write each line of a process to standard output, behind the time and a prefix.

    Returns at the end of the source, or when it is silent after the process has exited: the
    processes that it started may hold the source open.
    """
    unfinished = bytearray()
    while True:
        try:
            async with asyncio.timeout(IDLE):
                chunk = await source.read(CHUNK)
        except TimeoutError:
            if process_has_exited.is_set():
                break
            continue
        if not chunk:
            break
        lines, newline, rest = chunk.rpartition(b"\n")
        if newline:
            await _write_lines(prefix, bytes(unfinished) + lines)
            unfinished.clear()
        unfinished += rest
    if unfinished:
        await _write_lines(prefix, bytes(unfinished))


async def _write_lines(prefix: bytes, lines: bytes) -> None:
    descriptor = _descriptor(sys.stdout)
    if descriptor is None:
        return
    start = _stamp() + prefix
    data = b"".join(start + line.removesuffix(b"\r") + b"\n" for line in lines.split(b"\n"))
    async with _stdout_lock:
        rest = memoryview(data)
        while rest:
            if _is_writable(descriptor):
                rest = rest[_write(descriptor, rest[:ATOMIC]) :]
            else:
                await asyncio.sleep(POLL)


def _stamp() -> bytes:
    return datetime.now().strftime("%Y/%m/%d %H:%M:%S.%f ").encode()


def _descriptor(stream: TextIO | None) -> int | None:
    """Return the file descriptor of a stream, or None if kar was started without that stream."""
    return None if stream is None else stream.fileno()


def _is_writable(descriptor: int) -> bool:
    return bool(select.select([], [descriptor], [], 0)[1])


def _write(descriptor: int, data: bytes | memoryview) -> int:
    """Return how many bytes are done with: all of them if nobody can have them."""
    try:
        return os.write(descriptor, data)
    except OSError:
        return len(data)
