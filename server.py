"""A greeting service: a FastAPI application on Hypercorn, called over HTTP/2 by a KAR sidecar."""

import asyncio
import contextlib
import os
import signal
import socket
import sys

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from h2.connection import H2Connection
from hypercorn.asyncio import run, serve
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Person(BaseModel, regex_engine="python-re"):  # whose blanks are those of str.strip()
    name: str = Field(pattern=r"\S", examples=["John"])
    surname: str = Field(pattern=r"\S", examples=["Doe"])


class Reply(BaseModel):
    message: str


TEXT = {"text/plain": {"schema": {"type": "string", "pattern": r"\S"}, "example": "John Doe"}}
LIMIT = 64 * 1024  # bytes of a request's body
WRONG = "detail says what: over 64 KiB (413), not UTF-8 or not whole (400), or no name (422)"
app = FastAPI(responses={"4XX": {"model": dict, "description": WRONG}}, redirect_slashes=False)


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
    return config


class Connection(run.TCPServer):  # type: ignore[misc,name-defined]
    async def _read_data(self) -> None:
        """Read until the caller closes, and end then, where Hypercorn 0.18 goes on waiting."""
        with contextlib.suppress(OSError):
            while not self.reader.at_eof():  # Hypercorn's 64 KiB may be 1,000 requests, reset
                await self.protocol.handle(RawData(await self.reader.read(1024)))
                await asyncio.sleep(0)  # the other connections' turn
        await self.protocol.handle(Closed())
        self._idle_timeout = lambda: asyncio.sleep(0)
        await self.idle_task.stop()
        for unsent in list(getattr(self.protocol.protocol, "stream_buffers", {}).values()):
            await unsent.close()


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
    # Open connections go on: Hypercorn, told to stop, breaks one at its next call, with all calls.
    loop.remove_reader(fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), fd)  # this closes the listening socket
    while in_flight:
        await asyncio.sleep(0.05)


async def whole_requests(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Middleware: read each request to its end before it is answered, 413 if over LIMIT bytes.
    Hypercorn 0.18 breaks a connection, with all its calls, at data for an answered request."""
    if scope["type"] != "http":
        return await app(scope, receive, send)
    answer, body, whole = app, bytearray(), asyncio.Queue[Message]()
    in_flight.add(id(scope))
    try:
        async for chunk in Request(scope, receive).stream():
            body += chunk if len(body) <= LIMIT else b""  # the rest is dropped
        whole.put_nowait({"type": "http.request", "body": bytes(body)})
        if len(body) > LIMIT:
            answer = JSONResponse({"detail": f"body: over {LIMIT} bytes"}, 413)
        await answer(scope, whole.get, send)
    except ClientDisconnect:  # answered to nobody, for only then does Hypercorn forget it
        await JSONResponse({"detail": "body: not whole"}, 400)(scope, receive, send)
    finally:
        in_flight.remove(id(scope))


in_flight: set[int] = set()  # requests of this process that are not answered yet
app.add_middleware(lambda inner: lambda *asgi: whole_requests(inner, *asgi))


@app.exception_handler(400)  # with a cause: JSON that is too deep for Python, or its numbers long
@app.exception_handler(RequestValidationError)
async def refused(request: Request, error: RequestValidationError | HTTPException) -> JSONResponse:
    if isinstance(error, RequestValidationError):  # FastAPI's answer repeats the input, even NaN
        wrong = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        return JSONResponse({"detail": "; ".join(wrong)}, 422)
    return JSONResponse({"detail": error.detail}, 422 if error.__cause__ else 400)


def hello_delay() -> float:
    return float(os.environ.get("HELLO_DELAY", "0.1"))


if __name__ == "__main__":
    host, port = os.environ.get("KAR_APP_HOST", "127.0.0.1"), os.environ.get("KAR_APP_PORT", "")
    try:
        if not (port.isdecimal() and 0 < int(port) < 65536 and 0 <= hello_delay() < sys.maxsize):
            raise ValueError("KAR_APP_PORT is no port, or HELLO_DELAY no number of seconds from 0")
        fd = socket.create_server((host, int(port))).detach()
    except (OSError, ValueError) as error:
        print(f"server.py: {error}; try kar run -app_port N, HELLO_DELAY=0.1", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    run.TCPServer = Connection  # type: ignore[attr-defined]
    H2Connection.MAX_CLOSED_STREAMS = 1000  # of 65,536 that it remembers, megabytes a connection
    asyncio.run(serve(app, settings(fd), shutdown_trigger=lambda: stopped(fd)))  # type: ignore
