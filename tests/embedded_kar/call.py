"""Deliver one call to one replica of a service, as KAR's HTTP client, which is Go's, does."""

import asyncio
import gzip
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import httpx

from .go import encode, utf8
from .h2c import H2cConnection, Headers

REDIRECTS = 10  # Go follows no more

# A sidecar does not pass these on: they are about the caller's connection, or Go sets them.
HOP_BY_HOP = frozenset(
    [b"host", b"content-length", b"connection", b"keep-alive", b"proxy-connection", b"te"]
    + [b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings", b"expect"]
)


class UndeliveredError(Exception):
    """The replica cannot be reached, or its connection broke before the whole answer came."""


@dataclass(frozen=True)
class Call:
    """What a caller asks of a service: path is decoded, body is UTF-8 or anything else."""

    method: str
    path: str
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What a caller sees of a service's answer."""

    status: int
    content_type: str
    body: bytes


class Replica:
    """A process of a service, at 127.0.0.1:app_port, and the connections to it."""

    def __init__(self, app_port: int, h2c: bool) -> None:
        self.app_port = app_port
        self.address = f"127.0.0.1:{app_port}"
        self.h2c = h2c
        self.connections: list[H2cConnection] = []
        self.connecting = asyncio.Lock()
        # The limit is for httpx, which looks at all the connections of a pool for each call.
        limits = httpx.Limits(max_keepalive_connections=100)
        self.http1 = httpx.AsyncHTTPTransport(verify=False, trust_env=False, limits=limits)

    async def close(self) -> None:
        """Close the connections; the calls in flight raise UndeliveredError."""
        for connection in self.connections:
            connection.transport.abort()
        await self.http1.aclose()

    async def deliver(self, call: Call) -> Answer:
        """Make the call and follow the service's redirects, always to this replica.

        Raise UndeliveredError if the call has to be made again.
        """
        method, target, body = call.method, encode(call.path), utf8(call.body)
        headers = [header for header in call.headers if header[0] not in HOP_BY_HOP]
        names = {name for name, _ in headers}
        if b"user-agent" not in names:
            headers.append((b"user-agent", b"Go-http-client/" + (b"2.0" if self.h2c else b"1.1")))
        if unpack := b"accept-encoding" not in names:
            headers.append((b"accept-encoding", b"gzip"))
        send = self.send_http2 if self.h2c else self.send_http1
        for _ in range(REDIRECTS):
            try:
                status, answered, content = await send(method, target, headers, body)
                if unpack and answered.get(b"content-encoding") == b"gzip":
                    content = gzip.decompress(content)
            except (OSError, EOFError, httpx.HTTPError) as error:
                raise UndeliveredError from error
            location = answered.get(b"location", b"").decode(errors="replace")
            if status not in (301, 302, 303, 307, 308) or not location:
                content_type = answered.get(b"content-type", b"").decode("latin-1")
                return Answer(status, content_type, utf8(content))
            here = f"http://{self.address}{target}"
            if status < 307:
                method, body = ("HEAD" if method == "HEAD" else "GET"), b""
                headers = [header for header in headers if not header[0].startswith(b"content-")]
            headers = [header for header in headers if header[0] != b"referer"]
            headers.append((b"referer", here.encode()))
            there = urlsplit(urljoin(here, location))
            target = encode(f"{there.path or '/'}?{there.query}".removesuffix("?"))
        return Answer(502, "text/plain", b"stopped after 10 redirects")

    async def send_http2(
        self, method: str, target: str, headers: Headers, body: bytes
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """Make a request over HTTP/2; return the answer's status, headers and body."""
        head = [
            (b":method", method.encode()),
            (b":scheme", b"http"),
            (b":authority", self.address.encode()),
            (b":path", target.encode()),
            *headers,
        ]
        if body or method in ("POST", "PUT", "PATCH"):
            head.append((b"content-length", b"%d" % len(body)))
        answered, content = await (await self.connection()).request(head, body)
        names = dict(answered)
        return int(names[b":status"]), names, content

    async def send_http1(
        self, method: str, target: str, headers: Headers, body: bytes
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """Make a request over HTTP/1.1; return the answer's status, headers and body."""
        request = httpx.Request(method, f"http://{self.address}", headers=headers, content=body)
        request.extensions["target"] = target.encode()
        response = await self.http1.handle_async_request(request)
        content = b"".join([chunk async for chunk in response.aiter_raw()])
        names = {name.lower(): value for name, value in response.headers.raw}
        return response.status_code, names, content

    async def connection(self) -> H2cConnection:
        """Return a connection with room for a call, a new one if none has."""
        for connection in self.connections:
            if connection.has_room():
                return connection
        async with self.connecting:
            for connection in self.connections:
                if connection.has_room():
                    return connection
            self.connections = [each for each in self.connections if each.usable or each.streams]
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(H2cConnection, "127.0.0.1", self.app_port)
            self.connections.append(connection)
            return connection
