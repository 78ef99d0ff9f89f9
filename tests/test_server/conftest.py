"""Fixtures of the server's tests."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

import server


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A client of the application in this process, as run() serves it but without a delay."""
    monkeypatch.setattr(server, "HELLO_DELAY", 0)
    application = server.ReadRequestFirst(server.app)
    with TestClient(application, raise_server_exceptions=False) as client:
        yield client
