"""Run a component of an application beside its sidecar, and show what it prints."""

import asyncio
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from .http_server import listen, serve
from .replicas import Replicas, Sidecar
from .sidecar import Api
from .start_error import StartError


@dataclass(frozen=True)
class Component:
    """A component of an application, and the ports between it and its sidecar.

    Without a command only the sidecar runs. A runtime_port of 0 is any free one.
    """

    app: str
    service: str
    app_port: int
    runtime_port: int
    h2c: bool
    command: list[str]


async def run(component: Component) -> int:
    """Run a component until its process ends, and return its exit status.

    After SIGTERM or SIGINT, or when the process died of a signal, that is 0, as with KAR.
    """
    try:
        listener = listen(component.runtime_port)
    except OSError as error:
        address = f"127.0.0.1:{component.runtime_port}"
        reason = (os.strerror(error.errno) if error.errno else str(error)).lower()
        raise StartError(f"TCP listener failed: listen tcp {address}: bind: {reason}") from None
    runtime_port = listener.getsockname()[1]
    replicas = Replicas(component.app)
    await replicas.look()
    watching = asyncio.create_task(replicas.watch())
    serving = asyncio.create_task(serve(Api(replicas), listener))
    replicas.join(Sidecar(component.app, component.service, component.app_port, component.h2c))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        if not component.command:
            await stop.wait()
            return 0
        environment = {
            **os.environ,
            "KAR_RUNTIME_PORT": str(runtime_port),
            "KAR_APP_PORT": str(component.app_port),
            "KAR_REQUEST_TIMEOUT": "-1000",  # milliseconds: calls wait without limit
        }
        return await run_process(component.command, environment, stop)
    finally:
        replicas.leave()
        watching.cancel()
        serving.cancel()
        # What is still open ends with this process, and asyncio would report each cancelled task.
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)


async def run_process(command: list[str], environment: dict[str, str], stop: asyncio.Event) -> int:
    pipes = [os.pipe(), os.pipe()]
    try:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=pipes[0][1], stderr=pipes[1][1]
        )
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StartError(f"failed to start service: fork/exec {command[0]}: {reason}") from None
    finally:
        for _, writer in pipes:
            os.close(writer)
    ended = threading.Event()
    copies = [
        threading.Thread(target=copy, args=(reader, prefix, ended), daemon=True)
        for (reader, _), prefix in zip(pipes, (b"[STDOUT] ", b"[STDERR] "), strict=True)
    ]
    for thread in copies:
        thread.start()
    exited, stopped = asyncio.ensure_future(process.wait()), asyncio.ensure_future(stop.wait())
    await asyncio.wait((exited, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not exited.done():
        if at_terminal():
            await asyncio.wait((exited,), timeout=0.5)
        process.kill()
        await exited
    ended.set()
    for thread in copies:
        # A reader of our output may be slow, and gets all; a signal waits for nobody.
        await asyncio.to_thread(thread.join, 0.2 if stop.is_set() else None)
    return 0 if stop.is_set() else max(0, exited.result())


def at_terminal() -> bool:
    """Return whether a signal may be a terminal's Ctrl-C, which goes to the process as well."""
    with suppress(OSError):
        return os.tcgetpgrp(0) == os.getpgrp()
    return False


def copy(reader: int, prefix: bytes, ended: threading.Event) -> None:
    """Show the lines that come from a pipe until it is closed, or empty after its process ended."""
    line = bytearray()
    while True:
        if select.select([reader], [], [], 0.25)[0]:
            chunk = os.read(reader, 64 * 1024)
            if not chunk:
                break
            lines, newline, rest = chunk.rpartition(b"\n")
            if newline:
                show(prefix, bytes(line) + lines)
                line.clear()
            line += rest
        elif ended.is_set():
            break
    if line:
        show(prefix, bytes(line))


_output = threading.Lock()


def show(prefix: bytes, lines: bytes) -> None:
    """Print lines, each behind the local time, with microseconds, and a prefix."""
    now = datetime.now().strftime("%Y/%m/%d %H:%M:%S.%f ").encode()
    text = now + prefix + lines.replace(b"\n", b"\n" + now + prefix) + b"\n"
    with _output, suppress(OSError):  # even if nobody reads any more, the component goes on
        while text and sys.stdout:
            text = text[os.write(sys.stdout.fileno(), text) :]
