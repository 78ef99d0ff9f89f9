"""The flags of kar, in the forms of Go's flag package, which no library of the packages reads."""

from .start_error import StartError

REAL_ONLY = "needs the real KAR, with Kafka and Redis; this is the embedded one, for run and rest"
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
REAL_FLAGS = (
    *("actor", "kafka_", "redis_", "request_", "config_"),
    *("cancel", "rpclib", "placement_", "kubernetes_"),
)

Flags = dict[str, str | int | bool]


class UsageError(Exception):
    """The words of the command make no sense."""


def parse(words: list[str]) -> tuple[Flags, list[str]]:
    """Return the flags and the words behind them.

    Flags are -app x, -app=x, --app x, -h2c or -h2c=true, up to -- or a word that is no flag. Raise
    UsageError with Go's words if one is wrong, StartError if only the real KAR has it.
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
