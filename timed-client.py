"""Time calls of helloJson through the KAR sidecar in three settings: sequential awaits one after
the other, gather all with asyncio.gather, tasks each that asyncio.create_task has started."""

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
        """Return the figures, with times in s and latencies, of good answers only, in ms."""
        good = [(each.end - each.due) * 1000 for each in self.ended if not each.failure]
        span = self.end - self.start
        return {
            "calls": self.calls,
            "ok": len(good),
            "failed": dict(Counter(each.failure for each in self.ended if each.failure)),
            "http_versions": sorted({each.http_version for each in self.ended} - {""}),
            "time_s": span,
            "calls_per_s": len(self.ended) / span,
            "overlap": sum(each.end - each.due for each in self.ended) / span,
            "latency_ms": percentiles(good),
            "latencies_ms": good,
        }


def percentiles(latencies: list[float]) -> dict[str, float]:
    """Return min, p50, p95, p99 and max, each the least value with so many percent up to it.

    To tell p95 takes 20 values, p99 takes 100.
    """
    ordered, count = sorted(latencies), len(latencies)
    wanted = {"min": (0, 1), "p50": (50, 1), "p95": (95, 20), "p99": (99, 100), "max": (100, 1)}
    return {
        name: ordered[max(0, -(-percent * count // 100) - 1)]
        for name, (percent, least) in wanted.items()
        if count >= least
    }


def picture(timings: list[Timing]) -> list[str]:
    """Return a line for each setting: the calls in flight, over one time axis for all."""
    label = max(len(timing.setting) for timing in timings) + 1
    width = COLUMNS - label
    axis = max(timing.end - timing.start for timing in timings)
    rows = [in_flight(timing, axis / width, width) for timing in timings]
    top = max(map(max, rows)) or 1.0
    lines = [f"{'':{label}}0 s{axis:{width - 5}.2f} s"]
    for timing, row in zip(reversed(timings), reversed(rows), strict=True):
        bars = "".join(BARS[math.ceil(calls / top * 8)] for calls in row)
        lines.insert(0, f"{timing.setting:{label}}{bars.rstrip()}")
    return lines


def in_flight(timing: Timing, step: float, width: int) -> list[float]:
    """Return the average number of calls in flight in each of width steps of so many seconds."""
    row = [0.0] * width
    for each in timing.ended:
        sent, end = (each.sent - timing.start) / step, (each.end - timing.start) / step
        for column in range(int(sent), min(width, math.ceil(end))):
            row[column] += min(end, column + 1) - max(sent, column)
    return row


class Connections:
    """As many clients as it takes for so many calls at once, of one HTTP/2 connection each."""

    def __init__(self, in_flight: int) -> None:
        self.clients = [open_client() for _ in range(math.ceil(in_flight / CONNECTION))]
        self.full: list[httpx.AsyncClient] = []
        self.failed = False
        self.free = asyncio.Queue[int]()
        for slot in range(in_flight):
            self.free.put_nowait(slot // CONNECTION)

    async def timed(self, number: int, patience: float, due: float) -> Ended:
        """Call helloJson once there is a free slot, and check the answer."""
        slot = await self.free.get()
        client = self.clients[slot]
        person = {"name": "John", "surname": f"Doe {number}"}
        sent, http_version, failure = time.perf_counter(), "", ""
        try:
            answer = await call(client, "POST", "helloJson", patience, json=person)
            http_version = answer.http_version
            if message(answer) != f"Hello John Doe {number}":
                raise CallError("helloJson", "wrong answer", "it is not to this call")
            if http_version != "HTTP/2":
                raise CallError("helloJson", "not HTTP/2", f"but {http_version}")
        except CallError as error:
            failure = error.kind
            if not self.failed:  # one is enough to know what to do
                say(str(error))
            self.failed = True
        end = time.perf_counter()
        if failure == "timeout" and self.clients[slot] is client:
            # httpx does not tell the sidecar that it gave a call up, which would soon count over
            # 100 calls here and end the connection. So it takes no more.
            self.full.append(client)
            self.clients[slot] = open_client()
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
            for task in [asyncio.create_task(each) for each in calls]:
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
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(answer, CallError) and answer.kind == "timeout":
                raise answer  # nobody is there; what else can fail is counted below
        for setting in SETTINGS if options.setting == "all" else [options.setting]:
            timings.append(Timing(setting, options.n))
            await measure(timings[-1], connections, options.t)
    finally:
        reporter.cancel()
        for client in connections.clients + connections.full:
            await client.aclose()


async def report_progress(timings: list[Timing]) -> None:
    while True:
        await asyncio.sleep(5)
        if timings:
            now, timing = time.perf_counter(), timings[-1]
            done = f"{len(timing.ended)} of {timing.calls} calls"
            say(f"{timing.setting}: {done} after {now - timing.start:.0f} s")


def say(text: str) -> None:
    print(f"timed-client.py: {text}", file=sys.stderr)


def show(timings: list[Timing]) -> None:
    """Print the figures of each setting, then the picture."""
    for timing in timings:
        got = timing.figures()
        versions = " and ".join(got["http_versions"]) or "no HTTP version"
        print(f"{timing.setting}: {got['ok']}/{got['calls']} ok, {versions}")
        rates = f"{got['calls_per_s']:.1f} calls/s, {got['overlap']:.1f} at once on average"
        print(f"  Time = {got['time_s']:.3f} s, {rates}")
        print("  latency in ms:", *(f"{name} {ms:.1f}" for name, ms in got["latency_ms"].items()))
        if got["failed"]:
            print("  failed:", ", ".join(f"{n} {kind}" for kind, n in got["failed"].items()))
    if timings:
        print("calls in flight:", *picture(timings), sep="\n")


def as_json(timings: list[Timing]) -> str:
    """Return one JSON object: figures by setting, versions, and latencies unless over 10,000."""
    settings = {timing.setting: timing.figures() for timing in timings}
    if sum(len(timing.ended) for timing in timings) > 10_000:
        for figures in settings.values():
            del figures["latencies_ms"]
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


if __name__ == "__main__":
    options, timings, interrupted = words(), list[Timing](), False
    try:
        asyncio.run(run(options, timings))
    except KeyboardInterrupt:
        interrupted = True
    except CallError as error:
        fail(1, f"warm-up: {error}")
    print(as_json(timings)) if options.json else show(timings)
    failed = any(each.failure for timing in timings for each in timing.ended)
    sys.exit(130 if interrupted else int(failed))
