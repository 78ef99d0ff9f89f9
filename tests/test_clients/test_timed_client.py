"""timed-client.py as a process: its options, what it measures, and how it counts failures."""

import json
import signal
from collections.abc import Callable
from types import ModuleType
from typing import Any

import psutil
import pytest
from support.kar import Kar
from support.processes import Process, Processes, free_port

StartFakeSidecar = Callable[..., Any]


def start_timed_client(processes: Processes, port: int, *options: str) -> Process:
    return processes.start("python", "timed-client.py", *options, KAR_RUNTIME_PORT=str(port))


def summaries(process: Process, status: int = 0) -> dict[str, Any]:
    """Return the JSON summaries by setting of a timed client that exits with the status."""
    assert process.wait() == status, process.stderr_lines()
    settings: dict[str, Any] = json.loads(process.stdout_path.read_text())["settings"]
    return settings


@pytest.mark.slow
def test_settings_differ_in_time_and_concurrency(kar: Kar) -> None:
    kar.start_server(HELLO_DELAY="0.2")
    client = kar.run("-h2c", "python", "timed-client.py", "-n", "20", "--json")
    assert client.wait() == 0
    (line,) = [line for line in client.stdout_lines() if line.startswith("[STDOUT]")]
    document = json.loads(line.removeprefix("[STDOUT] "))
    assert document["versions"].keys() >= {"python", "httpx", "httpcore", "h2"}
    settings = document["settings"]
    assert list(settings) == ["sequential", "gather", "tasks"]
    for summary in settings.values():
        assert summary["ok"] == 20
        assert summary["failed"] == {}
        assert summary["http_versions"] == ["HTTP/2"]
        assert len(summary["latencies_ms"]) == 20
        assert min(summary["latencies_ms"]) >= 200
    assert settings["sequential"]["time_s"] >= 4
    assert settings["sequential"]["in_flight_average"] == pytest.approx(1, abs=0.1)
    for setting in ("gather", "tasks"):
        assert settings[setting]["time_s"] < settings["sequential"]["time_s"] / 2
        assert settings[setting]["in_flight_average"] > 5


def test_concurrency_limits_the_calls_in_flight(
    processes: Processes, start_fake_sidecar: StartFakeSidecar
) -> None:
    sidecar = start_fake_sidecar("--delay", "0.2")
    options = ["-n", "6", "-c", "2", "--setting", "tasks", "--json"]
    settings = summaries(start_timed_client(processes, sidecar.port, *options))
    assert list(settings) == ["tasks"]
    assert settings["tasks"]["time_s"] >= 0.6
    assert settings["tasks"]["in_flight_average"] <= 2
    # The last calls waited for a slot twice, which is part of their latency.
    assert max(settings["tasks"]["latencies_ms"]) >= 600


def test_one_call(processes: Processes, start_fake_sidecar: StartFakeSidecar) -> None:
    sidecar = start_fake_sidecar()
    client = start_timed_client(processes, sidecar.port, "--calls", "1")
    assert client.wait() == 0
    assert "gather: 1/1 ok, HTTP/2" in client.stdout_lines()


@pytest.mark.slow
def test_more_than_100_in_flight(
    processes: Processes, start_fake_sidecar: StartFakeSidecar
) -> None:
    sidecar = start_fake_sidecar("--delay", "5")
    client = start_timed_client(
        processes, sidecar.port, "-n", "250", "--setting", "gather", "--json"
    )
    summary = summaries(client)["gather"]
    assert summary["ok"] == 250
    assert summary["time_s"] < 10  # with 100 at once it would be 15
    assert "3 HTTP/2 connection(s)" in client.stderr_lines()[0]


@pytest.mark.slow
def test_1000_greetings_of_5_seconds(kar: Kar) -> None:
    kar.start_server(HELLO_DELAY="5")
    client = kar.run("-h2c", "python", "timed-client.py", "-n", "1000", "--setting", "gather")
    process = client.child()
    client.wait_for_line("of 1000 calls")
    memory: int = process.memory_info().rss
    assert client.wait() == 0
    assert "[STDOUT] gather: 1000/1000 ok, HTTP/2" in client.stdout_lines()
    assert memory < 250 * 1024 * 1024


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["--status", "503"], "status 503"),
        (["--body", '{"message": "Hello"}'], "unexpected response"),
        (["--body", "no JSON"], "unexpected response"),
        (["--delay", "0.6"], "timeout"),
        (["--exit"], "connection"),
    ],
)
def test_failures_are_counted_by_kind(
    processes: Processes, start_fake_sidecar: StartFakeSidecar, options: list[str], kind: str
) -> None:
    sidecar = start_fake_sidecar("--after", "1", *options)
    client = start_timed_client(processes, sidecar.port, "-n", "3", "-t", "0.3", "--json")
    for summary in summaries(client, status=1).values():
        assert summary["ok"] == 0
        assert summary["failed"] == {kind: 3}
        assert summary["latency_ms"] == {}
    first_failure = next(line for line in client.stderr_lines() if "first failure" in line)
    assert "server running" not in first_failure


def test_some_calls_fail(processes: Processes, start_fake_sidecar: StartFakeSidecar) -> None:
    sidecar = start_fake_sidecar("--after", "5", "--status", "500")
    client = start_timed_client(processes, sidecar.port, "-n", "6", "--setting", "sequential")
    assert client.wait() == 1
    lines = client.stdout_lines()
    assert lines[0] == "sequential: 4/6 ok, HTTP/2"
    assert "  failed: 2 status 500" in lines


@pytest.mark.slow
def test_timeouts_do_not_become_other_failures(
    processes: Processes, start_fake_sidecar: StartFakeSidecar
) -> None:
    """Requests that are given up must not use up the streams of a connection."""
    sidecar = start_fake_sidecar("--after", "1", "--delay", "10")
    options = ["-n", "200", "-c", "50", "-t", "1", "--setting", "gather", "--json"]
    summary = summaries(start_timed_client(processes, sidecar.port, *options), status=1)["gather"]
    assert summary["failed"] == {"timeout": 200}


@pytest.mark.slow
def test_sidecar_killed_during_a_measurement(
    processes: Processes, start_fake_sidecar: StartFakeSidecar
) -> None:
    sidecar = start_fake_sidecar("--delay", "0.1")
    options = ["-n", "100", "--setting", "sequential", "--json"]
    client = start_timed_client(processes, sidecar.port, *options)
    client.wait_for_line("of 100 calls")
    sidecar.process.kill()
    summary = summaries(client, status=1)["sequential"]
    assert summary["ok"] > 0
    assert summary["failed"] == {"connection": 100 - summary["ok"]}


@pytest.mark.parametrize(
    "options",
    [
        ["-n", "0"],
        ["-n", "x"],
        ["-c", "-1"],
        ["-t", "0"],
        ["-t", "nan"],
        ["-t", "inf"],
        ["--setting", "x"],
        ["--nope"],
        ["x"],
    ],
)
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


def test_help_names_all_options_and_defaults(processes: Processes) -> None:
    client = processes.start("python", "timed-client.py", "--help")
    assert client.wait() == 0
    text = " ".join(" ".join(client.stdout_lines()).split())
    for option in ("--calls", "--concurrency", "--timeout", "--setting", "--json"):
        assert option in text
    for default in ("default: 10", "default: all of them", "default: 30", "default: all"):
        assert default in text


def test_missing_sidecar_port(processes: Processes) -> None:
    client = processes.start("python", "timed-client.py")
    assert client.wait() == 1
    assert len(client.stderr_lines()) == 1
    assert "kar run -h2c -app hello-async python timed-client.py" in client.stderr_lines()[0]


def test_no_sidecar(processes: Processes) -> None:
    client = start_timed_client(processes, free_port())
    assert client.wait() == 1
    assert client.stdout_lines() == []
    assert client.stderr_lines()[-1].endswith("Is kar still running?")


def test_warm_up_without_response(
    timed_client: ModuleType,
    start_fake_sidecar: StartFakeSidecar,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sidecar = start_fake_sidecar("--delay", "50")
    monkeypatch.setattr(timed_client, "WARM_UP_TIMEOUT", 0.2)
    monkeypatch.setenv("KAR_RUNTIME_PORT", str(sidecar.port))
    options = timed_client.argparse.Namespace(calls=2, concurrency=2, timeout=30.0, setting="all")
    with pytest.raises(timed_client.CallError, match=r"no response within 0.2 s.*server running"):
        timed_client.asyncio.run(timed_client.run(options, []))


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["sequential", "gather", "tasks"])
def test_interrupt_prints_the_results_so_far(
    processes: Processes, start_fake_sidecar: StartFakeSidecar, setting: str
) -> None:
    sidecar = start_fake_sidecar("--delay", "0.2")
    options = ["-n", "1000", "-c", "2", "--setting", setting]
    client = start_timed_client(processes, sidecar.port, *options)
    client.wait_for_line("of 1000 calls")
    client.send_signal(signal.SIGINT)
    assert client.wait() == 130
    first_line = client.stdout_lines()[0]
    assert first_line.startswith(f"{setting}: ")
    assert first_line.endswith("/1000 ok, HTTP/2")
    assert not first_line.startswith(f"{setting}: 0/")
    assert not any("failed" in line for line in client.stdout_lines())
    assert not any("Traceback" in line for line in client.stderr_lines())
    assert not psutil.pid_exists(client.pid)
