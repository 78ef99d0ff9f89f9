"""KAR's command line: kar run, kar rest, and what kar prints when it cannot start.

The flags have the forms of Go's package flag, which argparse does not read: -app x, -app=x,
--app x, -h2c and -h2c=true; they end at -- or at the first argument that is not a flag.
"""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from . import go_text
from .delivery import Delivery, DeliveryError, FailedError, ServiceRequest
from .output import log, print_fatal, print_text
from .process import ProcessError, run_process
from .registry import Registry, RegistryError
from .sidecar import Sidecar, serve_sidecar

VERSION = "1.3.10-embedded"
NEEDS_REAL_KAR = "needs the real KAR, with Kafka and Redis; the embedded one has kar run and rest"
MISSING_COMPONENT_TIMEOUT = 120.0  # seconds
HELP = ("help", "-help", "--help", "-h", "--h")
BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}

USAGE = """\
Usage:
  kar COMMAND ...

Available commands:
  run     run an application component:
            kar run [OPTIONS] [--] COMMAND ARGS...
  rest    call a route of a service:
            kar rest [OPTIONS] METHOD SERVICE PATH [BODY]
  version print the version
  help    print this

Options:
  -app NAME
        the application (required); applications do not see each other
  -missing_component_timeout DURATION
        how long a call waits for a service that does not run (default: 2m; 0: no limit)
  -v LEVEL
        accepted, without effect

Options of kar run:
  -service NAME
        the service that the process provides; without it, the process only calls
  -app_port N
        where the sidecar reaches the process (default: KAR_APP_PORT, else 8080)
  -runtime_port N
        where the process reaches the sidecar (default: KAR_RUNTIME_PORT, else a free port)
  -h2c
        call the process over HTTP/2 without TLS, instead of HTTP/1.1
  -hostname NAME
        accepted, without effect

Options of kar rest:
  -content_type TYPE
        of the body (default: application/json)

This is the embedded KAR, for one user on one machine. All else needs the real one.
"""


class UsageError(Exception):
    """The arguments are wrong; str() is Go's message, which stands before the usage."""


class FatalError(Exception):
    """kar cannot start; str() is the message after [FATAL]."""


@dataclass
class Options:
    """The flags of a command, and the arguments after them; the timeout is in seconds."""

    app: str = ""
    service: str = ""
    app_port: int = 8080
    runtime_port: int = 0
    h2c: bool = False
    content_type: str = "application/json"
    missing_component_timeout: float = MISSING_COMPONENT_TIMEOUT
    help: bool = False
    v: str = "error"
    hostname: str = "localhost"
    arguments: list[str] = field(default_factory=list)


def main(arguments: list[str]) -> int:
    """Run kar with its arguments and return its exit status."""
    command = arguments[0] if arguments else ""
    if command in HELP:
        print_text(USAGE, sys.stdout)
        return 0
    if command == "version":
        print_text(f"{VERSION}\n", sys.stdout)
        return 0
    try:
        if command in ("get", "invoke", "purge", "drain"):
            raise FatalError(f"kar {command} {NEEDS_REAL_KAR}")
        if command not in FLAGS:
            raise UsageError("invalid command")
        options = parse(command, arguments[1:])
        if options.help:
            print_text(USAGE, sys.stdout)
            return 0
        check_application(options.app)
        return asyncio.run(run(options) if command == "run" else rest(options))
    except UsageError as error:
        print_text(f"{error}\n{USAGE}", sys.stderr)
        return 2
    except (FatalError, ProcessError, RegistryError) as error:
        print_fatal(str(error))
        return 1


async def run(options: Options) -> int:
    """Run a component: its sidecar, and its process, until that exits or a signal comes."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    app_port = port(options.app_port, 8080, "KAR_APP_PORT")
    listener = listen(port(options.runtime_port, 0, "KAR_RUNTIME_PORT"))
    environment = {
        **os.environ,
        "KAR_RUNTIME_PORT": str(listener.getsockname()[1]),
        "KAR_APP_PORT": str(app_port),
        "KAR_REQUEST_TIMEOUT": "-1000",  # milliseconds; below 0 there is no limit
    }
    registry = Registry(options.app)
    async with Delivery(registry, options.missing_component_timeout) as delivery:
        shutdown = asyncio.Event()
        serving = asyncio.create_task(serve_sidecar(Sidecar(delivery), listener, shutdown))
        registry.register(options.service, app_port, options.h2c)
        try:
            if not options.arguments:
                await stop.wait()
                return 0
            return await run_process(options.arguments, environment, stop)
        finally:
            registry.unregister()
            shutdown.set()
            await serving


async def rest(options: Options) -> int:
    """Call a route of a service, and print the body of the response."""
    if len(options.arguments) not in (3, 4):
        count = len(options.arguments)
        raise FatalError(f"rest expects either three or four arguments; got {count}")
    method, service, path, *body = options.arguments
    headers = []
    if body:
        headers.append((b"content-type", options.content_type.encode()))
    request = ServiceRequest(method.upper(), "/" + path, headers, "".join(body).encode())
    async with Delivery(Registry(options.app), options.missing_component_timeout) as delivery:
        try:
            response = await delivery.deliver(service, request)
        except FailedError as error:
            log("ERROR", f"error invoking the service: {error}", stream=sys.stdout)
            return 1
        except DeliveryError as error:
            log("ERROR", f"{method.upper()} /{path} of service {service}: {error}")
            return 1
    text = response.body.decode()
    if response.status == 200:
        print_text(f"{text}\n", sys.stdout)
    else:
        status = f"[STDERR] HTTP status: {response.status}\n"
        print_text(f"{status}[STDERR] {text}\n", sys.stderr)
    return 0


def check_application(name: str) -> None:
    """Raise FatalError unless KAR's name of the Kafka topic of an application is valid."""
    if not name:
        raise FatalError("app name is required")
    topic = f"kar_{name}"
    if len(topic) > 249:
        problem = f"the length of '{topic}' is longer than the max allowed length 249"
    elif not re.fullmatch(r"[a-zA-Z0-9._-]*", topic):
        problem = (
            f"'{topic}' contains one or more characters other than ASCII alphanumerics, "
            "'.', '_' and '-'"
        )
    else:
        return
    raise FatalError(
        "failed to connect to Kafka: kafka server: The request attempted to perform an operation "
        f"on an invalid topic - Topic name is invalid: {problem}"
    )


def port(flag: int, default: int, variable: str) -> int:
    """Return a port from its flag; if that has its default, from an environment variable."""
    number = flag
    if flag == default and os.environ.get(variable):
        try:
            number = int(os.environ[variable])
        except ValueError as error:
            raise FatalError(f"error parsing {variable} as an integer") from error
    if not 0 <= number < 65536:
        raise FatalError(f"TCP listener failed: listen tcp: address {number}: invalid port")
    return number


def listen(runtime_port: int) -> socket.socket:
    """Return a socket that listens on 127.0.0.1, on a free port for 0."""
    try:
        return socket.create_server(("127.0.0.1", runtime_port))
    except OSError as error:
        reason = (os.strerror(error.errno) if error.errno else str(error)).lower()
        address = f"127.0.0.1:{runtime_port}"
        raise FatalError(f"TCP listener failed: listen tcp {address}: bind: {reason}") from error


def parse(command: str, arguments: list[str]) -> Options:
    """Return the options of a command.

    Raises UsageError for a wrong flag, and FatalError for one that only the real KAR has.
    """
    options = Options()
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        argument = rest.pop(0)
        if argument == "--":
            break
        name, has_value, value = argument.removeprefix("-").removeprefix("-").partition("=")
        if not name or name.startswith("-"):
            raise UsageError(f"bad flag syntax: {argument}")
        if name.startswith(REAL_FLAGS):
            raise FatalError(f"flag -{name} {NEEDS_REAL_KAR}")
        if name not in FLAGS[command]:
            raise UsageError(f"flag provided but not defined: -{name}")
        convert = FLAGS[command][name]
        if convert is boolean and not has_value:
            value = "true"
        elif not has_value and not rest:
            raise UsageError(f"flag needs an argument: -{name}")
        elif not has_value:
            value = rest.pop(0)
        try:
            converted = convert(value)
        except ValueError as error:
            kind = "boolean value" if convert is boolean else "value"
            joint = "for" if convert is boolean else "for flag"
            message = f"invalid {kind} {go_text.quote(value)} {joint} -{name}: parse error"
            raise UsageError(message) from error
        setattr(options, "help" if name == "h" else name, converted)
    options.arguments = rest
    return options


def integer(value: str) -> int:
    return int(value, 0)


def boolean(value: str) -> bool:
    if value not in BOOLEANS:
        raise ValueError(value)
    return BOOLEANS[value]


COMMON_FLAGS: dict[str, Callable[[str], object]] = {
    "app": str,
    "missing_component_timeout": go_text.duration,
    "v": str,
    "h": boolean,
    "help": boolean,
}
FLAGS: dict[str, dict[str, Callable[[str], object]]] = {
    "run": {
        **COMMON_FLAGS,
        "service": str,
        "app_port": integer,
        "runtime_port": integer,
        "h2c": boolean,
        "hostname": str,
    },
    "rest": {**COMMON_FLAGS, "content_type": str},
}
# The real KAR has flags that begin with these, for Kafka, Redis, actors or Kubernetes.
REAL_FLAGS = (
    *("actor", "kafka_", "redis_", "request_", "config_"),
    *("cancel", "placement_", "kubernetes_", "sidecar_", "debug"),
)
