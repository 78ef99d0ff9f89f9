"""KAR's command line: Go's flags, kar run and kar rest, and what kar says when it cannot."""

import asyncio
import os
import sys

from . import launcher
from .call import Call
from .launcher import Component, StartError
from .replicas import Replicas
from .runtime_folder import RuntimeFolderError

VERSION = "1.3.10-embedded"
REAL_ONLY = "needs the real KAR, with Kafka and Redis; this is the embedded one, for run and rest"

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
FLAGS: dict[str, type] = {
    "app": str,
    "service": str,
    "app_port": int,
    "runtime_port": int,
    "h2c": bool,
    "content_type": str,
    "v": str,
    "hostname": str,
    "missing_component_timeout": str,
    "h": bool,
    "help": bool,
}
# Those of the real KAR that begin with one of these need Kafka, Redis or actors.
REAL_FLAGS = ("actor", "kafka_", "redis_", "request_", "config_", "cancel", "rpclib", "kubernetes_")

Flags = dict[str, str | int | bool]


class UsageError(Exception):
    """The words of the command make no sense."""


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
    except (StartError, RuntimeFolderError) as error:
        launcher.show(b"[FATAL] ", str(error).encode())
        return 1


def parse(words: list[str]) -> tuple[Flags, list[str]]:
    """Return the flags and the words behind them.

    Go's form, which no library of the packages reads: -app x, -app=x, --app x, -h2c, -h2c=true, up
    to a word that is no flag, or behind --. Raise UsageError with Go's words, StartError for a flag
    that only the real KAR has.
    """
    flags: Flags = {}
    words = list(words)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            break
        name, given, value = word.removeprefix("-").removeprefix("-").partition("=")
        if not name or name.startswith("-"):
            raise UsageError(f"bad flag syntax: {word}")
        if name.startswith(REAL_FLAGS):
            raise StartError(f"flag -{name} {REAL_ONLY}")
        if name not in FLAGS:
            raise UsageError(f"flag provided but not defined: -{name}")
        if FLAGS[name] is bool:
            if value.lower() not in ("", "1", "t", "true", "0", "f", "false"):
                raise UsageError(f'invalid boolean value "{value}" for -{name}: parse error')
            flags[name] = value.lower() not in ("0", "f", "false")
            continue
        if not given:
            if not words:
                raise UsageError(f"flag needs an argument: -{name}")
            value = words.pop(0)
        if FLAGS[name] is int:
            try:
                flags[name] = int(value, 0)
            except ValueError:
                raise UsageError(f'invalid value "{value}" for flag -{name}: parse error') from None
        else:
            flags[name] = value
    return flags, words


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
