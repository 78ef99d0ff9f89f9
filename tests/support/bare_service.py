"""A bare ASGI function on Hypercorn, configured as in server.py, for the benchmark."""

import asyncio
import os
import sys
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

BODY = b'{"message":"Hello John Doe"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{os.environ['KAR_APP_PORT']}"]
    config.keep_alive_max_requests = sys.maxsize
    asyncio.run(serve(app, config))
