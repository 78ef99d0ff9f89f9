"""Time calls of helloJson through the KAR sidecar, made one by one and many at once.

sequential awaits each call before the next, gather awaits all with asyncio.gather, and tasks makes
them with asyncio.create_task and then awaits each.
"""

import argparse
import asyncio
import json
import math
import platform
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

import httpx

from client import PATIENCE, CallError, call, fail, message, open_client

SETTINGS = ("sequential", "gather", "tasks")
CONNECTION = 100  # calls in flight on one: httpx makes no more
WARM_UP = 60.0  # seconds: the first call of a process may take the real KAR 9
PROGRESS = 5.0  # seconds between two lines that say where a long run is
COLUMNS = 64  # of a line of the picture
BARS = " ▁▂▃▄▅▆▇█"


@dataclass
class Ended:
    """A call that has ended, in seconds by time.perf_counter(); failure is "" for a good answer."""

    due: float
    sent: float
    end: float
    failure: str
    http_version: str


@dataclass
class Timing:
    """What was measured in one setting."""

    setting: str
    calls: int
    start: float = 0.0
    end: float = 0.0
    ended: list[Ended] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Return the figures: latencies in ms, of the good answers, the time in s."""
        good = sorted((each.end - each.due) * 1000 for each in self.ended if not each.failure)
        latency = {name: percentile(good, part) for name, part in PERCENTILES.items()}
        span = self.end - self.start
        return {
            "calls": self.calls,
            "ok": len(good),
            "failed": dict(Counter(each.failure for each in self.ended if each.failure)),
            "http_versions": sorted({each.http_version for each in self.ended} - {""}),
            "time_s": span,
            "calls_per_s": len(self.ended) / span,
            "overlap": sum(each.end - each.due for each in self.ended) / span,
            "latency_ms": {name: value for name, value in latency.items() if value is not None},
        }


PERCENTILES = {"min": 0.0, "p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


def percentile(ordered: list[float], part: float) -> float | None:
    """Return the least value that has at least this part of all at or below it.

    None if there are too few values to tell: p95 needs 20, p99 needs 100.
    """
    if not ordered or 0.5 < part < 1 and len(ordered) < round(1 / (1 - part)):
        return None
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def picture(timings: list[Timing]) -> list[str]:
    """Return a line for each setting: the calls in flight, over one time axis for all."""
    label = max(len(timing.setting) for timing in timings) + 1
    width = COLUMNS - label
    axis = max(timing.end - timing.start for timing in timings)
    rows = [in_flight(timing, axis / width, width) for timing in timings]
    top = max(max(row) for row in rows) or 1.0
    lines = [
        timing.setting.ljust(label)
        + "".join(BARS[math.ceil(8 * min(1, calls / top))] for calls in row).rstrip()
        for timing, row in zip(timings, rows, strict=True)
    ]
    return [*lines, f"{'':{label}}0 s{axis:{width - 5}.2f} s"]


def in_flight(timing: Timing, step: float, width: int) -> list[float]:
    """Return the average number of calls in flight in each of width steps of so many seconds."""
    row = [0.0] * width
    for each in timing.ended:
        sent, end = each.sent - timing.start, each.end - timing.start
        for column in range(int(sent / step), min(width, int(end / step) + 1)):
            row[column] += max(0.0, min(end, (column + 1) * step) - max(sent, column * step)) / step
    return row


class Connections:
    """As many clients as it takes for so many calls at once, of one HTTP/2 connection each."""

    def __init__(self, in_flight: int) -> None:
        self.clients = [open_client() for _ in range(math.ceil(in_flight / CONNECTION))]
        self.users = Counter[httpx.AsyncClient]()  # calls in flight on each
        self.free = asyncio.Queue[int]()
        for slot in range(in_flight):
            self.free.put_nowait(slot // CONNECTION)

    async def timed(self, number: int, patience: float, due: float) -> Ended:
        """Call helloJson once there is a free slot, and check the answer."""
        slot = await self.free.get()
        client = self.clients[slot]
        self.users[client] += 1
        person = {"name": "John", "surname": f"Doe {number}"}
        sent, http_version, failure = time.perf_counter(), "", ""
        try:
            answer = await call(client, "POST", "helloJson", patience, json=person)
            http_version = answer.http_version
            if message(answer) != f"Hello John Doe {number}":
                failure = "wrong answer"
            elif http_version != "HTTP/2":
                failure = "not HTTP/2"
        except CallError as error:
            failure = error.kind
        end = time.perf_counter()
        self.users[client] -= 1
        if failure == "timeout" and self.clients[slot] is client:
            # httpx does not tell the sidecar that it gave a call up. Soon the sidecar would count
            # over 100 calls on this connection and end it, so it takes no more.
            self.clients[slot] = open_client()
        if not self.users[client] and client not in self.clients:
            await client.aclose()
        self.free.put_nowait(slot)
        return Ended(due, sent, end, failure, http_version)


async def measure(timing: Timing, connections: Connections, patience: float) -> None:
    """Make the calls of one setting and time them."""

    async def one(number: int, due: float) -> None:
        timing.ended.append(await connections.timed(number, patience, due))

    timing.start = time.perf_counter()
    try:
        if timing.setting == "sequential":
            for number in range(timing.calls):
                await one(number, time.perf_counter())
        elif timing.setting == "gather":
            await asyncio.gather(*[one(number, timing.start) for number in range(timing.calls)])
        else:
            calls = [one(number, timing.start) for number in range(timing.calls)]
            tasks = [asyncio.create_task(each) for each in calls]
            for task in tasks:
                await task
    finally:
        timing.end = time.perf_counter()


async def run(options: argparse.Namespace, timings: list[Timing]) -> None:
    """Warm up, then measure each setting; what is measured is in timings even if interrupted."""
    connections = Connections(options.c)
    reporter = asyncio.create_task(report_progress(timings))
    try:
        say(f"waiting for the first answer on {len(connections.clients)} connection(s)")
        person = {"name": "John", "surname": "Doe"}
        calls = [call(c, "POST", "helloJson", WARM_UP, json=person) for c in connections.clients]
        await asyncio.gather(*calls)
        for setting in SETTINGS if options.setting == "all" else [options.setting]:
            timings.append(Timing(setting, options.n))
            await measure(timings[-1], connections, options.t)
    finally:
        reporter.cancel()
        for client in connections.clients:
            await client.aclose()


async def report_progress(timings: list[Timing]) -> None:
    while True:
        await asyncio.sleep(PROGRESS)
        if timings:
            now, timing = time.perf_counter(), timings[-1]
            done = f"{len(timing.ended)} of {timing.calls} calls"
            say(f"{timing.setting}: {done} after {now - timing.start:.0f} s")


def say(text: str) -> None:
    print(f"timed-client.py: {text}", file=sys.stderr)


def show(timings: list[Timing]) -> None:
    """Print the figures of each setting, then the picture."""
    for timing in timings:
        all_ = timing.figures()
        versions = " and ".join(all_["http_versions"]) or "no HTTP version"
        print(f"{timing.setting}: {all_['ok']}/{all_['calls']} ok, {versions}")
        rate, overlap = all_["calls_per_s"], all_["overlap"]
        print(
            f"  Time = {all_['time_s']:.3f} s, {rate:.1f} calls/s, {overlap:.1f} at once on average"
        )
        latency = "  ".join(f"{name} {value:.1f}" for name, value in all_["latency_ms"].items())
        if latency:
            print(f"  latency in ms: {latency}")
        if all_["failed"]:
            failed = ", ".join(f"{count} {kind}" for kind, count in all_["failed"].items())
            print(f"  failed: {failed}")
    if timings:
        print("calls in flight:", *picture(timings), sep="\n")


def as_json(timings: list[Timing]) -> str:
    """Return one JSON object: figures by setting, versions, and latencies unless over 10,000."""
    settings = {timing.setting: timing.figures() for timing in timings}
    if sum(len(timing.ended) for timing in timings) <= 10_000:
        for timing in timings:
            latencies = [(each.end - each.due) * 1000 for each in timing.ended if not each.failure]
            settings[timing.setting]["latencies_ms"] = latencies
    versions = {name: version(name) for name in ("httpx", "httpcore", "h2", "anyio", "sniffio")}
    versions["python"] = platform.python_version()
    return json.dumps({"settings": settings, "versions": versions})


def words() -> argparse.Namespace:
    """Return the options; end the process with status 2 and one line if they are wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.error = partial(fail, 2)  # type: ignore[method-assign]
    parser.add_argument("-n", type=int, default=10, metavar="CALLS", help="in each setting (10)")
    parser.add_argument("-c", type=int, metavar="IN_FLIGHT", help="at most, at once (all)")
    parser.add_argument("-t", type=float, default=PATIENCE, metavar="SECONDS_PER_CALL")
    parser.add_argument("--setting", choices=[*SETTINGS, "all"], default="all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    options.c = options.n if options.c is None else min(options.c, options.n)
    if options.n < 1 or options.c < 1 or not 0 < options.t < math.inf:
        parser.error("CALLS, IN_FLIGHT and SECONDS_PER_CALL must be more than 0")
    return options


def main() -> int:
    options, timings, interrupted = words(), list[Timing](), False
    try:
        asyncio.run(run(options, timings))
    except KeyboardInterrupt:
        interrupted = True
    except CallError as error:
        fail(1, f"warm-up: {error}")
    print(as_json(timings)) if options.json else show(timings)
    failed = any(each.failure for timing in timings for each in timing.ended)
    return 130 if interrupted else int(failed)


if __name__ == "__main__":
    sys.exit(main())
