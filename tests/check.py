"""Check the whole project: style, types and tests. Words behind it go to pytest."""

import sys

from environment import VENV, prepare, step

if __name__ == "__main__":
    prepare("requirements.txt", "tests/requirements.txt")
    tools = VENV / "bin"
    step("ruff check", [f"{tools}/ruff", "check"])
    step("ruff format", [f"{tools}/ruff", "format", "--check"])
    step("mypy", [f"{tools}/mypy", "server.py", "client.py", "timed-client.py", "tests"])
    step("pytest", [f"{tools}/python", "-m", "pytest", "-n", "4", *sys.argv[1:]])
