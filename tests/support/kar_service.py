"""The service echo and a sidecar, for tests of what KAR does to a call."""

from dataclasses import dataclass

import httpx
from support.http2 import OPTIONS
from support.kar import Kar, Replica, Sidecar


@dataclass(frozen=True)
class Service:
    """A replica of the service echo, and a sidecar through which a test calls it."""

    kar: Kar
    replica: Replica
    sidecar: Sidecar
    h2c: bool

    def request(
        self,
        method: str,
        target: str,
        headers: list[tuple[bytes, bytes]] | None = None,
        body: bytes = b"",
        http_version: str = "HTTP/2",
    ) -> httpx.Response:
        """Send a request to the sidecar with exactly these headers; target may be encoded."""
        is_http2 = http_version == "HTTP/2"
        with httpx.Client(http1=not is_http2, http2=is_http2, **OPTIONS) as client:
            client.headers.clear()
            return client.request(
                method,
                self.sidecar.url,
                headers=headers or [],
                content=body,
                extensions={"target": target.encode(errors="surrogateescape")},
            )

    def call(
        self,
        method: str,
        path: str,
        headers: list[tuple[bytes, bytes]] | None = None,
        body: bytes = b"",
        http_version: str = "HTTP/2",
    ) -> httpx.Response:
        """Call a path of the service."""
        target = f"/kar/v1/service/{self.replica.service}/call{path}"
        return self.request(method, target, headers, body, http_version)

    def requests_seen(self) -> int:
        """Return how many requests the service has logged."""
        return sum("[STDOUT]" in line for line in self.replica.process.stdout_lines())


def start_service(kar: Kar, h2c: bool) -> Service:
    replica = kar.start_echo(*(["-h2c"] if h2c else []))
    service = Service(kar, replica, kar.start_sidecar(), h2c)
    kar.wait_until_called(service.sidecar, replica)
    return service
