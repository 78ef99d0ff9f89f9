"""Requests to one replica, with the headers that Go's HTTP client sends and reads.

A replica with -h2c is called through h2c, others with httpx over HTTP/1.1.
"""

import gzip
import zlib
from dataclasses import dataclass

import httpx

from . import go_text
from .h2c import H2cClient, H2cError, Headers, InvalidRequestError, NotProcessedError
from .registry import Replica

# Go's HTTP client sets these itself; those about the connection do not exist in HTTP/2.
LEFT_OUT = {b"host", b"content-length", b"transfer-encoding", b"trailer"}
LEFT_OUT |= {b"connection", b"keep-alive", b"proxy-connection"}


class UnreachableError(Exception):
    """The replica does not accept a connection, or has not begun with the request."""


class BrokenError(Exception):
    """The connection broke after the request was sent."""


class InvalidMessageError(Exception):
    """HTTP does not allow the request or the response; str() says why."""


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
        self._client: H2cClient | Http1Client
        if replica.h2c:
            self._client = H2cClient(replica.address)
            self._user_agent = b"Go-http-client/2.0"
        else:
            self._client = Http1Client(replica.address)
            self._user_agent = b"Go-http-client/1.1"

    async def close(self) -> None:
        """Close the connections; requests in flight raise BrokenError."""
        await self._client.close()

    async def send(self, request: Request) -> Response:
        """Send a request; raises an error of this module."""
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
        body = go_text.to_utf8(request.body)
        try:
            status, received, body = await self._client.request(
                request.method, request.path, headers, body
            )
            if unpacks and received.get(b"content-encoding", b"").lower() == b"gzip":
                body = gzip.decompress(body)
                del received[b"content-encoding"]
        except (NotProcessedError, httpx.ConnectError) as error:
            raise UnreachableError from error
        except (InvalidRequestError, httpx.LocalProtocolError) as error:
            raise InvalidMessageError(f"the request is invalid: {error}") from error
        except (H2cError, httpx.TransportError) as error:
            raise BrokenError from error
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidMessageError(f"the response is not gzip: {error}") from error
        return Response(status, received, go_text.to_utf8(body))


class Http1Client:
    """A client for HTTP/1.1."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}"
        # The limit bounds how many connections httpx looks through for each request.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self._transport = httpx.AsyncHTTPTransport(trust_env=False, limits=limits)

    async def close(self) -> None:
        await self._transport.aclose()

    async def request(
        self, method: str, path: str, headers: Headers, body: bytes
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """Send a request and return the status, the headers and the body of its response."""
        request = httpx.Request(
            method,
            self._url,
            headers=headers,
            content=body,
            extensions={"target": path.encode()},  # as it is, where httpx would encode it again
        )
        response = await self._transport.handle_async_request(request)
        received = {name.lower(): value for name, value in response.headers.raw}
        return (
            response.status_code,
            received,
            b"".join([part async for part in response.aiter_raw()]),
        )
