"""Check the whole project: style, types and tests. Arguments are passed on to pytest."""

import os
import signal
import sys

from environment import VENV, SetupError, prepare, run_step
from process_groups import InterruptionError, ProcessGroups


def main(pytest_arguments: list[str]) -> int:
    kar = os.environ.get("KAR")
    if kar and not os.access(kar, os.X_OK):
        print(f"check.py: KAR={kar} is not an executable file", file=sys.stderr)
        return 2
    with ProcessGroups() as groups:
        try:
            prepare(groups, "tests/requirements.txt")
            return check(groups, pytest_arguments)
        except SetupError as error:
            print(f"check.py: {error}", file=sys.stderr)
            return 1
        except InterruptionError as interruption:
            return interruption.exit_status


def check(groups: ProcessGroups, pytest_arguments: list[str]) -> int:
    """Run the checks in turn, up to the first that fails, and return its exit status."""
    tools = VENV / "bin"
    sources = ["server.py", "client.py", "timed-client.py", "tests"]
    steps = {
        "ruff check": [f"{tools}/ruff", "check"],
        "ruff format --check": [f"{tools}/ruff", "format", "--check"],
        "mypy --strict": [f"{tools}/mypy", "--strict", *sources],
        "pytest": [f"{tools}/python", "-m", "pytest", "-n", "4", *pytest_arguments],
    }
    for name, command in steps.items():
        # SIGINT lets pytest end the fixtures of running tests, and is quiet.
        stop_signal = signal.SIGINT if name == "pytest" else signal.SIGTERM
        status = run_step(groups, name, command, stop_signal)
        if status:
            print(f"== {name} failed with status {status}", file=sys.stderr)
            return status
    print("== all checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
