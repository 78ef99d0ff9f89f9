"""HTTP/2 without TLS to a service.

httpx can do this too, but through it a sidecar makes half as many calls per second, and large
request bodies that are sent at the same time can stall.
"""

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

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

FRAME_HEADER = 9  # bytes
GOAWAY = 7  # the type of a frame
WINDOW = 2**24  # flow-control window in bytes, for each stream and for the connection
MAX_STREAMS = 100  # requests at once on a connection, unless the service allows fewer
PAUSE = 0.25  # seconds before a request is sent again

CONTROL_CHARACTER = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Http2Client:
    """A client for one server, with as many connections as the requests in flight need."""

    user_agent = b"Go-http-client/2.0"
    # HTTP/2 does not have the last four: they are about a connection of HTTP/1.1.
    left_out = WRITTEN_BY_GO | {b"connection", b"keep-alive", b"proxy-connection", b"upgrade"}

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: list[Http2Connection] = []
        self._connecting = asyncio.Lock()
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        for connection in self._connections:
            connection.transport.abort()

    async def request(
        self, method: str, path: str, headers: Headers, body: bytes
    ) -> tuple[int, Headers, bytes]:
        """Send a request, again if the server has not processed it; raises ServiceError."""
        pseudo_headers = [
            (b":method", method.encode()),
            (b":scheme", b"http"),
            (b":authority", b"127.0.0.1:%d" % self._port),
            (b":path", path.encode()),
        ]
        while True:
            connection = self._with_room()
            if connection is None:
                async with self._connecting:
                    connection = self._with_room() or await self._connect()
            try:
                stream = await connection.request(pseudo_headers + headers, body)
            except NotProcessedError:
                await asyncio.sleep(PAUSE)
                continue
            (_, status), *received = stream.headers
            return int(status), received, bytes(stream.body)

    def _with_room(self) -> "Http2Connection | None":
        return next((each for each in self._connections if each.has_room), None)

    async def _connect(self) -> "Http2Connection":
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Http2Connection, "127.0.0.1", self._port)
        except OSError as error:
            raise NotListeningError(str(error)) from error
        if self._closed:
            connection.transport.abort()
        self._connections = [each for each in self._connections if not each.transport.is_closing()]
        self._connections.append(connection)
        return connection


class NotProcessedError(ServiceError):
    """The service has not started on a request, so the request can be sent again."""


@dataclass
class Stream:
    """A request in flight and its response; finished is done when the response is complete."""

    finished: asyncio.Future[None]
    unsent: memoryview
    headers: Headers = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    notice: asyncio.TimerHandle | None = None

    def fail(self, error: ServiceError) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)


class Http2Connection(asyncio.Protocol):
    """A connection, to be made with an event loop's create_connection()."""

    def __init__(self) -> None:
        # The caller has normalized the headers, and h2 validates them. It would reject headers of
        # a response that Go passes on, such as Connection.
        config = H2Configuration(normalize_outbound_headers=False, validate_inbound_headers=False)
        self._h2 = H2Connection(config)
        self._streams: dict[int, Stream] = {}
        self._unread = b""  # the beginning of a frame
        self.is_usable = True

    @property
    def has_room(self) -> bool:
        """Whether one more request can be sent now."""
        limit = min(MAX_STREAMS, self._h2.remote_settings.max_concurrent_streams)
        return self.is_usable and len(self._streams) < limit

    async def request(self, headers: Headers, body: bytes) -> Stream:
        """Send a request and return the stream with its response; raises ServiceError."""
        try:
            stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, headers, end_stream=not body)
        except ProtocolError as error:
            self.is_usable = False  # h2 may count the stream as open
            self._close_if_done()
            raise ServiceError(f"the request is invalid: {error}") from error
        stream = Stream(asyncio.get_running_loop().create_future(), memoryview(body))
        self._streams[stream_id] = stream
        try:
            self._send_body(stream_id, stream)
            self._flush()
            await stream.finished
        finally:
            del self._streams[stream_id]
            if stream.notice:
                stream.notice.cancel()
            if stream.unsent:  # the service has responded early, and h2 counts the stream as open
                with suppress(ProtocolError):
                    self._h2.reset_stream(stream_id, ErrorCodes.CANCEL)
                self._flush()
            self._close_if_done()
        return stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._h2.initiate_connection()
        self._h2.update_settings(
            {
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS,
            }
        )
        self._h2.increment_flow_control_window(WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Let h2 read frame by frame, to know which one it rejects, and to keep GOAWAY from it."""
        data = self._unread + data
        if data.startswith(b"HTTP/"):
            self._fail(
                ServiceError("the response is malformed: it is HTTP/1.1: start kar without -h2c")
            )
            return
        start = 0
        while len(data) - start >= FRAME_HEADER:
            end = start + FRAME_HEADER + int.from_bytes(data[start : start + 3], "big")
            if len(data) < end:
                break
            if not self._receive_frame(data[start:end]):
                return
            start = end
        self._unread = data[start:]
        self._flush()

    def _receive_frame(self, frame: bytes) -> bool:
        """Handle a frame; return False if it ends the connection."""
        if frame[3] == GOAWAY:
            # h2 would reject the responses that may still follow.
            self.is_usable = False
            last_stream_id = int.from_bytes(frame[9:13], "big")
            for stream_id, stream in self._streams.items():
                if stream_id > last_stream_id:
                    stream.fail(NotProcessedError("GOAWAY"))
            return True
        try:
            for event in self._h2.receive_data(frame):
                self._handle(event)
        except ProtocolError as error:
            # h2 cannot go on. The requests for which the frame was not meant are made again.
            failure: ServiceError = ServiceError(
                f"the response is malformed: {type(error).__name__}: {error}"
            )
            if culprit := self._streams.get(int.from_bytes(frame[5:9], "big")):
                culprit.fail(failure)
                failure = NotProcessedError("another response was malformed")
            self._fail(failure)
            return False
        return True

    def _fail(self, error: ServiceError) -> None:
        """End the connection; all requests in flight raise the error."""
        self.is_usable = False
        for stream in self._streams.values():
            stream.fail(error)
        self._flush()
        self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_usable = False
        for stream in self._streams.values():
            stream.fail(BrokenConnectionError("the connection was closed"))

    def _handle(self, event: Event) -> None:
        stream = self._streams.get(getattr(event, "stream_id", 0))
        match event:
            case ResponseReceived(headers=headers) if stream:
                stream.headers = headers
                stream.notice = warn_later(UNFINISHED)
                for name, value in headers:
                    if name != name.lower() or CONTROL_CHARACTER.search(value):
                        stream.fail(
                            ServiceError(
                                f"the response is malformed: its header {name!r} is invalid"
                            )
                        )
            case DataReceived(stream_id=stream_id, data=data, flow_controlled_length=length):
                self._h2.acknowledge_received_data(length, stream_id)
                if stream and not stream.finished.done():
                    stream.body += data
                    if len(stream.body) > MAX_RESPONSE:
                        stream.finished.set_result(None)
                        self._h2.reset_stream(stream_id, ErrorCodes.CANCEL)
            case StreamEnded() if stream and not stream.finished.done():
                stream.finished.set_result(None)
            case StreamReset(error_code=code) if stream:
                was_refused = code == ErrorCodes.REFUSED_STREAM
                failure = NotProcessedError if was_refused else BrokenConnectionError
                stream.fail(failure(f"the stream was reset with code {code}"))
            case WindowUpdated() | RemoteSettingsChanged():
                for stream_id, stream in self._streams.items():
                    self._send_body(stream_id, stream)

    def _send_body(self, stream_id: int, stream: Stream) -> None:
        """Send as much of a request's body as the service has room for."""
        while stream.unsent and not stream.finished.done():
            window = self._h2.local_flow_control_window(stream_id)
            size = min(window, self._h2.max_outbound_frame_size)
            if size <= 0:
                return
            data = bytes(stream.unsent[:size])
            stream.unsent = stream.unsent[size:]
            self._h2.send_data(stream_id, data, end_stream=not stream.unsent)

    def _close_if_done(self) -> None:
        """Close the connection if it is neither usable nor in use."""
        if not self.is_usable and not self._streams:
            self.transport.close()

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self.transport.write(data)
