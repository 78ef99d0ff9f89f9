"""Run the example in three acts: a transcript, a measurement, and the crash of a replica.

KAR is the embedded one, or with --kar a real one, which needs Kafka and Redis. On a real one, no
other server of the application hello-async should run: it would get some of the calls.
"""

import argparse
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parent))  # Python does not if PYTHONSAFEPATH is set

from environment import PYTHON, install
from support.processes import EMBEDDED_KAR, Process, Processes, free_port, wait_until

CALLS = 100
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STARTS = 5  # a real KAR can fail to start when the application is new


def show_clients(stage: "Stage") -> None:
    print("\nAct 1: client.py calls server.py through KAR. Both see HTTP/2.\n")
    server = stage.start_server()
    stage.run("client.py")
    server.wait_for_line("HTTP version: 2", 2)
    print_output("server.py", server)
    print("\nAct 2: ten calls one after the other, then twice ten at once. Compare the times.\n")
    stage.run("timed-client.py")
    server.end_session()


def show_crash(stage: "Stage") -> None:
    print(f"\nAct 3: {CALLS} calls of 3 s to two replicas, one of which is killed after 2 s.")
    print("All succeed. The second step of the timeline is due to the calls that KAR repeats.\n")
    replicas = [stage.start_server(HELLO_DELAY="3"), stage.start_server(HELLO_DELAY="3")]
    print("# Warm-up: a real KAR calls a new replica only after some seconds")
    while not all(map(greetings, replicas)):
        stage.start("python", "timed-client.py", "-n", "10", "--setting", "gather").wait()
    before = sum(map(greetings, replicas))
    client = stage.start("python", "timed-client.py", "-n", str(CALLS), "--setting", "gather")
    wait_until(lambda: sum(map(greetings, replicas)) >= before + CALLS, "all calls")
    time.sleep(2)
    survivor, victim = replicas
    before = greetings(survivor)
    print(f"$ kill -KILL -{victim.pid}  # one server.py and its kar", flush=True)
    os.killpg(victim.pid, signal.SIGKILL)
    client.wait()
    print_output("timed-client.py", client)
    print_output("the other server.py", survivor)
    check(client.wait() == 0, "a call failed")
    check(greetings(survivor) > before, "no call was repeated")


class Stage:
    """Starts the programs of the example with kar, and prints the commands."""

    def __init__(self, kar: str, processes: Processes) -> None:
        self.kar = kar
        self.processes = processes
        self.starter = ThreadPoolExecutor()

    def end(self) -> None:
        self.starter.shutdown()
        self.processes.end()

    def start(self, *arguments: str, **environment: str) -> Process:
        for name, value in environment.items():
            print(f"$ export {name}={value}")
        command = ("run", "-h2c", "-app", "hello-async", *arguments)
        print("$ kar", *command, flush=True)
        # A signal interrupts the main thread only, so each process that has started is known.
        start = self.starter.submit(self.processes.start, self.kar, *command, **environment)
        return start.result()

    def start_server(self, **environment: str) -> Process:
        """Start a replica of server.py on a free port and wait until it serves."""
        flags = ("-service", "async-server", "-app_port", str(free_port()))
        for _ in range(STARTS):
            server = self.start(*flags, "python", "server.py", **environment)
            if server.writes("Running on"):
                return server
            print_output("server.py", server)
        sys.exit(f"demo.py: server.py did not start at {STARTS} attempts")

    def run(self, script: str, *arguments: str) -> None:
        """Run a client and print its output."""
        client = self.start("python", script, *arguments)
        client.wait()
        print_output(script, client)
        check(client.wait() == 0, f"{script} failed")


def greetings(server: Process) -> int:
    return sum("HTTP version: 2" in line for line in server.stdout_lines())


def print_output(name: str, process: Process) -> None:
    """Print the output, with one line for all that differ only in their time."""
    print(f"# Output of {name}:")
    lines = process.stdout_path.read_text().splitlines() + process.stderr_lines()
    lines = [line for line in lines if "[INFO]" not in line]  # Hypercorn's, which are long
    for _, group in itertools.groupby(lines, key=lambda line: line[27:]):
        first, *others = group
        print(first)
        if others:
            print(f"... {len(others)} more like this")
    sys.stdout.flush()


def check(condition: bool, failure: str) -> None:
    if not condition:
        sys.exit(f"demo.py: {failure}; see the output above")


def stop(number: int, frame: FrameType | None) -> None:
    """Exit after a signal; a second one, as a closing terminal can send, does not disturb that."""
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the example in three acts.")
    help_text = "the kar command of a real KAR (default: the embedded KAR)"
    parser.add_argument("--kar", default=str(EMBEDDED_KAR), metavar="PATH", help=help_text)
    kar = shutil.which(parser.parse_args().kar)
    if not kar:
        parser.error("argument --kar: not an executable file")
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup does
            signal.signal(number, stop)
    with tempfile.TemporaryDirectory() as directory:
        stage = Stage(kar, Processes(Path(directory), PYTHON))
        try:
            install("requirements.txt")
            show_clients(stage)
            show_crash(stage)
            print(
                '\nNext: "By hand" and "Your own service" in README.md, then server.py.', flush=True
            )
        except BrokenPipeError:
            # Nobody reads on, as in demo.py | head. Python would report that once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except AssertionError as error:  # something took too long
            sys.exit(f"demo.py: {error}")
        finally:
            stage.end()


if __name__ == "__main__":
    main()
