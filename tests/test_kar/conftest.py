"""Fixtures of the tests of KAR: services, and sidecars to call them through."""

import pytest
from support.kar import Kar
from support.kar_service import Service, start_service


@pytest.fixture(scope="module")
def echo_services(module_kar: Kar) -> dict[str, Service]:
    """The service echo over HTTP/2 and over HTTP/1.1, shared by the tests of a module."""
    return {
        "h2c": start_service(module_kar.other_application(), h2c=True),
        "http1": start_service(module_kar.other_application(), h2c=False),
    }


@pytest.fixture(params=["h2c", "http1"])
def echo(echo_services: dict[str, Service], request: pytest.FixtureRequest) -> Service:
    """The service echo over each HTTP version."""
    return echo_services[request.param]


@pytest.fixture
def h2c_echo(echo_services: dict[str, Service]) -> Service:
    """The service echo over HTTP/2 alone."""
    return echo_services["h2c"]
