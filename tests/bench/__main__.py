"""Measure what the example costs, in a virtual environment with what that needs.

    python3 tests/bench

Arguments are passed on; python3 tests/bench --help explains them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from environment import ROOT, VENV_PYTHON, SetupError, prepare
from process_groups import InterruptionError, ProcessGroups


def main(arguments: list[str]) -> int:
    with ProcessGroups() as groups:
        try:
            prepare(groups, "tests/requirements.txt")
            command = [str(VENV_PYTHON), "tests/bench/benchmark.py", *arguments]
            status = groups.wait(groups.start(command, ROOT))
        except SetupError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        except InterruptionError as interruption:
            return interruption.exit_status
    if status < 0:
        print(f"bench: the benchmark was killed by signal {-status}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
