"""A greeting service: a FastAPI application on Hypercorn, called over HTTP/2 by a KAR sidecar.

    kar run -h2c -app hello-async -service async-server python server.py

The application comes first. run() below serves it, or any other ASGI application, behind KAR.
"""

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from types import FrameType
from typing import Annotated, cast

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import Framework
from pydantic import BaseModel, StringConstraints
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

try:
    HELLO_DELAY = float(os.environ.get("HELLO_DELAY", "0.1"))  # seconds that a greeting takes
except ValueError:
    sys.exit("HELLO_DELAY is not a number of seconds, such as 0.1")

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Person(BaseModel):
    name: Name
    surname: Name


class Greeting(BaseModel):
    message: str


app = FastAPI(title="Greeting service")


@app.post("/helloJson")
async def hello_json(person: Person, request: Request) -> Greeting:
    await simulate_work(request)
    return Greeting(message=f"Hello {person.name} {person.surname}")


@app.post("/helloText")
async def hello_text(name: Annotated[Name, Body(media_type="text/plain")], request: Request) -> str:
    await simulate_work(request)
    return f"Hello {name}"  # FastAPI sends this as a JSON string, in quotation marks


@app.get("/health")
async def health() -> Greeting:
    return Greeting(message="I am healthy")


@app.exception_handler(RequestValidationError)
async def report_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
    # FastAPI's own handler repeats the input. If the input has a NaN, a lone surrogate or bytes
    # that are not UTF-8, the response cannot be encoded, and the 422 becomes a 500.
    details = [{key: detail[key] for key in ("type", "loc", "msg")} for detail in error.errors()]
    return JSONResponse({"detail": details}, status_code=422)


async def simulate_work(request: Request) -> None:
    # Under kar, standard output is a pipe, which Python buffers: flush each line.
    print("HTTP version:", request.scope["http_version"], flush=True)
    await asyncio.sleep(HELLO_DELAY)


MAX_BODY_SIZE = 1_000_000  # bytes; KAR delivers no larger body, but a direct caller could send one


def run(app: ASGIApp) -> None:
    """Serve an application on KAR_APP_PORT, where the sidecar calls it.

    There is no graceful shutdown, and the cleanup of a lifespan does not run: SIGTERM and SIGINT
    terminate the process at once, and kar itself uses SIGKILL. No calls are lost, because KAR
    repeats the calls of a process that has exited. KAR can lose a call if the process closes the
    connection and goes on running, as in a graceful shutdown.
    """
    host = os.environ.get("KAR_APP_HOST") or "127.0.0.1"
    port = os.environ.get("KAR_APP_PORT")
    if not port:
        sys.exit("KAR_APP_PORT is not set: start this with kar run -h2c -app APP -service NAME")
    try:
        # Open the socket here: Hypercorn reports a port in use with over 100 lines of tracebacks.
        listener = socket.create_server((host, int(port)))
    except (OSError, OverflowError, ValueError) as error:
        sys.exit(f"cannot listen on KAR_APP_HOST={host} KAR_APP_PORT={port}: {error}")
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    # By default, Hypercorn closes a connection after 1,000 requests or 5 idle seconds, and KAR
    # loses a POST that arrives at that moment.
    config.keep_alive_max_requests = sys.maxsize
    # A long timeout costs file descriptors: after a client has disconnected, Hypercorn keeps its
    # descriptor until the timeout. With one connection per second, about 257 of the usual 1,024
    # descriptors are in use. A short timeout costs calls: KAR loses one that arrives in the
    # 0.4 ms in which an idle connection is closed. With a round value, such as 300 s, a job that
    # runs every five minutes could meet that moment again and again.
    config.keep_alive_timeout = 257
    # With a shutdown_trigger, Hypercorn handles no signals.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, exit_at_once)
    # Hypercorn and Starlette have different types for the same ASGI application.
    application = cast(Framework, ReadRequestFirst(app))
    asyncio.run(serve(application, config, shutdown_trigger=exit_with_kar))


def exit_at_once(number: int, frame: FrameType | None) -> None:
    """Terminate this process; a signal handler.

    sys.exit() would wait for the requests in flight. Without a handler, the main process of a
    container (PID 1) would ignore SIGTERM.
    """
    os._exit(128 + number)


async def exit_with_kar() -> None:
    """Terminate this process when its sidecar has exited, so that the port becomes free.

    A kar that is stopped kills this process, but one that crashes leaves it running. As the
    shutdown_trigger of Hypercorn, this function never returns, since there is no graceful shutdown.
    """
    port = os.environ.get("KAR_RUNTIME_PORT")
    if not port:  # started without kar
        await asyncio.Event().wait()  # forever
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.read()  # returns when the sidecar exits, or closes an idle connection
            writer.close()
        except (ConnectionRefusedError, OverflowError, socket.gaierror) as error:
            with suppress(OSError):  # after a crash of kar, nobody reads this
                print(f"no sidecar at KAR_RUNTIME_PORT={port}: {error}", file=sys.stderr)
            os._exit(1)
        except OSError:
            pass  # for example too many open files: try again
        await asyncio.sleep(0.5)


class ReadRequestFirst:
    """ASGI middleware that receives each request to its end before it calls the application.

    Workaround: Hypercorn closes the connection, with all its requests, when body data arrives for
    a request that already has its response, such as a 404. It also stops reading a connection
    while ten parts of one request's body are unread. KAR delivers each request as a whole, so
    waiting for its end costs nothing. run() wraps the application in this middleware, since
    app.add_middleware() is not part of ASGI. Remove this class when Hypercorn has fixed both
    problems. The first one is reported: https://github.com/pgjones/hypercorn/issues/329
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        try:
            async for part in Request(scope, receive).stream():
                if len(body) <= MAX_BODY_SIZE:
                    body += part
        except ClientDisconnect:
            # Send something: otherwise Hypercorn keeps each stream that was reset, and closes the
            # connection when it has 1,000 of them. Do not end the response: if the connection was
            # closed, that send() would never return.
            await send({"type": "http.response.start", "status": 400})
            await send({"type": "http.response.body", "body": b"disconnected", "more_body": True})
            return
        if len(body) > MAX_BODY_SIZE:
            detail = f"The request body is larger than {MAX_BODY_SIZE} bytes"
            await JSONResponse({"detail": detail}, status_code=413)(scope, receive, send)
            return
        unread = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def receive_request() -> Message:
            return unread.pop() if unread else await receive()

        await self.app(scope, receive_request, send)


if __name__ == "__main__":
    run(app)
