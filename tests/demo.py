"""Run the example in three acts: a transcript, a measurement, and the crash of a replica.

KAR is the embedded one, or with --kar a real one, which needs Kafka and Redis. On a real one, no
other server of the application hello-async should run: it would get some of the calls.
"""

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import count, groupby
from pathlib import Path

from environment import ROOT, VENV, SetupError, prepare
from process_groups import InterruptionError, ProcessGroups

EMBEDDED_KAR = ROOT / "tests" / "bin" / "kar"
TIMEOUT = 60.0  # seconds: a real KAR can take long to settle
LOG_TIMEOUT = 5.0  # seconds for what a program has written to appear in the output of its kar
STARTS = 5  # a real KAR can fail to start when the application is new
PORTS = (8080, 8081)  # those of the README; others are used if they are taken

# What the demo shows must not depend on these variables of the user.
SCRIPT_VARIABLES = {"KAR_APP_HOST", "KAR_APP_PORT", "KAR_RUNTIME_PORT", "HELLO_DELAY"}


class DemoError(Exception):
    """The example did not do what the demo promises."""


def main() -> int:
    kar = parse_args().kar
    path = shutil.which(kar)
    if not path:
        print(f"demo.py: {kar} is not an executable file", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as directory, ProcessGroups() as groups:
        try:
            prepare(groups, "requirements.txt")
            stage = Stage(groups, os.path.abspath(path), Path(directory))
            show_clients(stage)
            show_crash(stage)
        except (DemoError, SetupError) as error:
            print(f"demo.py: {error}", file=sys.stderr)
            return 1
        except InterruptionError as interruption:
            return interruption.exit_status
        except BrokenPipeError:
            # Nobody reads on, as in demo.py | head. Python would report that once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    announce('What to read next: "Use it in your own service" in README.md, then server.py.')
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run the server, the client and the timed client of this example, "
        "then let a replica of the server crash."
    )
    parser.add_argument(
        "--kar",
        default=str(EMBEDDED_KAR),
        metavar="PATH",
        help="the kar command of a real KAR (default: the embedded KAR)",
    )
    return parser.parse_args()


def show_clients(stage: "Stage") -> None:
    """Run a server and both clients; raise DemoError if a call fails."""
    announce(
        "Act 1: client.py calls server.py three times, through the sidecars of both. "
        "Watch that both see HTTP/2."
    )
    server = stage.start_server()
    stage.run_client("client.py")
    stage.groups.wait_until(lambda: server.greetings() >= 2, LOG_TIMEOUT)
    server.print_new_lines()
    announce(
        "Act 2: timed-client.py makes ten calls one after the other, then twice ten at once. "
        "Watch the times and the timeline."
    )
    stage.run_client("timed-client.py")
    stage.groups.wait_until(lambda: server.greetings() >= 33, LOG_TIMEOUT)
    server.print_new_lines()
    stage.groups.end(server.process)


def show_crash(stage: "Stage") -> None:
    """Kill one of two replicas during 100 calls; raise DemoError unless all calls succeed."""
    announce(
        "Act 3: two replicas, 100 calls of 3 s in flight, and one replica is killed. "
        "Watch that 100 of 100 calls succeed, and the second step of the timeline: "
        "the calls of the killed replica, which KAR makes again on the other one."
    )
    survivor = stage.start_server(HELLO_DELAY="3")
    victim = stage.start_server(HELLO_DELAY="3")
    replicas = (survivor, victim)
    stage.warm_up(replicas)
    # About 50 of the 100 calls reach each replica. Half of them is enough.
    enough = {replica: replica.greetings() + 25 for replica in replicas}

    def both_have_calls() -> bool:
        return all(replica.greetings() >= enough[replica] for replica in replicas)

    client = stage.start_client("timed-client.py", "-n", "100", "--setting", "gather")
    stage.groups.wait_until(lambda: both_have_calls() or client.has_exited(), TIMEOUT)
    if not both_have_calls():
        client.print_new_lines()
        raise DemoError("the calls did not reach both replicas; see the output above")
    stage.groups.wait_until(lambda: False, 2.0)  # The later, the clearer is the second step.
    greetings_before_crash = survivor.greetings()
    print(f"$ kill -KILL -{victim.process.pid}  # {victim.name}, and its kar", flush=True)
    stage.groups.kill(victim.process)
    print(
        "# All calls share one connection, so httpx delivers some responses of the other replica "
        "late, with those of the repeated calls. This makes the second step smaller."
    )
    if not stage.is_embedded:
        print("# A real KAR takes 10 to 20 s to notice the crash.", flush=True)
    status = stage.groups.wait(client.process)
    for program in (client, *replicas):
        program.print_new_lines()
    if status or not client.has_written("gather: 100/100 ok"):
        raise DemoError("a call failed when the replica was killed; see the output above")
    if survivor.greetings() == greetings_before_crash:
        raise DemoError("the other replica got none of the calls of the one that was killed")


def shortened(lines: list[str]) -> Iterator[str]:
    """Yield lines of kar, with one in place of all that differ from the first only in the time."""
    for _, group in groupby(lines, key=lambda line: re.sub(r"^[\d/]+ [\d:.]+ ", "", line)):
        first, *others = group
        yield first
        if len(others) > 1:
            yield f"… {len(others)} more like this"
        else:
            yield from others


def announce(text: str) -> None:
    print(f"\n{text}\n", flush=True)


def choose_port() -> int:
    """Return the first of PORTS on which nothing listens, or else any free port."""
    for port in (*PORTS, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as listener:
                chosen: int = listener.getsockname()[1]
                return chosen
        except OSError:
            continue
    raise DemoError("no port is free")


class Program:
    """A program that runs under kar, with its output in a file."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, output: Path) -> None:
        self.process = process
        self.name = name
        self.output = output
        self.lines_printed = 0

    def lines(self) -> list[str]:
        return self.output.read_text(encoding="utf-8", errors="replace").splitlines()

    def has_written(self, text: str) -> bool:
        return any(text in line for line in self.lines())

    def has_exited(self) -> bool:
        return self.process.poll() is not None

    def print_new_lines(self) -> None:
        """Print what the program has written since the last time, shortened."""
        lines = self.lines()
        print(f"# Output of {self.name}:")
        print(*shortened(lines[self.lines_printed :]), sep="\n", flush=True)
        self.lines_printed = len(lines)


class Server(Program):
    """A replica of server.py on a port of this machine."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, port: int) -> None:
        super().__init__(process, f"server.py on port {port}", output)
        self.port = port

    def has_started_or_exited(self) -> bool:
        return self.has_written("Running on") or self.has_exited()

    def greetings(self) -> int:
        """Return how many greetings the server has logged."""
        return sum("HTTP version: 2" in line for line in self.lines())


class Stage:
    """Starts servers and clients with one kar, and prints the commands that it executes."""

    def __init__(self, groups: ProcessGroups, kar: str, directory: Path) -> None:
        self.groups = groups
        self.kar = kar
        self.is_embedded = Path(kar) == EMBEDDED_KAR
        self.outputs = (directory / f"{number}.log" for number in count())
        inherited = {name: os.environ[name] for name in os.environ.keys() - SCRIPT_VARIABLES}
        self.environment = {
            **inherited,
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
            # The embedded KAR finds no server here that somebody else has started.
            "XDG_RUNTIME_DIR": str(directory),
        }

    def start_server(self, **environment: str) -> Server:
        """Start a replica of server.py and wait until it serves, or raise DemoError."""
        for _ in range(STARTS):
            server = self._start_server(environment)
            self.groups.wait_until(server.has_started_or_exited, TIMEOUT)
            if not server.has_exited() and server.has_written("Running on"):
                return server
            server.print_new_lines()
            self.groups.end(server.process)
        raise DemoError(f"server.py did not start at {STARTS} attempts; see the output above")

    def _start_server(self, environment: dict[str, str]) -> Server:
        port = choose_port()
        flags = ["-service", "async-server"]
        if port != 8080:  # the default of kar
            flags += ["-app_port", str(port)]
        output = next(self.outputs)
        process = self._start([*flags, "python", "server.py"], output, environment)
        return Server(process, output, port)

    def start_client(self, script: str, *arguments: str) -> Program:
        """Start a client, with its output in a file."""
        output = next(self.outputs)
        process = self._start(["python", script, *arguments], output)
        return Program(process, script, output)

    def run_client(self, script: str) -> None:
        """Run a client that writes to the terminal; raise DemoError if it fails."""
        status = self.groups.wait(self._start(["python", script]))
        if status:
            raise DemoError(f"{script} exited with status {status}; see the output above")

    def warm_up(self, replicas: Iterable[Server]) -> None:
        """Make calls until each replica has been called: a new one can have to wait for that."""
        print("# Warm-up: calls until both replicas have been called", flush=True)
        deadline = time.monotonic() + TIMEOUT
        while not all(replica.greetings() for replica in replicas):
            if time.monotonic() > deadline:
                raise DemoError(f"{self.kar} calls only one of two replicas")
            client = self.start_client("timed-client.py", "-n", "10", "--setting", "gather")
            self.groups.wait(client.process)

    def _start(
        self,
        arguments: list[str],
        output: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Print a command as a user would type it, and start it."""
        arguments = ["run", "-h2c", "-app", "hello-async", *arguments]
        added = environment or {}
        variables = [f"{name}={value}" for name, value in added.items()]
        print("$", *variables, "kar", *arguments, flush=True)
        environment = {**self.environment, **added}
        return self.groups.start([self.kar, *arguments], ROOT, environment, output)


if __name__ == "__main__":
    sys.exit(main())
