"""Deliver calls to the replicas of a service, as KAR does.

A call goes to a random replica. While that is live, the request is sent to it again if necessary.
What the real KAR would go on sending for 15 minutes in vain is refused.
"""

import asyncio
import gzip
import math
import random
import time
import zlib
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from urllib.parse import urljoin, urlsplit

from . import go_text
from .http1 import Http1Client
from .http2 import PAUSE, Http2Client
from .messages import (
    MAX_RESPONSE,
    BrokenConnectionError,
    NotListeningError,
    Request,
    Response,
    ServiceError,
)
from .output import NOTICE_DELAY, warn_once
from .refusals import RefusedError, check_call, check_connection_headers, check_response
from .registry import REFRESH_PERIOD, Registry, Replica

MAX_REQUESTS = 10  # of one call: Go's HTTP client follows nine redirects
MAX_BROKEN = 5  # connections that may break during one call
CRASH_GRACE = 0.3  # seconds for a kar to notice that its process has crashed
MAX_CRASH_GRACE = 5.0  # seconds for the same on a busy machine

Client = Http1Client | Http2Client
BODY_HEADERS = {b"content-encoding", b"content-language", b"content-location", b"content-type"}


class Delivery:
    """Delivers the calls of one component, and follows the registry until kar exits."""

    def __init__(self, registry: Registry, missing_component_timeout: float) -> None:
        """Take the timeout in seconds. If it is 0 or less, calls wait without a limit."""
        self._registry = registry
        self._timeout = missing_component_timeout if missing_component_timeout > 0 else math.inf
        self._clients: dict[Replica, Client] = {}
        self._calls = 0
        self._has_calls = asyncio.Event()
        self._refreshed = -math.inf  # when, in seconds of time.monotonic()
        self._watching = asyncio.create_task(self._watch())

    async def call(self, service: str, request: Request) -> Response:
        """Return a service's response to a request; raises RefusedError."""
        check_call(service, request)
        self._calls += 1
        self._has_calls.set()
        try:
            return await self._deliver(service, request)
        finally:
            self._calls -= 1
            if not self._calls:
                self._has_calls.clear()

    async def _deliver(self, service: str, request: Request) -> Response:
        deadline = time.monotonic() + self._timeout
        while True:
            replica = await self._choose(service, deadline)
            if replica.h2c:
                check_connection_headers(request)
            response = await self._send(replica, request)
            if response:
                check_response(response)
                return response

    async def _watch(self) -> None:
        """Follow the registry, and break the connections to replicas that are gone.

        A sidecar without calls in flight need not know, so it does not look.
        """
        while True:
            await asyncio.sleep(REFRESH_PERIOD)
            await self._has_calls.wait()
            self._refresh()
            for replica in [each for each in self._clients if not self._registry.is_live(each)]:
                await self._clients.pop(replica).close()

    def _refresh(self) -> None:
        self._registry.refresh()
        self._refreshed = time.monotonic()

    async def _choose(self, service: str, deadline: float) -> Replica:
        """Return a live replica of a service, and wait for one until the deadline."""
        start = time.monotonic()
        if start - self._refreshed > REFRESH_PERIOD:  # no calls were in flight until now
            self._refresh()
        while True:
            if time.monotonic() >= deadline:
                reason = f"failed to send message: deadline expired: no service {service!r}"
                raise RefusedError(reason, 500)
            if replicas := self._registry.replicas(service):
                return random.choice(replicas)
            if time.monotonic() - start >= NOTICE_DELAY:
                warn_once(
                    f"waiting for service {service!r} of application "
                    f"{self._registry.application!r}: no kar in {self._registry.directory} "
                    "provides it. Check -service, -app and XDG_RUNTIME_DIR"
                )
            await asyncio.sleep(REFRESH_PERIOD)

    async def _send(self, replica: Replica, request: Request) -> Response | None:
        """Send a request until there is a response, or return None when the replica is gone."""
        start = time.monotonic()
        broken = 0
        while self._registry.is_live(replica):
            if replica not in self._clients:
                port = replica.app_port
                self._clients[replica] = Http2Client(port) if replica.h2c else Http1Client(port)
            try:
                response = await _follow_redirects(self._clients[replica], replica, request)
            except NotListeningError:
                if time.monotonic() - start >= NOTICE_DELAY:
                    warn_once(
                        f"waiting for service {replica.service!r}: its kar is running, but nothing "
                        f"accepts connections at {replica.address}. Check -app_port"
                    )
            except BrokenConnectionError as error:
                broken += 1
                if await self._has_survived(replica) and (request.body or broken == MAX_BROKEN):
                    raise RefusedError(
                        "the service broke the connection; KAR would send the request again for 15 "
                        "minutes, and without its body, which loses the call: let the service keep "
                        "connections open"
                    ) from error
            except ServiceError as error:
                raise RefusedError(f"{error}; KAR would try for 15 minutes") from error
            else:
                # An error can come from a process whose kar was killed: it cannot print any more.
                if response.status >= 500:
                    self._refresh()
                if self._registry.is_live(replica):
                    return response
            await asyncio.sleep(PAUSE)
        return None

    async def _has_survived(self, replica: Replica) -> bool:
        """Return whether a replica is still alive after it broke a connection.

        The real KAR delivers a call again, with its body, if the kar of the replica exits, as it
        does when its process crashes. A crashed process accepts no connections, and its kar exits
        after a moment. If the kar stays, another program runs between it and the process.
        """
        await asyncio.sleep(CRASH_GRACE)
        deadline = time.monotonic() + MAX_CRASH_GRACE
        while self._registry.is_live(replica) and time.monotonic() < deadline:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", replica.app_port)
                writer.close()
                return True
            await asyncio.sleep(PAUSE)
        return self._registry.is_live(replica)


async def _follow_redirects(client: Client, replica: Replica, request: Request) -> Response:
    """Return the response to a request, or to the last one that it is redirected to."""
    try:
        request = replace(request, path=go_text.encode_path(request.path))
    except ValueError as error:
        url = go_text.quoted(f"http://{replica.address}{request.path}")
        raise RefusedError(f"failed to send message: parse {url}: {error}", 500) from error
    first = request
    for _ in range(MAX_REQUESTS):
        response = await _send(client, request)
        location = response.headers.get(b"location", b"").decode(errors="replace")
        if response.status not in (301, 302, 303, 307, 308) or not location:
            return response
        if response.status < 307:
            headers = [header for header in first.headers if header[0] not in BODY_HEADERS]
            first = replace(first, method="GET", headers=headers, body=b"")
        request = _next_request(replica, first, request.path, location)
    raise RefusedError(
        "the service redirected the call more than 9 times; KAR would begin again for 15 minutes: "
        "redirect less often"
    )


def _next_request(replica: Replica, first: Request, path: str, location: str) -> Request:
    """Return the first request, redirected from a path of the service to another location."""
    url = f"http://{replica.address}{path}"
    try:
        scheme, address, path, query, _ = urlsplit(urljoin(url, location))
        target = path or "/"
        if query:
            target += f"?{query}"
        target = go_text.encode_path(target)
    except ValueError as error:
        raise RefusedError(
            f"the service redirected the call to {location!r}, which is not a URL; KAR would try "
            "for 15 minutes: redirect to a path of the service"
        ) from error
    if (scheme, address) != ("http", replica.address):
        raise RefusedError(
            f"the service redirected the call to {location!r}; KAR would follow it to another "
            "server: redirect to a path of the service"
        )
    headers = first.headers
    if not any(name == b"referer" for name, _ in headers):
        headers = [*headers, (b"referer", url.encode())]
    return replace(first, path=target, headers=headers)


async def _send(client: Client, request: Request) -> Response:
    """Send a request and return its response; raises ServiceError."""
    headers = [
        (name, go_text.to_utf8(value))
        for name, value in request.headers
        if name not in client.left_out
    ]
    names = {name for name, _ in headers}
    if b"user-agent" not in names:
        headers.append((b"user-agent", client.user_agent))
    if request.body or request.method in ("PATCH", "POST", "PUT"):
        headers.append((b"content-length", b"%d" % len(request.body)))
    decompresses = not names & {b"accept-encoding", b"range"}
    if decompresses:
        headers.append((b"accept-encoding", b"gzip"))
    status, response_headers, content = await client.request(
        request.method, request.path, headers, request.body
    )
    # Of several headers with one name, Go reads the first.
    received = {name.lower(): value for name, value in reversed(response_headers)}
    is_gzip = received.get(b"content-encoding", b"").lower() == b"gzip"
    if decompresses and is_gzip:
        content = _decompress(content)
    return Response(status, received, content)


def _decompress(content: bytes) -> bytes:
    """Return what was compressed with gzip, but not much more than MAX_RESPONSE bytes."""
    try:
        return gzip.GzipFile(fileobj=BytesIO(content)).read(MAX_RESPONSE + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ServiceError(f"the response is malformed: it is not gzip: {error}") from error
