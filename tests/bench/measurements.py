"""The measurements of the benchmark.

Each starts the processes that it needs, compares variants, and returns a section of the report.
"""

import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from bench.report import Figure, Section, Values
from support.kar import EMBEDDED_KAR, Kar
from support.processes import ROOT, Process, Processes, Server, free_port


class Rounds:
    """Measures variants in turn, so that a slow moment of the machine affects all of them."""

    def __init__(self, count: int, log: Callable[[str], None]) -> None:
        self.count = count
        self.log = log

    def measure(self, variants: dict[str, Callable[[], Values]]) -> "Comparison":
        """Measure each variant once a round."""
        comparison = Comparison({name: [] for name in variants})
        for number in range(1, self.count + 1):
            for name, measure in variants.items():
                self.log(f"round {number} of {self.count}: {name}")
                comparison.rounds[name].append(measure())
        return comparison


@dataclass(frozen=True)
class Comparison:
    """What was measured: for each variant, the values of each round."""

    rounds: dict[str, list[Values]]

    def values(self) -> dict[str, Values]:
        """Return the median of each value, but the most losses of a round."""
        return {name: combine(rounds) for name, rounds in self.rounds.items()}

    def ratio(self, key: str, variant: str, base: str) -> float:
        """Return the median, over the rounds, of a variant's value divided by that of another."""
        pairs = zip(self.rounds[variant], self.rounds[base], strict=True)
        return statistics.median(values[key] / base_values[key] for values, base_values in pairs)


def combine(rounds: list[Values]) -> Values:
    combined: Values = {}
    for name in rounds[0]:
        values = [values_of_round[name] for values_of_round in rounds]
        combined[name] = max(values) if name == "lost" else statistics.median(values)
    return combined


def server_cpu(rounds: Rounds) -> Section:
    calls = 2000

    def cpu_of_calls(server: Server) -> Values:
        process = psutil.Process(server.process.pid)
        before = process.cpu_times()
        make_calls(server.url, calls, 50)
        after = process.cpu_times()
        seconds = after.user - before.user + after.system - before.system
        return {"cpu_ms": seconds / calls * 1000}

    with running_processes() as processes:
        server = processes.start_server()
        bare = start_bare_server(processes)
        comparison = rounds.measure(
            {
                "server.py": partial(cpu_of_calls, server),
                "bare ASGI function": partial(cpu_of_calls, bare),
            }
        )
    ratio = comparison.ratio("cpu_ms", "server.py", "bare ASGI function")
    return Section(
        "User and system time of the server's process for a call, 50 calls in flight. "
        "The bare function runs on Hypercorn, configured as in server.py.",
        comparison.values(),
        [Figure("CPU of server.py / of a bare ASGI function", ratio, at_most=1.35, aim=1.25)],
    )


def client_cpu(rounds: Rounds) -> Section:
    with running_processes() as processes:
        kar = Kar(EMBEDDED_KAR, processes)
        kar.start_server()
        sidecar = kar.start_sidecar()
        rounds.log("timed-client.py and a bare loop, 3,000 calls each, in 30 rounds")
        output = run_python("tests/bench/client_cost.py", KAR_RUNTIME_PORT=str(sidecar.port))
    values = {name: {"cpu_ms": milliseconds} for name, milliseconds in json.loads(output).items()}
    ratio = values["timed-client.py"]["cpu_ms"] / values["bare httpx loop"]["cpu_ms"]
    return Section(
        "User and system time of the client's process for a call, one call at a time. "
        "The bare loop has the same httpx options and the same deadline for each call.",
        values,
        [Figure("CPU of timed-client.py / of a bare httpx loop", ratio, at_most=1.1)],
    )


def sidecars(rounds: Rounds) -> Section:
    many_rounds = Rounds(3 * rounds.count, rounds.log)  # short ones, as the rates vary most here
    kars = {"embedded KAR": EMBEDDED_KAR}
    if os.environ.get("KAR"):
        kars["real KAR"] = Path(os.environ["KAR"])
    with running_processes() as processes:
        urls: dict[str, str] = {}
        for name, path in kars.items():
            kar = Kar(path, processes)
            server = kar.start_server()
            sidecar = kar.start_sidecar()
            kar.wait_until_called(sidecar, server, path="/helloText")
            urls.setdefault("direct", server.url)
            urls[name] = sidecar.service_url("async-server")
        comparison = many_rounds.measure(
            {
                f"{name}, {concurrency} in flight": partial(make_calls, url, calls, concurrency)
                for concurrency, calls in ((1, 300), (50, 1000))
                for name, url in urls.items()
            }
        )

    def ratio(name: str, key: str, concurrency: int) -> float:
        load = f"{concurrency} in flight"
        return comparison.ratio(key, f"{name}, {load}", f"direct, {load}")

    figures = [
        Figure(
            "calls/s through the embedded KAR / direct, 50 in flight",
            ratio("embedded KAR", "calls_per_s", 50),
            at_least=0.62,
            aim=0.75,
        ),
        Figure(
            "p50 through the embedded KAR / direct, 1 in flight",
            ratio("embedded KAR", "p50_ms", 1),
            at_most=1.75,
            aim=1.5,
        ),
    ]
    if "real KAR" in kars:
        rate = ratio("real KAR", "calls_per_s", 50)
        latency = ratio("real KAR", "p50_ms", 1)
        figures += [
            Figure("calls/s through the real KAR / direct, 50 in flight", rate),
            Figure("p50 through the real KAR / direct, 1 in flight", latency),
        ]
    return Section(
        "Calls over one connection to a sidecar, which calls the server through another one, "
        "against calls directly to the server. p50 is the median latency.",
        comparison.values(),
        figures,
    )


def lost_calls(rounds: Rounds) -> Section:
    with running_processes() as processes:
        ours = processes.start_server()
        defaults = start_hypercorn_with_defaults(processes)
        comparison = rounds.measure(
            {
                "server.py": partial(make_calls, ours.url, 3000, 50),
                "Hypercorn's defaults": partial(make_calls, defaults.url, 3000, 50),
            }
        )
    values = comparison.values()
    lost = {name: values_of_variant["lost"] for name, values_of_variant in values.items()}
    return Section(
        "3,000 calls over one connection directly to the server, 50 in flight. A call is lost if "
        "it fails or gets a wrong response; the round that lost most counts.",
        values,
        [
            Figure("calls lost of 3,000, server.py", lost["server.py"], at_most=0),
            Figure("calls lost of 3,000, Hypercorn's defaults", lost["Hypercorn's defaults"]),
        ],
    )


def sniffio(rounds: Rounds) -> Section:
    with running_processes() as processes:
        server = processes.start_server()
        complete = link_site_packages(processes.directory / "complete")
        incomplete = link_site_packages(processes.directory / "incomplete")
        (incomplete / "sniffio").unlink()
        comparison = rounds.measure(
            {
                "with sniffio": partial(make_calls, server.url, 2000, 50, complete),
                "without sniffio": partial(make_calls, server.url, 2000, 50, incomplete),
            }
        )
    ratio = comparison.ratio("calls_per_s", "with sniffio", "without sniffio")
    return Section(
        "Calls directly to the server, 50 in flight, from clients with and without the package "
        "sniffio, which httpcore imports again and again.",
        comparison.values(),
        [Figure("calls/s with sniffio / without", ratio)],
    )


def memory(rounds: Rounds) -> Section:
    with running_processes() as processes:
        kar = Kar(EMBEDDED_KAR, processes)
        server = kar.start_server()
        sidecar = kar.start_sidecar()
        watched = {
            "server.py": server.process.child(),
            "sidecar of the client": psutil.Process(sidecar.process.pid),
        }
        values: dict[str, Values] = {name: {} for name in watched}
        calls_made = 0
        for calls in (2000, 20_000):
            rounds.log(f"{calls:,} calls")
            make_calls(sidecar.service_url("async-server"), calls - calls_made, 50)
            calls_made = calls
            for name, process in watched.items():
                values[name][f"after {calls:,} calls (MiB)"] = process.memory_info().rss / 2**20

    def growth(name: str) -> float:
        first, last = values[name].values()
        return last / first

    return Section(
        "Resident memory after calls through the embedded KAR, 50 in flight.",
        values,
        [
            Figure(
                "memory of server.py after 20,000 calls / after 2,000",
                growth("server.py"),
                at_most=1.08,
            ),
            Figure(
                "memory of the sidecar after 20,000 calls / after 2,000",
                growth("sidecar of the client"),
                at_most=1.15,
            ),
        ],
    )


def burst(rounds: Rounds) -> Section:
    with running_processes() as processes:
        kar = Kar(EMBEDDED_KAR, processes)
        kar.start_server(HELLO_DELAY="5")
        sidecar = kar.start_sidecar()
        rounds.log("1,000 calls at once")
        arguments = ["timed-client.py", "-n", "1000", "--setting", "gather", "--json"]
        output = run_python(*arguments, KAR_RUNTIME_PORT=str(sidecar.port))
    summary = json.loads(output)["settings"]["gather"]
    seconds = summary["time_s"]
    return Section(
        "1,000 greetings that take 5 s each, at once, by timed-client.py through the embedded KAR.",
        {"timed-client.py": {"ok": summary["ok"], "time_s": seconds}},
        [Figure("seconds for 1,000 greetings of 5 s at once", seconds, at_most=8)],
    )


def make_calls(url: str, calls: int, concurrency: int, site_packages: Path | None = None) -> Values:
    """Make calls in a process of its own and return what load.py has measured.

    With site_packages, the process imports installed packages from that directory.
    """
    arguments = ["tests/bench/load.py", url, str(calls), str(concurrency)]
    if site_packages:
        output = run_python("-S", *arguments, PYTHONPATH=str(site_packages))
    else:
        output = run_python(*arguments)
    values: Values = json.loads(output)
    return values


def run_python(*arguments: str, **environment: str) -> bytes:
    """Run a Python program of the project and return its standard output."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout


def link_site_packages(directory: Path) -> Path:
    """Make a directory with a link to each installed package, and return it."""
    directory.mkdir()
    for installed in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(installed).iterdir():
            (directory / path.name).symlink_to(path)
    return directory


@contextmanager
def running_processes() -> Iterator[Processes]:
    """Provide processes whose greetings take no time, and end them."""
    with tempfile.TemporaryDirectory() as directory:
        processes = Processes(Path(directory))
        processes.environment["HELLO_DELAY"] = "0"
        try:
            yield processes
        finally:
            processes.end()


def start_bare_server(processes: Processes) -> Server:
    port = free_port()
    command = [sys.executable, "tests/bench/bare_server.py"]
    return wait_for_server(processes.start(*command, KAR_APP_PORT=str(port)), port)


def start_hypercorn_with_defaults(processes: Processes) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "hypercorn", "server:app", "--bind", f"127.0.0.1:{port}"]
    return wait_for_server(processes.start(*command), port)


def wait_for_server(process: Process, port: int) -> Server:
    process.wait_for_line("Running on")
    return Server(process, f"http://127.0.0.1:{port}", port)
