"""What Go, in which KAR is written, does to a path and to text."""

import codecs
import re
from urllib.parse import quote, unquote


def encode(path: str) -> str:
    """Return a path as Go sends it: ? begins a query, # ends it, and what looks encoded stays."""
    path, mark, query = path.partition("#")[0].partition("?")
    if not re.fullmatch(r"([\w.~$&+,/:;=@!'()*\[\]-]|%[0-9A-Fa-f]{2})*", path, re.ASCII):
        path = quote(unquote(path), safe="/$&+,:;=@")
    return path + mark + quote(query, safe="%/$&+,:;=@!'()*[]?")


def utf8(data: bytes) -> bytes:
    """Return data as UTF-8 text, in which each byte that is none has become U+FFFD."""
    return data.decode(errors="embedded_kar.utf8").encode()


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("embedded_kar.utf8", _replace)
