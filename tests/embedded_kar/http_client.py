"""Requests to a service, with the headers that Go's HTTP client sends and reads.

A service with -h2c is called over HTTP/2, others over HTTP/1.1.
"""

import zlib
from dataclasses import dataclass

import httpx

from . import go_text
from .h2c import ENDLESS, MAX_RESPONSE, H2cClient, Headers, MalformedError
from .output import warn_later

# Go's HTTP client sets the first four itself. The others apply to a single connection.
LEFT_OUT = {
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"trailer",
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"upgrade",
    b"http2-settings",
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


class Http1Client:
    """A client for one server, over HTTP/1.1."""

    user_agent = b"Go-http-client/1.1"

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        # httpx searches all connections for each request, so only a few idle ones are kept. Without
        # verify=False it would load certificates, which takes longer than a request.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self._transport = httpx.AsyncHTTPTransport(verify=False, trust_env=False, limits=limits)

    async def close(self) -> None:
        """Close the connections; requests in flight raise httpx.TransportError."""
        await self._transport.aclose()

    async def request(
        self, method: str, path: str, headers: Headers, body: bytes
    ) -> tuple[int, Headers, bytes]:
        target = {"target": path.encode()}  # httpx would encode the path of a URL once more
        request = httpx.Request(method, self._url, headers=headers, content=body, extensions=target)
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.RemoteProtocolError as error:
            if "disconnected" in str(error):
                raise
            hint = ": start kar with -h2c if the service speaks only HTTP/2"
            raise MalformedError(f"{error}{hint}") from error
        notice = warn_later(ENDLESS)
        content = bytearray()
        try:
            async for part in response.aiter_raw():
                content += part
                if len(content) > MAX_RESPONSE:
                    break
        finally:
            notice.cancel()
            await response.aclose()
        return response.status_code, response.headers.raw, bytes(content)


async def send(client: H2cClient | Http1Client, request: Request) -> Response:
    """Send a request; raises httpx.TransportError or httpx.DecodingError."""
    body = go_text.to_utf8(request.body)
    headers = [
        (name, go_text.to_utf8(value)) for name, value in request.headers if name not in LEFT_OUT
    ]
    names = {name for name, _ in headers}
    if b"user-agent" not in names:
        headers.append((b"user-agent", client.user_agent))
    if body or request.method in ("PATCH", "POST", "PUT"):
        headers.append((b"content-length", b"%d" % len(body)))
    decompresses = not names & {b"accept-encoding", b"range"}
    if decompresses:
        headers.append((b"accept-encoding", b"gzip"))
    status, response_headers, content = await client.request(
        request.method, request.path, headers, body
    )
    # Of several headers with one name, Go reads the first.
    received = {name.lower(): value for name, value in reversed(response_headers)}
    if decompresses and received.get(b"content-encoding", b"").lower() == b"gzip":
        del received[b"content-encoding"]
        content = _decompress(content)
    return Response(status, received, go_text.to_utf8(content))


def _decompress(content: bytes) -> bytes:
    """Return what was compressed with gzip, but not much more than MAX_RESPONSE bytes."""
    decompressor = zlib.decompressobj(wbits=31)  # for the format of gzip
    try:
        text = decompressor.decompress(content, MAX_RESPONSE + 1)
    except zlib.error as error:
        raise httpx.DecodingError(f"the response is not gzip: {error}") from error
    if len(text) <= MAX_RESPONSE and not decompressor.eof:
        raise httpx.DecodingError("the response is not gzip: its end is missing")
    return text
