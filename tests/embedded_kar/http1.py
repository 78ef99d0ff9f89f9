"""HTTP/1.1 to a service."""

import asyncio

import h11

from .messages import (
    MAX_HEADERS,
    MAX_RESPONSE,
    UNFINISHED,
    WRITTEN_BY_GO,
    BrokenConnectionError,
    Headers,
    NotListeningError,
    ServiceError,
)
from .output import warn_later


class Http1Client:
    """A client for one server, with a connection for each request in flight."""

    user_agent = b"Go-http-client/1.1"
    # Go also writes Trailer. It passes on the last two, which would end HTTP/1.1 in the service.
    left_out = WRITTEN_BY_GO | {b"trailer", b"upgrade", b"http2-settings"}

    def __init__(self, port: int) -> None:
        self._port = port
        self._in_use: set[Http1Connection] = set()
        self._idle: list[Http1Connection] = []

    async def close(self) -> None:
        for connection in (*self._in_use, *self._idle):
            connection.transport.abort()

    async def request(
        self, method: str, path: str, headers: Headers, body: bytes
    ) -> tuple[int, Headers, bytes]:
        connection = await self._take_connection()
        self._in_use.add(connection)
        try:
            host = (b"host", b"127.0.0.1:%d" % self._port)
            return await connection.request(method, path, [host, *headers], body)
        finally:
            self._in_use.discard(connection)
            if connection.is_idle:
                self._idle.append(connection)
            else:
                connection.transport.close()

    async def _take_connection(self) -> "Http1Connection":
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Http1Connection, "127.0.0.1", self._port)
        except OSError as error:
            raise NotListeningError(str(error)) from error
        return connection


class Http1Connection(asyncio.Protocol):
    """A connection that sends one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.is_idle = True
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def request(
        self, method: str, path: str, headers: Headers, body: bytes
    ) -> tuple[int, Headers, bytes]:
        """Send a request and return its response; raises ServiceError."""
        self.is_idle = False
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADERS)
        self._has_begun = False
        self._status = 0
        self._headers: Headers = []
        self._body = bytearray()
        self._notice: asyncio.TimerHandle | None = None
        self._finished = asyncio.get_running_loop().create_future()
        try:
            request = h11.Request(method=method, target=path, headers=headers)
            for event in (request, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self._h11.send(event) or b"")
        except h11.LocalProtocolError as error:
            raise ServiceError(f"the request is invalid: {error}") from error
        try:
            await self._finished
        finally:
            if self._notice:
                self._notice.cancel()
        return self._status, self._headers, bytes(self._body)

    def data_received(self, data: bytes) -> None:
        if self.is_idle or self._finished.done():  # the service was not asked for this
            self.transport.abort()
            return
        if not self._has_begun and not b"HTTP/".startswith(data[:5]):
            hint = "start kar with -h2c if the service speaks only HTTP/2"
            self._fail(ServiceError(f"the response is malformed: it is not HTTP/1.1: {hint}"))
            return
        self._has_begun = True
        self._receive(data)

    def eof_received(self) -> None:
        if not self.is_idle and not self._finished.done():
            self._receive(b"")

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(BrokenConnectionError("the connection was closed"))

    def _receive(self, data: bytes) -> None:
        try:
            self._h11.receive_data(data)
            while self._handle(self._h11.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            self._fail(ServiceError(f"the response is malformed: {error}"))

    def _handle(self, event: h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]) -> bool:
        """Handle an event of h11; return whether there can be another one."""
        match event:
            case h11.Response(status_code=status, headers=headers):
                self._status = status
                self._headers = list(headers)
                self._notice = warn_later(UNFINISHED)
            case h11.Data(data=data):
                self._body += data
                if len(self._body) > MAX_RESPONSE:
                    self._finished.set_result(None)
                    return False
            case h11.EndOfMessage():
                is_done = self._h11.our_state is self._h11.their_state is h11.DONE
                self.is_idle = is_done and self._h11.trailing_data == (b"", False)
                self._finished.set_result(None)
                return False
            case h11.InformationalResponse():
                pass
            case _:  # more data is needed, or there will be none
                return False
        return True

    def _fail(self, error: ServiceError) -> None:
        if not self._finished.done():
            self._finished.set_exception(error)
