"""A sidecar that answers badly, as the environment variable BEHAVIOUR says."""

import asyncio
import json
import os
import sys

from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

BEHAVIOUR = os.environ["BEHAVIOUR"]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    body = await Request(scope, receive).body()
    who = json.loads(body) if body.startswith(b"{") else {"name": "John", "surname": "Doe"}
    response: Response = JSONResponse({"message": f"Hello {who['name']} {who['surname']}"})
    match BEHAVIOUR.split():
        case ["status", status]:
            response = Response("no", int(status))
        case ["slow", seconds]:
            await asyncio.sleep(float(seconds))
        case ["answer", *words]:
            response = Response(" ".join(words))
        case ["dies"]:
            os._exit(1)
    await response(scope, receive, send)


if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    asyncio.run(serve(app, config))  # type: ignore[arg-type]
