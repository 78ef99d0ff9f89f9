"""How Go, the language of KAR, reads and writes text: UTF-8, JSON, URLs and durations."""

import json
import math
import re
from urllib.parse import quote as percent_encode
from urllib.parse import unquote_to_bytes

REPLACEMENT = "\ufffd"
# The part of a path that Go sends as it is; anything else makes it encode the whole path again.
VALID_PATH = re.compile(r"([\w.~$&+,/:;=@!'()*\[\]-]|%[0-9A-Fa-f]{2})*", re.ASCII)
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
DURATION = re.compile(r"([-+]?)((?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+")
DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
MAX_DURATION = 2**63 / 1e9  # seconds; Go counts nanoseconds in 64 bits
QUOTED = {
    '"': r"\"",
    "\\": r"\\",
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
}


class GoError(ValueError):
    """Go cannot read a text; str() is Go's message."""


def decode(data: bytes) -> str:
    """Return bytes as text; each byte that is not part of valid UTF-8 becomes U+FFFD."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        text = data.decode(errors="surrogateescape")
        return re.sub("[\udc80-\udcff]", REPLACEMENT, text)


def to_utf8(data: bytes) -> bytes:
    """Return bytes as valid UTF-8, with U+FFFD for each byte that is not."""
    if data.isascii():
        return data
    return decode(data).encode()


def json_string(data: bytes) -> str:
    """Return a string as encoding/json writes it, with its quotation marks."""
    string = json.dumps(data.decode(errors="surrogateescape"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        string = string.replace(character, f"\\u{ord(character):04x}")
    return re.sub("[\udc80-\udcff]", r"\\ufffd", string)


def quote(text: str) -> str:
    """Return a text in quotation marks, as the format %q does."""
    characters = []
    for character in text:
        if character in QUOTED:
            characters.append(QUOTED[character])
        elif character.isprintable():
            characters.append(character)
        elif ord(character) < 0x80:
            characters.append(f"\\x{ord(character):02x}")
        elif ord(character) < 0x10000:
            characters.append(f"\\u{ord(character):04x}")
        else:
            characters.append(f"\\U{ord(character):08x}")
    return '"' + "".join(characters) + '"'


def request_target(address: str, path: str) -> bytes:
    """Return the target that Go's client sends for http://address/path.

    A ? begins a query and a # a fragment, which is not sent. What looks percent-encoded stays as
    it is. Raises GoError with the message of url.Parse if the path is invalid.
    """
    url = f"http://{address}{path}"
    path, _, fragment = path.partition("#")
    path, question_mark, query = path.partition("?")
    try:
        if CONTROL_CHARACTERS.search(path + query):
            raise GoError("net/url: invalid control character in URL")
        _check_escapes(path)
        _check_escapes(fragment)
    except GoError as error:
        raise GoError(f"parse {quote(url)}: {error}") from error
    if not VALID_PATH.fullmatch(path):
        path = percent_encode(unquote_to_bytes(path), safe="/$&+,:;=@")
    query = percent_encode(query, safe="%/$&+,:;=@!'()*[]?")
    return (path + question_mark + query).encode()


def _check_escapes(text: str) -> None:
    invalid = re.search("%(?![0-9A-Fa-f]{2})", text)
    if invalid:
        raise GoError(f"invalid URL escape {quote(text[invalid.start() :][:3])}")


def duration(text: str) -> float:
    """Return the seconds of a duration such as 3s, 1h30m or -1.5h; raises GoError."""
    if text in ("0", "+0", "-0"):
        return 0.0
    match = DURATION.fullmatch(text)
    if not match:
        raise GoError("parse error")
    parts = DURATION_PART.findall(text)
    seconds = math.fsum(float(number) * SECONDS[unit] for number, unit in parts)
    if seconds >= MAX_DURATION:
        raise GoError("parse error")
    return -seconds if match[1] == "-" else seconds
