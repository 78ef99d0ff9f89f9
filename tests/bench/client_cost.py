"""Compare the CPU time of the timed client with that of a bare httpx loop, in this process.

Both make the same calls one after the other through the sidecar of KAR_RUNTIME_PORT, each over a
connection of its own. Prints the milliseconds of user and system time for each call as JSON.
"""

import asyncio
import importlib.util
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType

import httpx

ROOT = Path(__file__).resolve().parents[2]
CALLS = 100  # in a row
ROUNDS = 30
TIMEOUT = 30.0  # seconds for a call, the default of the timed client


def import_timed_client() -> ModuleType:
    """Import timed-client.py, which a hyphen keeps from being imported by name."""
    sys.path.insert(0, str(ROOT))
    spec = importlib.util.spec_from_file_location("timed_client", ROOT / "timed-client.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its data classes are looked up
    spec.loader.exec_module(module)
    return module


async def bare_loop(client: httpx.AsyncClient) -> None:
    """Do what the timed client does for each call, without measuring or handling of errors."""
    for number in range(CALLS):
        person = {"name": "John", "surname": f"Doe {number}"}
        async with asyncio.timeout(TIMEOUT):
            response = await client.post("helloJson", json=person)
        assert response.status_code == 200
        assert response.http_version == "HTTP/2"
        assert response.json()["message"] == f"Hello John Doe {number}"


async def main() -> None:
    timed_client = import_timed_client()
    sidecar = f"http://127.0.0.1:{os.environ['KAR_RUNTIME_PORT']}"
    async with (
        timed_client.ClientPool(1) as pool,
        httpx.AsyncClient(
            base_url=f"{sidecar}/kar/v1/service/async-server/call",
            http1=False,
            http2=True,
            trust_env=False,
            headers={"Accept-Encoding": "identity"},
            timeout=None,
        ) as client,
    ):

        async def run_timed_client() -> None:
            measurement = timed_client.Measurement("sequential", CALLS)
            await timed_client.measure(measurement, pool, TIMEOUT)
            assert not measurement.failures

        async def run_bare_loop() -> None:
            await bare_loop(client)

        variants: dict[str, Callable[[], Awaitable[None]]] = {
            "timed-client.py": run_timed_client,
            "bare httpx loop": run_bare_loop,
        }
        seconds = dict.fromkeys(variants, 0.0)
        for round_number in range(-1, ROUNDS):  # The first round warms up.
            # Each is the first in every other round, so that neither gains from its place.
            order = list(variants) if round_number % 2 else list(reversed(variants))
            for name in order:
                started = time.process_time()
                await variants[name]()
                if round_number >= 0:
                    seconds[name] += time.process_time() - started
    print(json.dumps({name: total / (ROUNDS * CALLS) * 1000 for name, total in seconds.items()}))


if __name__ == "__main__":
    asyncio.run(main())
