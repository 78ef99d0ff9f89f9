"""Time calls to async-server in three settings: awaited one by one, gathered, started as tasks.

    kar run -h2c -app hello-async python timed-client.py

The three settings come first. Below them are measuring, reporting and the command line.
"""

import argparse
import asyncio
import contextlib
import json
import math
import platform
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Self

from client import CallError, ConfigurationError, SidecarClient, message_of

Call = Callable[[int], Coroutine[Any, Any, None]]


async def sequential(call: Call, calls: int) -> None:
    """Await each call before the next one starts."""
    for number in range(calls):
        await call(number)


async def gather(call: Call, calls: int) -> None:
    """Run all calls at once and await them together."""
    await asyncio.gather(*[call(number) for number in range(calls)])


async def tasks(call: Call, calls: int) -> None:
    """Make each call a task of a group, which awaits them all at its end.

    The calls begin when this function waits, as with gather. If a task fails, the group cancels the
    others, whereas gather lets them go on. Here no task fails: it records the failure of its call.
    """
    async with asyncio.TaskGroup() as group:
        for number in range(calls):
            group.create_task(call(number))


SETTINGS = {"sequential": sequential, "gather": gather, "tasks": tasks}

CALLS_PER_CLIENT = 100  # httpx allows no more requests in flight on an HTTP/2 connection
WARM_UP_TIMEOUT = 60.0  # seconds, so that there is time to start the server as well
MAX_JSON_LATENCIES = 5000  # the real KAR blocks a program that prints a line of 64 KiB
PROGRESS_INTERVAL = 5.0  # seconds
TIMELINE_WIDTH = 64  # characters
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class CallResult:
    """One call, with times in seconds of time.perf_counter().

    due is when the setting made the call, and sent is when a slot was free for it.
    """

    due: float
    sent: float
    completed: float
    http_version: str
    failure: CallError | None


@dataclass
class Measurement:
    """The calls of one setting; started and finished are in seconds of time.perf_counter()."""

    setting: str
    calls: int
    started: float = 0.0
    finished: float = 0.0
    results: list[CallResult] = field(default_factory=list)

    @property
    def duration(self) -> float:
        return self.finished - self.started

    @property
    def failures(self) -> list[CallError]:
        return [result.failure for result in self.results if result.failure]

    def summary(self) -> dict[str, Any]:
        """Return totals, rates and latencies; latencies and calls_per_s are of successful calls."""
        succeeded = [result for result in self.results if not result.failure]
        latencies = [(result.completed - result.due) * 1000 for result in succeeded]
        time_in_flight = sum(result.completed - result.sent for result in self.results)
        return {
            "calls": self.calls,
            "ok": len(succeeded),
            "failed": dict(Counter(failure.kind for failure in self.failures)),
            "http_versions": sorted({result.http_version for result in succeeded}),
            "time_s": round(self.duration, 6),
            "calls_per_s": round(len(succeeded) / self.duration, 3),
            "in_flight_average": round(time_in_flight / self.duration, 3),
            "latency_ms": percentiles(latencies),
            "latencies_ms": [round(latency, 3) for latency in latencies],
        }


def percentiles(latencies: list[float]) -> dict[str, float]:
    """Return min, p50, p95 (of 20 values or more), p99 (of 100 or more) and max.

    Without latencies the result is empty.
    """
    if not latencies:
        return {}
    result = {"min": min(latencies), "p50": statistics.median(latencies)}
    if len(latencies) >= 20:
        cut_points = statistics.quantiles(latencies, n=100, method="inclusive")
        result["p95"] = cut_points[94]
        if len(latencies) >= 100:
            result["p99"] = cut_points[98]
    result["max"] = max(latencies)
    return {name: round(latency, 3) for name, latency in result.items()}


class ClientPool:
    """Enough clients for a number of calls in flight, and a queue of free slots on them."""

    def __init__(self, concurrency: int) -> None:
        self.clients = [
            SidecarClient("async-server") for _ in range(math.ceil(concurrency / CALLS_PER_CLIENT))
        ]
        self.free_slots: asyncio.Queue[SidecarClient] = asyncio.Queue()
        for slot in range(concurrency):
            self.free_slots.put_nowait(self.clients[slot % len(self.clients)])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception_info: object) -> None:
        for client in self.clients:
            await client.close()

    async def warm_up(self) -> None:
        """Make one call with each client; raise CallError if the service cannot be reached.

        Other failures, such as an error status, are counted when they are measured.
        """
        person = {"name": "John", "surname": "Doe"}
        calls = [
            client.call("POST", "helloJson", json=person, timeout=WARM_UP_TIMEOUT)
            for client in self.clients
        ]
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, CallError) and result.kind in ("connection", "timeout"):
                raise result


async def timed_call(pool: ClientPool, number: int, due: float, timeout: float) -> CallResult:
    """Make one call as soon as a slot is free, check its response, and return the result."""
    client = await pool.free_slots.get()
    person = {"name": "John", "surname": f"Doe {number}"}
    http_version = ""
    failure = None
    sent = time.perf_counter()
    try:
        response = await client.call("POST", "helloJson", json=person, timeout=timeout)
        http_version = response.http_version
        if message_of(response) != f"Hello John Doe {number}":
            raise CallError(
                "helloJson",
                kind="unexpected response",
                reason=f"the response has an unexpected message: {response.text[:500]!r}",
                remedy="Is another program running as async-server?",
            )
    except CallError as error:
        failure = error
    finally:
        pool.free_slots.put_nowait(client)
    return CallResult(due, sent, time.perf_counter(), http_version, failure)


async def measure(measurement: Measurement, pool: ClientPool, timeout: float) -> None:
    """Make the calls of a setting, and keep the results so far if it is interrupted."""

    async def call_and_record(number: int, due: float) -> None:
        result = await timed_call(pool, number, due, timeout)
        if result.failure and not measurement.failures:
            log(f"{measurement.setting}, first failure: {result.failure.reason}")
        measurement.results.append(result)

    def call(number: int) -> Coroutine[Any, Any, None]:
        # Take the time here, because call_and_record() may start to run much later.
        return call_and_record(number, due=time.perf_counter())

    measurement.started = time.perf_counter()
    try:
        await SETTINGS[measurement.setting](call, measurement.calls)
    finally:
        measurement.finished = time.perf_counter()


async def run(options: argparse.Namespace, measurements: list[Measurement]) -> None:
    """Warm up, then measure each setting and append its measurement to the list."""
    async with ClientPool(options.concurrency) as pool:
        log(f"waiting for async-server, with {len(pool.clients)} HTTP/2 connection(s)")
        await pool.warm_up()
        progress = asyncio.create_task(log_progress(measurements))
        settings = list(SETTINGS) if options.setting == "all" else [options.setting]
        try:
            for setting in settings:
                measurement = Measurement(setting, options.calls)
                measurements.append(measurement)
                await measure(measurement, pool, options.timeout)
        finally:
            progress.cancel()


async def log_progress(measurements: list[Measurement]) -> None:
    while True:
        await asyncio.sleep(PROGRESS_INTERVAL)
        measurement = measurements[-1]
        seconds = time.perf_counter() - measurement.started
        completed = f"{len(measurement.results)} of {measurement.calls} calls"
        log(f"{measurement.setting}: {completed} after {seconds:.0f} s")


def log(message: str) -> None:
    """Write a line to standard error, since standard output has the results."""
    print(f"timed-client.py: {message}", file=sys.stderr, flush=True)


def print_report(measurements: list[Measurement]) -> None:
    """Print the summary of each setting and a timeline of all."""
    for measurement in measurements:
        summary = measurement.summary()
        totals = f"{summary['ok']}/{summary['calls']} ok"
        print(f"{measurement.setting}:", ", ".join([totals, *summary["http_versions"]]))
        rate = f"{summary['calls_per_s']:.1f} calls/s"
        in_flight = f"{summary['in_flight_average']:.1f} in flight on average"
        print(f"  Time = {summary['time_s']:.3f} s, {rate}, {in_flight}")
        if summary["latency_ms"]:
            latencies = [f"{name} {value:.1f}" for name, value in summary["latency_ms"].items()]
            print("  latency in ms:", ", ".join(latencies))
        if summary["failed"]:
            failed = [f"{count} {kind}" for kind, count in summary["failed"].items()]
            print("  failed:", ", ".join(failed))
    if measurements:
        print("calls in flight over time:", *timeline(measurements), sep="\n")


def print_json(measurements: list[Measurement]) -> None:
    """Print one JSON object: the summaries by setting, and the versions of the software.

    The latencies of the single calls are left out if there are more than MAX_JSON_LATENCIES.
    """
    settings = {measurement.setting: measurement.summary() for measurement in measurements}
    if sum(len(measurement.results) for measurement in measurements) > MAX_JSON_LATENCIES:
        for summary in settings.values():
            del summary["latencies_ms"]
    versions = {name: version(name) for name in ("httpx", "httpcore", "h2", "anyio", "sniffio")}
    versions["python"] = platform.python_version()
    print(json.dumps({"settings": settings, "versions": versions}))


def timeline(measurements: list[Measurement]) -> list[str]:
    """Return a row of bars for each setting, in which height is the number of calls in flight.

    All rows have the same scale, and the last line is their common time axis.
    """
    label_width = max(len(measurement.setting) for measurement in measurements) + 1
    columns = TIMELINE_WIDTH - label_width
    longest = max(measurement.duration for measurement in measurements)
    rows = [in_flight_by_column(each, longest / columns, columns) for each in measurements]
    peak = max(max(row) for row in rows) or 1.0
    lines = []
    for measurement, row in zip(measurements, rows, strict=True):
        bars = "".join(BARS[math.ceil(in_flight / peak * 8)] for in_flight in row)
        lines.append(f"{measurement.setting:{label_width}}{bars.rstrip()}")
    begin, end = "0 s", f"{longest:.2f} s"
    lines.append(" " * label_width + begin + end.rjust(columns - len(begin)))
    return lines


def in_flight_by_column(measurement: Measurement, width: float, columns: int) -> list[float]:
    """Return the average number of calls in flight in each column, which is width seconds wide."""
    averages = [0.0] * columns
    for result in measurement.results:
        begin = (result.sent - measurement.started) / width
        end = (result.completed - measurement.started) / width
        for column in range(int(begin), min(columns, math.ceil(end))):
            averages[column] += min(end, column + 1) - max(begin, column)
    return averages


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Time calls to async-server in three settings: sequential awaits each call "
        "before the next one starts, gather awaits all together, and tasks makes each one a task.",
        epilog="Latency is measured from the moment a call is made, and includes the time that it "
        "waits because of --concurrency. The timeout begins when the call is sent.",
    )
    parser.add_argument(
        "-n",
        "--calls",
        type=positive_integer,
        default=10,
        help="the number of calls in each setting (default: 10)",
    )
    parser.add_argument(
        "-c",
        "--concurrency",
        type=positive_integer,
        help="how many calls may be in flight at once (default: all of them)",
    )
    parser.add_argument(
        "-t",
        "--timeout",
        type=positive_seconds,
        default=30.0,
        help="the seconds until a call counts as failed (default: 30)",
    )
    parser.add_argument(
        "--setting",
        choices=[*SETTINGS, "all"],
        default="all",
        help="the setting to measure (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as a JSON object")
    options = parser.parse_args()
    options.concurrency = min(options.concurrency or options.calls, options.calls)
    return options


def positive_integer(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")


def positive_seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")


def main() -> int:
    """Return the exit status: 1 if a call failed, 130 after SIGINT."""
    options = parse_args()
    measurements: list[Measurement] = []
    status = 0
    try:
        asyncio.run(run(options, measurements))
    except (CallError, ConfigurationError) as error:
        sys.exit(f"timed-client.py: {error}")
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    if options.json:
        print_json(measurements)
    else:
        print_report(measurements)
    if not status and any(measurement.failures for measurement in measurements):
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
