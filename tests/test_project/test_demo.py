"""demo.py: its three acts, why it fails, and that it leaves nothing behind."""

import contextlib
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support.kar import TRANSCRIPT, Kar
from support.processes import EMBEDDED_KAR, Process, Processes, wait_until

TIMEOUT = 180.0  # seconds for a whole demo on a busy machine
DEMO = ("python3", "tests/demo.py")


@pytest.fixture
def write_kar(tmp_path: Path) -> Callable[[str], Path]:
    """A function that writes a kar of some lines of shell, and then the embedded one."""

    def write(lines: str) -> Path:
        path = tmp_path / "kar"
        path.write_text(f'#!/bin/sh\n{lines}\nexec {shlex.quote(str(EMBEDDED_KAR))} "$@"\n')
        path.chmod(0o755)
        return path

    return write


def output(demo: Process) -> str:
    return "\n".join(demo.stdout_lines())


@pytest.mark.slow
def test_demo_succeeds(kar: Kar) -> None:
    demo = kar.processes.start(*DEMO, "--kar", kar.path)
    assert demo.wait(TIMEOUT) == 0, [*demo.stdout_lines(), *demo.stderr_lines()]
    assert "\n".join(TRANSCRIPT) in output(demo)
    for line in (
        "sequential: 10/10 ok",
        "gather: 10/10 ok",
        "tasks: 10/10 ok",
        "gather: 100/100 ok",
    ):
        assert f"[STDOUT] {line}, HTTP/2" in output(demo)
    # The calls of the killed replica take their 3 s once more, from 2 s after their start.
    assert float(re.findall(r"Time = ([\d.]+) s", output(demo))[-1]) > 5
    timeline = re.findall("gather +([.:=+*#@-]+)", output(demo))[-1]
    assert "@" in timeline
    assert timeline[len(timeline) * 3 // 4] in ":-=+*", timeline  # the second step
    assert max(map(len, demo.stdout_path.read_text().splitlines())) <= 100


def test_demo_output_is_not_read(
    processes: Processes, write_kar: Callable[[str], Path], tmp_path: Path
) -> None:
    """As in demo.py | head: the demo ends what it has started, without a traceback."""
    pids = tmp_path / "pids"
    wrapper = shlex.quote(str(write_kar(f"echo $$ >> {shlex.quote(str(pids))}")))
    # The fifth line of output is printed when the server runs.
    pipeline = f"python3 tests/demo.py --kar {wrapper} | head -4; exit ${{PIPESTATUS[0]}}"
    demo = processes.start("bash", "-c", pipeline)
    assert demo.wait(TIMEOUT) == 1
    assert demo.stderr_lines() == []
    (pid,) = pids.read_text().split()
    assert not psutil.pid_exists(int(pid))


def test_demo_without_kar(processes: Processes) -> None:
    demo = processes.start(*DEMO, "--kar", "/no/such/kar")
    assert demo.wait() == 2
    assert demo.stdout_lines() == []
    assert demo.stderr_lines()[-1] == "demo.py: error: argument --kar: not an executable file"


def test_demo_server_does_not_start(processes: Processes, write_kar: Callable[[str], Path]) -> None:
    demo = processes.start(*DEMO, "--kar", write_kar("echo '[FATAL] no Kafka'; exit 1"))
    assert demo.wait(TIMEOUT) == 1
    assert demo.stdout_lines().count("[FATAL] no Kafka") == 5
    assert demo.stderr_lines() == ["demo.py: server.py did not start at 5 attempts"]


def test_demo_client_fails(processes: Processes, write_kar: Callable[[str], Path]) -> None:
    kar = write_kar('case "$*" in *" client.py") exit 3;; esac')
    demo = processes.start(*DEMO, "--kar", kar)
    assert demo.wait(TIMEOUT) == 1
    assert demo.stderr_lines() == ["demo.py: client.py failed; see the output above"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, "python client.py"),
        (signal.SIGINT, "[STDOUT] I am healthy"),
        (signal.SIGHUP, "HELLO_DELAY=3"),
    ],
    ids=["SIGTERM in act 1", "SIGINT in act 2", "SIGHUP in act 3"],
)
def test_demo_signal(
    processes: Processes, tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    """The demo ends what it has started, and ignores a second signal meanwhile."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    demo = processes.start(*DEMO, TMPDIR=str(directory))
    demo.wait_for_line(moment)
    children = psutil.Process(demo.pid).children(recursive=True)
    demo.send_signal(number)
    time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        demo.send_signal(number)
    assert demo.wait(10) == 128 + number
    assert list(directory.iterdir()) == []
    assert demo.stderr_lines() == []
    wait_until(lambda: not any(map(is_alive, children)), "end of all processes", 5)


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
