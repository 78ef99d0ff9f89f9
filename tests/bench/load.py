"""Call helloJson many times over one HTTP/2 connection, and print what came of it as JSON.

The names are calls_per_s (of all calls), p50_ms (the median latency) and lost: calls without the
right response.
"""

import argparse
import asyncio
import json
import statistics
import time

import httpx

PERSON = {"name": "John", "surname": "Doe"}
GREETING = {"message": "Hello John Doe"}


async def measure(url: str, calls: int, concurrency: int) -> dict[str, float]:
    """Make calls below a URL, with a number of them in flight."""
    latencies: list[float] = []
    lost = 0
    remaining = iter(range(calls))

    async def call_repeatedly() -> None:
        nonlocal lost
        for _ in remaining:
            started = time.perf_counter()
            try:
                response = await client.post("helloJson", json=PERSON)
                is_right = response.json() == GREETING
            except (httpx.HTTPError, ValueError):
                is_right = False
            latencies.append(time.perf_counter() - started)
            lost += not is_right

    async with httpx.AsyncClient(
        base_url=url, http1=False, http2=True, trust_env=False, timeout=60
    ) as client:
        await client.post("helloJson", json=PERSON)  # opens the connection
        started = time.perf_counter()
        await asyncio.gather(*[call_repeatedly() for _ in range(concurrency)])
        duration = time.perf_counter() - started
    return {
        "calls_per_s": calls / duration,
        "p50_ms": statistics.median(latencies) * 1000,
        "lost": lost,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("calls", type=int)
    parser.add_argument("concurrency", type=int)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(options.url, options.calls, options.concurrency))))
