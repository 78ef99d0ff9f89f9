"""KAR's command line, and what kar prints when it cannot start.

The flags have the forms of Go's package flag, which argparse does not read: -app x, -app=x,
--app x, -h2c and -h2c=true; they end at -- or at the first argument that is not a flag.
"""

import os
import re
from collections.abc import Callable
from types import SimpleNamespace

from . import go_text
from .output import STDERR, STDOUT, FatalError, log, print_text

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
  -kubernetes_mode, -sidecar_mode, -config_dir DIRECTORY
                       accepted, without effect: kar always listens on 127.0.0.1

Options of kar rest:
  -content_type TYPE   of the BODY (default: application/json)

All other commands and flags of KAR need the real KAR, with Kafka and Redis.
"""
# The flags of each command with their defaults, whose types say how the flags are read.
Flags = dict[str, str | int | float | bool]
COMMON: Flags = {"app": "", "missing_component_timeout": 120.0, "v": "", "help": False, "h": False}
FLAGS: dict[str, Flags] = {
    "run": COMMON
    | {"service": "", "app_port": 8080, "runtime_port": 0, "h2c": False}
    | {"kubernetes_mode": False, "sidecar_mode": False, "config_dir": ""},
    "rest": COMMON | {"content_type": "application/json"},
}


class UsageError(Exception):
    """The arguments are wrong; str() is Go's message, which is printed before the usage."""


def main(arguments: list[str]) -> int:
    """Run kar with its arguments and return its exit status."""
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
        from . import commands  # here, because it takes longer than to print the usage

        return commands.start(command, options, others)
    except UsageError as error:
        print_text(f"{error}\n{USAGE}", STDERR)
        return 2
    except FatalError as error:
        log("FATAL", str(error), STDOUT)
        return 1


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
            problem = f'invalid value "{value}" for flag -{name}'
            if kind is bool:
                problem = f'invalid boolean value "{value}" for -{name}'
            raise UsageError(f"{problem}: parse error") from error
    return options, remaining


def boolean(text: str) -> bool:
    """Return what Go reads as a truth value; raises ValueError."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(text)


READERS: dict[type, Callable[[str], object]] = {
    str: str,
    int: go_text.integer,
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
