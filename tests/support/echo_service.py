"""A service that responds with what it saw of a request, or on /spec with what the body asks for.

/redirects/N redirects N times, and the last response is again what it saw.
"""

import asyncio
import contextlib
import json
import os
import sys
from typing import cast

from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import Framework
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    request = Request(scope, receive)
    body = await request.body()
    with contextlib.suppress(OSError):  # its sidecar may be dead
        print(request.method, scope["path"], flush=True)
    response: Response = JSONResponse(
        {
            "method": request.method,
            "path": scope["raw_path"].partition(b"?")[0].decode(),
            "query": scope["query_string"].decode(),
            "http_version": scope["http_version"],
            "headers": {name.decode(): value.decode() for name, value in scope["headers"]},
            "all_headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
            "body": body.decode(),
            "port": os.environ["KAR_APP_PORT"],
        }
    )
    if scope["path"] == "/spec":
        spec = json.loads(body)
        delay = spec.get("delay", 0)
        await asyncio.sleep(spec.get("delays", {}).get(os.environ["KAR_APP_PORT"], delay))
        content = bytes.fromhex(spec["hex"]) if "hex" in spec else spec.get("body", "").encode()
        content += spec.get("text", "x").encode() * spec.get("repeat", 0)
        response = Response(content, spec.get("status", 200), spec.get("headers", {}))
    if scope["path"].startswith("/redirects/"):
        count = int(scope["path"].rpartition("/")[2])
        if count:
            response = Response(status_code=307, headers={"location": f"/redirects/{count - 1}"})
    await response(scope, receive, send)


if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{os.environ['KAR_APP_PORT']}"]
    config.keep_alive_max_requests = sys.maxsize
    config.graceful_timeout = 0.1
    asyncio.run(serve(cast(Framework, app), config))
