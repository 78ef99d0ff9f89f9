"""The three commands of the example print what they promise, in whatever order they start."""

import random
import re
from pathlib import Path

import pytest
from support.kar import Kar
from support.processes import ROOT, free_port, wait_until

TRANSCRIPT = [
    "[STDOUT] HTTP/2",
    '[STDOUT] "Hello John Doe"',
    "[STDOUT] HTTP/2",
    "[STDOUT] Hello John Doe",
    "[STDOUT] HTTP/2",
    "[STDOUT] I am healthy",
]
SERVER = ["-h2c", "-service", "async-server", "python", "server.py"]
CLIENT = ["-h2c", "python", "client.py"]
LOG_LINE = r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} \[STD(OUT|ERR)\] .*"


def test_client_after_server(kar: Kar) -> None:
    server = kar.start_server(HELLO_DELAY="0")
    client = kar.run(*CLIENT)
    assert client.wait() == 0
    assert client.stdout_lines() == TRANSCRIPT
    wait_until(lambda: server.greetings() == 2, "a line of the server for each greeting")


def test_client_before_server(kar: Kar) -> None:
    client = kar.run(*CLIENT)
    client.child()
    kar.start_server(HELLO_DELAY="0")
    assert client.wait() == 0
    assert client.stdout_lines() == TRANSCRIPT


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


def test_each_line_has_a_time_stamp_and_its_stream(kar: Kar) -> None:
    server = kar.start_server(HELLO_DELAY="0")
    client = kar.run(*CLIENT)
    assert client.wait() == 0
    for process in (client, server.process):
        for line in process.stdout_path.read_text().splitlines():
            assert re.fullmatch(LOG_LINE, line)


@pytest.mark.slow
def test_timed_client_measures_three_settings(kar: Kar) -> None:
    kar.start_server()
    client = kar.run("-h2c", "python", "timed-client.py")
    assert client.wait() == 0
    lines = client.stdout_lines()
    for setting in ("sequential", "gather", "tasks"):
        assert f"[STDOUT] {setting}: 10/10 ok, HTTP/2" in lines
    assert sum("Time = " in line for line in lines) == 3


@pytest.mark.slow
@pytest.mark.embedded_only  # more orders would take the real KAR minutes
@pytest.mark.parametrize("seed", range(2))
def test_two_servers_and_two_clients_in_any_order(kar: Kar, seed: int) -> None:
    generator = random.Random(seed)
    commands = [SERVER, SERVER, CLIENT, CLIENT]
    generator.shuffle(commands)
    clients = []
    for command in commands:
        process = kar.run(*command, KAR_APP_PORT=str(free_port()), HELLO_DELAY="0")
        if command is CLIENT:
            clients.append(process)
        if generator.random() < 0.5:
            wait_until(process.has_started, "the process")
        elif command is SERVER and generator.random() < 0.5:
            process.wait_for_line("Running on")
    for client in clients:
        assert client.wait() == 0
        assert client.stdout_lines() == TRANSCRIPT


def test_second_server_on_the_same_port(kar: Kar) -> None:
    first = kar.start_server()
    second = kar.run(*SERVER, KAR_APP_PORT=str(first.port))
    second.wait_for_line("check KAR_APP_HOST and kar run -app_port")
    assert second.wait() == 1


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "during", "between"])
def test_client_while_the_server_restarts(kar: Kar, moment: str) -> None:
    server = kar.start_server(HELLO_DELAY="2" if moment == "during" else "0.5")
    if moment == "before":
        server.process.kill_with_child()
    client = kar.run(*CLIENT)
    if moment == "during":
        server.process.wait_for_line("HTTP version: 2")
        server.process.kill_with_child()
    elif moment == "between":
        client.wait_for_line('"Hello John Doe"')
        server.process.kill_with_child()
    kar.start_server(HELLO_DELAY="0")
    assert client.wait() == 0
    assert client.stdout_lines() == TRANSCRIPT
