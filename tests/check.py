"""Check the whole project: style, types and tests. Arguments are passed on to pytest."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # Python does not if PYTHONSAFEPATH is set

from environment import PYTHON, install, run_step

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback after Ctrl-C
    install("tests/requirements.txt")
    run_step("ruff check", PYTHON, "-m", "ruff", "check")
    run_step("ruff format --check", PYTHON, "-m", "ruff", "format", "--check")
    scripts = ("server.py", "client.py", "timed-client.py")
    run_step("mypy --strict", PYTHON, "-m", "mypy", "--strict", *scripts, "tests")
    print("== pytest", flush=True)
    # pytest takes the place of this process, so that a signal reaches it and ends its tests.
    os.execv(PYTHON, [PYTHON, "-m", "pytest", "-n", "4", *sys.argv[1:]])
