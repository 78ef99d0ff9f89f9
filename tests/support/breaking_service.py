"""An HTTP/2 service that breaks the first requests of a path: /abort/N, /refuse/N or /goaway/N.

After N of them it responds with the number of requests. It prints each request with its body.
/redirect/0 redirects to /refuse/1. /slow/0 responds after 0.5 s, and so does /drain/0, which sends
GOAWAY before that. The body of /malformed/0 is shorter than its Content-Length, and that of
/endless/N has N bytes and no end.
The response of /headers/0 has the headers that the body lists in JSON, valid or not, each with its
value and how often that is repeated.
To /early/0 it responds before it has the body, of which it takes no more than 64 KiB. It resets the
stream of /reset/0 after 64 KiB, and lets /wait/0 wait until then.
"""

import asyncio
import json
import os

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded

CONFIG = H2Configuration(
    client_side=False,
    header_encoding=None,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)
WINDOW = 65_535  # bytes that arrive on a connection before the service has taken any
counts: dict[str, int] = {}


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.h2 = H2Connection(CONFIG)
        self.requests: dict[int, tuple[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.waiting: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.h2.initiate_connection()
        self.transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, RequestReceived):
                headers = dict(event.headers)
                method, path = headers[b":method"].decode(), headers[b":path"].decode()
                self.requests[event.stream_id] = method, path
                self.bodies[event.stream_id] = b""
                if path.startswith("/early/"):
                    self.respond(event.stream_id)
            elif isinstance(event, DataReceived):
                self.bodies[event.stream_id] += event.data
                self.reset_if_full(event.stream_id)
            elif isinstance(event, StreamEnded) and event.stream_id in self.requests:
                if self.requests[event.stream_id][1].startswith("/wait/"):
                    self.waiting.append(event.stream_id)
                    print("waiting", flush=True)
                else:
                    self.respond(event.stream_id)
        self.transport.write(self.h2.data_to_send())

    def reset_if_full(self, stream: int) -> None:
        """Reset a stream of /reset/0 whose window is full, after an update of that window."""
        if stream in self.requests and self.requests[stream][1].startswith("/reset/"):
            size = len(self.bodies[stream])
            if sum(map(len, self.bodies.values())) == WINDOW:
                self.h2.acknowledge_received_data(size, stream)
                self.h2.reset_stream(stream, ErrorCodes.CANCEL)
                del self.requests[stream]
                while self.waiting:
                    self.respond(self.waiting.pop())

    def respond(self, stream: int) -> None:
        method, path = self.requests.pop(stream)
        body = self.bodies[stream].decode()
        print(f"{method} {path} {body}".rstrip(), flush=True)
        counts[path] = counts.get(path, 0) + 1
        _, behaviour, breaks, *_ = path.split("/")
        if behaviour == "redirect":
            headers = [(":status", "307"), ("location", "/refuse/1")]
            self.h2.send_headers(stream, headers, end_stream=True)
        elif behaviour in ("slow", "drain"):
            if behaviour == "drain":
                frame = b"\0\0\x08\x07\0\0\0\0\0" + stream.to_bytes(4, "big") + bytes(4)
                self.transport.write(self.h2.data_to_send() + frame)
            asyncio.get_running_loop().call_later(0.5, self.respond_late, stream)
        elif behaviour == "headers":
            fields = json.loads(body) if body.startswith("[") else []
            headers = [(name, value * count) for name, value, count in fields]
            self.h2.send_headers(stream, [(":status", "200"), *headers])
            self.h2.send_data(stream, b"headers", end_stream=True)
        elif behaviour == "malformed":
            self.h2.send_headers(stream, [(":status", "200"), ("content-length", "9")])
            self.h2.send_data(stream, b"short", end_stream=True)
        elif behaviour == "endless":
            self.h2.send_headers(stream, [(":status", "200")])
            for _ in range(int(breaks) // 10_000):
                self.h2.send_data(stream, b"x" * 10_000)
        elif counts[path] > int(breaks):
            self.h2.send_headers(stream, [(":status", "200")])
            self.h2.send_data(stream, str(counts[path]).encode(), end_stream=True)
        elif behaviour == "abort":
            self.transport.abort()
        elif behaviour == "refuse":
            self.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
        else:
            self.h2.close_connection(last_stream_id=0)

    def respond_late(self, stream: int) -> None:
        self.h2.send_headers(stream, [(":status", "200")])
        self.h2.send_data(stream, b"late", end_stream=True)
        self.transport.write(self.h2.data_to_send())


async def main() -> None:
    loop = asyncio.get_running_loop()
    port = int(os.environ["KAR_APP_PORT"])
    server = await loop.create_server(Connection, "127.0.0.1", port)
    print("Running on", port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
