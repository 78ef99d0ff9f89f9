"""client.py where something fails: one line on standard error, and its exit status."""

import asyncio
import signal
import sys

import pytest
from support.client_helpers import TRANSCRIPT, answering, fake, one_line
from support.kar import Kar
from support.processes import Processes, free_port, wait_until

import client


@pytest.mark.parametrize("port", [None, "", "x", "0", "65536"])
def test_without_a_sidecars_port_it_says_how_to_start(
    processes: Processes, port: str | None
) -> None:
    environment = {} if port is None else {"KAR_RUNTIME_PORT": port}
    line = one_line(processes.start(sys.executable, "client.py", **environment), 2)
    assert "KAR_RUNTIME_PORT" in line
    assert "kar run" in line


def test_no_sidecar(processes: Processes) -> None:
    environment = {"KAR_RUNTIME_PORT": str(free_port())}
    line = one_line(processes.start(sys.executable, "client.py", **environment), 1)
    assert line.startswith("client.py: helloText: connection; ")


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        ("status 404", "helloText: status 404; "),
        ("status 503", "helloText: status 503; "),
        ("status 302", "helloText: status 302; "),
        ("dies", "helloText: connection; "),
        ("answer no JSON", "helloJson: wrong answer; "),
        ('answer {"no": 1}', "helloJson: wrong answer; "),
        ("answer []", "helloJson: wrong answer; "),
    ],
)
def test_a_bad_answer(processes: Processes, behaviour: str, problem: str) -> None:
    _, port = fake(processes, behaviour)
    process = processes.start(sys.executable, "client.py", KAR_RUNTIME_PORT=port)
    assert one_line(process, 1).startswith(f"client.py: {problem}")


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 99])
def test_what_is_there_speaks_no_http2(processes: Processes, data: bytes) -> None:
    with answering(data) as port:
        process = processes.start(sys.executable, "client.py", KAR_RUNTIME_PORT=port)
        assert one_line(process, 1).startswith("client.py: helloText: connection; ")


def test_no_answer_in_time(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.PATIENCE == 30
    _, port = fake(processes, "slow 50")
    monkeypatch.setenv("KAR_RUNTIME_PORT", port)

    async def main() -> None:
        async with client.open_client() as sidecar:
            await client.call(sidecar, "GET", "health", patience=0.2)

    with pytest.raises(client.CallError, match=r"health: timeout; no answer in 0.2 s: ") as error:
        asyncio.run(main())
    assert error.value.kind == "timeout"


def test_a_proxy_in_the_environment_is_not_asked(processes: Processes) -> None:
    _, port = fake(processes, "well")
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:1")
    process = processes.start(sys.executable, "client.py", KAR_RUNTIME_PORT=port, **proxies)
    assert process.wait() == 0


def test_a_sidecar_killed_in_mid_call(kar: Kar) -> None:
    """The client is started without kar, which would hide what it prints."""
    kar.start_server(HELLO_DELAY="50")
    address = kar.start_sidecar().url
    sidecar = kar.processes.started[-1]
    port = address.rpartition(":")[2]
    process = kar.processes.start(sys.executable, "client.py", KAR_RUNTIME_PORT=port)
    kar.processes.started[-3].wait_for_line("HTTP version: 2")
    child = sidecar.child()
    sidecar.kill()
    wait_until(lambda: process.is_running() is False, "the client's end", 1)
    assert one_line(process, 1).startswith("client.py: helloText: connection; ")
    child.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("moment", ["before", "during", "between"])
def test_a_server_killed_and_started_again(kar: Kar, moment: str) -> None:
    server = kar.start_server(HELLO_DELAY="2" if moment == "during" else "0.5").process
    if moment == "before":
        server.kill_with_child()
    process = kar.run("-h2c", "python", "client.py")
    if moment == "during":
        server.wait_for_line("HTTP version: 2")
        server.kill_with_child()
    elif moment == "between":
        process.wait_for_line('"Hello John Doe"')
        server.kill_with_child()
    kar.start_server(HELLO_DELAY="0")
    assert process.wait() == 0
    assert process.stdout_lines() == TRANSCRIPT
