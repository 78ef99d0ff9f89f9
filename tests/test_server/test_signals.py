"""What happens to calls and to the server when a signal terminates a server or a kar."""

import asyncio
import signal
import time
from collections.abc import Callable

import pytest
from support.http2 import FrameConnection
from support.kar import Kar, Replica, Sidecar
from support.processes import Processes, accepts_connections, free_port, wait_until

from client import sidecar_client

CALLS = 100
IN_FLIGHT = 50
TARGETS = [
    (signal.SIGTERM, "server"),
    (signal.SIGKILL, "server"),
    (signal.SIGINT, "server"),
    (signal.SIGTERM, "kar"),
    (signal.SIGKILL, "kar"),
]


async def assert_all_succeed(sidecar: Sidecar, interrupt: Callable[[], None]) -> None:
    """Make CALLS calls, with IN_FLIGHT at once, and run a function meanwhile."""
    free_slots = asyncio.Semaphore(IN_FLIGHT)

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KAR_RUNTIME_PORT", str(sidecar.port))
        service = sidecar_client("async-server")
    service.timeout = 120  # the real KAR can take long to notice a crash

    async def greet(number: int) -> str:
        person = {"name": "John", "surname": str(number)}
        async with free_slots:
            response = await service.post("/helloJson", json=person)
            return str(response.json()["message"])

    async with service:
        calls = [asyncio.create_task(greet(number)) for number in range(CALLS)]
        await asyncio.to_thread(interrupt)
        messages = await asyncio.gather(*calls)
    assert messages == [f"Hello John {number}" for number in range(CALLS)]


@pytest.fixture(scope="module")
def survivor(module_kar: Kar) -> Replica:
    """A replica that gets no signal."""
    return module_kar.start_server(HELLO_DELAY="0.5")


@pytest.fixture(scope="module")
def module_sidecar(module_kar: Kar) -> Sidecar:
    return module_kar.start_sidecar()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "target"), TARGETS)
async def test_signal_costs_no_call(
    module_kar: Kar,
    survivor: Replica,
    module_sidecar: Sidecar,
    number: signal.Signals,
    target: str,
) -> None:
    victim = module_kar.start_server(HELLO_DELAY="0.5")
    module_kar.wait_until_called(module_sidecar, victim, survivor, path="/helloText")
    before = victim.greetings()

    def interrupt() -> None:
        wait_until(lambda: victim.greetings() >= before + 10, "calls of the victim")
        receiver = victim.process if target == "kar" else victim.process.child()
        receiver.send_signal(number)

    await assert_all_succeed(module_sidecar, interrupt)
    # kar passes on 128 + the number from a server that a signal has reached, or was killed itself.
    assert victim.process.wait(10) in (0, -signal.SIGKILL, 128 + number)


@pytest.mark.slow
async def test_signal_to_the_only_replica_costs_no_call(kar: Kar) -> None:
    victim = kar.start_server(HELLO_DELAY="0.5")
    sidecar = kar.start_sidecar()
    kar.wait_until_called(sidecar, victim, path="/helloText")

    def interrupt() -> None:
        wait_until(lambda: victim.greetings() >= 10, "calls")
        victim.process.child().send_signal(signal.SIGTERM)
        kar.start_server(HELLO_DELAY="0.1")

    await assert_all_succeed(sidecar, interrupt)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_terminates_the_server_silently(
    processes: Processes, number: signal.Signals
) -> None:
    server = processes.start_server(HELLO_DELAY="1000")
    with FrameConnection(server.url) as connection:
        connection.open_stream("POST", "/helloText", b"John")
        connection.flush()
        server.process.wait_for_line("HTTP version: 2")
        server.process.send_signal(number)
        # A handler has ended it. Without one, the first process of a container would go on.
        assert server.process.wait(5) == 128 + number
    assert len(server.process.stderr_lines()) == 1


@pytest.mark.parametrize("moment", [0, 0.1, 0.3, "Running on"])
def test_server_exits_after_its_kar_was_killed(kar: Kar, moment: float | str) -> None:
    """The kar is killed so many seconds after the start of the server, or when that has started."""
    port = free_port()
    process = kar.run(
        *["-h2c", "-service", "async-server", "-app_port", str(port), "python", "server.py"]
    )
    server = process.child()
    if isinstance(moment, str):
        process.wait_for_line(moment)
    else:
        time.sleep(moment)
    process.kill()
    server.wait(10)
    assert not accepts_connections(port)


def test_busy_server_behind_a_shell_exits_after_its_kar_was_killed(kar: Kar) -> None:
    command = ("-h2c", "sh", "-c", "python server.py; true")
    replica = kar.start_replica("async-server", *command, HELLO_DELAY="1000")
    with FrameConnection(replica.url) as connection:
        connection.open_stream("POST", "/helloText", b"John")
        connection.flush()
        replica.process.wait_for_line("HTTP version: 2")
        server = replica.process.descendant("server.py")
        replica.process.kill()
        server.wait(10)
