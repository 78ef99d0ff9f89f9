"""A request to a service and its response, with what Go's HTTP client makes of them."""

from dataclasses import dataclass

from . import go_text

MAX_RESPONSE = 1_000_000  # bytes of a body that are read; KAR could not pass on any more
MAX_HEADERS = 10 * 2**20  # bytes of a response's headers that Go reads
UNFINISHED = (
    "the body of a response has not ended after 5 s, and KAR passes on only whole responses"
)

Headers = list[tuple[bytes, bytes]]

# Go's HTTP client writes these headers itself, whatever the caller has sent.
WRITTEN_BY_GO = {b"host", b"content-length", b"transfer-encoding"}


class ServiceError(Exception):
    """A request is invalid, or has no response that can be passed on."""


class NotListeningError(ServiceError):
    """Nothing accepts connections at the port of the service."""


class BrokenConnectionError(ServiceError):
    """The connection was closed or reset before there was a response."""


@dataclass(frozen=True)
class Request:
    """A request to a service; the path is what follows the host in its URL."""

    method: str
    path: str
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class Response:
    """A response of a service; header names are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def content_type(self) -> bytes:
        return go_text.to_utf8(self.headers.get(b"content-type", b""))
