"""A greeting service: a FastAPI application on Hypercorn, called over HTTP/2 by a KAR sidecar.

    kar run -h2c -app hello-async -service async-server python server.py

The models and the routes come first. Below them is what keeps calls from getting lost: two ASGI
middleware classes, Hypercorn's configuration, and the shutdown.
"""

import asyncio
import contextlib
import errno
import logging
import math
import os
import signal
import socket
import sys
from typing import Annotated, Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import Framework
from pydantic import BaseModel, Field, StringConstraints, TypeAdapter, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

greeting_log = logging.getLogger("greetings")

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
name_adapter = TypeAdapter(Name)


class Person(BaseModel):
    name: Name = Field(examples=["John"])
    surname: Name = Field(examples=["Doe"])


class Greeting(BaseModel):
    message: str


# For the OpenAPI document: the text body, and the errors that FastAPI does not describe itself.
TEXT_BODY = {
    "required": True,
    "content": {
        "text/plain": {"schema": {"type": "string", "minLength": 1}, "example": "John Doe"}
    },
}
TOO_LARGE = {"description": "The body is larger than 64 KiB", "content": {"text/plain": {}}}
UNREADABLE = {"description": "The body is wrongly encoded or too deeply nested"}
INVALID_TEXT = {
    "description": "Validation Error",
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/HTTPValidationError"}}
    },
}
JSON_ERRORS: dict[int | str, dict[str, Any]] = {400: UNREADABLE, 413: TOO_LARGE}
TEXT_ERRORS: dict[int | str, dict[str, Any]] = {413: TOO_LARGE, 422: INVALID_TEXT}

app = FastAPI(
    title="Greeting service",
    description="Greets people over HTTP/2, as an example of a service behind KAR.",
    max_body_size=64 * 1024,  # earlier versions of FastAPI ignore this without a message
)


@app.post("/helloJson", responses=JSON_ERRORS)
async def hello_json(person: Person, request: Request) -> Greeting:
    await simulate_work(request)
    return Greeting(message=f"Hello {person.name} {person.surname}")


@app.post("/helloText", responses=TEXT_ERRORS, openapi_extra={"requestBody": TEXT_BODY})
async def hello_text(request: Request) -> str:
    # The raw body, because Body() would parse it as JSON if the Content-Type is JSON.
    name = validate_text(await request.body())
    await simulate_work(request)
    return f"Hello {name}"  # FastAPI sends this as a JSON string, in quotation marks


@app.get("/health")
async def health() -> Greeting:
    return Greeting(message="I am healthy")


async def simulate_work(request: Request) -> None:
    """Log the HTTP version of the request, then take HELLO_DELAY seconds."""
    greeting_log.info("HTTP version: %s", request.scope["http_version"])
    await asyncio.sleep(hello_delay())


def validate_text(body: bytes) -> str:
    """Return the body as text; raise RequestValidationError if it is blank or not UTF-8."""
    try:
        return name_adapter.validate_python(body)  # Pydantic decodes UTF-8
    except ValidationError as error:
        details = [{**detail, "loc": ("body",)} for detail in error.errors()]
        raise RequestValidationError(details) from error


def hello_delay() -> float:
    """Return HELLO_DELAY, how many seconds a greeting takes."""
    value = os.environ.get("HELLO_DELAY", "0.1")
    with contextlib.suppress(ValueError):
        if 0 <= float(value) < math.inf:
            return float(value)
    raise ConfigurationError(
        f"HELLO_DELAY is {value!r}, not a number of seconds. Set it to 0 or more, such as 0.1"
    )


def configure_logging() -> None:
    """Write the messages of greeting_log to standard output, one line each."""
    # Only for this logger: a handler of the root logger would print Hypercorn's messages twice.
    greeting_log.addHandler(logging.StreamHandler(sys.stdout))
    greeting_log.setLevel(logging.INFO)
    greeting_log.propagate = False
    # A full disk or a closed pipe must not fill standard error with tracebacks.
    logging.raiseExceptions = False


# For a service of your own, replace the code from greeting_log to here, as in README.md.

SHUTDOWN_RESERVE = 4.0  # seconds that requests have after a signal, in addition to HELLO_DELAY


@app.exception_handler(RequestValidationError)
async def report_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
    """Respond like FastAPI, but with only the type, the place and the message of each error.

    FastAPI repeats the input. A NaN or a lone surrogate in it cannot be encoded, and would turn the
    422 into a 500.
    """
    details = [{key: detail[key] for key in ("type", "loc", "msg")} for detail in error.errors()]
    return JSONResponse({"detail": details}, status_code=422)


class ReadRequestBeforeResponse:
    """ASGI middleware that reads each request to its end before its response starts.

    Hypercorn 0.18 ends the whole connection, with all its requests, when body data arrives for a
    request that already has its response, such as a 404 or a 413. So when the application starts
    a response, this class reads and drops the rest of the request. A route has to read all that it
    needs before it starts to respond. Wrap the whole application in this class: with
    app.add_middleware() it would not cover the responses that FastAPI sends from outside of its
    middleware. It can be removed once https://github.com/pgjones/hypercorn/issues/329 is fixed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        more_body = True
        # A StreamingResponse receives while it sends. Only one of the two may wait for a message.
        receive_lock = asyncio.Lock()

        async def receive_message() -> Message:
            nonlocal more_body
            async with receive_lock:
                message = await receive()
                more_body = message.get("more_body", False)
            return message

        async def send_message(message: Message) -> None:
            nonlocal more_body
            if more_body:
                async with receive_lock:
                    while more_body:
                        more_body = (await receive()).get("more_body", False)
            await send(message)

        await self.app(scope, receive_message, send_message)


class RequestTracker:
    """ASGI middleware that keeps track of the requests in flight, for a graceful shutdown."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.in_flight: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None  # Hypercorn runs each request in a task of its own
        self.in_flight.add(task)
        try:
            await self.app(scope, receive, send)
        finally:
            self.in_flight.remove(task)

    async def finish_requests(self, timeout: float) -> None:
        """Wait until no request is in flight, and cancel those that are left after timeout seconds.

        New requests are waited for as well.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.in_flight:
                    await asyncio.wait(self.in_flight)
        for task in self.in_flight:
            task.cancel()


def hypercorn_config(listener: socket.socket) -> Config:
    """Configure Hypercorn for a listening socket so that it rarely ends a connection.

    If the connection from the sidecar breaks during a request with a body, and the server stays up,
    KAR repeats the request with an empty body. So the call can never succeed.
    """
    config = Config()
    # The socket is open already, so that a port in use is reported before Hypercorn starts.
    config.bind = [f"fd://{listener.detach()}"]
    # The default ends each connection after 1,000 requests.
    config.keep_alive_max_requests = sys.maxsize
    # The default ends a connection after 5 idle seconds. Infinity would be wrong, too: after a
    # client has closed its connection, Hypercorn keeps the file descriptor for this long.
    config.keep_alive_timeout = 3600
    return config


async def serve_until_signal(listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, complete the requests in flight, and return.

    HELLO_DELAY + SHUTDOWN_RESERVE seconds after the signal, cancel the remaining requests, such as
    one whose body never arrives. A second signal terminates the process at once. When kar is
    stopped, it does not wait for this: it kills this process.
    """
    tracker = RequestTracker(ReadRequestBeforeResponse(app))
    signal_received = asyncio.Event()

    def handle_signal() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal_received.set()

    async def shutdown_trigger() -> None:
        # Hypercorn serves as before until this returns. After that, it breaks any connection on
        # which a POST arrives: https://github.com/pgjones/hypercorn/issues/308
        await signal_received.wait()
        await tracker.finish_requests(timeout=hello_delay() + SHUTDOWN_RESERVE)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, handle_signal)
    kar_watch = asyncio.create_task(exit_with_kar())
    # Hypercorn and Starlette each have their own types for ASGI applications.
    application = cast(Framework, tracker)
    await serve(application, hypercorn_config(listener), shutdown_trigger=shutdown_trigger)
    kar_watch.cancel()


async def exit_with_kar() -> None:
    """Kill this process when its parent has exited, if kar has set the environment.

    When kar is stopped, it kills the process that it has started. When kar crashes, the process
    would go on and keep the port, and the next kar run would fail. kar has to be the parent of
    this process, without a shell in between.
    """
    if "KAR_RUNTIME_PORT" not in os.environ:
        return
    kar = os.getppid()
    while os.getppid() == kar:
        await asyncio.sleep(0.5)
    signal.raise_signal(signal.SIGKILL)


class ConfigurationError(Exception):
    """The server cannot start with these environment variables."""


def app_port() -> int:
    """Return KAR_APP_PORT, the port on which the sidecar calls this process."""
    value = os.environ.get("KAR_APP_PORT", "")
    with contextlib.suppress(ValueError):
        if 0 < int(value) < 65536:
            return int(value)
    raise ConfigurationError(
        f"KAR_APP_PORT is {value!r}, not a valid port. kar sets it: start the server with "
        "kar run -h2c -app hello-async -service async-server python server.py"
    )


def listen() -> socket.socket:
    """Return a socket that listens on KAR_APP_HOST, by default 127.0.0.1, and KAR_APP_PORT."""
    host = os.environ.get("KAR_APP_HOST", "127.0.0.1")
    port = app_port()
    try:
        return socket.create_server((host, port))
    except OSError as error:
        reason = f"{error}. Check KAR_APP_HOST and kar run -app_port"
        if error.errno == errno.EADDRINUSE:
            reason = "the port is in use. Choose another one with kar run -app_port"
        raise ConfigurationError(f"cannot listen on {host}:{port}: {reason}") from error


def main() -> None:
    try:
        hello_delay()  # an invalid value should fail now, and not in the first request
        listener = listen()
    except ConfigurationError as error:
        sys.exit(f"server.py: {error}")
    configure_logging()
    asyncio.run(serve_until_signal(listener))
    # At exit, Python flushes standard output once more, and would report a closed pipe or a full
    # disk. There is no standard output if the process was started without one.
    if sys.stdout is not None:
        with contextlib.suppress(OSError):
            sys.stdout.close()


if __name__ == "__main__":
    main()
