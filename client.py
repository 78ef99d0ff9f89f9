"""Call the service async-server three times over HTTP/2, through the KAR sidecar.

    kar run -h2c -app hello-async python client.py

sidecar_client() below opens an httpx client for any service of the application.
"""

import asyncio
import os
import signal
import ssl
import sys

import httpx

MAX_IDLE = 100  # connections that a client keeps for later requests
# httpx asks for a context even where nothing uses TLS. Without this one it would load certificates,
# which takes longer than a call.
UNUSED_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def main() -> None:
    async with sidecar_client("async-server") as service:
        response = await service.post("/helloText", content="John Doe")
        response.raise_for_status()
        print(response.http_version, response.text, sep="\n", flush=True)

        response = await service.post("/helloJson", json={"name": "John", "surname": "Doe"})
        response.raise_for_status()
        print(response.http_version, message_of(response), sep="\n", flush=True)

        response = await service.get("/health")
        response.raise_for_status()
        print(response.http_version, message_of(response), sep="\n", flush=True)


def message_of(response: httpx.Response) -> str:
    """Return the message of a JSON response; raises ValueError if there is none."""
    try:
        return str(response.json()["message"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the response has no message: {response.text[:500]!r}") from error


def sidecar_client(service: str) -> httpx.AsyncClient:
    """Return an httpx client for a service of this KAR application.

    Start paths with a slash: without one, httpx reads "items:search" as a URL with the scheme
    "items". Raises ValueError if KAR_RUNTIME_PORT is not a valid port.
    """
    port = os.environ.get("KAR_RUNTIME_PORT")
    if not port:
        raise ValueError("KAR_RUNTIME_PORT is not set: start this program with kar run")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"KAR_RUNTIME_PORT={port} is not a valid port: start this with kar run")
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}/kar/v1/service/{service}/call",
        transport=OneRequestPerConnection(),
        # KAR treats each body as text, which damages a compressed one.
        headers={"Accept-Encoding": "identity"},
        timeout=30,  # seconds without data; KAR can take 19 s to repeat a call
    )


class OneRequestPerConnection(httpx.AsyncBaseTransport):
    """httpx transport that sends one request at a time over each HTTP/2 connection.

    Workaround: httpx sends all requests at once over a single connection. A fast response can then
    arrive as late as a slow one, a large request stalls the others, and if one request times out,
    all of them fail. Cancelled requests stay open, so that after 100 of them each new one
    fails. Use the transport of httpx, or of its successor httpx2, when one of them has fixed
    these problems: https://github.com/encode/httpcore/issues/1022
    """

    def __init__(self) -> None:
        self.idle: list[httpx.AsyncHTTPTransport] = []
        self.max_idle = MAX_IDLE

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.idle:
            connection = self.idle.pop()
        else:
            # Without TLS there is no negotiation, so both sides have to begin with HTTP/2.
            connection = httpx.AsyncHTTPTransport(verify=UNUSED_TLS, http1=False, http2=True)
        try:
            response = await connection.handle_async_request(request)
            content = b"".join([part async for part in response.aiter_raw()])
        except BaseException:  # also if the call is cancelled
            await connection.aclose()
            raise
        if len(self.idle) < self.max_idle:
            self.idle.append(connection)
        else:
            await connection.aclose()
        # The stream of this response has been read, so return its content in a new response.
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=httpx.ByteStream(content),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        self.max_idle = 0  # calls in flight close their connections when they complete
        for connection in self.idle:
            await connection.aclose()


def describe(error: Exception) -> str:
    """Return in one line what went wrong in a call, and what to do about it."""
    match error:
        case httpx.HTTPStatusError(response=response):
            return f"{response.url.path}: status {response.status_code}, {response.text[:500]!r}"
        case httpx.TimeoutException(request=request):
            hint = "is the service running in the same application (-app)?"
            return f"{request.url.path}: no response in time: {hint}"
        case httpx.TransportError():
            return f"the connection to the sidecar failed ({error!r}): is kar still running?"
    return str(error)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback after Ctrl-C
    try:
        asyncio.run(main())
    except (httpx.HTTPError, ValueError) as error:
        sys.exit(f"client.py: {describe(error)}")
