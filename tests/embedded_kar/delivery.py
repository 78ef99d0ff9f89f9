"""Deliver requests to the replicas of a service, in the way of KAR and of its HTTP client.

What the real KAR repeats without an end, damages, or loses is refused at once.
"""

import asyncio
import contextlib
import gzip
import io
import random
import time
import zlib
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit

import httpx

from . import go_text
from .h2c import (
    H2cConnection,
    H2cError,
    Headers,
    InvalidRequestError,
    NotProcessedError,
    ResponseTooLargeError,
)
from .output import log
from .registry import PERIOD, Registry, Replica

MAX_MESSAGE = 1_000_000  # bytes of a Kafka message, by default, with a request or a response
MAX_REDIRECTED = 10  # requests of one call; Go's HTTP client does not follow a tenth redirect
MAX_ATTEMPTS = 5  # times that one call may break its connection, or may be turned away
MISSING_NOTICE = 5.0  # seconds until a caller says what it waits for
SETTLE = 0.3  # seconds in which the kar of a crashed service notices it
PAUSES = (0.02, 0.05, 0.1, 0.25)  # seconds before the next attempt; the last one repeats

# Go's HTTP client sets these itself, and leaves the last ones out over HTTP/2.
SET_BY_CLIENT = frozenset([b"host", b"content-length", b"transfer-encoding", b"trailer"])
ONLY_HTTP1 = frozenset([b"connection", b"keep-alive", b"proxy-connection"])
BODY_HEADERS = frozenset(
    [b"content-encoding", b"content-language", b"content-location", b"content-type"]
)


class DeliveryError(Exception):
    """A call has no response; str() is the reason."""


class FailedError(DeliveryError):
    """KAR reports the reason itself, with status 500."""


class RefusedError(DeliveryError):
    """The real KAR would repeat the call without an end, damage it, or lose it."""


class UnreachableError(Exception):
    """A replica does not accept a connection, or has not begun with the request."""


class BrokenError(Exception):
    """The connection to a replica broke after the request was sent."""


@dataclass(frozen=True)
class ServiceRequest:
    """A request to a service: the decoded path from its first /, and the body as it came."""

    method: str
    path: str
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class ServiceResponse:
    """What a caller receives of a response; the body is UTF-8."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Exchange:
    """One request on the wire."""

    method: str
    target: bytes
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class Reply:
    """One response on the wire; header names are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Delivery:
    """Delivers calls of one component; an asynchronous context manager."""

    def __init__(self, registry: Registry, missing_component_timeout: float) -> None:
        """Take the timeout in seconds; without one (0 or less) a call waits for a service."""
        self._registry = registry
        self._timeout = missing_component_timeout
        self._clients: dict[Replica, ReplicaClient] = {}
        self._notices: set[str] = set()

    async def __aenter__(self) -> Self:
        self._registry.refresh()
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watching
        for client in self._clients.values():
            await client.close()

    async def deliver(self, service: str, request: ServiceRequest) -> ServiceResponse:
        """Send a request to one of a service's replicas, and to another one if that crashes.

        Raises FailedError or RefusedError.
        """
        check_request(service, request)
        deadline = time.time() + self._timeout if self._timeout > 0 else None
        while True:
            replica = await self._choose(service, deadline)
            if replica.h2c:
                _check_for_http2(request)
            client = self._clients.get(replica)
            if client is None:
                client = self._clients[replica] = ReplicaClient(replica, self._registry)
            with contextlib.suppress(TimeoutError):  # the replica is gone
                return await client.send(request)

    async def _choose(self, service: str, deadline: float | None) -> Replica:
        """Return a live replica of a service, and wait for one until the deadline."""
        start = time.monotonic()
        while True:
            if deadline is not None and time.time() >= deadline:
                raise FailedError(
                    f"deadline expired: deadline was {_go_time(deadline)} "
                    f"and it is now {_go_time(time.time())}"
                )
            replicas = self._registry.replicas(service)
            if replicas:
                self._notices.discard(service)
                return random.choice(replicas)
            if time.monotonic() - start >= MISSING_NOTICE and service not in self._notices:
                self._notices.add(service)
                log(
                    "WARNING",
                    f"waiting for service {service!r} of application "
                    f"{self._registry.application!r}: no kar in {self._registry.directory} "
                    "provides it. Check -service, -app and XDG_RUNTIME_DIR",
                )
            pause = 0.5 if deadline is None else min(0.5, max(0.0, deadline - time.time()))
            await self._registry.change(pause)

    async def _watch(self) -> None:
        """Follow the registry; calls in flight on a replica that is gone are delivered again."""
        while True:
            await asyncio.sleep(PERIOD)
            self._registry.refresh()
            for replica in [each for each in self._clients if not self._registry.is_live(each)]:
                await self._clients.pop(replica).close()


class ReplicaClient:
    """An HTTP client for one replica, over HTTP/2 or HTTP/1.1."""

    def __init__(self, replica: Replica, registry: Registry) -> None:
        self._replica = replica
        self._registry = registry
        self._address = f"127.0.0.1:{replica.app_port}"
        self._calls: set[asyncio.Timeout] = set()
        self._closed = False
        self._noticed = False
        self._connections: list[H2cConnection] = []
        self._connecting = asyncio.Lock()
        # The limit bounds how many connections httpx looks through for each request.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self._http1 = httpx.AsyncHTTPTransport(trust_env=False, limits=limits)

    async def close(self) -> None:
        """Close the connections; calls in flight raise TimeoutError."""
        self._closed = True
        now = asyncio.get_running_loop().time()
        for call in self._calls:
            call.reschedule(now)
        while self._calls:
            await asyncio.sleep(0.01)
        for connection in self._connections:
            connection.abort()
        await self._http1.aclose()

    async def send(self, request: ServiceRequest) -> ServiceResponse:
        """Send a request until there is a response; the replica may not listen yet.

        Raises TimeoutError if the replica is gone, FailedError and RefusedError.
        """
        if self._closed:
            raise TimeoutError
        async with asyncio.timeout(None) as scope:
            self._calls.add(scope)
            try:
                return await self._send(request)
            finally:
                self._calls.discard(scope)

    async def _send(self, request: ServiceRequest) -> ServiceResponse:
        start = time.monotonic()
        attempts = 0
        broken = 0
        while True:
            try:
                return await self._follow_redirects(request)
            except UnreachableError:
                if time.monotonic() - start >= MISSING_NOTICE and not self._noticed:
                    self._noticed = True
                    log(
                        "WARNING",
                        f"waiting for service {self._replica.service!r}: its kar is running, but "
                        f"nothing accepts connections at {self._address}. Check -app_port",
                    )
            except BrokenError as error:
                broken += 1
                await self._check_broken(request, broken, error)
            await asyncio.sleep(PAUSES[min(attempts, len(PAUSES) - 1)])
            attempts += 1

    async def _check_broken(self, request: ServiceRequest, times: int, error: BrokenError) -> None:
        """Return if a call whose connection broke can be sent again; raise RefusedError if not.

        The real KAR delivers a call again, with its body, if the kar of the replica exits, as it
        does when its process crashes. While that kar runs it sends the request again itself, but
        the body has been read. A crashed process accepts no connections, and its kar exits after
        a moment; so the service lives if its kar runs and its port accepts connections.
        """
        await asyncio.sleep(SETTLE)
        while not await self._accepts_connections():
            await asyncio.sleep(PAUSES[-1])
        if request.body:
            raise RefusedError(
                "the service broke the connection; KAR would send the request again without its "
                "body and lose the call: let the service keep connections open"
            ) from error
        if times >= MAX_ATTEMPTS:
            raise RefusedError(
                f"the service broke the connection {times} times; KAR would go on for 15 minutes: "
                "let the service keep connections open"
            ) from error

    async def _accepts_connections(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._replica.app_port)
        except OSError:
            return False
        writer.close()
        return True

    async def _follow_redirects(self, request: ServiceRequest) -> ServiceResponse:
        exchange, unpack = self._first_exchange(request)
        for _ in range(MAX_REDIRECTED):
            reply = await self._exchange(exchange)
            location = reply.headers.get(b"location")
            if reply.status not in (301, 302, 303, 307, 308) or not location:
                return _service_response(reply, unpack)
            exchange = self._redirected(exchange, reply.status, location.decode(errors="replace"))
        raise RefusedError(
            "the service redirected the call more than 9 times; KAR would begin again for 15 "
            "minutes: redirect less often"
        )

    def _first_exchange(self, request: ServiceRequest) -> tuple[Exchange, bool]:
        """Return the first request to send, and whether a compressed response is unpacked."""
        excluded = SET_BY_CLIENT | ONLY_HTTP1 if self._replica.h2c else SET_BY_CLIENT
        headers = [
            (name, go_text.to_utf8(value))
            for name, value in request.headers
            if name not in excluded
        ]
        names = {name for name, _ in headers}
        if b"user-agent" not in names:
            version = b"2.0" if self._replica.h2c else b"1.1"
            headers.append((b"user-agent", b"Go-http-client/" + version))
        unpack = not names & {b"accept-encoding", b"range"}
        if unpack:
            headers.append((b"accept-encoding", b"gzip"))
        try:
            target = go_text.request_target(self._address, request.path)
        except go_text.GoError as error:
            raise FailedError(str(error)) from error
        body = go_text.to_utf8(request.body)
        return Exchange(request.method, target, headers, body), unpack

    def _redirected(self, exchange: Exchange, status: int, location: str) -> Exchange:
        """Return the request that follows a redirect."""
        url = f"http://{self._address}{exchange.target.decode()}"
        try:
            parts = urlsplit(urljoin(url, location))
            path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
            target = go_text.request_target(self._address, path)
        except ValueError as error:
            raise RefusedError(
                f"the service redirected the call to {location!r}, which is not a valid URL; KAR "
                "would send the request again for 15 minutes: correct the Location header"
            ) from error
        if (parts.scheme, parts.netloc) != ("http", self._address):
            raise RefusedError(
                f"the service redirected the call to {location!r}; KAR would follow it to "
                "another server: redirect to a path of the service"
            )
        headers = exchange.headers
        if not any(name == b"referer" for name, _ in headers):
            headers = [*headers, (b"referer", url.encode())]
        if status in (307, 308):
            return replace(exchange, target=target, headers=headers)
        headers = [header for header in headers if header[0] not in BODY_HEADERS]
        return Exchange("GET", target, headers, b"")

    async def _exchange(self, exchange: Exchange) -> Reply:
        """Send one request; raise UnreachableError, BrokenError or RefusedError."""
        try:
            if self._replica.h2c:
                return await self._exchange_http2(exchange)
            return await self._exchange_http1(exchange)
        except (NotProcessedError, httpx.ConnectError) as error:
            raise UnreachableError from error
        except ResponseTooLargeError as error:
            raise _response_too_large() from error
        except (InvalidRequestError, httpx.LocalProtocolError) as error:
            raise RefusedError(
                f"the request cannot be sent ({error}); KAR would try for 15 minutes: correct "
                "its headers"
            ) from error
        except (H2cError, httpx.TransportError) as error:
            raise BrokenError from error

    async def _exchange_http2(self, exchange: Exchange) -> Reply:
        headers = [
            (b":method", exchange.method.encode()),
            (b":scheme", b"http"),
            (b":authority", self._address.encode()),
            (b":path", exchange.target),
            *exchange.headers,
        ]
        if exchange.body or exchange.method in ("POST", "PUT", "PATCH"):
            headers.append((b"content-length", b"%d" % len(exchange.body)))
        connection = await self._connection()
        received, body = await connection.request(headers, exchange.body, MAX_MESSAGE)
        named = dict(received)
        return Reply(int(named[b":status"]), named, body)

    async def _exchange_http1(self, exchange: Exchange) -> Reply:
        request = httpx.Request(
            exchange.method,
            f"http://{self._address}",
            headers=exchange.headers,
            content=exchange.body,
            extensions={"target": exchange.target},
        )
        response = await self._http1.handle_async_request(request)
        body = bytearray()
        async with contextlib.aclosing(response):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_MESSAGE:
                    raise ResponseTooLargeError
        named = {name.lower(): value for name, value in response.headers.raw}
        return Reply(response.status_code, named, bytes(body))

    async def _connection(self) -> H2cConnection:
        """Return an HTTP/2 connection with room for a request; make one if there is none."""
        for connection in self._connections:
            if connection.has_room:
                return connection
        async with self._connecting:
            for connection in self._connections:
                if connection.has_room:
                    return connection
            loop = asyncio.get_running_loop()
            try:
                _, connection = await loop.create_connection(
                    H2cConnection, "127.0.0.1", self._replica.app_port
                )
            except OSError as error:
                raise UnreachableError from error
            self._connections = [each for each in self._connections if not each.is_finished]
            self._connections.append(connection)
            return connection


def check_request(service: str, request: ServiceRequest) -> None:
    """Raise FailedError or RefusedError if a call cannot succeed, whatever the service does."""
    if request.method == "HEAD":
        raise RefusedError(
            "KAR repeats a HEAD request for 15 minutes if the response has a Content-Length: "
            "use GET"
        )
    if any(name == b"upgrade" for name, _ in request.headers):
        raise RefusedError(
            "KAR passes the header Upgrade on to the service, and the call gets no response: "
            "send the request without it"
        )
    if _request_message_size(service, request) > MAX_MESSAGE:
        raise FailedError(
            "kafka server: Message was too large, server rejected it to avoid allocation error"
        )


def _check_for_http2(request: ServiceRequest) -> None:
    """Refuse headers that Go's HTTP/2 client does not send, or that HTTP/2 servers reject."""
    connection = [value.lower() for name, value in request.headers if name == b"connection"]
    if connection not in ([], [b""], [b"keep-alive"]):
        raise RefusedError(
            "KAR cannot pass the header Connection on to a service with -h2c, and the call gets "
            "no response: keep the connection open, or use HTTP/2"
        )
    if any(name == b"te" and value.lower() != b"trailers" for name, value in request.headers):
        raise RefusedError(
            "HTTP/2 servers reject the header TE, and KAR would repeat the request for 15 "
            "minutes: send the request without it"
        )


def _request_message_size(service: str, request: ServiceRequest) -> int:
    """Return the bytes of the Kafka message with a request, at most 100 more than they are.

    The message is a JSON object, in which the headers are a string with a JSON object.
    """
    header_bytes = sum(len(name) + len(value) for name, value in request.headers)
    if 6 * len(request.body) + 12 * header_bytes + 6 * len(request.path) < MAX_MESSAGE / 2:
        return 0  # small enough, however it is escaped
    values: dict[bytes, list[str]] = {}
    for name, value in request.headers:
        values.setdefault(name, []).append(go_text.json_string(value))
    members = [f"{go_text.json_string(name)}:[{','.join(each)}]" for name, each in values.items()]
    header = "{" + ",".join(members) + "}"
    strings = (header.encode(), request.method.encode(), request.path.encode(), request.body)
    value_size = len('{"command":"call","header":,"method":,"path":,"payload":}')
    value_size += sum(len(go_text.json_string(each).encode()) for each in strings)
    return value_size + _metadata_size(
        Type="Call",
        RequestID="req-00000000-0000-0000-0000-000000000000",
        Method="handlerService",
        Caller="node-00000000-0000-0000-0000-000000000000",
        Child="",
        Parent="",
        Service=service,
        Deadline="1700000000",
    )


def _response_message_size(response: ServiceResponse, raw_body: bytes) -> int:
    """Return the bytes of the Kafka message with a response."""
    if 6 * len(raw_body) < MAX_MESSAGE / 2:
        return 0
    content_type = go_text.json_string(response.content_type.encode())
    payload = go_text.json_string(raw_body)
    value = f'{{"StatusCode":{response.status},"ContentType":{content_type},"Payload":{payload}}}'
    return len(value.encode()) + _metadata_size(
        Type="Response",
        RequestID="req-00000000-0000-0000-0000-000000000000",
        ErrMsg="",
        Deadline="1700000000",
    )


def _metadata_size(**headers: str) -> int:
    """Return the bytes that KAR's Kafka client counts for a message beside its value."""
    return 36 + sum(len(name) + len(value.encode()) + 10 for name, value in headers.items())


def _service_response(reply: Reply, unpack: bool) -> ServiceResponse:
    """Return what KAR makes of a response; raise RefusedError if that goes wrong."""
    body = reply.body
    length = reply.headers.get(b"content-length", b"")
    encoding = reply.headers.get(b"content-encoding", b"").lower()
    if unpack and encoding == b"gzip":
        body = _gunzip(body)
    elif encoding not in (b"", b"identity"):
        raise RefusedError(
            f"the response has Content-Encoding {encoding.decode(errors='replace')}; KAR would "
            "drop that header and damage the body: send the request with Accept-Encoding: identity"
        )
    elif length.isdigit() and int(length) != len(body):
        raise RefusedError(
            "the response has another Content-Length than its body; KAR would repeat the request "
            "for 15 minutes: send the response without Content-Length"
        )
    content_type = reply.headers.get(b"content-type", b"").decode("latin-1")
    response = ServiceResponse(reply.status, content_type, go_text.to_utf8(body))
    if _response_message_size(response, body) > MAX_MESSAGE:
        raise _response_too_large()
    return response


def _gunzip(data: bytes) -> bytes:
    """Unpack a body; raise RefusedError if it is damaged, or larger than a message."""
    try:
        body = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_MESSAGE + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RefusedError(
            "the response has Content-Encoding gzip, but its body is not valid; KAR would repeat "
            "the request for 15 minutes: send the body as the header says"
        ) from error
    if len(body) > MAX_MESSAGE:
        raise _response_too_large()
    return body


def _response_too_large() -> RefusedError:
    return RefusedError(
        "the response is larger than a Kafka message of 1,000,000 bytes; the kar of the service "
        "would exit and leave the caller waiting: split the response"
    )


def _go_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %z %Z")
