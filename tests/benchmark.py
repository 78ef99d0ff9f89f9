"""Compare calls of server.py: direct, through KAR, and through KAR with a plain httpx client.

    .venv/bin/python tests/benchmark.py

All are measured in turn, in three rounds. The table has the medians of the rounds, and behind each
the median of its ratios to the line above. Set KAR to measure a real KAR as well.
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
from support.processes import EMBEDDED_KAR, ROOT, Processes

sys.path.insert(0, str(ROOT))

from client import OneRequestPerConnection

ROUNDS = 3
CALLS = 2000  # in a round with IN_FLIGHT of them at once, and a quarter of that one by one
IN_FLIGHT = 50
PERSON = {"name": "John", "surname": "Doe"}


@dataclass
class Target:
    """Something to call, and what was measured in each round."""

    name: str
    url: str
    server: psutil.Process
    plain: bool = False  # call it with a client that shares one connection
    rates: list[float] = field(default_factory=list)  # calls/s with IN_FLIGHT at once
    latencies: list[float] = field(default_factory=list)  # p50 in ms, one by one
    server_times: list[float] = field(default_factory=list)  # CPU time for a call in ms
    client_times: list[float] = field(default_factory=list)  # CPU time for a call in ms

    def client(self) -> httpx.AsyncClient:
        if self.plain:
            return async_http2_client(self.url)
        transport = OneRequestPerConnection()
        return httpx.AsyncClient(transport=transport, base_url=self.url, timeout=60)


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
    async with target.client() as client:
        await make_calls(client, 200, IN_FLIGHT)  # opens the connections
        latencies = await make_calls(client, CALLS // 4, 1)
        target.latencies.append(statistics.median(latencies) * 1000)
        start, client_start = time.perf_counter(), time.process_time()
        server_start = cpu_seconds(target.server)
        await make_calls(client, CALLS, IN_FLIGHT)
        target.rates.append(CALLS / (time.perf_counter() - start))
        target.client_times.append((time.process_time() - client_start) / CALLS * 1000)
        target.server_times.append((cpu_seconds(target.server) - server_start) / CALLS * 1000)


def start_targets(processes: Processes) -> Iterator[Target]:
    server = processes.start_server(HELLO_DELAY="0")
    yield Target("direct", server.url, psutil.Process(server.process.pid))
    kars = {"embedded KAR": EMBEDDED_KAR}
    if os.environ.get("KAR"):
        kars["real KAR"] = Path(os.environ["KAR"])
    for name, path in kars.items():
        kar = Kar(path, processes)
        replica = kar.start_server(HELLO_DELAY="0")
        sidecar = kar.start_sidecar()
        kar.wait_until_called(sidecar, replica, path="/helloText")
        url = sidecar.service_url(replica.service)
        for plain in (False, True):
            suffix = ", plain httpx" if plain else ""
            yield Target(name + suffix, url, replica.process.child(), plain)


def print_table(targets: list[Target]) -> None:
    columns = ("calls/s at once", "p50 in ms", "server CPU in ms", "client CPU in ms")
    print(f"\n{'':25}" + "".join(f"{column:>20}" for column in columns))
    above = targets[0]
    for target in targets:
        print(f"{target.name:25}", end="")
        for name in ("rates", "latencies", "server_times", "client_times"):
            values, base = getattr(target, name), getattr(above, name)
            ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
            print(f"{statistics.median(values):.2f} ({ratio:.2f})".rjust(20), end="")
        print()
        above = target


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        processes = Processes(Path(directory))
        try:
            targets = list(start_targets(processes))
            for number in range(ROUNDS):
                print(f"round {number + 1} of {ROUNDS}", flush=True)
                for target in targets:
                    asyncio.run(measure(target))
            print_table(targets)
        finally:
            processes.end()


if __name__ == "__main__":
    main()
