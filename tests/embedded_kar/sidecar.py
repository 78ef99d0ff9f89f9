"""A sidecar's HTTP API: the calls of its component, answered in the way of KAR's HTTP server."""

import asyncio
import html
import posixpath
import re
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from .call import Call
from .replicas import Replicas

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
CALL = re.compile(r"/kar/v1/service/([^/]*)/call(/.*)", re.DOTALL)
HEALTH = "/kar/v1/system/health"
REAL_ONLY = re.compile(r"/kar/v1/(await|actor/.*|event/.*)", re.DOTALL)
REAL_ONLY_TEXT = "actors, events and promises need the real KAR; this is the embedded one"
MAX_BODY = 1024 * 1024  # bytes, the most that Kafka takes in a message
TOO_LARGE = (
    "failed to send message: kafka server: Message was too large, server rejected it to avoid "
    "allocation error"
)


class GoneError(Exception):
    """The caller has closed its connection or dropped the call."""


class Api:
    """The ASGI application of a sidecar."""

    def __init__(self, replicas: Replicas) -> None:
        self.replicas = replicas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["type"] == "http":
            request = Request(scope, receive)
            try:
                response = await self.answer(request, await read(request))
            except (ClientDisconnect, GoneError):
                # Nobody gets it, but only a request that has its answer leaves Hypercorn's memory.
                response = Response(status_code=503)
            await response(scope, receive, send)

    async def answer(self, request: Request, body: bytes | None) -> Response:
        """Answer a request whose body, None if it is too large, has been read."""
        path, method = request.scope["path"], request.method
        methods = allowed(path)
        if method in methods:
            if REAL_ONLY.fullmatch(path):
                return error(501, REAL_ONLY_TEXT)
            if path == HEALTH:
                return PlainTextResponse("OK")
            return await self.call(request, body)
        other = path[:-1] if path.endswith("/") else path + "/"
        for moved in (other, posixpath.normpath(path), posixpath.normpath(path) + "/"):
            if method in allowed(moved):
                return redirect(request, moved)
        if not methods:
            return error(404, "404 page not found")
        allow = {"Allow": ", ".join(sorted({*methods, "OPTIONS"}))}
        if method == "OPTIONS":
            return Response(headers=allow)
        return error(405, "Method Not Allowed", allow)

    async def call(self, request: Request, body: bytes | None) -> Response:
        pragmas = {value.lower() for value in request.headers.getlist("pragma")}
        if pragmas & {"async", "promise"}:
            return error(501, REAL_ONLY_TEXT)
        if body is None:
            return error(500, TOO_LARGE)

        async def pause(seconds: float) -> None:
            try:  # the body is read, so what can come now is the caller's end
                await asyncio.wait_for(request.receive(), seconds)
            except TimeoutError:
                return
            raise GoneError

        match = CALL.fullmatch(request.scope["path"])
        assert match  # allowed() has seen to it
        service, path = match.groups()
        call = Call(request.method, path, request.scope["headers"], body)
        answer = await self.replicas.call(service, call, pause)
        if answer.status == 204 or not answer.content_type:
            return Response(answer.body, answer.status)
        return Response(answer.body, answer.status, {"Content-Type": answer.content_type})


async def read(request: Request) -> bytes | None:
    """Read a request to its end and return its body, or None if that is over MAX_BODY.

    Without that Hypercorn 0.18 breaks a connection, with all its calls, at data that comes for an
    answered request.
    """
    body = bytearray()
    async for chunk in request.stream():
        if len(body) <= MAX_BODY:  # the rest is dropped
            body += chunk
    return bytes(body) if len(body) <= MAX_BODY else None


def allowed(path: str) -> tuple[str, ...]:
    """Return the methods that a path has, none if there is no such path."""
    if CALL.fullmatch(path) or REAL_ONLY.fullmatch(path):
        return METHODS
    return ("GET",) if path == HEALTH else ()


def error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    nosniff = {"X-Content-Type-Options": "nosniff"}
    return PlainTextResponse(text + "\n", status, {**nosniff, **(headers or {})})


def redirect(request: Request, path: str) -> Response:
    query = request.scope["query_string"].decode("latin-1")
    location = quote(path) + (f"?{query}" if query else "")
    if request.method != "GET":
        return Response(status_code=308, headers={"Location": location})
    body = f'<a href="{html.escape(location)}">Moved Permanently</a>.\n\n'
    return Response(body, 301, {"Location": location}, "text/html")
