"""The size of a Kafka message, which limits the requests and responses that KAR can pass on.

A message is a JSON object, so its size depends on how many characters have to be escaped.
"""

from . import go_text

MAX_MESSAGE = 1_000_000  # bytes, unless Kafka is configured otherwise
ALWAYS_FITS = MAX_MESSAGE // 12  # bytes; one byte becomes 6, or 12 in a header, when escaped
# Bytes of a message beside the strings in it, with Kafka's own headers, such as the request ID.
CALL_OVERHEAD = 333
RESPONSE_OVERHEAD = 205


def is_call_too_large(
    service: str, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> bool:
    """Return whether Kafka would reject a call; up to 1,000 bytes below its limit, perhaps too."""
    length = len(path) + sum(len(name) + len(value) for name, value in headers) + len(body)
    if length < ALWAYS_FITS:
        return False
    # The headers are a JSON object in a string of the message.
    header = b"".join(
        b"%b:[%b]," % (go_text.to_json(name), go_text.to_json(value)) for name, value in headers
    )
    strings = (service.encode(), method.encode(), path.encode(), header, body)
    return CALL_OVERHEAD + sum(len(go_text.to_json(each)) for each in strings) > MAX_MESSAGE


def is_response_too_large(content_type: bytes, body: bytes) -> bool:
    """Return whether Kafka would reject a response."""
    if len(body) < ALWAYS_FITS:
        return False
    size = len(go_text.to_json(content_type)) + len(go_text.to_json(body))
    return RESPONSE_OVERHEAD + size > MAX_MESSAGE
