"""Time calls to async-server in three settings: awaited one by one, gathered, started as tasks.

    kar run -h2c -app hello-async python timed-client.py

The three settings come first, then measuring, reporting and the command line.
"""

import argparse
import asyncio
import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import httpx

from client import MAX_IDLE, describe, message_of, sidecar_client

Call = Callable[[int], Coroutine[None, None, None]]


async def sequential(call: Call, count: int) -> None:
    """Await each call before the next one starts."""
    for number in range(count):
        await call(number)


async def gather(call: Call, count: int) -> None:
    """Run all calls at once and await them together."""
    await asyncio.gather(*[call(number) for number in range(count)])


async def tasks(call: Call, count: int) -> None:
    """Make each call a task in a group, which waits for all its tasks at the end.

    If a task fails, the group cancels the others, whereas gather lets them go on. Here no task
    fails, because timed_call() records the failure of a call.
    """
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(call(number))


SETTINGS = {"sequential": sequential, "gather": gather, "tasks": tasks}
TIMELINE_WIDTH = 52  # characters
LEVELS = " .:-=+*#@"  # of the timeline, from no calls in flight to the most


@dataclass
class Result:
    """One call, with three readings of time.perf_counter(), in seconds.

    made is the time of call(), and sent is when there was a free slot for the request.
    """

    made: float
    sent: float = 0.0
    completed: float = 0.0
    http_version: str = ""
    failure: str = ""  # such as "ReadTimeout" or "status 500"


async def run(options: argparse.Namespace) -> bool:
    """Measure each setting and print its summary; return whether all calls succeeded."""
    settings = list(SETTINGS) if options.setting == "all" else [options.setting]
    concurrency = min(options.concurrency or options.calls, options.calls)
    measured = {}
    async with sidecar_client("async-server") as service:
        for setting in settings:
            measured[setting] = await measure(service, setting, options.calls, concurrency)
            print_summary(setting, measured[setting])
    print_timeline(measured)
    return not any(result.failure for results in measured.values() for result in results)


async def measure(
    service: httpx.AsyncClient, setting: str, count: int, concurrency: int
) -> list[Result]:
    """Make the calls of a setting, and return their results."""
    results = []
    free_slots = asyncio.Semaphore(concurrency)

    def call(number: int) -> Coroutine[None, None, None]:
        # Take the time here: with gather and tasks, the coroutine starts to run later.
        result = Result(made=time.perf_counter())
        results.append(result)
        return timed_call(service, free_slots, number, result)

    # Warm up: wait for the server, and open up to MAX_IDLE connections. With more calls in flight,
    # the time to open the other connections is part of the measurement.
    await asyncio.gather(*[service.get("/health") for _ in range(min(concurrency, MAX_IDLE))])
    await SETTINGS[setting](call, count)
    return results


async def timed_call(
    service: httpx.AsyncClient, free_slots: asyncio.Semaphore, number: int, result: Result
) -> None:
    """Make one call, check its response, and complete the result."""
    async with free_slots:
        result.sent = time.perf_counter()
        try:
            person = {"name": "John", "surname": f"Doe {number}"}
            response = await service.post("/helloJson", json=person)
            response.raise_for_status()
            result.http_version = response.http_version
            if message_of(response) != f"Hello John Doe {number}":
                raise ValueError  # the greeting of another call
        except httpx.HTTPStatusError as error:
            result.failure = f"status {error.response.status_code}"
        except httpx.RequestError as error:
            result.failure = type(error).__name__
        except ValueError:
            result.failure = "unexpected response"
        result.completed = time.perf_counter()


def print_summary(setting: str, results: list[Result]) -> None:
    """Print the summary of a setting; its rate and latencies leave out failed calls."""
    succeeded = [result for result in results if not result.failure]
    versions = {result.http_version for result in succeeded}
    duration = duration_of(results)
    in_flight = sum(result.completed - result.sent for result in results) / duration
    print(f"{setting}:", ", ".join([f"{len(succeeded)}/{len(results)} ok", *sorted(versions)]))
    rate = len(succeeded) / duration
    print(f"  Time = {duration:.3f} s, {rate:.1f} calls/s, {in_flight:.1f} in flight on average")
    if succeeded:
        latencies = sorted((result.completed - result.made) * 1000 for result in succeeded)
        p50 = percentile(latencies, 0.5)
        p95 = percentile(latencies, 0.95)
        print(
            f"  latency: min {latencies[0]:.1f}, p50 {p50:.1f}, p95 {p95:.1f}, "
            f"max {latencies[-1]:.1f} ms"
        )
    failures = Counter(result.failure for result in results if result.failure)
    if failures:
        print("  failed:", ", ".join(f"{count} {kind}" for kind, count in failures.items()))
    if "ConnectError" in failures:
        print("  Each call in flight needs a connection. If ulimit -n is too low for that, use -c.")
    sys.stdout.flush()


def print_timeline(measured: dict[str, list[Result]]) -> None:
    """Print a row for each setting; the denser a character, the more calls are in flight.

    All rows have the same scale, and the last line is their common time axis.
    """
    longest = max(duration_of(results) for results in measured.values())
    moments = [(column + 0.5) * longest / TIMELINE_WIDTH for column in range(TIMELINE_WIDTH)]
    rows = {
        setting: [in_flight_at(results, results[0].made + moment) for moment in moments]
        for setting, results in measured.items()
    }
    highest = max(max(row) for row in rows.values()) or 1
    print("calls in flight over time:")
    for setting, row in rows.items():
        levels = "".join(LEVELS[math.ceil(in_flight / highest * 8)] for in_flight in row)
        print(f"{setting:11}{levels.rstrip()}")
    end = f"{longest:.2f} s"
    print(" " * 11 + "0 s" + end.rjust(TIMELINE_WIDTH - 3))


def in_flight_at(results: list[Result], moment: float) -> int:
    return sum(result.sent <= moment < result.completed for result in results)


def duration_of(results: list[Result]) -> float:
    """Return the seconds from the first call to the last response."""
    return max(result.completed for result in results) - results[0].made


def percentile(ordered: list[float], rank: float) -> float:
    """Return the nearest-rank percentile, for a rank over 0 and up to 1."""
    return ordered[math.ceil(rank * len(ordered)) - 1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Time calls to async-server in three settings: sequential awaits each call "
        "before the next one starts, gather awaits all together, and tasks makes each one a task.",
        epilog="Latency includes the time that a call waits because of --concurrency.",
    )
    parser.add_argument("-n", "--calls", type=positive_integer, default=10, help="default: 10")
    parser.add_argument(
        "-c", "--concurrency", type=positive_integer, help="calls in flight at once; default: all"
    )
    parser.add_argument("--setting", choices=[*SETTINGS, "all"], default="all", help="default: all")
    return parser.parse_args()


def positive_integer(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback after Ctrl-C
    try:
        succeeded = asyncio.run(run(parse_args()))
    except (httpx.HTTPError, ValueError) as error:
        sys.exit(f"timed-client.py: {describe(error)}")
    sys.exit(0 if succeeded else 1)
