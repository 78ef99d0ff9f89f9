"""Hypercorn on 127.0.0.1, so set and mended that it loses no call."""

import asyncio
import contextlib
import logging
import math
import socket
import sys

from hypercorn.asyncio import run
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from starlette.types import ASGIApp


class Connection(TCPServer):
    """A connection that ends when its caller closes it, and leaves the others their turn.

    Hypercorn 0.18 would wait for keep_alive_timeout then, and for ever if answers are not sent. And
    it reads 64 KiB in one turn, which may be 1,000 requests.
    """

    async def _read_data(self) -> None:
        with contextlib.suppress(OSError):
            while not self.reader.at_eof():
                await self.protocol.handle(RawData(await self.reader.read(1024)))
                await asyncio.sleep(0)
        await self.protocol.handle(Closed())
        self._idle_timeout = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
        await self.idle_task.stop()
        for unsent in list(getattr(self.protocol.protocol, "stream_buffers", {}).values()):
            await unsent.close()


def listen(port: int) -> socket.socket:
    """Return a socket that listens on 127.0.0.1, on a free port for 0; OSError if it is taken."""
    return socket.create_server(("127.0.0.1", port))


async def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Serve an ASGI application until cancelled, with connections that never end under a call."""
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "ERROR"
    logging.getLogger("asyncio").setLevel("ERROR")  # it warns when a caller has gone
    config.include_server_header = False
    config.keep_alive_max_requests = sys.maxsize  # by default 1,000, then the connection ends
    config.keep_alive_timeout = math.inf  # by default 5 s, when the next call may be on its way
    config.backlog = 1024  # many callers may come at once
    run.TCPServer = Connection  # type: ignore[attr-defined]
    never = asyncio.Event().wait  # signals are the launcher's
    await hypercorn_serve(app, config, shutdown_trigger=never)  # type: ignore[arg-type]
