"""timed-client.py: its options, what it measures, and how it counts failures."""

import argparse
import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any

import httpx
import pytest
from support.kar import Kar
from support.processes import Processes

Handler = Callable[[httpx.Request], Coroutine[Any, Any, httpx.Response]]


def figures(lines: list[str]) -> dict[str, float]:
    """Return the numbers that follow a name in the summary of a single setting."""
    pairs = re.findall(r"(Time =|min|p50|p95|max) ([\d.]+)", " ".join(lines))
    return {name.removesuffix(" ="): float(value) for name, value in pairs}


@pytest.fixture
def run_timed_client(
    timed_client: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[bool, list[str]]]:
    """A function that measures calls which a handler responds to.

    It takes the handler and options, and returns whether all calls succeeded, and the output.
    """

    def run(handler: Handler, **options: Any) -> tuple[bool, list[str]]:
        transport = httpx.MockTransport(handler)
        monkeypatch.setattr(
            timed_client,
            "sidecar_client",
            lambda service: httpx.AsyncClient(transport=transport, base_url="http://sidecar"),
        )
        defaults = {"calls": 6, "concurrency": None, "setting": "all"}
        succeeded = asyncio.run(timed_client.run(argparse.Namespace(**defaults | options)))
        return succeeded, capsys.readouterr().out.splitlines()

    return run


async def greet(request: httpx.Request) -> httpx.Response:
    person = {"name": "", "surname": ""} if request.method == "GET" else json.loads(request.content)
    message = f"Hello {person['name']} {person['surname']}"
    return httpx.Response(200, json={"message": message}, extensions={"http_version": b"HTTP/2"})


async def greet_after_200_ms(request: httpx.Request) -> httpx.Response:
    if request.method == "POST":
        await asyncio.sleep(0.2)
    return await greet(request)


def test_report_of_three_settings(run_timed_client: Callable[..., Any]) -> None:
    succeeded, lines = run_timed_client(greet_after_200_ms)
    assert succeeded
    summaries = {lines[number]: figures(lines[number + 1 : number + 3]) for number in (0, 3, 6)}
    assert list(summaries) == [
        "sequential: 6/6 ok, HTTP/2",
        "gather: 6/6 ok, HTTP/2",
        "tasks: 6/6 ok, HTTP/2",
    ]
    one_by_one, *at_once = summaries.values()
    assert one_by_one["Time"] >= 1.2
    for summary in at_once:
        assert 0.2 <= summary["Time"] < one_by_one["Time"] / 2
    assert lines[9] == "calls in flight over time:"
    bars = {line[:11].strip(): line[11:] for line in lines[10:13]}
    assert set(bars["sequential"]) <= {":", " "}  # 1 of 6, and moments between two calls
    assert "@" in bars["gather"]
    assert len(bars["gather"]) < len(bars["sequential"]) / 2


def test_concurrency_limits_the_calls_in_flight(run_timed_client: Callable[..., Any]) -> None:
    _, lines = run_timed_client(greet_after_200_ms, concurrency=2, setting="tasks")
    summary = figures(lines)
    assert summary["Time"] >= 0.6
    # The last calls waited for their turn twice, which is part of their latency.
    assert summary["max"] >= 600
    assert summary["min"] < 400


@pytest.mark.parametrize("setting", ["sequential", "gather", "tasks"])
def test_failures_are_counted_by_kind(run_timed_client: Callable[..., Any], setting: str) -> None:
    async def fail(request: httpx.Request) -> httpx.Response:
        match request.method, request.content[-3:-2]:
            case "POST", b"0":
                return httpx.Response(503)
            case "POST", b"1":
                return httpx.Response(200, text="no JSON")
            case "POST", b"2":
                return httpx.Response(200, json={"message": "Hello"})
            case "POST", b"3":
                raise httpx.ReadTimeout("", request=request)
        return await greet(request)

    succeeded, lines = run_timed_client(fail, setting=setting)
    assert not succeeded
    assert lines[0] == f"{setting}: 2/6 ok, HTTP/2"
    assert "  failed: 1 status 503, 2 unexpected response, 1 ReadTimeout" in lines


def test_summary_and_timeline_of_known_results(
    timed_client: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    first = timed_client.Result(made=0.0, sent=0.0, completed=10.0, http_version="HTTP/2")
    second = timed_client.Result(made=0.0, sent=5.0, completed=10.0, http_version="HTTP/2")
    timed_client.print_summary("gather", [first, second])
    timed_client.print_timeline({"gather": [first, second]})
    assert capsys.readouterr().out.splitlines() == [
        "gather: 2/2 ok, HTTP/2",
        "  Time = 10.000 s, 0.2 calls/s, 1.5 in flight on average",
        "  latency: min 10000.0, p50 10000.0, p95 10000.0, max 10000.0 ms",
        "calls in flight over time:",
        "gather     " + "=" * 26 + "@" * 26,
        "           0 s" + " " * 42 + "10.00 s",
    ]


def test_calls_that_fail_at_once(
    timed_client: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    result = timed_client.Result(made=0.0, sent=1.0, completed=1.0, failure="ConnectError")
    timed_client.print_summary("tasks", [result])
    timed_client.print_timeline({"tasks": [result]})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tasks: 0/1 ok"
    assert not any("latency" in line for line in lines)
    assert lines[2] == "  failed: 1 ConnectError"
    assert "use -c" in lines[3]
    assert lines[5].strip() == "tasks"
    lines[5].encode("ascii")  # as every terminal can print it


def test_connections_are_opened_before_the_calls(run_timed_client: Callable[..., Any]) -> None:
    methods: list[str] = []

    async def record(request: httpx.Request) -> httpx.Response:
        methods.append(request.method)
        return await greet(request)

    run_timed_client(record, setting="sequential", concurrency=3)
    assert methods == ["GET"] * 3 + ["POST"] * 6


@pytest.mark.slow
def test_figures_are_those_of_the_service(kar: Kar) -> None:
    """Ten calls take 0.5 s and ten take 2 s, so p50 is that of the slowest short one."""
    service = kar.start_replica("async-server", "-h2c", "python", "tests/support/own_service.py")
    client = kar.run("-h2c", "python", "timed-client.py", "-n", "20", "--setting", "gather")
    assert client.wait() == 0
    summary = figures(client.stdout_lines())
    service.process.wait_for_line("[STDOUT] took", 20)
    lines = [line for line in service.process.stdout_lines() if "took" in line]
    seconds = sorted(float(line.split()[-1]) for line in lines)
    assert seconds[9] * 1000 <= summary["p50"] < seconds[10] * 1000
    assert seconds[-1] * 1000 <= summary["max"]


@pytest.mark.slow
def test_200_greetings_at_once(kar: Kar) -> None:
    kar.start_server(HELLO_DELAY="6")  # httpx would wait for 5 s
    client = kar.run("-h2c", "python", "timed-client.py", "-n", "200", "--setting", "gather")
    assert client.wait() == 0, client.stdout_lines()
    assert "[STDOUT] gather: 200/200 ok, HTTP/2" in client.stdout_lines()
    # More than 100 are in flight on one client of httpx.
    in_flight = re.search(r"([\d.]+) in flight on average", " ".join(client.stdout_lines()))
    assert in_flight
    assert float(in_flight[1]) > 120


@pytest.mark.parametrize("options", [["-n", "0"], ["-n", "x"], ["-c", "-1"], ["--setting", "x"]])
def test_invalid_options(
    timed_client: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["timed-client.py", *options])
    with pytest.raises(SystemExit) as exit_status:
        timed_client.parse_args()
    assert exit_status.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("timed-client.py: error: ")


def test_setting_all(timed_client: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["timed-client.py", "--setting", "all"])
    assert timed_client.parse_args().setting == "all"


def test_exit_status_of_a_failed_call(kar: Kar) -> None:
    """The service echo responds with what it saw, and not with a greeting."""
    kar.start_replica("async-server", "-h2c", "python", "tests/support/echo_service.py")
    client = kar.run("-h2c", "python", "timed-client.py", "-n", "1", "--setting", "gather")
    assert client.wait() == 1
    assert "[STDOUT]   failed: 1 unexpected response" in client.stdout_lines()


def test_missing_sidecar_port(processes: Processes) -> None:
    line = processes.start("python", "timed-client.py").error_line()
    assert line.startswith("timed-client.py: KAR_RUNTIME_PORT is not set: ")
