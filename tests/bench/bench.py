"""Measure what the example costs: server, sidecar, settings and memory, as ratios in one run.

Each pair is measured in turn, in three rounds, and the medians are compared. A goal that is missed
makes the exit status 1. With the environment variable KAR, a real kar is measured too.
"""

import argparse
import asyncio
import importlib.machinery
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.http2 import async_http2_client
from support.kar import EMBEDDED_KAR, Kar
from support.processes import ROOT, Process, Processes, free_port

ROUNDS = 3
PYTHON = sys.executable
PERSON = {"name": "John", "surname": "Doe"}
CALL = "/kar/v1/service/async-server/call"

Figures = dict[str, float]


async def load(address: str, calls: int, in_flight: int) -> Figures:
    """Make calls of helloJson on one connection; return calls/s, p50 in ms, and calls lost."""
    latencies: list[float] = []
    lost = 0
    numbers = iter(range(calls))

    async def worker(client: httpx.AsyncClient) -> None:
        nonlocal lost
        for _ in numbers:
            start = time.perf_counter()
            try:
                answer = await client.post("helloJson", json=PERSON)
                if answer.json() != {"message": "Hello John Doe"}:
                    lost += 1
            except (httpx.HTTPError, ValueError):
                lost += 1
            latencies.append(time.perf_counter() - start)

    async with httpx.AsyncClient(
        base_url=address, http1=False, http2=True, trust_env=False, verify=False, timeout=60
    ) as client:
        await client.post("helloJson", json=PERSON)
        start = time.perf_counter()
        await asyncio.gather(*[worker(client) for _ in range(in_flight)])
        seconds = time.perf_counter() - start
    return {"rate": calls / seconds, "p50": statistics.median(latencies) * 1000, "lost": lost}


def run_load(address: str, calls: int, in_flight: int, *flags: str) -> Figures:
    """Do the same in a process of its own."""
    words = [PYTHON, __file__, "--load", address, str(calls), str(in_flight), *flags]
    figures: Figures = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    return figures


class WithoutSniffio(importlib.machinery.PathFinder):
    """Searches the disk for sniffio, as for anything, and never finds it."""

    @classmethod
    def find_spec(cls, name: str, *rest: Any) -> importlib.machinery.ModuleSpec | None:
        found = super().find_spec(name, *rest)
        return None if name == "sniffio" else found


def in_turn(**measures: Callable[[], Figures]) -> dict[str, Figures]:
    """Take each measure once a round; return the medians, and the most calls that were lost."""
    rounds: dict[str, list[Figures]] = {name: [] for name in measures}
    for _ in range(ROUNDS):
        for name, measure in measures.items():
            rounds[name].append(measure())
    return {
        name: {
            key: (max if key == "lost" else statistics.median)(each[key] for each in taken)
            for key in taken[0]
        }
        for name, taken in rounds.items()
    }


@contextmanager
def processes() -> Iterator[Processes]:
    with tempfile.TemporaryDirectory() as folder:
        started = Processes(Path(folder))
        started.environment["HELLO_DELAY"] = "0"
        try:
            yield started
        finally:
            started.end()


def served(started: Processes, *words: str) -> tuple[Process, str]:
    """Start a server; return it and its address."""
    port = str(free_port())
    server = started.start(
        *[word.replace("PORT", port) for word in words], KAR_APP_PORT=port, PYTHONPATH=str(ROOT)
    )
    server.wait_for_line("Running on")
    return server, f"http://127.0.0.1:{port}"


def cpu(pid: int, address: str) -> Figures:
    """Return the milliseconds of processor time that a server takes for a call, 50 in flight."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    run_load(address, 2000, 50)
    after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return {"cpu_ms": spent / 2000 * 1000}


def server_against_bare() -> dict[str, Figures]:
    with processes() as started:
        server, address = served(started, PYTHON, "server.py")
        bare, bare_address = served(started, PYTHON, "tests/bench/bare_server.py")
        return in_turn(
            server=lambda: cpu(server.pid, address), bare=lambda: cpu(bare.pid, bare_address)
        )


def timed_client_against_bare_loop() -> dict[str, Figures]:
    """Return the milliseconds of this process's time for a call, on one connection, one at a time.

    Each makes 100 calls in turn, 30 times, and each is the first in every other round.
    """
    spec = importlib.util.spec_from_file_location("timed_client", ROOT / "timed-client.py")
    assert spec
    assert spec.loader
    timed = importlib.util.module_from_spec(spec)
    sys.modules["timed_client"] = timed
    sys.path.insert(0, str(ROOT))
    spec.loader.exec_module(timed)
    spent = {"timed_client": 0.0, "bare_loop": 0.0}

    async def measure() -> None:
        async with timed.ClientPool(1) as pool, async_http2_client(base_url) as client:

            async def timed_client() -> None:
                await timed.measure(timed.Measurement("sequential", 100), pool, 30.0)

            async def bare_loop() -> None:
                for number in range(100):
                    person = {"name": "John", "surname": f"Doe {number}"}
                    async with asyncio.timeout(30):
                        answer = await client.post("helloJson", json=person)
                    assert answer.json()["message"] == f"Hello John Doe {number}"

            await bare_loop()
            await timed_client()
            for _ in range(15):
                for way in (timed_client, bare_loop, bare_loop, timed_client):
                    start = time.process_time()
                    await way()
                    spent[way.__name__] += time.process_time() - start

    with processes() as started:
        kar = Kar(EMBEDDED_KAR, started)
        kar.start_server()
        sidecar = kar.start_sidecar()
        base_url = sidecar.service_url("async-server")
        os.environ["KAR_RUNTIME_PORT"] = str(sidecar.port)
        asyncio.run(measure())
        del os.environ["KAR_RUNTIME_PORT"]
    return {name: {"cpu_ms": seconds / 3000 * 1000} for name, seconds in spent.items()}


def through_kar() -> dict[str, Figures]:
    with processes() as started:
        ways: dict[str, str] = {}
        kars = {"embedded": EMBEDDED_KAR}
        if os.environ.get("KAR"):
            kars["real"] = Path(os.environ["KAR"])
        for name, path in kars.items():
            kar = Kar(path, started)
            port = kar.start_server().process.child().environ()["KAR_APP_PORT"]
            ways.setdefault("straight", f"http://127.0.0.1:{port}")
            ways[name] = kar.start_sidecar().url + CALL
        measures = {}
        for in_flight, calls in ((1, 500), (50, 2000)):
            for name, way in ways.items():
                measures[f"{name}, {in_flight}"] = partial(run_load, way, calls, in_flight)
        return in_turn(**measures)


def settings_against_defaults() -> dict[str, Figures]:
    with processes() as started:
        _, ours = served(started, PYTHON, "server.py")
        defaults_words = ["-m", "hypercorn", "server:app", "--bind", "127.0.0.1:PORT"]
        _, defaults = served(started, PYTHON, *defaults_words)
        return in_turn(
            ours=lambda: run_load(ours, 3000, 50),
            defaults=lambda: run_load(defaults, 3000, 50),
            without_sniffio=lambda: run_load(ours, 3000, 50, "--without-sniffio"),
        )


def memory() -> dict[str, Figures]:
    """Return the resident bytes of server and sidecar after 2,000 and after 20,000 calls."""
    with processes() as started:
        kar = Kar(EMBEDDED_KAR, started)
        server = kar.start_server().process.child()
        address = kar.start_sidecar().url + CALL
        watched = {"server": server, "sidecar": psutil.Process(started.started[-1].pid)}
        run_load(address, 2000, 50)
        few = {name: process.memory_info().rss for name, process in watched.items()}
        run_load(address, 18_000, 50)
        return {
            f"{name} memory": {"2000": few[name], "20000": process.memory_info().rss}
            for name, process in watched.items()
        }


def main(as_json: bool) -> int:
    got = {
        **server_against_bare(),
        **timed_client_against_bare_loop(),
        **through_kar(),
        **settings_against_defaults(),
        **memory(),
    }

    def ratio(name: str, other: str, key: str) -> float:
        return got[name][key] / got[other][key]

    goals = [
        ("CPU of server.py / of a bare ASGI function", "<=", 1.4,
         ratio("server", "bare", "cpu_ms")),
        ("CPU of timed-client.py / of a bare httpx loop, 1 in flight", "<=", 1.1,
         ratio("timed_client", "bare_loop", "cpu_ms")),
        ("calls/s through the embedded KAR / straight, 50 in flight", ">=", 0.45,
         ratio("embedded, 50", "straight, 50", "rate")),
        ("p50 through the embedded KAR / straight, 1 in flight", "<=", 2.2,
         ratio("embedded, 1", "straight, 1", "p50")),
        ("calls lost of 3,000 with our settings", "<=", 0, got["ours"]["lost"]),
        *[(f"memory of the {name} after 20,000 calls / after 2,000", "<=", 1.05,
           got[f"{name} memory"]["20000"] / got[f"{name} memory"]["2000"])
          for name in ("server", "sidecar")],
    ]  # fmt: skip
    others = {"calls/s with sniffio / without": ratio("ours", "without_sniffio", "rate")}
    if "real, 1" in got:
        others["calls/s through the real KAR / straight, 50 in flight"] = ratio(
            "real, 50", "straight, 50", "rate"
        )
    missed = [
        name
        for name, sign, goal, reached in goals
        if (reached > goal if sign == "<=" else reached < goal)
    ]
    if as_json:
        ratios = {**others, **{name: reached for name, _, _, reached in goals}}
        print(json.dumps({"figures": got, "ratios": ratios, "missed": missed}))
        return bool(missed)
    for name, values in got.items():
        print(f"{name:16}", *(f"{key} {value:,.2f} " for key, value in values.items()))
    for name, reached in others.items():
        print(f"{reached:6.2f}  {name}")
    for name, sign, goal, reached in goals:
        print(f"{reached:6.2f}  {name} (goal {sign} {goal}){' MISSED' if name in missed else ''}")
    return bool(missed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--without-sniffio", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.without_sniffio:
        sys.modules.pop("sniffio", None)
        sys.meta_path[:] = [
            WithoutSniffio if finder is importlib.machinery.PathFinder else finder
            for finder in sys.meta_path
        ]
    if options.load:
        address, calls, in_flight = options.load
        print(json.dumps(asyncio.run(load(address, int(calls), int(in_flight)))))
    else:
        sys.exit(main(options.json))
