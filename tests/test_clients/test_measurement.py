"""The numbers and the timeline of timed-client.py, from results written by hand."""

import random
from types import ModuleType
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("latencies", "expected"),
    [
        ([], {}),
        ([7.0], {"min": 7, "p50": 7, "max": 7}),
        ([4.0, 1.0, 3.0, 2.0], {"min": 1, "p50": 2.5, "max": 4}),
        (list(range(19)), {"min": 0, "p50": 9, "max": 18}),
        (list(range(1, 22)), {"min": 1, "p50": 11, "p95": 20, "max": 21}),
        (list(range(101)), {"min": 0, "p50": 50, "p95": 95, "p99": 99, "max": 100}),
    ],
)
def test_percentiles(
    timed_client: ModuleType, latencies: list[float], expected: dict[str, float]
) -> None:
    shuffled = random.Random(0).sample(latencies, len(latencies))
    assert timed_client.percentiles(shuffled) == expected


def make_measurement(
    timed_client: ModuleType,
    setting: str,
    *calls: tuple[float, float, float],
    finished: float,
    failure: Any = None,
) -> Any:
    """Return a measurement that starts at 0 s, with calls of (due, sent, completed) in seconds."""
    results = [timed_client.CallResult(*call, "HTTP/2", failure) for call in calls]
    return timed_client.Measurement(setting, len(calls), 0.0, finished, results)


def test_summary_of_two_calls(timed_client: ModuleType) -> None:
    """The second call waits 1 s for a slot, which counts as latency, but not as in flight."""
    measurement = make_measurement(timed_client, "gather", (0, 0, 1), (0, 1, 3), finished=4)
    assert measurement.summary() == {
        "calls": 2,
        "ok": 2,
        "failed": {},
        "http_versions": ["HTTP/2"],
        "time_s": 4,
        "calls_per_s": 0.5,
        "in_flight_average": 0.75,
        "latency_ms": {"min": 1000, "p50": 2000, "max": 3000},
        "latencies_ms": [1000, 3000],
    }


def test_summary_of_failures(timed_client: ModuleType) -> None:
    error = timed_client.CallError("helloJson", kind="timeout", reason="late", remedy="Wait")
    measurement = make_measurement(timed_client, "tasks", (0, 0, 2), finished=2, failure=error)
    summary = measurement.summary()
    assert summary["failed"] == {"timeout": 1}
    assert summary["ok"] == 0
    assert summary["calls_per_s"] == 0
    assert summary["in_flight_average"] == 1
    assert summary["latency_ms"] == {}


def test_report_of_failures_has_no_latency_line(
    timed_client: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    error = timed_client.CallError("helloJson", kind="timeout", reason="late", remedy="Wait")
    measurement = make_measurement(timed_client, "tasks", (0, 0, 2), finished=2, failure=error)
    timed_client.print_report([measurement])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tasks: 0/1 ok")
    assert "  failed: 1 timeout" in lines
    assert not any("latency" in line for line in lines)


def test_timeline_of_two_settings(timed_client: ModuleType) -> None:
    """Sequential is long and thin, gather short and thick. 53 of 64 columns are for 10 s."""
    calls = [(float(second), float(second), second + 1.0) for second in range(10)]
    one_by_one = make_measurement(timed_client, "sequential", *calls, finished=10)
    at_once = make_measurement(timed_client, "gather", *[(0, 0, 1)] * 8, finished=1)
    lines = timed_client.timeline([one_by_one, at_once])
    assert lines == [
        "sequential " + "▁" * 53,
        "gather     " + "█████▃",  # 5.3 columns, the last of which is in use for 0.3
        "           0 s" + "10.00 s".rjust(50),
    ]
    assert max(len(line) for line in lines) == 64


def test_timeline_without_results(timed_client: ModuleType) -> None:
    lines = timed_client.timeline([make_measurement(timed_client, "tasks", finished=1)])
    assert lines[0].strip() == "tasks"
