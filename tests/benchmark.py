"""Compare a bare ASGI function, server.py, and server.py through KAR; then two ways of calling.

    .venv/bin/python tests/benchmark.py

All are measured in turn, in three rounds. The tables have the medians of the rounds, and behind
each the median of its ratios to another line. Set KAR to measure a real KAR as well.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from support.http2 import async_http2_client
from support.kar import Kar
from support.processes import EMBEDDED_KAR, ROOT, Processes, free_port

sys.path.insert(0, str(ROOT))

from client import OneRequestPerConnection

ROUNDS = 3
CALLS = {1: 500, 50: 2000}  # in a round, by the number in flight
PERSON = {"name": "John", "surname": "Doe"}


@dataclass
class Target:
    """Something to call, and what was measured in each round."""

    name: str
    url: str
    server: psutil.Process
    rates: list[float] = field(default_factory=list)  # calls/s with 50 in flight
    latencies: list[float] = field(default_factory=list)  # p50 in ms with 1 in flight
    cpu_times: list[float] = field(default_factory=list)  # of the server in ms for a call


async def make_calls(client: httpx.AsyncClient, calls: int, in_flight: int) -> list[float]:
    """Return the latency of each call in seconds."""
    latencies = []
    numbers = iter(range(calls))

    async def call_in_turn() -> None:
        for _ in numbers:
            start = time.perf_counter()
            response = await client.post("/helloJson", json=PERSON)
            latencies.append(time.perf_counter() - start)
            assert response.json() == {"message": "Hello John Doe"}

    await asyncio.gather(*[call_in_turn() for _ in range(in_flight)])
    return latencies


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def measure(target: Target) -> None:
    """Add the figures of one round."""
    transport = OneRequestPerConnection()
    async with httpx.AsyncClient(transport=transport, base_url=target.url, timeout=60) as client:
        await make_calls(client, 200, 50)  # opens the connections
        latencies = await make_calls(client, CALLS[1], 1)
        target.latencies.append(statistics.median(latencies) * 1000)
        start = time.perf_counter()
        cpu_start = cpu_seconds(target.server)
        await make_calls(client, CALLS[50], 50)
        target.rates.append(CALLS[50] / (time.perf_counter() - start))
        cpu_time = cpu_seconds(target.server) - cpu_start
        target.cpu_times.append(cpu_time / CALLS[50] * 1000)


def start_targets(processes: Processes) -> Iterator[Target]:
    port = free_port()
    bare = processes.start("python", "tests/support/bare_service.py", KAR_APP_PORT=str(port))
    bare.wait_for_line("Running on")
    yield Target("bare ASGI function", f"http://127.0.0.1:{port}", psutil.Process(bare.pid))
    server = processes.start_server(HELLO_DELAY="0")
    yield Target("server.py", server.url, psutil.Process(server.process.pid))
    kars = {"embedded KAR": EMBEDDED_KAR}
    if os.environ.get("KAR"):
        kars["real KAR"] = Path(os.environ["KAR"])
    for name, path in kars.items():
        kar = Kar(path, processes)
        replica = kar.start_server(HELLO_DELAY="0")
        sidecar = kar.start_sidecar()
        kar.wait_until_called(sidecar, replica, path="/helloText")
        url = sidecar.service_url(replica.service)
        yield Target(f"server.py through the {name}", url, replica.process.child())


def compared(values: list[float], base: list[float]) -> str:
    """Return the median, and the median ratio to the values of the same rounds."""
    ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
    return f"{statistics.median(values):.2f} ({ratio:.2f})"


def print_targets(targets: list[Target]) -> None:
    bare, direct, *_ = targets
    print(
        "\nThe ratio of server.py is to the bare function, and those through KAR are to server.py."
    )
    print(f"{'':35}{'calls/s, 50 at once':>20}{'p50 in ms':>16}{'server CPU in ms':>20}")
    for target in targets:
        base = bare if target is direct else direct
        rate = compared(target.rates, base.rates)
        latency = compared(target.latencies, base.latencies)
        cpu_time = compared(target.cpu_times, base.cpu_times)
        print(f"{target.name:35}{rate:>20}{latency:>16}{cpu_time:>20}")


async def compare_clients(url: str) -> None:
    """Print the CPU time of a call with the transport of client.py and with plain httpx."""
    transport = OneRequestPerConnection()
    async with (
        async_http2_client(url) as plain,
        httpx.AsyncClient(transport=transport, base_url=url, timeout=60) as ours,
    ):
        for in_flight in CALLS:
            milliseconds: dict[httpx.AsyncClient, list[float]] = {plain: [], ours: []}
            for _ in range(ROUNDS):
                for client, values in milliseconds.items():
                    await make_calls(client, 100, in_flight)
                    start = time.process_time()
                    await make_calls(client, CALLS[in_flight], in_flight)
                    values.append((time.process_time() - start) / CALLS[in_flight] * 1000)
            print(f"\nCPU time of the client for a call in ms, {in_flight} in flight:")
            for name, values in zip(
                ("plain httpx", "client.py"), milliseconds.values(), strict=True
            ):
                print(f"{name:35}{compared(values, milliseconds[plain]):>20}")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        processes = Processes(Path(directory))
        try:
            targets = list(start_targets(processes))
            for number in range(ROUNDS):
                print(f"round {number + 1} of {ROUNDS}", flush=True)
                for target in targets:
                    asyncio.run(measure(target))
            print_targets(targets)
            asyncio.run(compare_clients(targets[2].url))
        finally:
            processes.end()


if __name__ == "__main__":
    main()
