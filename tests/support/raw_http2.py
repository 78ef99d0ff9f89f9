"""HTTP/2 without a client's manners, for requests that no client would send."""

import socket

import h2.config
import h2.connection
import h2.events
import httpx

AUTHORITY = [(":scheme", "http"), (":authority", "localhost")]


def opened(sock: socket.socket) -> h2.connection.H2Connection:
    """Return a connection that checks nothing of what it sends."""
    config = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False
    )
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    sock.sendall(connection.data_to_send())
    return connection


def beside_greetings(
    address: str, greeting: str, method: str, path: str, body: bytes
) -> tuple[str, list[str]]:
    """Make a request on the connection of 50 greetings in flight; return its status and theirs.

    Its body is sent when a later call has been answered, so an early answer comes before it.
    """
    url = httpx.URL(address)
    statuses: dict[int, str] = {}
    with socket.create_connection((url.host, url.port), 30) as sock:
        connection = opened(sock)

        def begin(method: str, path: str, *, end_stream: bool = False) -> int:
            stream = connection.get_next_available_stream_id()
            head = [(":method", method), (":path", path), *AUTHORITY]
            head.append(("content-type", "application/json"))
            connection.send_headers(stream, head, end_stream=end_stream)
            return stream

        greetings = [begin("POST", greeting) for _ in range(50)]
        for stream in greetings:
            connection.send_data(stream, b"John", end_stream=True)
        odd = begin(method, path)
        later = begin("GET", greeting.replace("helloText", "health"), end_stream=True)
        while len(statuses) < 52:
            while (
                later in statuses and body and (size := connection.local_flow_control_window(odd))
            ):
                size = min(size, connection.max_outbound_frame_size)
                connection.send_data(odd, body[:size], end_stream=len(body) <= size)
                body = body[size:]
            sock.sendall(connection.data_to_send())
            data = sock.recv(65536)
            assert data, "the connection ended"
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    statuses[event.stream_id] = dict(event.headers)[b":status"].decode()
    return statuses[odd], [statuses[stream] for stream in greetings]
