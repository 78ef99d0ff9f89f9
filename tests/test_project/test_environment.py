"""environment.py: which .venv the commands make, replace, use and leave alone."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import ROOT

COMMANDS = ("demo.py", "check.py")

# What a command does first, without the rest.
PREPARE = """
import sys
sys.path.insert(0, "tests")
from environment import SetupError, prepare
from process_groups import ProcessGroups
with ProcessGroups() as groups:
    try:
        prepare(groups, "requirements.txt")
    except SetupError as error:
        sys.exit(str(error))
"""


class Project:
    """A copy of the files that prepare an environment, with requirements of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.venv = directory / ".venv"
        self.state = self.venv / "environment.json"
        (directory / "tests").mkdir()
        for name in ("environment.py", "process_groups.py"):
            shutil.copy(ROOT / "tests" / name, directory / "tests")
        self.require("")

    def require(self, requirement: str) -> None:
        (self.directory / "requirements.txt").write_text(f"# A comment\n{requirement}\n")

    def prepare(self, python: str | Path = sys.executable) -> subprocess.CompletedProcess[str]:
        """Prepare the environment in a process of its own, without network."""
        return subprocess.run(
            [python, "-c", PREPARE],
            cwd=self.directory,
            env={"PIP_NO_INDEX": "1", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )

    def installed(self) -> list[str]:
        """Return the files of requirements that are recorded as installed."""
        return list(json.loads(self.state.read_text() or "{}"))

    def make_venv(self, python: str) -> None:
        """Make the complete .venv of a Python that is a shell script."""
        (self.venv / "bin").mkdir(parents=True)
        script = self.venv / "bin" / "python"
        script.write_text(f"#!/bin/sh\n{python}\n")
        script.chmod(0o755)
        contents = (self.directory / "requirements.txt").read_text()
        self.state.write_text(json.dumps({"requirements.txt": contents}))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.slow
def test_prepare_without_venv(project: Project) -> None:
    first = project.prepare()
    assert first.returncode == 0, first
    assert first.stdout.splitlines() == ["== making .venv", "== installing requirements.txt"]
    assert project.installed() == ["requirements.txt"]
    assert (project.venv / "bin" / "pip").exists()
    second = project.prepare()
    assert second.returncode == 0, second
    assert second.stdout == ""


def test_prepare_complete_venv_of_this_python(project: Project) -> None:
    project.make_venv(f"echo '{sys.version}'")
    assert project.prepare().stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("python", ["echo 3.11.0 of another kind", "exit 1"])
def test_prepare_venv_of_another_python(project: Project, python: str) -> None:
    project.make_venv(python)
    prepared = project.prepare()
    assert prepared.returncode == 0, prepared
    assert "== making .venv" in prepared.stdout
    version = [str(project.venv / "bin" / "python"), "-c", "import sys; print(sys.version)"]
    assert subprocess.check_output(version, text=True).strip() == sys.version


@pytest.mark.slow
def test_prepare_venv_whose_python_is_gone(project: Project) -> None:
    project.make_venv("")
    (project.venv / "bin" / "python").unlink()
    (project.venv / "bin" / "python").symlink_to("/no/such/python")
    assert project.prepare().returncode == 0
    assert project.installed() == ["requirements.txt"]


@pytest.mark.slow
def test_prepare_after_failed_installation(project: Project) -> None:
    project.require("no-such-package==1")
    failed = project.prepare()
    assert failed.returncode == 1
    assert "no-such-package" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("installing requirements.txt failed")
    (project.venv / "left-over").touch()
    project.require("")
    assert project.prepare().returncode == 0
    assert project.installed() == ["requirements.txt"]
    assert not (project.venv / "left-over").exists()


def test_prepare_fails_in_complete_venv(project: Project) -> None:
    """What pip has left must not be taken for complete."""
    project.make_venv(f"case $* in *sys.version*) echo '{sys.version}';; *) exit 1;; esac")
    project.require("some-package==1")
    assert project.prepare().returncode == 1
    assert project.installed() == []


def test_prepare_venv_of_user(project: Project) -> None:
    project.venv.mkdir()
    (project.venv / "pyvenv.cfg").touch()
    prepared = project.prepare()
    assert prepared.returncode == 1
    assert prepared.stdout == ""
    (message,) = prepared.stderr.splitlines()
    assert "activate it to use it, or remove it" in message
    assert [path.name for path in project.venv.iterdir()] == ["pyvenv.cfg"]


@pytest.fixture
def python_of_user(project: Project) -> Path:
    """The Python of a .venv that a user has made and activated."""
    venv = [sys.executable, "-m", "venv", "--without-pip", "--system-site-packages"]
    subprocess.run([*venv, project.venv], check=True)
    return project.venv / "bin" / "python"


def test_prepare_active_venv_of_user(project: Project, python_of_user: Path) -> None:
    prepared = project.prepare(python_of_user)
    assert prepared.returncode == 0, prepared
    assert prepared.stdout == ""
    assert not project.state.exists()


def test_prepare_active_venv_lacks_package(project: Project, python_of_user: Path) -> None:
    project.require("no-such-package[extra]==1")
    prepared = project.prepare(python_of_user)
    assert prepared.returncode == 1
    (message,) = prepared.stderr.splitlines()
    assert "lacks no-such-package[extra]==1" in message
    assert "pip install -r requirements.txt" in message


@pytest.mark.parametrize("command", COMMANDS)
def test_command_on_old_python(command: str) -> None:
    """The version is simulated, since this Python is a newer one."""
    path = f"tests/{command}"
    program = (
        "import runpy, sys; "
        "sys.path.insert(0, 'tests'); "
        "sys.version_info = (3, 8, 18, 'final', 0); "
        f"sys.argv = [{path!r}, '--help']; runpy.run_path({path!r}, run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "KAR": "/no/such/kar"},  # check.py must not start the suite in itself
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"{path} needs Python 3.11 or later, and this is 3.8: try python3.11 {path}"
    ]


@pytest.mark.parametrize("name", [*COMMANDS, "environment.py"])
def test_command_can_be_parsed_by_old_python(name: str) -> None:
    ast.parse((ROOT / "tests" / name).read_text(), feature_version=(3, 7))
