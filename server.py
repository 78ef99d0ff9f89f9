"""A greeting service: a FastAPI application on Hypercorn, called over HTTP/2 by a KAR sidecar."""

import asyncio
import os
import signal
import socket
import sys
from functools import partial
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from hypercorn.asyncio import run, serve
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Person(BaseModel, regex_engine="python-re"):  # whose blanks are those of str.strip()
    name: str = Field(pattern=r"\S", examples=["John"])
    surname: str = Field(pattern=r"\S", examples=["Doe"])


class Reply(BaseModel):
    message: str


TEXT = {"text/plain": {"schema": {"type": "string", "pattern": r"\S"}, "example": "John Doe"}}
WRONG = "The body is over 64 KiB (413), is not UTF-8 or not whole (400), or has no name (422)"
app = FastAPI(
    responses={"4XX": {"model": dict[str, str], "description": WRONG}}, redirect_slashes=False
)


@app.post("/helloJson")
async def hello_json(person: Person, request: Request) -> Reply:
    await work(request)
    return Reply(message=f"Hello {person.name} {person.surname}")


@app.post("/helloText", openapi_extra={"requestBody": {"required": True, "content": TEXT}})
async def hello_text(request: Request) -> str:
    try:
        text = (await request.body()).decode()
    except UnicodeDecodeError as error:
        raise HTTPException(400, f"body: not UTF-8 at byte {error.start}") from None
    if not text.strip():
        raise HTTPException(422, "body: blank")
    await work(request)
    return f"Hello {text}"


@app.get("/health")
async def health() -> Reply:
    return Reply(message="I am healthy")


async def work(request: Request) -> None:
    """Print the HTTP version of a greeting's request, then take HELLO_DELAY seconds."""
    try:
        print(f"HTTP version: {request.scope['http_version']}", flush=True)
    except OSError:  # nobody can read it (kar is gone, the disk is full): greet all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    await asyncio.sleep(hello_delay())


def settings(fd: int) -> Config:
    """Return Hypercorn's settings for a listening socket. A call is lost with its connection."""
    config = Config()
    config.bind = [f"fd://{fd}"]
    config.include_server_header = False
    config.keep_alive_max_requests = sys.maxsize  # by default a connection ends after 1,000
    config.keep_alive_timeout = sys.maxsize  # by default 5 s, when the next call may be on its way
    config.h2_max_concurrent_streams = 100  # callers count on 100; with 1,000 Hypercorn stops dead
    config.backlog = 1024  # many callers may come at once
    config.graceful_timeout = sys.maxsize  # bounds no stop from Python 3.12 on: stopped() does
    return config


class Connection(TCPServer):
    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()  # else Hypercorn 0.18 keeps a closed one for keep_alive_timeout


async def stopped(fd: int) -> None:
    """Wait for SIGTERM or SIGINT; then refuse connections and wait for requests in flight."""
    loop, stop, parent = asyncio.get_running_loop(), asyncio.Event(), os.getppid()
    for number in (signal.SIGTERM, signal.SIGINT):  # a second one ends the process at once
        loop.add_signal_handler(number, lambda: os._exit(1) if stop.is_set() else stop.set())
    while not stop.is_set():
        if "KAR_RUNTIME_PORT" in os.environ and os.getppid() != parent:
            os._exit(1)  # kar, which started this process, is dead: its sidecar calls no more
        await asyncio.sleep(0.1)
    loop.call_later(hello_delay() + 5, os._exit, 0)  # half a request must not hold up the stop
    # Open connections still serve: once told to stop, Hypercorn breaks the one that a new call
    # comes on, with every call in flight there.
    loop.remove_reader(fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), fd)  # this closes the listening socket
    while WholeRequests.in_flight:
        await asyncio.sleep(0.05)


class WholeRequests:
    """ASGI middleware: read requests to their end before they are answered, 413 if too long.
    Hypercorn 0.18 breaks a connection, with all its calls, at data for an answered request."""

    limit = 64 * 1024  # bytes
    in_flight = 0  # requests of this process that are not answered yet

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, body = self.app, bytearray()
        if scope["type"] != "http":
            return await answer(scope, receive, send)

        async def whole() -> Message:
            return {"type": "http.request", "body": bytes(body)}

        WholeRequests.in_flight += 1
        try:
            async for chunk in Request(scope, receive).stream():
                body += chunk if len(body) <= self.limit else b""  # the rest is dropped
            if len(body) > self.limit:
                answer = JSONResponse({"detail": f"body: over {self.limit} bytes"}, 413)
            await answer(scope, whole, send)
        except ClientDisconnect:  # answered to nobody, for only then does Hypercorn forget it
            await JSONResponse({"detail": "body: not whole"}, 400)(scope, receive, send)
        finally:
            WholeRequests.in_flight -= 1


app.add_middleware(WholeRequests)


@app.exception_handler(400)
@app.exception_handler(RequestValidationError)
async def refused(request: Request, error: Any) -> JSONResponse:
    if isinstance(error, RequestValidationError):  # FastAPI's answer repeats the input, even NaN
        wrong = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        return JSONResponse({"detail": "; ".join(wrong)}, 422)
    # With a cause it is FastAPI's, about JSON that Python cannot hold: too deep, a number too long
    return JSONResponse({"detail": error.detail}, 422 if error.__cause__ else 400)


def hello_delay() -> float:
    return float(os.environ.get("HELLO_DELAY", "0.1"))


if __name__ == "__main__":
    host, port = os.environ.get("KAR_APP_HOST", "127.0.0.1"), os.environ.get("KAR_APP_PORT", "")
    try:
        if not (port.isdecimal() and 0 < int(port) < 65536 and 0 <= hello_delay() < sys.maxsize):
            raise ValueError("KAR_APP_PORT is no port, or HELLO_DELAY no number of seconds from 0")
        listener = socket.create_server((host, int(port))).detach()
    except (OSError, ValueError) as error:
        print(f"server.py: {error}; try kar run -app_port N, HELLO_DELAY=0.1", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    run.TCPServer = Connection  # type: ignore[attr-defined]
    stop = partial(stopped, listener)
    asyncio.run(serve(app, settings(listener), shutdown_trigger=stop))  # type: ignore[arg-type]
