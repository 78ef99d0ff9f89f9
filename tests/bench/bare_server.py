"""A bare ASGI function that responds like helloJson, on Hypercorn configured as in server.py."""

import asyncio
import sys
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hypercorn.asyncio import serve
from hypercorn.typing import Framework
from starlette.types import Receive, Scope, Send

from server import hypercorn_config, listen


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"28")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"message":"Hello John Doe"}'})


if __name__ == "__main__":
    asyncio.run(serve(cast(Framework, app), hypercorn_config(listen())))
