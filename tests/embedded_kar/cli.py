"""KAR's command line: kar run, kar rest, and what kar prints when it cannot start.

The flags have the forms of Go's package flag, which argparse does not read: -app x, -app=x,
--app x, -h2c and -h2c=true; they end at -- or at the first argument that is not a flag.
"""

import asyncio
import logging
import os
import re
import signal
import socket
from collections.abc import Callable
from types import SimpleNamespace

from . import go_text, http_client
from .delivery import Delivery
from .output import STDERR, STDOUT, FatalError, log, print_text
from .process import raise_file_limit, run_process
from .refusals import RefusedError
from .registry import Registry
from .sidecar import Sidecar

VERSION = "1.3.10-embedded"
USAGE = """\
Usage of the embedded kar, for one user on one machine:
  kar run [OPTIONS] [--] COMMAND ARGS...          run an application component
  kar rest [OPTIONS] METHOD SERVICE PATH [BODY]   call a route of a service
  kar version
  kar help

Options of both:
  -app NAME            the application (required); applications do not see each other
  -missing_component_timeout TIME
                       how long a call waits for a service, such as 30s (default: 2m)
  -v LEVEL             accepted, without effect

Options of kar run:
  -service NAME        the service that the process provides (default: none)
  -app_port PORT       where the sidecar reaches the process (default: KAR_APP_PORT, else 8080)
  -runtime_port PORT   where the process reaches the sidecar (default: KAR_RUNTIME_PORT or any)
  -h2c                 call the process over HTTP/2 without TLS, instead of HTTP/1.1

Options of kar rest:
  -content_type TYPE   of the BODY (default: application/json)

All other commands and flags of KAR need the real KAR, with Kafka and Redis.
"""
# The flags of each command with their defaults, whose types say how the flags are read.
Flags = dict[str, str | int | float | bool]
COMMON: Flags = {"app": "", "missing_component_timeout": 120.0, "v": "", "help": False, "h": False}
FLAGS: dict[str, Flags] = {
    "run": COMMON | {"service": "", "app_port": 8080, "runtime_port": 0, "h2c": False},
    "rest": COMMON | {"content_type": "application/json"},
}


class UsageError(Exception):
    """The arguments are wrong; str() is Go's message, which is printed before the usage."""


def main(arguments: list[str]) -> int:
    """Run kar with its arguments and return its exit status."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of callers that disconnect
    raise_file_limit()
    # If a standard stream is closed, the next file or socket would take its place: open it.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    command = arguments[0] if arguments else ""
    try:
        if command == "version":
            print_text(f"{VERSION}\n", STDOUT)
            return 0
        if command in ("help", "-h", "--h", "-help", "--help"):
            print_text(USAGE, STDOUT)
            return 0
        if command not in FLAGS:
            raise UsageError("invalid command")
        options, others = parse(FLAGS[command], arguments[1:])
        if options.h or options.help:
            print_text(USAGE, STDOUT)
            return 0
        check_application(options.app)
        return asyncio.run(run(options, others) if command == "run" else rest(options, others))
    except UsageError as error:
        print_text(f"{error}\n{USAGE}", STDERR)
        return 2
    except FatalError as error:
        log("FATAL", str(error), STDOUT)
        return 1


async def run(options: SimpleNamespace, command: list[str]) -> int:
    """Run a sidecar and its process until the process exits or a signal arrives."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2):  # Go's programs go on
        loop.add_signal_handler(number, lambda: None)
    app_port = port(options.app_port, 8080, "KAR_APP_PORT")
    registry = Registry(options.app)
    listener = listen(port(options.runtime_port, 0, "KAR_RUNTIME_PORT"))
    environment = os.environ | {
        "KAR_RUNTIME_PORT": str(listener.getsockname()[1]),
        "KAR_APP_PORT": str(app_port),
        "KAR_REQUEST_TIMEOUT": "-1000",  # milliseconds; below 0 there is no limit
    }
    sidecar = Sidecar(Delivery(registry, options.missing_component_timeout))
    sidecar.start(listener)
    if options.service:  # other components only make calls
        registry.register(options.service, app_port, options.h2c)
    status = 0
    try:
        if command:
            status = await run_process(command, environment, stop)
        else:
            await stop.wait()
    finally:
        registry.unregister()
    await sidecar.finish_background_calls(stop)
    # Workaround: asyncio.run() would now cancel the requests in flight, for which Hypercorn can
    # hang, and then report the output that a grandchild holds open.
    os._exit(status)


async def rest(options: SimpleNamespace, arguments: list[str]) -> int:
    """Call a route of a service, and print the body of the response."""
    if len(arguments) not in (3, 4):
        count = len(arguments)
        raise FatalError(f"rest expects either three or four arguments; got {count}")
    # Go would replace bytes that are not UTF-8 as well.
    arguments = [os.fsencode(each).decode(errors="replace") for each in arguments]
    method, service, path, *body = arguments
    headers = [(b"content-type", os.fsencode(options.content_type))] if body else []
    method = method.upper() or "GET"
    request = http_client.Request(method, f"/{path}", headers, "".join(body).encode())
    delivery = Delivery(Registry(options.app), options.missing_component_timeout)
    try:
        response = await delivery.call(service, request)
    except RefusedError as error:
        reason = str(error).removeprefix("failed to send message: ")
        log("ERROR", f"error invoking the service: {reason}", STDOUT)
        return 1
    text = response.body.decode()
    if response.status == 200:
        print_text(f"{text}\n", STDOUT)
    else:
        print_text(f"[STDERR] HTTP status: {response.status}\n[STDERR] {text}\n", STDERR)
    return 0


def parse(flags: Flags, arguments: list[str]) -> tuple[SimpleNamespace, list[str]]:
    """Return the values of the flags, and the arguments after them; raises UsageError."""
    options = SimpleNamespace(**flags)
    remaining = list(arguments)
    while remaining and remaining[0].startswith("-") and remaining[0] != "-":
        argument = remaining.pop(0)
        if argument == "--":
            break
        name, has_value, value = re.sub("^--?", "", argument).partition("=")
        if name not in flags:
            raise UsageError(f"flag provided but not defined: -{name}")
        kind = type(flags[name])
        if kind is bool and not has_value:
            value = "true"
        elif not has_value:
            if not remaining:
                raise UsageError(f"flag needs an argument: -{name}")
            value = remaining.pop(0)
        try:
            setattr(options, name, READERS[kind](value))
        except ValueError as error:
            raise UsageError(f'invalid value "{value}" for flag -{name}: parse error') from error
    return options, remaining


def boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def integer(text: str) -> int:
    if not re.fullmatch("[+-]?[0-9]+", text):  # int() also accepts blanks and underscores
        raise ValueError(text)
    return int(text)


READERS: dict[type, Callable[[str], object]] = {
    str: str,
    int: integer,
    float: go_text.duration,
    bool: boolean,
}


def check_application(name: str) -> None:
    """Raise FatalError if Kafka would reject an application's name as part of a topic's name."""
    if not name:
        raise FatalError("app name is required")
    if not re.fullmatch(r"[\w.-]{1,245}", name, re.ASCII):
        raise FatalError(
            f"failed to connect to Kafka: Topic name is invalid: 'kar_{name}' must be at most 249 "
            "ASCII letters, digits, '.', '_' and '-'"
        )


def port(flag: int, default: int, variable: str) -> int:
    """Return a port from its flag, or from an environment variable if the flag has its default."""
    number = flag
    value = os.environ.get(variable)
    if value and flag == default:
        try:
            number = integer(value)
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
        problem = f"listen tcp 127.0.0.1:{runtime_port}: bind: {os.strerror(error.errno or 0)}"
        raise FatalError(f"TCP listener failed: {problem.lower()}") from error
