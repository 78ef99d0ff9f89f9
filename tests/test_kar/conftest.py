"""Fixtures of the tests of KAR: services, and sidecars to call them through."""

import pytest
from support.kar import Kar, Service, start_echo_service


@pytest.fixture(scope="module")
def h2c_echo(module_kar: Kar) -> Service:
    """The service echo over HTTP/2."""
    return start_echo_service(module_kar.other_application(), "-h2c")


@pytest.fixture(scope="module")
def http1_echo(module_kar: Kar) -> Service:
    """The service echo over HTTP/1.1."""
    return start_echo_service(module_kar.other_application())


@pytest.fixture(params=["h2c", "http1"])
def echo(request: pytest.FixtureRequest, h2c_echo: Service, http1_echo: Service) -> Service:
    """The service echo over each HTTP version."""
    return {"h2c": h2c_echo, "http1": http1_echo}[request.param]
