"""What kar run and kar rest do, once their command line is read."""

import asyncio
import logging
import os
import signal
import socket
from types import SimpleNamespace

from . import go_text, messages
from .delivery import Delivery
from .output import STDERR, STDOUT, FatalError, log, print_text
from .process import raise_file_limit, run_process
from .refusals import RefusedError
from .registry import Registry
from .sidecar import Sidecar


def start(command: str, options: SimpleNamespace, arguments: list[str]) -> int:
    """Run a command with its options and arguments, and return kar's exit status."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of callers that disconnect
    raise_file_limit()
    # A parent may ignore it, and then the system forgets the exit status of the program.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return asyncio.run(run(options, arguments) if command == "run" else rest(options, arguments))


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
    # Its sidecar listens on the port of the environment, though nobody calls it.
    listen(port(0, 0, "KAR_RUNTIME_PORT"))
    method, service, path, *body = arguments
    headers = [(b"content-type", os.fsencode(options.content_type))] if body else []
    method = method.upper() or "GET"
    request = messages.Request(method, f"/{path}", headers, os.fsencode("".join(body)))
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


def port(flag: int, default: int, variable: str) -> int:
    """Return a port from its flag, or from an environment variable if the flag has its default."""
    number = flag
    value = os.environ.get(variable)
    if value and flag == default:
        try:
            number = go_text.integer(value)
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
