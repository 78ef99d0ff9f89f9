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

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Http1Client:
    """A client for one server, with a connection for each request in flight."""

    user_agent = b"Go-http-client/1.1"
    # Go also writes Trailer. It passes on the last two, which would end HTTP/1.1 in the service.
    left_out = WRITTEN_BY_GO | {b"trailer", b"upgrade", b"http2-settings"}

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []
        self._writers: set[asyncio.StreamWriter] = set()

    async def close(self) -> None:
        """Close the connections; requests in flight raise BrokenConnectionError."""
        for writer in self._writers:
            writer.transport.abort()

    async def request(
        self, method: str, path: str, headers: Headers, body: bytes
    ) -> tuple[int, Headers, bytes]:
        """Return the status, headers and body of the response; raises ServiceError."""
        reader, writer = await self._take_connection()
        state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADERS)
        host = (b"host", b"127.0.0.1:%d" % self._port)
        is_reusable = False
        try:
            request = h11.Request(method=method, target=path, headers=[host, *headers])
            for event in (request, h11.Data(data=body), h11.EndOfMessage()):
                writer.write(state.send(event) or b"")
            response = await _receive(state, reader)
            # A service can send more than the response. That is not one to the next request.
            is_done = state.our_state is state.their_state is h11.DONE
            is_reusable = is_done and state.trailing_data == (b"", False)
            return response
        except h11.LocalProtocolError as error:
            raise ServiceError(f"the request is invalid: {error}") from error
        except h11.RemoteProtocolError as error:
            if reader.at_eof():
                raise BrokenConnectionError("the response is not complete") from error
            raise ServiceError(f"the response is malformed: {error}") from error
        except OSError as error:
            raise BrokenConnectionError(str(error)) from error
        finally:
            if is_reusable:
                self._idle.append((reader, writer))
            else:
                self._writers.discard(writer)
                writer.close()

    async def _take_connection(self) -> Connection:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            self._writers.discard(writer)
            writer.close()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError as error:
            raise NotListeningError(str(error)) from error
        self._writers.add(writer)
        return reader, writer


async def _receive(
    state: h11.Connection, reader: asyncio.StreamReader
) -> tuple[int, Headers, bytes]:
    """Read a response; raises ServiceError, OSError, or an error of h11."""
    status = 0
    headers: Headers = []
    body = bytearray()
    received = b""
    notice: asyncio.TimerHandle | None = None
    try:
        while True:
            match state.next_event():
                case h11.NEED_DATA:
                    data = await reader.read(65_536)
                    received = received or data
                    if not b"HTTP/".startswith(received[:5]):
                        raise ServiceError(
                            "the response is malformed: it is not HTTP/1.1: start kar with -h2c if "
                            "the service speaks only HTTP/2"
                        )
                    state.receive_data(data)
                case h11.Response(status_code=status, headers=received_headers):
                    headers = list(received_headers)
                    notice = warn_later(UNFINISHED)
                case h11.Data(data=part):
                    body += part
                    if len(body) > MAX_RESPONSE:
                        break
                case h11.EndOfMessage():
                    break
    finally:
        if notice:
            notice.cancel()
    return status, headers, bytes(body)
