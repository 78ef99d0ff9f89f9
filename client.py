"""Call the service async-server three times through the KAR sidecar, over one HTTP/2 connection."""

import asyncio
import os
import sys
from typing import Any, NoReturn

import h2.exceptions
import httpx

PATIENCE = 30.0  # seconds for one call: the real KAR may need 19 to see that a server's host died


async def main() -> None:
    async with open_client() as client:
        answer = await call(client, "POST", "helloText", content="John Doe")
        print(answer.http_version, answer.text, sep="\n", flush=True)
        answer = await call(client, "POST", "helloJson", json={"name": "John", "surname": "Doe"})
        print(answer.http_version, message(answer), sep="\n", flush=True)
        answer = await call(client, "GET", "health")
        print(answer.http_version, message(answer), sep="\n", flush=True)


class CallError(Exception):
    """A call without a good answer; kind is a word or two for it, str() one line with advice."""

    def __init__(self, route: str, kind: str, advice: str) -> None:
        super().__init__(f"{route}: {kind}; {advice}")
        self.kind = kind


def open_client() -> httpx.AsyncClient:
    """Return a client for the routes of async-server: one connection, up to 100 calls at once.

    Without KAR_RUNTIME_PORT, the sidecar's port, end the process with status 2.
    """
    port = os.environ.get("KAR_RUNTIME_PORT", "")
    if not (port.isdecimal() and 0 < int(port) < 65536):
        fail(2, "KAR_RUNTIME_PORT is no port; start with kar run -h2c -app hello-async python ...")
    return httpx.AsyncClient(
        base_url=f"http://localhost:{port}/kar/v1/service/async-server/call",
        http1=False,  # HTTP/2 alone is spoken from the first byte, without TLS
        http2=True,
        trust_env=False,  # HTTP_PROXY would catch even localhost
        verify=False,  # there is no TLS, and the certificates take 27 ms to load
        timeout=None,  # httpx limits each read and write; call() limits the call
    )


async def call(
    client: httpx.AsyncClient, method: str, route: str, patience: float = PATIENCE, **body: Any
) -> httpx.Response:
    """Call a route of the service; return its answer, of status 200.

    Raise CallError for another status, no answer in patience seconds, or a lost connection.
    """
    try:
        async with asyncio.timeout(patience) as limit:
            answer = await client.request(method, route, **body)
    except (TimeoutError, ValueError, httpx.TransportError, h2.exceptions.ProtocolError) as error:
        # ValueError is what httpcore makes of the end of a call, if a connection's first timed out
        if limit.expired():
            advice = "is server.py running, with the same -app?"
            raise CallError(route, "timeout", f"no answer in {patience:g} s: {advice}") from None
        advice = f"is the sidecar at {client.base_url.netloc.decode()} running? ({error!r})"
        raise CallError(route, "connection", advice) from None
    if answer.status_code != 200:
        advice = "see what the server printed"
        raise CallError(route, f"status {answer.status_code}", advice)
    return answer


def message(answer: httpx.Response) -> str:
    """Return the message of an answer; CallError if it has none."""
    try:
        return str(answer.json()["message"])
    except (ValueError, TypeError, KeyError):
        route = answer.url.path.rpartition("/")[2]
        raise CallError(route, "wrong answer", "is async-server this project's?") from None


def fail(status: int, text: str) -> NoReturn:
    """End the process with one line on standard error."""
    print(f"{os.path.basename(sys.argv[0])}: {text}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except CallError as error:
        fail(1, str(error))
