"""Fixtures of the server's tests."""

import asyncio
from collections.abc import Callable, Iterator

import httpx
import pytest

from server import app

CallApp = Callable[..., httpx.Response]


@pytest.fixture(scope="session")
def call_app() -> Iterator[CallApp]:
    """A function that makes a request to the application in this process: method, path, options.

    The options are those of httpx.AsyncClient.request().
    """

    async def request(method: str, path: str, **options: object) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HELLO_DELAY", "0")
        yield lambda *arguments, **options: asyncio.run(request(*arguments, **options))
