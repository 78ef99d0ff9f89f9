"""The virtual environment .venv of demo.py, check.py and the benchmark. Needs only Python."""

import sys

# At import and before all else, since an older Python does not understand what follows.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        f"{sys.argv[0]} needs Python 3.11 or later, and this is "
        f"{sys.version_info[0]}.{sys.version_info[1]}: try python3.11 {sys.argv[0]}"
    )

import fcntl
import importlib.metadata
import json
import signal
import subprocess
from pathlib import Path
from typing import TextIO

from process_groups import ProcessGroups

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"

# The files of requirements that are installed: contents by name. A .venv without this file was
# made by someone else. The file is empty while something is being installed, so that the next
# command replaces what an interrupted one has left.
STATE = VENV / "environment.json"


class SetupError(Exception):
    """The environment cannot be prepared; the message says what to do."""


def prepare(groups: ProcessGroups, requirements: str) -> None:
    """Make .venv and install a file of requirements there, unless that is done already.

    Replaces a .venv that another Python has made, or that is incomplete. One that was not made
    here is used if it is active, but never changed. Raises SetupError.
    """
    try:
        if _is_foreign():
            _check_foreign(requirements)
            return
        VENV.mkdir(exist_ok=True)
        with STATE.open("a") as lock:
            groups.wait_until(lambda: _lock(lock))  # while another command prepares .venv
            installed = _read_state()
            if not installed or not _is_of_this_python():
                installed = {}
                _make(groups)
            wanted = _contents(requirements)
            if not wanted.items() <= installed.items():
                _install(groups, requirements)
                STATE.write_text(json.dumps({**installed, **wanted}))
    except OSError as error:
        raise SetupError(f"{VENV} cannot be prepared: {error}") from error


def run_step(
    groups: ProcessGroups,
    name: str,
    command: list[str],
    stop_signal: signal.Signals = signal.SIGTERM,
) -> int:
    """Print the name of a step, run its command in the project's directory, return its status."""
    print(f"== {name}", flush=True)
    return groups.wait(groups.start(command, ROOT, stop_signal=stop_signal))


def _is_foreign() -> bool:
    if VENV.is_symlink() or VENV.is_file():
        return True
    return VENV.is_dir() and any(VENV.iterdir()) and not STATE.exists()


def _check_foreign(requirements: str) -> None:
    """Raise SetupError unless this Python runs in .venv and the requirements are there."""
    if Path(sys.prefix).resolve() != VENV.resolve():
        raise SetupError(
            f"{VENV} was not made by this command: activate it to use it, or remove it"
        )
    missing = _missing(requirements)
    if missing:
        raise SetupError(
            f"{VENV} was not made by this command, and lacks {', '.join(missing)}: "
            f"run pip install -r {requirements}"
        )


def _missing(requirements: str) -> list[str]:
    """Return the lines of a file of requirements that the current environment does not meet."""
    missing = []
    for line in "".join(_contents(requirements).values()).splitlines():
        name, _, version = line.partition("==")
        if not version:  # a comment, or -r
            continue
        try:
            installed = importlib.metadata.version(name.partition("[")[0])
        except importlib.metadata.PackageNotFoundError:
            installed = ""
        if installed != version:
            missing.append(line)
    return missing


def _contents(requirements: str) -> dict[str, str]:
    """Return the contents of a file of requirements, and of those that it includes, by name."""
    contents = {requirements: (ROOT / requirements).read_text()}
    if "-r ../requirements.txt" in contents[requirements]:
        contents["requirements.txt"] = (ROOT / "requirements.txt").read_text()
    return contents


def _lock(file: TextIO) -> bool:
    """Try to lock a file until it is closed; return whether that succeeded."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_state() -> dict[str, str]:
    try:
        state: dict[str, str] = json.loads(STATE.read_text())
    except (FileNotFoundError, ValueError):  # ValueError: interrupted while it was written
        return {}
    return state


def _is_of_this_python() -> bool:
    """Return whether .venv works and is of the Python version that runs this."""
    try:
        version = subprocess.run(
            [VENV_PYTHON, "-c", "import pip, sys; print(sys.version)"],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    return version.strip() == sys.version


def _make(groups: ProcessGroups) -> None:
    # Resolved, because .venv may be active, and its Python is about to be removed.
    python = Path(sys.executable).resolve()
    STATE.write_text("")
    old = [str(path) for path in VENV.iterdir() if path != STATE]
    if old:
        run_step(groups, "removing the old .venv", ["rm", "-rf", *old])
    if run_step(groups, "making .venv", [str(python), "-m", "venv", str(VENV)]):
        raise SetupError(f"{python} could not make a virtual environment; its message is above")


def _install(groups: ProcessGroups, requirements: str) -> None:
    STATE.write_text("")
    pip = [str(VENV_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if run_step(groups, f"installing {requirements}", [*pip, "-r", requirements]):
        raise SetupError(
            f"installing {requirements} failed; the message of pip is above. "
            "Once its cause is gone, run this command again"
        )
