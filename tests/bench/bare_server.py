"""A bare ASGI function that answers helloJson, on Hypercorn with the settings of server.py."""

import asyncio
import os
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hypercorn.asyncio import run, serve
from starlette.types import Receive, Scope, Send

from server import Connection, settings


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"28")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"message":"Hello John Doe"}'})


if __name__ == "__main__":
    fd = socket.create_server(("127.0.0.1", int(os.environ["KAR_APP_PORT"]))).detach()
    run.TCPServer = Connection  # type: ignore[attr-defined]
    asyncio.run(serve(app, settings(fd)))  # type: ignore[arg-type]
