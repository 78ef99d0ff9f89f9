"""The virtual environment .venv of the project, for demo.py and check.py. Needs only Python."""

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"


def prepare(*requirements: str) -> None:
    """Make .venv and install files of requirements there, each unless that is done already."""
    for name in requirements:
        contents = (ROOT / name).read_text() + (ROOT / "requirements.txt").read_text()
        wanted = hashlib.sha256((sys.version + contents).encode()).hexdigest()
        done = VENV / f"installed-{name.replace('/', '-')}"
        if done.is_file() and done.read_text() == wanted:
            continue
        step("making .venv", [sys.executable, "-m", "venv", str(VENV)])
        pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        step(f"installing {name}", [*pip, "--disable-pip-version-check", "-r", str(ROOT / name)])
        done.write_text(wanted)


def step(what: str, command: list[str]) -> None:
    """Say a step and run its command in the project's folder; if it fails, say so and exit."""
    print(f"== {what}", flush=True)
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status:
        sys.exit(f"== {what} failed with status {status}: {' '.join(command)}")
