"""The commands of the example print what they promise, also around a start of the server."""

import re
from pathlib import Path

import pytest
from support.kar import TRANSCRIPT, Kar
from support.processes import ROOT

CLIENT = ["-h2c", "python", "client.py"]
LOG_LINE = r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} \[STD(OUT|ERR)\] .*"


def test_client_before_server(kar: Kar) -> None:
    client = kar.run(*CLIENT)
    client.child()
    server = kar.start_server(HELLO_DELAY="0")
    assert client.wait() == 0
    assert client.stdout_lines() == TRANSCRIPT
    server.process.wait_for_line("[STDOUT] HTTP version: 2", 2)
    for process in (client, server.process):
        for line in process.stdout_path.read_text().splitlines():
            assert re.fullmatch(LOG_LINE, line)


def test_server_without_h2c(kar: Kar) -> None:
    """Its sidecar calls it over HTTP/1.1, which the clients do not see."""
    server = kar.start_replica("async-server", "python", "server.py", HELLO_DELAY="0")
    client = kar.run("python", "client.py")
    assert client.wait() == 0
    assert client.stdout_lines() == TRANSCRIPT
    server.process.wait_for_line("[STDOUT] HTTP version: 1.1", 2)


@pytest.mark.slow
def test_clients_with_httpx2(kar: Kar, tmp_path: Path) -> None:
    """httpx2 is the maintained successor of httpx, with the same interface."""
    for name in ("client.py", "timed-client.py"):
        script = (ROOT / name).read_text()
        (tmp_path / name).write_text(script.replace("import httpx\n", "import httpx2 as httpx\n"))
    kar.start_server(HELLO_DELAY="0")
    client = kar.run("-h2c", "python", tmp_path / "client.py")
    assert client.wait() == 0
    assert client.stdout_lines() == TRANSCRIPT
    client = kar.run("-h2c", "python", tmp_path / "timed-client.py")
    assert client.wait() == 0
    for setting in ("sequential", "gather", "tasks"):
        assert f"[STDOUT] {setting}: 10/10 ok, HTTP/2" in client.stdout_lines()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["during", "between"])
def test_client_while_the_server_restarts(kar: Kar, moment: str) -> None:
    """The server crashes during the first call of the client, or after it."""
    server = kar.start_server(HELLO_DELAY="2")
    client = kar.run(*CLIENT)
    if moment == "during":
        server.process.wait_for_line("HTTP version: 2")
    else:
        client.wait_for_line('"Hello John Doe"')
        assert client.stdout_lines() == TRANSCRIPT[:2]  # it flushes the lines of each call
    server.process.kill_with_child()
    kar.start_server(HELLO_DELAY="0")
    assert client.wait() == 0
    assert client.stdout_lines() == TRANSCRIPT
