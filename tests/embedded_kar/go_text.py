"""How Go, the language of KAR, reads and writes text: UTF-8, JSON, URLs, numbers and durations."""

import json
import re
from urllib.parse import quote, unquote_to_bytes

# A path that Go sends unchanged. Any other character makes Go encode the whole path again.
VALID_PATH = re.compile(r"([\w.~$&+,/:;=@!'()*\[\]-]|%[0-9A-Fa-f]{2})*", re.ASCII)
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
INVALID_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
DURATION = re.compile(rf"[-+]?(0|({DURATION_PART.pattern})+)")
SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
MAX_SECONDS = 2**63 / 1e9  # Go stores nanoseconds as a signed 64-bit integer


def to_utf8(data: bytes) -> bytes:
    """Return bytes as valid UTF-8, with U+FFFD for each byte that is not."""
    if data.isascii():
        return data
    text = data.decode(errors="surrogateescape")
    return re.sub("[\udc80-\udcff]", "\ufffd", text).encode()


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def to_json(data: bytes) -> bytes:
    """Return Go's JSON for some text, with XXXX for the digits of an escape: the length matters.

    encoding/json escapes a few more characters than JSON demands, with six bytes each.
    """
    string = json.dumps(data.decode(errors="surrogateescape"), ensure_ascii=False)
    return re.sub("[<>&\u2028\u2029\udc80-\udcff]", r"\\uXXXX", string).encode()


def quoted(text: str) -> str:
    """Return a text in quotation marks, with \\x00 for a NUL, as Go's messages have it."""
    escaped = repr(text)[1:-1].replace('"', r"\"")
    return f'"{escaped}"'


def encode_path(path: str) -> str:
    """Return what Go's client sends for the path of a URL; raises ValueError with Go's message.

    A ? begins a query and a # a fragment, which is not sent. What looks percent-encoded stays as
    it is.
    """
    path, _, fragment = path.partition("#")
    path, question_mark, query = path.partition("?")
    if CONTROL_CHARACTER.search(path + query):
        raise ValueError("net/url: invalid control character in URL")
    for part in (path, fragment):
        if invalid := INVALID_ESCAPE.search(part):
            raise ValueError(f'invalid URL escape "{invalid[0]}"')
    if not VALID_PATH.fullmatch(path):
        path = quote(unquote_to_bytes(path), safe="/$&+,:;=@")
    return path + question_mark + quote(query, safe="%/$&+,:;=@!'()*[]?")


def integer(text: str) -> int:
    """Return a whole number in decimal digits; raises ValueError."""
    if not re.fullmatch("[+-]?[0-9]+", text):  # int() also accepts blanks and underscores
        raise ValueError("parse error")
    return int(text)


def duration(text: str) -> float:
    """Return the seconds of a duration such as 3s, 1h30m or -1.5h; raises ValueError."""
    seconds = sum(float(number) * SECONDS[unit] for number, unit in DURATION_PART.findall(text))
    if not DURATION.fullmatch(text) or seconds >= MAX_SECONDS:
        raise ValueError("parse error")
    return -seconds if text.startswith("-") else seconds
