"""A short form of long_life.py: more calls than Hypercorn's own limit, and none lost."""

import sys

from support.processes import Processes


def test_no_call_is_lost_over_a_long_life(processes: Processes) -> None:
    words = ["tests/bench/long_life.py", "--straight", "3000", "--through-kar", "1500"]
    script = processes.start(sys.executable, *words)
    assert script.wait(120) == 0, script.stderr_lines()
    straight, through_kar = script.stdout_lines()
    assert straight.startswith("straight to the server: 3000 of 3000 calls, 1 connection, ")
    assert through_kar.startswith("through the embedded KAR: 1500 of 1500 calls, 1 connection, ")
