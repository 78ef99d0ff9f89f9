"""An HTTP/2 connection without TLS to a service, for many requests at once.

httpx has one too, but not for a sidecar: it takes more of the processor than all the rest of a
call, stalls when the bodies of requests fill the flow-control window, and does not tell the service
when a request is given up.
"""

import asyncio
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

# h2 remembers the last closed streams of each connection, by default 65,536: megabytes.
H2Connection.MAX_CLOSED_STREAMS = 1000

WINDOW = 2**24  # bytes of answers on their way, for a stream and for the connection

Headers = list[tuple[bytes, bytes]]


@dataclass
class Stream:
    """A request in flight."""

    ended: asyncio.Future[None]
    unsent: bytes
    headers: Headers = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)


class H2cConnection(asyncio.Protocol):
    """A connection, to be made with an event loop's create_connection()."""

    def __init__(self) -> None:
        config = H2Configuration(
            client_side=True,
            header_encoding=None,
            # The caller's headers have been through this check, and it costs as much as the rest.
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = H2Connection(config)
        self.h2.local_settings = Settings(
            client=True,
            initial_values={SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: WINDOW},
        )
        self.streams: dict[int, Stream] = {}
        self.usable = True

    def has_room(self) -> bool:
        """Return whether one more request can be made now."""
        limit = min(100, self.h2.remote_settings.max_concurrent_streams)
        return self.usable and len(self.streams) < limit

    async def request(self, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        """Make a request and return the answer's headers, with :status, and body.

        Raise ConnectionError if the service or its connection ends before the answer does.
        """
        try:
            stream_id = self.h2.get_next_available_stream_id()
            self.h2.send_headers(stream_id, headers, end_stream=not body)
        except ProtocolError as error:
            self.usable = False
            raise ConnectionError from error
        stream = Stream(asyncio.get_running_loop().create_future(), body)
        self.streams[stream_id] = stream
        try:
            self._send_body(stream_id, stream)
            self._flush()
            await stream.ended
        finally:
            del self.streams[stream_id]
            if stream.ended.cancelled() and self.usable:
                self.h2.reset_stream(stream_id)
                self._flush()
        return stream.headers, bytes(stream.body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self.h2.receive_data(data):
                self._handle(event)
        except ProtocolError:
            self.transport.close()
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        self._fail(0)

    def _handle(self, event: Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        match event:
            case ResponseReceived(headers=headers) if stream:
                stream.headers = list(headers)
            case DataReceived(data=data, flow_controlled_length=length, stream_id=stream_id):
                self.h2.acknowledge_received_data(length, stream_id)
                if stream:
                    stream.body += data
            case StreamEnded() if stream and not stream.ended.done():
                stream.ended.set_result(None)
            case StreamReset() if stream and not stream.ended.done():
                stream.ended.set_exception(ConnectionResetError())
            case WindowUpdated() | RemoteSettingsChanged():
                for stream_id, each in self.streams.items():
                    self._send_body(stream_id, each)
            case ConnectionTerminated(last_stream_id=last):
                self.usable = False
                self._fail(last or 0)

    def _send_body(self, stream_id: int, stream: Stream) -> None:
        """Send as much of a request's body as the window takes."""
        while stream.unsent:
            size = min(
                self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size
            )
            if size <= 0:
                return
            data, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            self.h2.send_data(stream_id, data, end_stream=not stream.unsent)

    def _fail(self, above: int) -> None:
        """End the requests of streams above an id: they will get no answer."""
        for stream_id, stream in self.streams.items():
            if stream_id > above and not stream.ended.done():
                stream.ended.set_exception(ConnectionResetError())

    def _flush(self) -> None:
        if data := self.h2.data_to_send():
            self.transport.write(data)
