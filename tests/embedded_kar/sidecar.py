"""A sidecar's HTTP API, which a component calls.

Starlette's routes find the endpoint. What KAR's HTTP server, which is Go's with the package
httprouter, does differently is explicit: redirects, 404, 405 and OPTIONS.
"""

import asyncio
import html
import posixpath
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast
from urllib.parse import quote, unquote_to_bytes

from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import Framework
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from . import go_text
from .delivery import (
    Delivery,
    DeliveryError,
    FailedError,
    RefusedError,
    ServiceRequest,
    check_request,
)
from .h2c import Headers
from .output import log

CALL_METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
MAX_BODY = 1_000_000  # bytes; no Kafka message takes more, so the rest need not be kept
MAX_WARNED = 1000  # paths with a query that are reported
SHUTDOWN = 0.5  # seconds for the end of connections

Endpoint = Callable[[Request, bytes], Awaitable[Response]]


class Sidecar:
    """The ASGI application of a sidecar."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._calls: set[asyncio.Task[Response]] = set()
        self._warned: set[str] = set()
        self._endpoints: list[tuple[Route, Endpoint]] = [
            (_route("/kar/v1/service/{service}/call/{path:path}", CALL_METHODS), self._call),
            (_route("/kar/v1/system/health", ["GET"]), _health),
            (_route("/kar/v1/await", CALL_METHODS), _not_embedded),
            (_route("/kar/v1/actor/{path:path}", CALL_METHODS), _not_embedded),
            (_route("/kar/v1/event/{path:path}", CALL_METHODS), _not_embedded),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["type"] == "http":
            # Starlette's routes match no newline, which no path of KAR contains either.
            routed = {**scope, "path": scope["path"].replace("\n", "\r")}
            response = await self._respond(Request(routed, receive))
            await response(scope, receive, send)

    async def close(self) -> None:
        """Cancel the calls that are under way; their callers get status 503."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _respond(self, request: Request) -> Response:
        try:
            body = await _read(request)
        except ClientDisconnect:
            log(
                "ERROR",
                f"{_line(request)}: the caller disconnected in the middle of its request; KAR "
                "would call the service with the part that has arrived: send the whole body",
            )
            return _error(503, "Service Unavailable")  # Hypercorn keeps a request without response
        for route, endpoint in self._endpoints:
            if route.matches(request.scope)[0] is Match.FULL:
                return await endpoint(request, body)
        path = request.scope["path"]
        if location := self._other_path(path, request.method):
            return _redirect(request, location)
        methods = self._methods(path)
        if not methods:
            return _error(404, "404 page not found")
        allow = {"Allow": ", ".join(sorted(methods | {"OPTIONS"}))}
        if request.method == "OPTIONS":
            return Response(headers=allow)
        return _error(405, "Method Not Allowed", allow)

    def _methods(self, path: str) -> set[str]:
        """Return the methods of a path, none if there is no such path."""
        for route, _ in self._endpoints:
            if route.path_regex.match(path):
                return route.methods or set()
        return set()

    def _other_path(self, path: str, method: str) -> str | None:
        """Return the path that a caller probably means: with or without the last slash, clean."""
        slash = path[:-1] if path.endswith("/") else path + "/"
        clean = posixpath.normpath(path)
        for other in (slash, clean, clean + "/"):
            if method in self._methods(other):
                return other
        return None

    async def _call(self, request: Request, body: bytes) -> Response:
        decoded = go_text.decode(unquote_to_bytes(request.scope["raw_path"]))
        _, _, _, _, service, _, path = decoded.split("/", 6)
        headers: Headers = list(request.scope["headers"])
        call = ServiceRequest(request.method, "/" + path, headers, body)
        if request.scope["query_string"]:
            self._warn_about_query(_line(request))
        pragma = next((each for each in _pragmas(request) if each in ("async", "promise")), None)
        if pragma == "promise":
            return await _not_embedded(request, body)
        if pragma == "async":
            return self._call_later(_line(request), service, call)
        # The call goes on if the caller disconnects, as it does in KAR.
        task = self._start(self._deliver(_line(request), service, call))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                return _error(503, "Service Unavailable")
            raise

    def _call_later(self, line: str, service: str, call: ServiceRequest) -> Response:
        """Respond at once, and make the call in the background."""
        try:
            check_request(service, call)
        except DeliveryError as error:
            return _refusal(line, error)
        self._start(self._deliver_silently(line, service, call))
        return PlainTextResponse("OK", 202)

    def _start(self, call: Coroutine[Any, Any, Response]) -> asyncio.Task[Response]:
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    async def _deliver(self, line: str, service: str, call: ServiceRequest) -> Response:
        try:
            response = await self._delivery.deliver(service, call)
        except DeliveryError as error:
            return _refusal(line, error)
        if response.status in (204, 304) or not response.content_type:
            return Response(response.body, response.status)
        return Response(response.body, response.status, {"Content-Type": response.content_type})

    async def _deliver_silently(self, line: str, service: str, call: ServiceRequest) -> Response:
        """Deliver a call whose caller does not wait; log a response with an error status."""
        response = await self._deliver(line, service, call)
        if not 200 <= response.status_code < 300:
            body = bytes(response.body).decode()
            log(
                "ERROR",
                f"Asynchronous {call.method} of {call.path} returned status "
                f"{response.status_code} with body {body}",
                stream=sys.stdout,
            )
        return response

    def _warn_about_query(self, line: str) -> None:
        """Say once for each path that its query is dropped."""
        if line not in self._warned and len(self._warned) < MAX_WARNED:
            self._warned.add(line)
            log(
                "WARNING",
                f"{line}: KAR drops the query string, and so the service does not receive it: "
                "send what it says in the path or the body",
            )


async def serve_sidecar(sidecar: Sidecar, listener: socket.socket, shutdown: asyncio.Event) -> None:
    """Serve a sidecar's HTTP API until an event is set."""
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "ERROR"
    config.include_server_header = False
    # By default Hypercorn ends a connection after 1,000 requests, and when it was idle for 5 s,
    # with the calls that are on their way.
    config.keep_alive_max_requests = sys.maxsize
    config.keep_alive_timeout = 3600
    config.backlog = 1024  # many callers may connect at once
    config.graceful_timeout = 0.1
    framework = cast(Framework, sidecar)  # its types are Starlette's; Hypercorn has its own
    serving = asyncio.create_task(serve(framework, config, shutdown_trigger=shutdown.wait))
    await shutdown.wait()
    await sidecar.close()
    # A caller may be in the middle of a request. On Python 3.12 and later Hypercorn waits for it,
    # even when cancelled for the first time (https://github.com/pgjones/hypercorn/issues/308).
    while not serving.done():
        await asyncio.wait([serving], timeout=SHUTDOWN)
        serving.cancel()


async def _read(request: Request) -> bytes:
    """Return the body of a request, cut off when it is too large for KAR.

    Hypercorn breaks a connection, with all its calls, when data arrives for a request that has
    its response (https://github.com/pgjones/hypercorn/issues/329). So each request is read to its
    end first.
    """
    body = bytearray()
    async for chunk in request.stream():
        if len(body) <= MAX_BODY:
            body += chunk
    return bytes(body)


async def _health(request: Request, body: bytes) -> Response:
    return PlainTextResponse("OK")


async def _not_embedded(request: Request, body: bytes) -> Response:
    reason = "promises, actors and events need the real KAR: make a call of a service"
    return _refusal(_line(request), RefusedError(reason))


def _route(path: str, methods: list[str]) -> Route:
    route = Route(path, _health, methods=methods)
    route.methods = set(methods)  # Starlette adds HEAD to GET
    return route


def _line(request: Request) -> str:
    """Return a request's method and path, for messages."""
    return f"{request.method} {request.scope['raw_path'].decode()}"


def _pragmas(request: Request) -> list[str]:
    return [value.lower() for value in request.headers.getlist("pragma")]


def _refusal(line: str, error: DeliveryError) -> Response:
    """Return the response to a call that is not made, and say the same on standard error."""
    status, reason = 501, str(error)
    if isinstance(error, FailedError):
        status, reason = 500, f"failed to send message: {error}"
    log("ERROR", f"{line}: {reason}")
    return _error(status, reason)


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    nosniff = {"X-Content-Type-Options": "nosniff"}
    return PlainTextResponse(text + "\n", status, nosniff | (headers or {}))


def _redirect(request: Request, path: str) -> Response:
    query = request.scope["query_string"].decode("latin-1")
    location = quote(path, safe="/$&+,:;=@") + (f"?{query}" if query else "")
    if request.method != "GET":
        return Response(status_code=307, headers={"Location": location})
    body = f'<a href="{html.escape(location)}">Moved Permanently</a>.\n\n'
    return Response(body, 301, {"Location": location}, "text/html")
