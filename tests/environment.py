"""The virtual environment .venv, which demo.py and check.py make. Needs only Python."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("This needs Python 3.11 or later: try python3.11 instead of python3")

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
# Variables that would let pip install elsewhere, or let Python import other packages than those in
# .venv. Those that say where packages come from, such as PIP_INDEX_URL, are kept.
MISLEADING = ("PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")


def install(requirements: str) -> None:
    """Install a file of requirements in .venv, which is made again for another Python version."""
    for name in MISLEADING:
        os.environ.pop(name, None)
    os.environ["PIP_USER"] = "no"  # also if pip.conf says otherwise
    # Compiling each module that a package has would take longer than the first imports do.
    pip = [PYTHON, "-m", "pip", "install", "--no-compile", "--quiet", "--disable-pip-version-check"]
    with open(__file__) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two first runs at once would make .venv twice
        if not _is_of_this_python():
            run_step("making .venv", sys.executable, "-m", "venv", "--clear", str(VENV))
            # The pip of Python 3.11 takes twice as long for the packages as the current one.
            run_step("updating pip", *pip, "--upgrade", "pip")
        run_step(f"installing {requirements}", *pip, "-r", requirements)


def run_step(name: str, *command: str) -> None:
    """Print the name of a step and run its command; exit with its status if it fails."""
    print(f"== {name}", flush=True)
    status = subprocess.run(command, cwd=ROOT).returncode
    if status:
        print(f"== {name} failed with status {status}", file=sys.stderr)
        sys.exit(status)


def _is_of_this_python() -> bool:
    try:
        command = [PYTHON, "-c", "import pip, sys; print(sys.version)"]
        process = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # there is no .venv, or its Python was removed
        return False
    return process.stdout.strip() == sys.version
