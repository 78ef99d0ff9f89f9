"""timed-client.py: its figures, its picture, and how it counts what fails."""

import importlib.util
import json
import random
import signal
import sys
from typing import Any

import httpx
import pytest
from support.client_helpers import answering, fake, one_line
from support.kar import Kar
from support.processes import ROOT, Process, Processes

import client

spec = importlib.util.spec_from_file_location("timed_client", ROOT / "timed-client.py")
assert spec
assert spec.loader
timed = importlib.util.module_from_spec(spec)
sys.modules["timed_client"] = timed
spec.loader.exec_module(timed)


def start(processes: Processes, port: str, *words: str) -> Process:
    return processes.start(sys.executable, "timed-client.py", *words, KAR_RUNTIME_PORT=port)


def figures(process: Process, status: int = 0) -> dict[str, Any]:
    assert process.wait() == status, process.stderr_lines()
    settings: dict[str, Any] = json.loads(process.stdout_path.read_text())["settings"]
    return settings


def timing(name: str, *calls: tuple[float, float, float], end: float = 10) -> Any:
    """Return what was measured: calls of due, sent, and end, from second 0 to second end."""
    ended = [timed.Ended(*each, "", "HTTP/2") for each in calls]
    return timed.Timing(name, len(calls), 0.0, end, ended)


def test_percentiles_by_hand() -> None:
    assert timed.percentiles([]) == {}
    assert timed.percentiles([7.0]) == {"min": 7, "p50": 7, "max": 7}
    assert timed.percentiles([4.0, 1.0, 3.0, 2.0]) == {"min": 1, "p50": 2, "max": 4}
    assert timed.percentiles(list(range(19))) == {"min": 0, "p50": 9, "max": 18}
    twenty = {"min": 1, "p50": 10, "p95": 19, "max": 20}
    assert timed.percentiles(list(range(1, 21))) == twenty
    hundred = list(range(1, 101))
    random.Random(0).shuffle(hundred)
    assert timed.percentiles(hundred) == {"min": 1, "p50": 50, "p95": 95, "p99": 99, "max": 100}
    assert timed.percentiles(list(range(140)))["p95"] == 132


def test_figures_by_hand() -> None:
    """Two calls of 1 and 3 s, of which the second waits 1 s for a slot, in 4 s."""
    got = timing("gather", (0, 0, 1), (0, 1, 3), end=4).figures()
    assert (got["calls"], got["ok"], got["failed"]) == (2, 2, {})
    assert (got["time_s"], got["calls_per_s"], got["overlap"]) == (4, 0.5, 1)
    assert got["latency_ms"] == {"min": 1000, "p50": 1000, "max": 3000}


def test_the_picture_by_hand() -> None:
    """64 columns: 11 of names, 53 of time. Sequential is long and thin, gather short and thick."""
    one_by_one = [(float(second), float(second), second + 1.0) for second in range(10)]
    at_once = [(0.0, 0.0, 1.0)] * 8
    lines = timed.picture([timing("sequential", *one_by_one), timing("gather", *at_once, end=1)])
    assert lines == [
        "sequential " + "▁" * 53,
        "gather     " + "█████" + "▃",  # 5.3 columns; 0.3 of 8 is 2.4 of 8
        "           0 s" + "10.00 s".rjust(50),
    ]
    assert max(map(len, lines)) == 64


def test_the_picture_of_nothing() -> None:
    assert timed.picture([timing("tasks", end=1)])[0] == "tasks "


def test_settings_differ_as_they_must(kar: Kar) -> None:
    kar.start_server(HELLO_DELAY="0.2")
    process = kar.run("-h2c", "python", "timed-client.py", "-n", "20", "--json")
    assert process.wait() == 0
    (line,) = [line for line in process.stdout_lines() if line.startswith("[STDOUT]")]
    document = json.loads(line.removeprefix("[STDOUT] "))
    assert document["versions"].keys() >= {"python", "httpx", "httpcore", "h2"}
    settings = document["settings"]
    assert list(settings) == ["sequential", "gather", "tasks"]
    for got in settings.values():
        assert (got["calls"], got["ok"], got["failed"]) == (20, 20, {})
        assert got["http_versions"] == ["HTTP/2"]
        assert len(got["latencies_ms"]) == 20
        assert got["overlap"] == pytest.approx(sum(got["latencies_ms"]) / 1000 / got["time_s"])
        ordered = sorted(got["latencies_ms"])
        assert got["latency_ms"]["p50"] == ordered[9]
        assert 200 <= got["latency_ms"]["min"] == ordered[0]
        assert got["latency_ms"]["max"] == ordered[-1]
    assert settings["sequential"]["time_s"] >= 4
    assert settings["sequential"]["overlap"] == pytest.approx(1, abs=0.05)
    for name in ("gather", "tasks"):
        assert settings[name]["time_s"] < settings["sequential"]["time_s"] / 2
        assert settings[name]["overlap"] > 5


def test_calls_in_flight_are_limited(processes: Processes) -> None:
    _, port = fake(processes, "slow 0.2")
    got = figures(start(processes, port, "-n", "6", "-c", "2", "--setting", "tasks", "--json"))
    assert list(got) == ["tasks"]
    assert got["tasks"]["time_s"] >= 0.6
    waited = sorted(got["tasks"]["latencies_ms"])
    assert waited[1] < 590 <= waited[-1]  # from when a call is due, a wait for a slot counts


def test_more_than_100_at_once_take_more_connections(processes: Processes) -> None:
    _, port = fake(processes, "slow 5")
    process = start(processes, port, "-n", "250", "--setting", "gather", "--json")
    got = figures(process)["gather"]
    assert (got["ok"], got["http_versions"]) == (250, ["HTTP/2"])
    assert got["time_s"] < 10  # on one connection it would be three times 5
    assert "3 connection(s)" in process.stderr_lines()[0]


def test_1000_greetings_of_5_seconds(kar: Kar) -> None:
    kar.start_server(HELLO_DELAY="5")
    process = kar.run("-h2c", "python", "timed-client.py", "-n", "1000", "--setting", "gather")
    client_process = process.child()
    process.wait_for_line("gather: ", 1)
    memory = client_process.memory_info().rss
    assert process.wait() == 0
    assert "[STDOUT] gather: 1000/1000 ok, HTTP/2" in process.stdout_lines()
    assert memory < 200 * 1024 * 1024


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        ("status 503", "status 503"),
        ('answer {"message": "Hello"}', "wrong answer"),
        ("answer no JSON", "wrong answer"),
        ("slow 0.5", "timeout"),
    ],
)
def test_failures_are_counted_by_kind(processes: Processes, behaviour: str, kind: str) -> None:
    _, port = fake(processes, behaviour)
    process = start(processes, port, "-n", "3", "-t", "0.3", "--json")
    for got in figures(process, 1).values():
        assert (got["calls"], got["ok"], got["failed"]) == (3, 0, {kind: 3})
        assert (got["latency_ms"], got["latencies_ms"]) == ({}, [])
    assert kind.split()[0] in process.stderr_lines()[1]


def test_many_timeouts_stay_timeouts(processes: Processes) -> None:
    """A sidecar takes 100 calls on a connection, and those given up count there."""
    _, port = fake(processes, "slow 10")
    words = ["-n", "200", "-c", "50", "-t", "1", "--setting", "gather", "--json"]
    got = figures(start(processes, port, *words), 1)["gather"]
    assert got["failed"] == {"timeout": 200}


def test_a_sidecar_that_dies(processes: Processes) -> None:
    sidecar, port = fake(processes, "slow 0.1")
    process = start(processes, port, "-n", "100", "--setting", "sequential", "--json")
    process.wait_for_line("sequential: ")  # the line that says where it is, after 5 s
    sidecar.kill()
    got = figures(process, 1)["sequential"]
    assert got["ok"] + sum(got["failed"].values()) == 100
    assert got["failed"].keys() == {"connection"}
    assert got["ok"] > 0


def test_what_is_there_speaks_http1_only(processes: Processes) -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n") as port:
        got = figures(start(processes, port, "-n", "2", "--json"), 1)
    assert got["gather"]["failed"] == {"connection": 2}


def test_an_answer_that_is_not_http2(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client of this project speaks nothing else, so here it is another's."""
    _, port = fake(processes, "well")

    def open_client() -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False)

    monkeypatch.setattr(timed, "open_client", open_client)
    options = timed.argparse.Namespace(n=2, c=2, t=30.0, setting="gather")
    timings: list[Any] = []
    timed.asyncio.run(timed.run(options, timings))
    timed.show(timings)
    assert "failed: 2 not HTTP/2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [["-n", "0"], ["-n", "x"], ["-c", "-1"], ["-t", "0"], ["-t", "nan"], ["-t", "inf"]]
    + [["--setting", "x"], ["--nope"], ["x"]],
)
def test_wrong_words(processes: Processes, words: list[str]) -> None:
    line = one_line(start(processes, "1", *words), 2)
    assert line.startswith("timed-client.py: ")


def test_without_a_sidecars_port_it_says_how_to_start(processes: Processes) -> None:
    line = one_line(processes.start(sys.executable, "timed-client.py"), 2)
    assert line.startswith("timed-client.py: KAR_RUNTIME_PORT")


def test_no_answer_to_the_warm_up(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    _, port = fake(processes, "slow 50")
    monkeypatch.setattr(timed, "WARM_UP", 0.2)
    monkeypatch.setenv("KAR_RUNTIME_PORT", port)
    options = timed.argparse.Namespace(n=2, c=2, t=30.0, setting="gather")
    with pytest.raises(client.CallError, match="no answer in 0.2 s"):
        timed.asyncio.run(timed.run(options, []))


def test_an_interrupt_shows_what_was_measured(processes: Processes) -> None:
    _, port = fake(processes, "slow 0.2")
    process = start(processes, port, "-n", "1000", "-c", "1", "--setting", "all")
    process.wait_for_line("sequential: ", 1)  # the line that says where it is, after 5 s
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert process.stdout_lines()[0].startswith("sequential: ")
    assert process.stdout_lines()[0].endswith("/1000 ok, HTTP/2")
    assert not process.stdout_lines()[0].startswith("sequential: 0/")
    assert "calls in flight:" in process.stdout_lines()
    assert not any("Traceback" in line for line in process.stderr_lines())
