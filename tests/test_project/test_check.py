"""check.py: the steps, and that nothing is left behind."""

import json
import shlex
import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest
from support.processes import ROOT, Process, Processes, wait_until

TESTS = """
import pathlib
import time

import pytest
from support.processes import Processes

@pytest.fixture
def processes(tmp_path):
    processes = Processes(tmp_path)
    yield processes
    time.sleep(1000)  # as a fixture that cannot be ended in time

def test_quick():
    pass

def test_that_starts_processes(processes):
    first = processes.start("sleep", "1000")
    second = processes.start("sh", "-c", "trap '' INT TERM; while :; do sleep 1; done")
    pathlib.Path("pids").write_text(f"{first.pid} {second.pid}")
    time.sleep(1000)
"""


class Project:
    """A copy of check.py with tests of its own, in which ruff and mypy are shell scripts."""

    def __init__(self, directory: Path, processes: Processes) -> None:
        self.directory = directory
        self.processes = processes
        self.bin = directory / ".venv" / "bin"
        self.bin.mkdir(parents=True)
        (directory / "requirements.txt").touch()
        shutil.copytree(ROOT / "tests" / "support", directory / "tests" / "support")
        for name in ("check.py", "environment.py", "process_groups.py"):
            shutil.copy(ROOT / "tests" / name, directory / "tests")
        (directory / "tests" / "requirements.txt").touch()
        (directory / "tests" / "test_toy.py").write_text(TESTS)
        (directory / ".pytest.ini").write_text("[pytest]\npythonpath = tests\n")
        self.write_tool("ruff", "exit 0")
        self.write_tool("mypy", "exit 0")
        self.write_tool("python", f'exec {shlex.quote(sys.executable)} "$@"')
        state = self.directory / ".venv" / "environment.json"
        state.write_text(json.dumps({"tests/requirements.txt": ""}))

    def write_tool(self, name: str, line: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def check(self, *arguments: str, **environment: str) -> Process:
        check = self.directory / "tests" / "check.py"
        return self.processes.start(sys.executable, check, *arguments, **environment)


@pytest.fixture
def project(tmp_path: Path, processes: Processes) -> Project:
    directory = tmp_path / "project"
    directory.mkdir()
    return Project(directory, processes)


@pytest.mark.slow
def test_check_passes_arguments_to_pytest(project: Project) -> None:
    check = project.check("-n", "1", "-k", "quick", KAR="")
    assert check.wait() == 0, check.stderr_lines()
    steps = [line for line in check.stdout_lines() if line.startswith("== ")]
    assert steps == [
        "== ruff check",
        "== ruff format --check",
        "== mypy --strict",
        "== pytest",
        "== all checks passed",
    ]
    assert any("1 passed" in line for line in check.stdout_lines())


def test_check_step_fails(project: Project) -> None:
    project.write_tool("mypy", "exit 3")
    check = project.check(KAR="")
    assert check.wait() == 3
    assert check.stdout_lines()[-1] == "== mypy --strict"
    assert check.stderr_lines() == ["== mypy --strict failed with status 3"]


def test_check_without_real_kar(project: Project) -> None:
    check = project.check(KAR="/no/such/kar")
    assert check.wait() == 2
    assert check.stdout_lines() == []
    assert check.stderr_lines() == ["check.py: KAR=/no/such/kar is not an executable file"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_check_signal(project: Project, number: signal.Signals) -> None:
    check = project.check("-n", "1", "-k", "processes", KAR="")
    pids = project.directory / "pids"
    wait_until(lambda: pids.exists() and pids.read_text(), "the processes of a test")
    processes = psutil.Process(check.pid).children(recursive=True)
    processes += [psutil.Process(int(pid)) for pid in pids.read_text().split()]
    check.send_signal(number)
    assert check.wait(5) == 128 + number
    assert not any("Traceback" in line for line in check.stderr_lines() + check.stdout_lines())
    wait_until(lambda: not any(map(is_alive, processes)), "end of all processes", 5)


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
