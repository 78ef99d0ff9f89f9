"""KAR's command line: kar run, kar rest, kar help, and what kar says when it cannot start."""

import asyncio
import os
import sys

from . import launcher
from .call import Call
from .flags import REAL_ONLY, Flags, UsageError, parse
from .launcher import Component
from .replicas import Replicas
from .start_error import StartError

VERSION = "1.3.10-embedded"

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
  -service NAME
        the service that the process provides; without it, the process only calls
  -app_port N
        where the sidecar reaches the process (default: KAR_APP_PORT, else 8080)
  -runtime_port N
        where the process reaches the sidecar (default: KAR_RUNTIME_PORT, else a free port)
  -h2c
        call the process with HTTP/2, without TLS, instead of HTTP/1.1
  -content_type TYPE
        of the body of kar rest (default: application/json)
  -v LEVEL, -hostname NAME, -missing_component_timeout TIME
        accepted, without effect here

This is the embedded KAR, for one user on one machine. All else needs the real one.
"""


def main(words: list[str]) -> int:
    """Run kar with the words behind its name; return the exit status."""
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command in ("help", "-help", "--help", "-h", "--h"):
        print(USAGE, end="")
        return 0
    if command == "version":
        print(VERSION)
        return 0
    try:
        if command in ("get", "invoke", "purge", "drain"):
            raise StartError(f"kar {command} {REAL_ONLY}")
        if command not in ("run", "rest"):
            raise UsageError("invalid command")
        flags, arguments = parse(rest)
        if flags.get("h") or flags.get("help"):
            print(USAGE, end="")
            return 0
        if not flags.get("app"):
            raise StartError("app name is required")
        return asyncio.run((run if command == "run" else call)(flags, arguments))
    except UsageError as error:
        print(f"{error}\n{USAGE}", end="", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 1
    except StartError as error:
        launcher.show(b"[FATAL] ", str(error).encode())
        return 1


def port(flags: Flags, name: str, variable: str, default: int) -> int:
    """Return a port by its flag, else by its environment variable, else the default."""
    if name in flags:
        number = int(flags[name])
    else:
        try:
            number = int(os.environ.get(variable) or default)
        except ValueError:
            raise StartError(f"error parsing {variable} as an integer") from None
    if not 0 <= number < 65536:
        raise StartError(f"TCP listener failed: listen tcp: address {number}: invalid port")
    return number


async def run(flags: Flags, command: list[str]) -> int:
    component = Component(
        app=str(flags["app"]),
        service=str(flags.get("service", "")),
        app_port=port(flags, "app_port", "KAR_APP_PORT", 8080),
        runtime_port=port(flags, "runtime_port", "KAR_RUNTIME_PORT", 0),
        h2c=bool(flags.get("h2c")),
        command=command,
    )
    return await launcher.run(component)


async def call(flags: Flags, words: list[str]) -> int:
    """Call a route of a service and print the body of its answer, or its status and the body."""
    if len(words) < 3:
        raise UsageError("kar rest needs METHOD SERVICE PATH")
    method, service, path, *body = words
    headers = []
    if body:
        headers.append(
            (b"content-type", str(flags.get("content_type", "application/json")).encode())
        )
    replicas = Replicas(str(flags["app"]))
    watching = asyncio.create_task(replicas.watch())
    request = Call(method.upper(), "/" + path, headers, body[0].encode() if body else b"")
    answer = await replicas.call(service, request, asyncio.sleep)
    watching.cancel()
    text = answer.body.decode()
    if answer.status == 200:
        print(text)
    else:
        print(f"[STDERR] HTTP status: {answer.status}\n[STDERR] {text}", file=sys.stderr)
    return 0
