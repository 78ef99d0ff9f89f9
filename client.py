"""Call the service async-server three times over HTTP/2, through the KAR sidecar.

    kar run -h2c -app hello-async python client.py

main() makes the calls. SidecarClient, below it, is the part to copy into other clients.
"""

import asyncio
import contextlib
import os
import signal
import sys
from types import TracebackType
from typing import Any, Self

import httpx


async def main() -> None:
    async with SidecarClient("async-server") as service:
        response = await service.call("POST", "helloText", content="John Doe")
        print_lines(response.http_version, response.text)

        person = {"name": "John", "surname": "Doe"}
        response = await service.call("POST", "helloJson", json=person)
        print_lines(response.http_version, message_of(response))

        response = await service.call("GET", "health")
        print_lines(response.http_version, message_of(response))


def print_lines(*lines: str) -> None:
    # Standard output is a pipe to kar, and Python would keep the lines until the pipe is full.
    print(*lines, sep="\n", flush=True)


class SidecarClient:
    """Calls one service through the sidecar of this process, over one HTTP/2 connection.

    Up to 100 calls can be in flight at once. Further calls wait until others have completed.
    """

    def __init__(self, service: str) -> None:
        """Raise SidecarError if KAR_RUNTIME_PORT is not the port of a sidecar."""
        self._base_url = f"http://127.0.0.1:{sidecar_port()}/kar/v1/service/{service}/call"
        self._client = self._open_client()
        self._calls_in_flight = {self._client: 0}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; call this only when no calls are in flight."""
        for client in self._calls_in_flight:
            await client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: str | bytes | None = None,
        timeout: float = 30.0,
    ) -> httpx.Response:
        """Call a path of the service and return its response, which has a 2xx status.

        The timeout covers the whole call, in seconds. The default is long enough for KAR to repeat
        a call on another host: in a test, 19 seconds passed before KAR did so.

        Raises CallError if no response arrives in time, or one with another status.
        """
        client = self._client
        self._calls_in_flight[client] += 1
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                response = await client.request(method, path, json=json, content=content)
        except asyncio.CancelledError:
            self._replace_client(client)
            raise
        except Exception as error:
            # If the deadline expires while httpcore connects, it may raise any other error.
            if deadline.expired():
                self._replace_client(client)
                raise CallError(
                    path,
                    kind="timeout",
                    reason=f"no response within {timeout:g} s",
                    remedy="Is the server running, in the same application (-app)?",
                ) from error
            if isinstance(error, httpx.TransportError):
                raise CallError(
                    path,
                    kind="connection",
                    reason=f"no connection to the sidecar at {self._base_url} ({error!r})",
                    remedy="Is kar still running?",
                ) from error
            raise
        finally:
            self._calls_in_flight[client] -= 1
            await self._close_if_replaced(client)
        if not response.is_success:
            raise CallError(
                path,
                kind=f"status {response.status_code}",
                reason=f"status {response.status_code}, {error_detail(response)}",
                remedy="The log of the service may say more.",
            )
        return response

    def _open_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._base_url,
            # Without TLS there is no negotiation: both sides have to begin with HTTP/2.
            http1=False,
            http2=True,
            # Otherwise a proxy named in the environment would get the calls to 127.0.0.1, too.
            trust_env=False,
            # KAR treats each body as text, which damages a compressed one.
            headers={"Accept-Encoding": "identity"},
            # httpx has one timeout for each step of a request; call() has one for the whole.
            timeout=None,
        )

    # Workaround: httpx does not reset the stream of a request that is given up. The connection
    # counts the stream as open, and after 100 of them each new request fails. So after a timeout,
    # new calls get a new client, and the old client is closed when its last call has completed.
    # It can go once https://github.com/encode/httpcore/issues/1022 is fixed.

    def _replace_client(self, client: httpx.AsyncClient) -> None:
        if client is self._client:
            self._client = self._open_client()
            self._calls_in_flight[self._client] = 0

    async def _close_if_replaced(self, client: httpx.AsyncClient) -> None:
        if client is not self._client and self._calls_in_flight[client] == 0:
            del self._calls_in_flight[client]
            await client.aclose()


class SidecarError(Exception):
    """This process does not know the port of its sidecar."""


class CallError(Exception):
    """A call did not get the expected response.

    kind is a word or two for counting, reason says what happened, remedy what a person can do.
    """

    def __init__(self, path: str, *, kind: str, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}. {remedy}")
        self.path = path
        self.kind = kind
        self.reason = reason
        self.remedy = remedy


def sidecar_port() -> int:
    """Return KAR_RUNTIME_PORT, the port on which the sidecar listens."""
    value = os.environ.get("KAR_RUNTIME_PORT", "")
    with contextlib.suppress(ValueError):
        if 0 < int(value) < 65536:
            return int(value)
    program = os.path.basename(sys.argv[0])
    raise SidecarError(
        f"KAR_RUNTIME_PORT is {value!r}, not a valid port. kar sets it: start this program with "
        f"kar run -h2c -app hello-async python {program}"
    )


def error_detail(response: httpx.Response) -> str:
    """Return in one line what an error response says: FastAPI's detail, or else its text."""
    try:
        detail = response.json()["detail"]
    except (ValueError, TypeError, KeyError):
        detail = response.text
    return " ".join(str(detail).split())[:500] or "with an empty body"


def message_of(response: httpx.Response) -> str:
    """Return the message in a JSON response of async-server; raise CallError without one."""
    try:
        return str(response.json()["message"])
    except (ValueError, TypeError, KeyError) as error:
        raise CallError(
            response.url.path.rpartition("/")[2],
            kind="unexpected response",
            reason=f"the response has no message: {response.text[:500]!r}",
            remedy="Is another program running as async-server?",
        ) from error


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (CallError, SidecarError) as error:
        sys.exit(f"client.py: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
