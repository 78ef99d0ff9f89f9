"""Call the service async-server three times over HTTP/2, through the KAR sidecar.

    kar run -h2c -app hello-async python client.py

main() makes the calls. Other programs can import SidecarClient and its two exceptions.
"""

import asyncio
import contextlib
import os
import signal
import sys
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
    # Python buffers standard output, because it is a pipe to kar. Flush to show each line at once.
    print(*lines, sep="\n", flush=True)


class SidecarClient:
    """Calls one service through the sidecar of this process.

    The calls share one HTTP/2 connection, on which up to 100 can be in flight. Further calls wait.
    """

    def __init__(self, service: str) -> None:
        """Raise ConfigurationError if KAR_RUNTIME_PORT is not a valid port."""
        self._base_url = f"http://127.0.0.1:{sidecar_port()}/kar/v1/service/{service}/call"
        self._client = self._open_client()
        self._calls_in_flight = {self._client: 0}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls that are still in flight fail."""
        for client in list(self._calls_in_flight):
            await client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: str | bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 30.0,
    ) -> httpx.Response:
        """Send a request to a path of the service and return the response, with a 2xx status.

        The timeout is in seconds. It includes the time that the call waits while 100 others are in
        flight. The default lets KAR repeat the call on another host, which took 19 s in a test.
        After a timeout or a cancellation, KAR does not stop the call: it can still run later.

        Raise CallError on a timeout, a failed connection, or a status that is not 2xx.
        """
        client = self._client
        self._calls_in_flight[client] += 1
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                response = await client.request(
                    method, path, json=json, content=content, headers=headers
                )
        except asyncio.CancelledError:
            self._replace_client(client)
            raise
        except Exception as error:
            if deadline.expired():
                # It is a TimeoutError, or another error if the client was still connecting.
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
                    reason=f"the connection to the sidecar at {self._base_url} failed ({error!r})",
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
                remedy="Correct the call, or see the log of the service.",
                status_code=response.status_code,
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

    # Workaround: httpx does not reset the stream of a request that timed out or was cancelled. The
    # connection counts such streams as open, and after 100 of them each new request fails. So after
    # such a call, new calls get a new client, and the old one is closed after its last call. These
    # two methods can be removed once https://github.com/encode/httpcore/issues/1022 is fixed.

    def _replace_client(self, client: httpx.AsyncClient) -> None:
        if client is self._client:
            self._client = self._open_client()
            self._calls_in_flight[self._client] = 0

    async def _close_if_replaced(self, client: httpx.AsyncClient) -> None:
        if client is not self._client and self._calls_in_flight[client] == 0:
            del self._calls_in_flight[client]
            await client.aclose()


class ConfigurationError(Exception):
    """KAR_RUNTIME_PORT is missing, or is not a port: kar has not started this process."""


class CallError(Exception):
    """A call did not get the expected response.

    kind groups errors in statistics: it is "timeout", "connection", "unexpected response", or
    "status 404" and the like. reason says what happened, and remedy what a person can do.
    status_code is the error status of the response, or None without one.
    """

    def __init__(
        self, path: str, *, kind: str, reason: str, remedy: str, status_code: int | None = None
    ) -> None:
        super().__init__(f"{path}: {reason}. {remedy}")
        self.path = path
        self.kind = kind
        self.reason = reason
        self.remedy = remedy
        self.status_code = status_code


def sidecar_port() -> int:
    """Return KAR_RUNTIME_PORT, the port on which the sidecar listens."""
    value = os.environ.get("KAR_RUNTIME_PORT", "")
    with contextlib.suppress(ValueError):
        if 0 < int(value) < 65536:
            return int(value)
    program = os.path.basename(sys.argv[0])
    raise ConfigurationError(
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
    except (CallError, ConfigurationError) as error:
        sys.exit(f"client.py: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
