"""HTTP/2 clients of the tests: httpx without TLS, and frames for what httpx would not send."""

import socket
from collections import defaultdict
from typing import Any, Self

import h2.connection
import h2.events
import httpx

# timeout: seconds for one request, as the real KAR can take long to notice a crash.
# verify: without TLS, certificates would be loaded in vain, which takes longer than a request.
OPTIONS: dict[str, Any] = {"timeout": 120.0, "trust_env": False, "verify": False}


def http2_client(base_url: str = "", **options: Any) -> httpx.Client:
    """Return a client that speaks only HTTP/2 without TLS."""
    return httpx.Client(base_url=base_url, http1=False, http2=True, **(OPTIONS | options))


def async_http2_client(base_url: str = "", **options: Any) -> httpx.AsyncClient:
    """Return the same client for asyncio."""
    return httpx.AsyncClient(base_url=base_url, http1=False, http2=True, **(OPTIONS | options))


class FrameConnection:
    """An HTTP/2 connection on which a test decides what is sent, and when.

    Nothing is sent before flush(); statuses has the status of each response by its stream.
    """

    def __init__(self, url: str) -> None:
        parsed = httpx.URL(url)
        self.socket = socket.create_connection((parsed.host, parsed.port), OPTIONS["timeout"])
        self.h2 = h2.connection.H2Connection()
        self.h2.initiate_connection()
        self.flush()
        self.statuses: dict[int, int] = {}
        self.bodies: dict[int, bytes] = defaultdict(bytes)
        self.ended: set[int] = set()
        self.has_ping_ack = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def open_stream(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "text/plain"
    ) -> int:
        """Begin a request and return its stream; with a body the request is complete."""
        stream = self.h2.get_next_available_stream_id()
        headers = [
            (":method", method),
            (":path", path),
            (":scheme", "http"),
            (":authority", "localhost"),
            ("content-type", content_type),
        ]
        self.h2.send_headers(stream, headers)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=True)
        return stream

    def send_body(self, stream: int, body: bytes) -> None:
        """Send a whole body, as fast as flow control allows, and end the request."""
        while body:
            window = self.h2.local_flow_control_window(stream)
            size = min(window, self.h2.max_outbound_frame_size)
            if size <= 0:
                self.receive()
                continue
            self.h2.send_data(stream, body[:size], end_stream=len(body) <= size)
            body = body[size:]
            self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def receive(self) -> bool:
        """Read once from the connection; return False if the peer has closed it."""
        data = self.socket.recv(65536)
        for event in self.h2.receive_data(data) if data else ():
            if isinstance(event, h2.events.ResponseReceived):
                status = {bytes(name): value for name, value in event.headers}[b":status"]
                self.statuses[event.stream_id] = int(status)
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.PingAckReceived):
                self.has_ping_ack = True
        self.flush()
        return bool(data)

    def ping(self) -> None:
        """Flush, and wait until the peer has read all that was sent."""
        self.has_ping_ack = False
        self.h2.ping(b"12345678")
        self.flush()
        while not self.has_ping_ack:
            assert self.receive(), "the connection has ended"

    def wait_for(self, *streams: int) -> None:
        """Read until these streams have their responses."""
        while not self.ended.issuperset(streams):
            assert self.receive(), f"the connection has ended: {self.statuses}"


def send_next_to_greetings(
    url: str, greeting_path: str, method: str, path: str, body: bytes
) -> tuple[int, list[int]]:
    """Make a request on a connection with 50 greetings in flight.

    Its body is sent only after a later call has its response, so that an early response to the
    request would come before its body. Returns the status of the request and of the greetings.
    """
    health_path = greeting_path.replace("helloText", "health")
    with FrameConnection(url) as connection:
        greetings = [connection.open_stream("POST", greeting_path, b"John") for _ in range(50)]
        request = connection.open_stream(method, path, content_type="application/json")
        later = connection.open_stream("GET", health_path, b"")
        connection.flush()
        connection.wait_for(later)
        connection.send_body(request, body)
        connection.wait_for(request, *greetings)
        statuses = connection.statuses
        return statuses[request], [statuses[greeting] for greeting in greetings]
