"""The commands of the README, in two terminals and in every order, print what it shows."""

import random
import re

import pytest
from support.client_helpers import TRANSCRIPT
from support.kar import Kar
from support.processes import Process, free_port, wait_until

SERVER = ["-h2c", "-service", "async-server", "python", "server.py"]
STAMP = r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} \[STD(OUT|ERR)\] .*"


def greetings(server: Process) -> int:
    return server.stdout_lines().count("[STDOUT] HTTP version: 2")


@pytest.mark.parametrize("first", ["server", "client"])
def test_the_client_prints_the_transcript(kar: Kar, first: str) -> None:
    environment = {"KAR_APP_PORT": str(free_port())}
    if first == "server":
        server = kar.run(*SERVER, **environment)
        server.wait_for_line("Running on")
        client = kar.run("-h2c", "python", "client.py")
    else:
        client = kar.run("-h2c", "python", "client.py")
        wait_until(lambda: client.child(), "the client")
        server = kar.run(*SERVER, **environment)
    assert client.wait() == 0
    assert client.stdout_lines() == TRANSCRIPT
    wait_until(lambda: greetings(server) == 2, "a line of the server for each greeting")


def test_each_line_is_behind_the_time_and_its_stream(kar: Kar) -> None:
    server = kar.start_server(HELLO_DELAY="0").process
    client = kar.run("-h2c", "python", "client.py")
    assert client.wait() == 0
    for line in [
        *client.stdout_path.read_text().splitlines(),
        *server.stdout_path.read_text().splitlines(),
    ]:
        assert re.fullmatch(STAMP, line)


def test_the_timed_client_times_three_settings(kar: Kar) -> None:
    kar.start_server()
    client = kar.run("-h2c", "python", "timed-client.py")
    assert client.wait() == 0
    text = "\n".join(client.stdout_lines())
    for setting in ("sequential", "gather", "tasks"):
        assert f"[STDOUT] {setting}: 10/10 ok, HTTP/2" in text
    assert text.count("Time = ") == 3


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_starting_prints_the_transcript(kar: Kar, seed: int) -> None:
    """Two servers and two clients, each after the one before or together with it."""
    if not kar.is_embedded and seed >= 3:
        pytest.skip("the real KAR is slow to start: three orders must do")
    chance = random.Random(seed)
    client = ["-h2c", "python", "client.py"]
    commands = [SERVER, SERVER, client, client]
    chance.shuffle(commands)
    clients = []
    for command in commands:
        process = kar.run(*command, KAR_APP_PORT=str(free_port()), HELLO_DELAY="0")
        if command is client:
            clients.append(process)
        if chance.random() < 0.5:
            wait_until(process.has_started, "the process")
        elif command is SERVER and chance.random() < 0.5:
            process.wait_for_line("Running on")
    for process in clients:
        assert process.wait() == 0
        assert process.stdout_lines() == TRANSCRIPT


def test_two_servers_on_one_machine_need_two_ports(kar: Kar) -> None:
    port = str(free_port())
    kar.run(*SERVER, KAR_APP_PORT=port).wait_for_line("Running on")
    second = kar.run(*SERVER, KAR_APP_PORT=port)
    assert second.wait() == 1
    errors = [line for line in second.stdout_lines() if line.startswith("[STDERR]")]
    assert len(errors) == 1
    assert "-app_port" in errors[0]
