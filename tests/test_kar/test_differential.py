"""Make the same generated calls through both KARs and compare what caller and service see.

Differences that are known, and not generated here:

- HEAD, Upgrade, Connection with other values than keep-alive, TE, redirects to other places and
  more than nine of them, compressed responses to a caller that accepts them: the real KAR gives no
  response, or a damaged one; see test_refusals.py.
- Bodies that are not UTF-8: the real KAR damages them.
- Header names and paths that differ only in upper and lower case: Go redirects, or merges.
- A caller's Cache-Control, User-Agent and Cookie: Go adds, shortens or joins them.
- A percent sign in a path, unless it is percent-encoded twice: both give status 500, but Go quotes
  other parts of the path in its message; see recorded_cases.json.
- Control characters in a path: both give status 500, but Go escapes more of them in its message;
  a newline gets 404 from the embedded KAR.
- Queries after a %3F in a path: Go sends a blank as it is, which is not valid HTTP.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.kar import Kar, Topics
from support.kar_service import Service, start_service
from support.processes import EMBEDDED_KAR, Processes

METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
# A # begins a fragment and a ? a query; other characters may be anywhere.
PATHS = st.text(
    st.characters(exclude_characters="?#%", exclude_categories=["Cs", "Cc"]), max_size=12
)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=12)
HEADERS = st.dictionaries(
    st.sampled_from(["accept", "authorization", "content-type", "x-a", "x-b", "referer"]),
    VALUES,
    max_size=3,
)
BODIES = st.text(max_size=40).map(str.encode)
STATUSES = st.sampled_from([200, 201, 202, 203, 301, 302, 303, 307, 308, 400, 404, 418, 500, 503])
LOCATIONS = st.sampled_from(["/x", "x", "../x", "/x/./y", "/a%20b", "/x?y=z", "/x#y", "/a b"])
RESPONSES = st.fixed_dictionaries(
    {"status": STATUSES, "body": st.text(max_size=20)},
    optional={
        "headers": st.fixed_dictionaries(
            {"location": LOCATIONS}, optional={"content-type": st.just("text/plain"), "x-a": VALUES}
        )
    },
)
CALLERS = st.sampled_from(["HTTP/1.1", "HTTP/2"])
bounded = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

pytestmark = pytest.mark.slow

Pair = tuple[Service, Service]


@pytest.fixture(scope="module", params=["h2c", "http1"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """The service echo through the embedded and through the real KAR."""
    processes = Processes(tmp_path_factory.mktemp("pair"))
    real_path = Path(os.environ["KAR"])
    real_kar = Kar(real_path, processes, Topics(real_path, processes))
    kars = (Kar(EMBEDDED_KAR, processes), real_kar)
    embedded, real = (start_service(kar, h2c=request.param == "h2c") for kar in kars)
    yield embedded, real
    processes.end()


def observe(service: Service, *call: Any) -> dict[str, Any]:
    """Make a call and return what the caller, and the service, saw, without the port."""
    response = service.call(*call)
    text = response.text.replace(str(service.replica.port), "<port>")
    seen: dict[str, Any] = {
        "status": response.status_code,
        "content-type": response.headers.get("content-type") or "",
        "body": text,
    }
    if '"all_headers"' in text:
        seen["body"] = json.loads(text)
        seen["body"].pop("headers")
        seen["body"]["all_headers"].sort()
    return seen


@bounded
@given(METHODS, PATHS, HEADERS, BODIES, CALLERS)
def test_generated_request_is_seen_alike(
    pair: Pair, method: str, path: str, headers: dict[str, str], body: bytes, caller: str
) -> None:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    call = (method, "/" + quote(path), fields, body, caller)
    embedded, real = (observe(service, *call) for service in pair)
    assert embedded == real


@bounded
@given(RESPONSES, CALLERS)
def test_generated_response_is_seen_alike(
    pair: Pair, response: dict[str, Any], caller: str
) -> None:
    body = json.dumps(response).encode()
    embedded, real = (observe(service, "POST", "/spec", [], body, caller) for service in pair)
    assert embedded == real
