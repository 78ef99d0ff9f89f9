"""Which calls and responses are refused because KAR cannot pass them on, and why.

KAR passes them on as Kafka messages. A message is a JSON object, so its size depends on how many
characters have to be escaped.
"""

import re

from . import go_text
from .messages import MAX_RESPONSE, Request, Response

MAX_MESSAGE = MAX_RESPONSE  # bytes, unless Kafka is configured otherwise
ALWAYS_FITS = MAX_MESSAGE // 12  # bytes: escaping makes at most 7 of one, and there is overhead
# Bytes that a message needs besides its strings, including Kafka's headers.
CALL_OVERHEAD = 333
RESPONSE_OVERHEAD = 205
METHOD = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)


class RefusedError(Exception):
    """A call is not made, or its response not passed on; str() is the reason."""

    def __init__(self, reason: str, status: int = 501) -> None:
        """Take the reason, and the real KAR's status if that refuses the call as well."""
        super().__init__(reason)
        self.status = status


def check_call(service: str, request: Request) -> None:
    """Raise RefusedError if a call cannot succeed, whatever the service does."""
    if not METHOD.fullmatch(request.method):
        invalid = go_text.quoted(request.method)
        raise RefusedError(f"failed to send message: net/http: invalid method {invalid}", 500)
    if request.method == "HEAD":
        raise RefusedError(
            "KAR repeats a HEAD request for 15 minutes if the response has a Content-Length: "
            "use GET"
        )
    if not go_text.is_utf8(request.body):
        raise RefusedError(
            "the request body is not UTF-8 text; KAR would damage it: encode it as Base64"
        )
    if _call_size(service, request) > MAX_MESSAGE:
        raise RefusedError(
            "failed to send message: kafka server: Message was too large, server rejected it to "
            "avoid allocation error",
            500,
        )


def check_connection_headers(request: Request) -> None:
    """Raise RefusedError for headers that Go's HTTP/2 client does not send."""
    if any(name == b"upgrade" for name, _ in request.headers):
        raise RefusedError(
            "KAR cannot pass the header Upgrade on to a service with -h2c, and the call gets no "
            "response: send the request without it"
        )
    values = [value.lower() for name, value in request.headers if name == b"connection"]
    if values not in ([], [b""], [b"keep-alive"]):
        raise RefusedError(
            "KAR cannot pass the header Connection on to a service with -h2c, and the call gets "
            "no response: keep the connection open, or use HTTP/2"
        )


def check_response(response: Response) -> None:
    """Raise RefusedError for a response that KAR would damage or could not send."""
    if not go_text.is_utf8(response.body):
        remedy = "encode it as Base64"
        if b"content-encoding" in response.headers:
            remedy = "send the request with Accept-Encoding: identity"
        raise RefusedError(f"the response body is not UTF-8 text; KAR would damage it: {remedy}")
    if response.status in (204, 304) and response.headers.get(b"content-length", b"0") != b"0":
        raise RefusedError(
            f"the response has status {response.status} and a Content-Length; KAR would wait for "
            "its body, and repeat the call for 15 minutes: send no Content-Length"
        )
    if _response_size(response) > MAX_MESSAGE:
        raise RefusedError(
            "the response is larger than a Kafka message of 1,000,000 bytes; the kar of the "
            "service would exit and leave the caller waiting: split the response"
        )


def _call_size(service: str, request: Request) -> int:
    """Return the size of a call's message in bytes, or a little more."""
    texts = [service.encode(), request.method.encode(), request.path.encode(), request.body]
    size = sum(map(len, texts))
    if size < ALWAYS_FITS:  # and headers are at most as large
        return size
    # The headers are a JSON object in a string of the message.
    texts.append(
        b"".join(
            b"%b:[%b]," % (go_text.to_json(name), go_text.to_json(value))
            for name, value in request.headers
        )
    )
    return CALL_OVERHEAD + sum(len(go_text.to_json(text)) for text in texts)


def _response_size(response: Response) -> int:
    """Return the size of a response's message in bytes, or a little more."""
    if len(response.body) < ALWAYS_FITS:
        return len(response.body)
    texts = (response.content_type, response.body)
    return RESPONSE_OVERHEAD + sum(len(go_text.to_json(text)) for text in texts)
