"""What server.py writes: one line for each greeting, and nothing when it cannot write."""

from pathlib import Path

import httpx
import pytest
from support.http2 import http2_client
from support.processes import Processes, free_port

PERSON = {"name": "John", "surname": "Doe"}


def test_each_greeting_logs_its_http_version(processes: Processes) -> None:
    server = processes.start_server(HELLO_DELAY="0")
    with http2_client(server.url) as client:
        assert client.post("helloJson", json=PERSON).http_version == "HTTP/2"
        client.get("health")
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        assert client.post("helloText", content="John Doe").http_version == "HTTP/1.1"
    assert server.process.stdout_lines() == ["HTTP version: 2", "HTTP version: 1.1"]
    assert len(server.process.stderr_lines()) == 1
    assert "Running on" in server.process.stderr_lines()[0]


@pytest.mark.parametrize("redirection", [">&-", "> /dev/full", "| true"])
def test_greetings_without_standard_output(processes: Processes, redirection: str) -> None:
    if redirection == "> /dev/full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    port = str(free_port())
    command = f"(python server.py; echo exit status $? >&2) {redirection}"
    shell = processes.start("sh", "-c", command, KAR_APP_PORT=port, HELLO_DELAY="0")
    shell.wait_for_line("Running on")
    server = shell.descendant("server.py")
    with http2_client(f"http://127.0.0.1:{port}") as client:
        for _ in range(20):
            assert client.post("helloJson", json=PERSON).status_code == 200
    server.terminate()
    shell.wait_for_line("exit status 0")
    assert not any("Traceback" in line for line in shell.stderr_lines())
    assert not any("Error" in line for line in shell.stderr_lines())
