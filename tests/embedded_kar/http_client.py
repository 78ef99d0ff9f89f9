"""Requests to one replica, with the headers that Go's HTTP client sends and reads.

A replica with -h2c is called over HTTP/2, others over HTTP/1.1.
"""

import gzip
import zlib
from dataclasses import dataclass

import httpx

from . import go_text
from .h2c import H2cTransport, Headers
from .registry import Replica

# Go's HTTP client sets the first four itself. The others are about one connection.
LEFT_OUT = {
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"trailer",
    b"connection",
    b"keep-alive",
    b"proxy-connection",
}


@dataclass(frozen=True)
class Request:
    """A request to a service; the path is what follows the host in its URL."""

    method: str
    path: str
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class Response:
    """A response of a service; header names are in lower case, and the body is UTF-8."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def content_type(self) -> bytes:
        return self.headers.get(b"content-type", b"")


class HttpClient:
    """A client for one replica."""

    def __init__(self, replica: Replica) -> None:
        self._url = httpx.URL(f"http://{replica.address}")
        self._transport: httpx.AsyncBaseTransport
        if replica.h2c:
            self._transport = H2cTransport()
            self._user_agent = b"Go-http-client/2.0"
        else:
            # The limit bounds how many connections httpx looks through for each request.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
            self._transport = httpx.AsyncHTTPTransport(trust_env=False, limits=limits)
            self._user_agent = b"Go-http-client/1.1"

    async def close(self) -> None:
        """Close the connections; requests in flight raise httpx.TransportError."""
        await self._transport.aclose()

    async def send(self, request: Request) -> Response:
        """Send a request; raises httpx.TransportError or httpx.DecodingError."""
        headers = [
            (name, go_text.to_utf8(value))
            for name, value in request.headers
            if name not in LEFT_OUT
        ]
        names = {name for name, _ in headers}
        if b"user-agent" not in names:
            headers.append((b"user-agent", self._user_agent))
        unpacks = not names & {b"accept-encoding", b"range"}
        if unpacks:
            headers.append((b"accept-encoding", b"gzip"))
        response = await self._transport.handle_async_request(
            httpx.Request(
                request.method,
                self._url,
                headers=headers,
                content=go_text.to_utf8(request.body),
                extensions={"target": request.path.encode()},  # httpx would encode it once more
            )
        )
        received = {name.lower(): value for name, value in response.headers.raw}
        body = b"".join([part async for part in response.aiter_raw()])
        if unpacks and received.get(b"content-encoding", b"").lower() == b"gzip":
            del received[b"content-encoding"]
            try:
                body = gzip.decompress(body)
            except (OSError, EOFError, zlib.error) as error:
                raise httpx.DecodingError(f"the response is not gzip: {error}") from error
        return Response(response.status_code, received, go_text.to_utf8(body))
