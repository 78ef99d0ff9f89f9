"""A sidecar's HTTP API, which a component calls.

Starlette's routes find the endpoint. What KAR's HTTP server, which is Go's, does differently is
explicit: the responses to a missing trailing slash, to an unknown path and to a wrong method.
"""

import asyncio
import html
import re
import socket
import sys
from typing import cast

from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import Framework
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from . import messages
from .delivery import Delivery
from .output import log, warn_once, write_lines
from .refusals import MAX_MESSAGE, RefusedError, check_call

HEALTH = "/kar/v1/system/health"
HEALTH_METHODS = "GET, OPTIONS"
NOT_EMBEDDED = (
    "/kar/v1/await",
    "/kar/v1/actor/{path:rest}",
    "/kar/v1/event/{path:rest}",
    "/kar/v1/system/information/{path:rest}",
    "/kar/v1/system/shutdown",
    "/metrics",
)
METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]


class RestConvertor(StringConvertor):
    """The rest of a path, which may have line breaks, unlike Starlette's {path:path}."""

    regex = r"[\s\S]*"


register_url_convertor("rest", RestConvertor())


class Sidecar:
    """The ASGI application of a sidecar."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._background_calls: set[asyncio.Task[None]] = set()
        self._router = Router(
            routes=[
                Route("/kar/v1/service/{service}/call/{path:rest}", self._call, methods=METHODS),
                Route("/kar/v1/service/{service}/call", _add_slash, methods=METHODS),
                Route(HEALTH, _health, methods=["GET", "OPTIONS"]),
                *[Route(path, _not_embedded, methods=METHODS) for path in NOT_EMBEDDED],
            ],
            redirect_slashes=False,
        )

    def start(self, listener: socket.socket) -> None:
        """Serve the HTTP API in the background until kar exits."""
        config = Config()
        config.bind = [f"fd://{listener.detach()}"]
        config.loglevel = "ERROR"
        config.include_server_header = False
        # By default Hypercorn closes a connection after 1,000 requests, or 5 s in which it is idle.
        # Calls that arrive at that moment are lost. The timeout is not longer, because Hypercorn
        # keeps the connections that callers have closed until it has passed.
        config.keep_alive_max_requests = sys.maxsize
        config.keep_alive_timeout = 120
        config.backlog = 1024  # many callers may connect at once
        framework = cast(Framework, self)  # its types are Starlette's; Hypercorn has its own
        never = asyncio.Event()  # with a trigger, Hypercorn installs no signal handlers
        self._serving = asyncio.create_task(serve(framework, config, shutdown_trigger=never.wait))

    async def finish_background_calls(self, stop: asyncio.Event) -> None:
        """Wait for the asynchronous calls, which the real KAR completes even after kar has exited.

        When stop is set, log those that may be lost.
        """
        stopping = asyncio.create_task(stop.wait())
        while self._background_calls and not stop.is_set():
            call = next(iter(self._background_calls))
            await asyncio.wait({call, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for call in self._background_calls:
            log("ERROR", f"{call.get_name()}: kar was stopped, so the call may be lost")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a request to its end, and only then respond.

        Hypercorn closes the connection, with all its calls, when data arrives for a request that
        has its response already (https://github.com/pgjones/hypercorn/issues/329).
        """
        if scope["type"] == "lifespan":  # nothing to do at startup and shutdown
            return
        if scope["type"] == "websocket":
            await _refuse_websocket(WebSocket(scope, receive, send))
            return
        body = bytearray()
        while True:
            message = await receive()
            if len(body) <= MAX_MESSAGE:  # a larger body is refused, so the rest is not kept
                body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if message["type"] == "http.disconnect":
            # Send something: otherwise Hypercorn keeps each stream that was reset, and fails after
            # 1,000. Do not end the response: if the connection was closed, that send() would never
            # return.
            await send({"type": "http.response.start", "status": 400})
            await send({"type": "http.response.body", "body": b"disconnected", "more_body": True})
            return

        scope["app"] = self  # without this, the router would respond to an unknown path itself
        scope["path"] = re.sub("^http://[^/]*", "", scope["path"])  # of a request to a proxy
        scope["state"] = {"body": bytes(body)}
        try:
            await self._router(scope, receive, send)
        except (HTTPException, RefusedError) as error:
            await _error_response(Request(scope), error)(scope, receive, send)

    async def _call(self, request: Request) -> Response:
        """Call the service. The call continues if the caller disconnects, as in KAR."""
        pragmas = [value.lower() for value in request.headers.getlist("pragma")]
        if "promise" in pragmas:
            return await _not_embedded(request)
        if request.scope["query_string"]:
            warn_once(
                f"{_line(request)}: KAR drops the query string, and so the service does not "
                "receive it: send its values in the body"
            )
        service = request.path_params["service"]
        call = messages.Request(
            request.method,
            "/" + request.path_params["path"],
            request.headers.raw,
            request.state.body,
        )
        if "async" in pragmas:
            check_call(service, call)
            line = _line(request)
            task = asyncio.create_task(self._call_in_background(line, service, call), name=line)
            self._background_calls.add(task)
            task.add_done_callback(self._background_calls.discard)
            return PlainTextResponse("OK", 202)
        response = await self._delivery.call(service, call)
        headers = {}
        has_type = response.status != 304 or request.scope["http_version"] == "2"
        if response.content_type and response.status != 204 and has_type:
            headers["Content-Type"] = response.content_type.decode("latin-1")
        return Response(response.body, response.status, headers)

    async def _call_in_background(self, line: str, service: str, call: messages.Request) -> None:
        """Call the service for a caller that does not wait; log a response with an error status."""
        try:
            response = await self._delivery.call(service, call)
        except RefusedError as error:
            log("ERROR", f"{line}: {error}")
            return
        if not 200 <= response.status < 300:
            message = f"Asynchronous {call.method} of {call.path} returned status {response.status}"
            lines = (message.encode() + b" with body " + response.body).split(b"\n")
            await write_lines(b"[ERROR] ", lines)


async def _health(request: Request) -> Response:
    if request.method == "HEAD":  # Starlette allows it where it allows GET
        raise HTTPException(405)
    if request.method == "OPTIONS":
        return Response(headers={"Allow": HEALTH_METHODS})
    return PlainTextResponse("OK")


async def _add_slash(request: Request) -> Response:
    location = f"{request.scope['raw_path'].decode()}/"
    if query := request.scope["query_string"]:
        location += f"?{query.decode('latin-1')}"
    if request.method != "GET":
        return Response(status_code=307, headers={"Location": location})
    body = f'<a href="{html.escape(location)}">Moved Permanently</a>.\n\n'
    return Response(body, 301, {"Location": location}, "text/html")


async def _not_embedded(request: Request) -> Response:
    """Refuse a request that needs the real KAR."""
    raise RefusedError(
        "this request needs the real KAR: the embedded one only makes calls of services"
    )


async def _refuse_websocket(websocket: WebSocket) -> None:
    reason = "KAR cannot pass a WebSocket on, and the call gets no response: make a call over HTTP"
    log("ERROR", f"{websocket.url.path}: {reason}")
    await websocket.send_denial_response(PlainTextResponse(f"{reason}\n", 501))


def _error_response(request: Request, error: HTTPException | RefusedError) -> Response:
    """Return the response of Go; log the reason if a call is refused."""
    headers = {"X-Content-Type-Options": "nosniff"}
    if isinstance(error, RefusedError):
        log("ERROR", f"{_line(request)}: {error}")
        return PlainTextResponse(f"{error}\n", error.status, headers)
    if error.status_code == 404:
        return PlainTextResponse("404 page not found\n", 404, headers)
    is_health = request.scope["path"] == HEALTH
    headers["Allow"] = HEALTH_METHODS if is_health else ", ".join(METHODS)
    return PlainTextResponse("Method Not Allowed\n", 405, headers)


def _line(request: Request) -> str:
    """Return a request's method and path, for messages."""
    return f"{request.method} {request.scope['raw_path'].decode()}"
