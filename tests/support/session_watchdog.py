"""End the sessions of a test if the process that runs the test is killed.

Reads session ids from standard input, one a line, until it is closed. The operating system closes
it even after SIGKILL, which leaves fixtures no chance to end what they have started.
"""

import contextlib
import os
import signal
import sys
import time

GRACE = 2.0  # seconds between SIGTERM and SIGKILL


def signal_sessions(sessions: list[int], number: int) -> list[int]:
    """Send a signal to the process groups of sessions and return the sessions that still exist."""
    remaining = []
    for session in sessions:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(session, number)
            remaining.append(session)
    return remaining


if __name__ == "__main__":
    sessions = signal_sessions([int(line) for line in sys.stdin], signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while sessions and time.monotonic() < deadline:
        time.sleep(0.05)
        sessions = signal_sessions(sessions, 0)
    signal_sessions(sessions, signal.SIGKILL)
