"""The kar under test, embedded or real, with an application of the test's own."""

import re
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from support.http2 import OPTIONS, http2_client
from support.processes import (
    EMBEDDED_KAR,
    Process,
    Processes,
    Server,
    accepts_connections,
    free_port,
    wait_until,
)

# The first starts of the real kar for a new application can fail. Each runs a program for so many
# seconds, since kar also fails if its program exits before the sidecar is connected.
START_SECONDS = (1.5, 1.5, 3, 6, 12)
STARTS = 5
PARTITIONS = 10  # of an application's topic: more than its processes, including those that crashed
CONNECT_TIMEOUT = 20.0  # seconds for a sidecar of the real KAR to be connected to Kafka
WARM_UP_TIMEOUT = 15.0  # seconds for one call while Kafka settles: the real KAR can lose it

TRANSCRIPT = [  # what client.py prints
    "[STDOUT] HTTP/2",
    '[STDOUT] "Hello John Doe"',
    "[STDOUT] HTTP/2",
    "[STDOUT] Hello John Doe",
    "[STDOUT] HTTP/2",
    "[STDOUT] I am healthy",
]


class Sidecar(Server):
    """A sidecar whose process makes no calls of its own, so that a test can make them."""

    def service_url(self, service: str) -> str:
        """Return the URL below which the routes of a service are called."""
        return f"{self.url}/kar/v1/service/{service}/call"


@dataclass(frozen=True)
class Replica(Server):
    """A replica of a service: its kar, and the port of its process, which bypasses KAR."""

    service: str

    def greetings(self) -> int:
        """Return how many greetings a server.py has logged."""
        return self.process.stdout_lines().count("[STDOUT] HTTP version: 2")


def fatal_error(process: Process) -> str:
    """Wait for a kar that exits with status 1, and return the message of its only line."""
    assert process.wait() == 1
    (line,) = process.stdout_path.read_text().splitlines()
    match = re.fullmatch(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} \[FATAL\] (.*)", line)
    assert match, line
    return match[1]


class Kar:
    """A kar command and the application that its processes belong to."""

    def __init__(self, path: Path, processes: Processes, topics: "Topics | None" = None) -> None:
        """Take the Kafka topics, in which the real KAR needs one for the application."""
        self.path = path
        self.is_embedded = path == EMBEDDED_KAR
        # Seconds after which the real kar is connected to Kafka. It passes on the exit status of a
        # program only if that runs longer.
        self.lifetime = 0.1 if self.is_embedded else 5
        self.processes = processes
        self.topics = topics
        self.app = f"test-{uuid.uuid4().hex}"
        if not self.is_embedded:
            self._create_application()

    def other_application(self) -> "Kar":
        """Return the same command with another application."""
        return Kar(self.path, self.processes, self.topics)

    def run(self, *arguments: str | Path, **environment: str) -> Process:
        """Start `kar run` with the test's application and more arguments.

        By default nothing listens on the port of its process. After the crash of a sidecar, the
        real KAR sends some calls to other components as well, and on port 8080 the server of
        another test could respond.
        """
        environment = {"KAR_APP_PORT": str(free_port()), **environment}
        return self.processes.start(self.path, "run", "-app", self.app, *arguments, **environment)

    def rest(self, *arguments: str) -> Process:
        """Start `kar rest` with the test's application and more arguments."""
        return self.processes.start(self.path, "rest", "-app", self.app, *arguments)

    def start_sidecar(self, *flags: str) -> Sidecar:
        """Start a process that only waits, and its sidecar, and wait until the sidecar listens."""
        process, port = self._start_connected(*flags, "sleep", "1000")
        return Sidecar(process, port)

    def start_replica(self, service: str, *arguments: str, **environment: str) -> Replica:
        """Start a replica of a service on a free port and wait until it serves.

        The arguments are further flags and the command. With the real KAR it may take seconds
        until the replica gets its first call.
        """
        port = free_port()
        flags = ["-service", service, "-app_port", str(port)]
        process, _ = self._start_connected(*flags, *arguments, line="Running on", **environment)
        return Replica(process, port, service)

    def start_server(self, **environment: str) -> Replica:
        """Start a replica of server.py and wait until it serves."""
        return self.start_replica("async-server", "-h2c", "python", "server.py", **environment)

    def start_echo(self, *flags: str, **environment: str) -> Replica:
        """Start a replica of the service echo, which responds with what it has seen.

        Give the flag -h2c to let its sidecar call it over HTTP/2.
        """
        command = ("python", "tests/support/echo_service.py")
        return self.start_replica("echo", *flags, *command, **environment)

    def wait_until_called(self, sidecar: Sidecar, *replicas: Replica, path: str = "/") -> None:
        """Call a service through a sidecar until each of the replicas has been called.

        The real KAR sends no calls to a new replica before Kafka has settled. Each replica must
        print a line on standard output for a call.
        """
        service = replicas[0].service
        before = {replica: len(replica.process.stdout_lines()) for replica in replicas}

        def all_called() -> bool:
            with suppress(httpx.ReadTimeout):
                client.post(sidecar.service_url(service) + path, content="warm-up")
            return all(
                len(replica.process.stdout_lines()) > before[replica] for replica in replicas
            )

        with http2_client(timeout=WARM_UP_TIMEOUT) as client:
            wait_until(all_called, "a call of each replica")

    def _start_connected(
        self, *arguments: str, line: str | None = None, **environment: str
    ) -> tuple[Process, int]:
        """Start `kar run` and wait until it is connected; return it and its sidecar's port.

        With a line, also wait until its process has written that.

        The real kar can exit, or wait forever, if it connects to Kafka at the same time as another
        one of the application. Then it is started again.
        """
        for _ in range(STARTS):
            port = free_port()
            process = self.run("-runtime_port", str(port), *arguments, **environment)
            is_connected = self._is_connected(process, port)
            if is_connected and (line is None or process.writes(line)):
                return process, port
            process.end_session()
        raise AssertionError(f"{self.path} does not connect: {process.stdout_lines()}")

    def _is_connected(self, process: Process, port: int) -> bool:
        """Wait until a sidecar is connected; return False if its kar exits, or waits too long."""
        wait_until(
            lambda: accepts_connections(port) or not process.is_running(), "the sidecar to listen"
        )
        if self.is_embedded:
            return process.is_running()
        url = f"http://127.0.0.1:{port}/kar/v1/system/information/sidecars"
        try:  # The real sidecar responds when it is connected.
            return httpx.get(url, trust_env=False, timeout=CONNECT_TIMEOUT).is_success
        except httpx.TransportError:
            return False

    def _create_application(self) -> None:
        """Create the application's topic in Kafka, and wait until the real kar can use it."""
        if self.topics:
            self.topics.create(self.app)
        for seconds in START_SECONDS:
            process = self.run("sleep", str(seconds))
            if process.wait() == 0:
                return
        raise AssertionError(f"{self.path} does not start: {process.stdout_lines()}")


@dataclass(frozen=True)
class Service:
    """A replica of a service, and a sidecar through which a test calls it."""

    kar: Kar
    replica: Replica
    sidecar: Sidecar

    @property
    def h2c(self) -> bool:
        """Whether its sidecar calls the service over HTTP/2."""
        return "-h2c" in self.replica.process.command

    def request(
        self,
        method: str,
        target: str,
        headers: list[tuple[bytes, bytes]] | None = None,
        body: bytes = b"",
        http_version: str = "HTTP/2",
    ) -> httpx.Response:
        """Send a request to the sidecar with exactly these headers; target may be encoded."""
        is_http2 = http_version == "HTTP/2"
        with httpx.Client(http1=not is_http2, http2=is_http2, **OPTIONS) as client:
            client.headers.clear()
            return client.request(
                method,
                self.sidecar.url,
                headers=headers or [],
                content=body,
                extensions={"target": target.encode(errors="surrogateescape")},
            )

    def call(self, method: str, path: str, *arguments: Any, **options: Any) -> httpx.Response:
        """Call a path of the service, with more arguments of request()."""
        target = f"/kar/v1/service/{self.replica.service}/call{path}"
        return self.request(method, target, *arguments, **options)

    def requests_seen(self) -> int:
        """Return how many requests the service has logged."""
        return sum("[STDOUT]" in line for line in self.replica.process.stdout_lines())


def start_echo_service(kar: Kar, *flags: str) -> Service:
    replica = kar.start_echo(*flags)
    service = Service(kar, replica, kar.start_sidecar())
    kar.wait_until_called(service.sidecar, replica)
    return service


class Topics:
    """Creates the Kafka topics of applications, through a sidecar of the real KAR.

    By default a topic begins with one partition, and the real kar adds one when a component joins.
    If it then does not see at once that Kafka has done so, it exits: "Number of partitions is
    invalid". With enough partitions from the start, it adds none.
    """

    def __init__(self, path: Path, processes: Processes) -> None:
        self.sidecar = Kar(path, processes).start_sidecar()

    def create(self, application: str) -> None:
        response = httpx.put(
            f"{self.sidecar.url}/kar/v1/event/kar_{application}",
            json={"NumPartitions": PARTITIONS, "ReplicationFactor": 1},
            trust_env=False,
            timeout=CONNECT_TIMEOUT,
        )
        assert response.status_code == 201, response.text
