"""A sidecar that responds to each call itself, as its options say, so that clients can fail."""

import argparse
import asyncio
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


class FakeSidecar:
    """Greets like async-server, but differently from the call number --after on."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await Request(scope, receive).body()
        self.calls += 1
        response = self.greet(body)
        if self.calls > self.options.after:
            if self.options.exit:
                os._exit(1)
            await asyncio.sleep(self.options.delay)
            if self.options.status or self.options.body is not None:
                response = Response(self.options.body or "", self.options.status or 200)
        await response(scope, receive, send)

    def greet(self, body: bytes) -> Response:
        person = {"name": "John", "surname": "Doe"}
        if body.startswith(b"{"):
            person = json.loads(body)
        return JSONResponse({"message": f"Hello {person['name']} {person['surname']}"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--after", type=int, default=0, help="calls that are still greeted")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before a response")
    parser.add_argument("--status", type=int)
    parser.add_argument("--body")
    parser.add_argument("--exit", action="store_true", help="exit instead of responding")
    options = parser.parse_args()
    config = Config()
    config.bind = [f"127.0.0.1:{options.port}"]
    config.keep_alive_max_requests = sys.maxsize
    config.graceful_timeout = 0.1
    asyncio.run(serve(cast(Framework, FakeSidecar(options)), config))
