"""The sidecar's HTTP API: what a caller gets and a service sees, as recorded with the real KAR."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.kar import Kar
from support.processes import TIMEOUT as PATIENCE
from support.processes import free_port

CASES = json.loads(Path(__file__).with_name("recorded_cases.json").read_text())
TOO_LARGE = (
    "failed to send message: kafka server: Message was too large, server rejected it to avoid "
    "allocation error\n"
)


class Echo:
    """An echo service of an application, and the address of a sidecar that calls it."""

    def __init__(self, kar: Kar, h2c: bool) -> None:
        self.kar = kar
        self.h2c = h2c
        self.port = free_port()
        flags = ["-h2c"] if h2c else []
        flags += ["-service", "echo", "-app_port", str(self.port)]
        kar.run(*flags, "python", "tests/support/echo_service.py").wait_for_line("Running on")
        self.sidecar = kar.start_sidecar().url

    def ask(self, method: str, path: str, http2: bool = True, **content: Any) -> httpx.Response:
        with httpx.Client(
            http1=not http2, http2=http2, trust_env=False, verify=False, timeout=PATIENCE
        ) as client:
            return client.request(method, self.sidecar + path, **content)

    def call(self, method: str, path: str, **content: Any) -> httpx.Response:
        return self.ask(method, "/kar/v1/service/echo/call" + path, **content)

    def told(self, **spec: Any) -> httpx.Response:
        """Call a route that answers as it is told: status, headers, body or hex."""
        return self.call("POST", "/spec", json=spec)


@pytest.fixture(scope="module", params=["h2c", "http1"])
def echo(module_kar: Kar, request: pytest.FixtureRequest) -> Echo:
    own = Kar(module_kar.path, module_kar.processes)  # an application of its own
    return Echo(own, request.param == "h2c")


def content_of(case: dict[str, Any]) -> dict[str, Any]:
    request = case["request"]
    content: dict[str, Any] = {"headers": request.get("headers", [])}
    saw = case.get("service_saw", {}).get("headers", {})
    if case["name"] == "big 4MB":
        content["content"] = b"x" * 4 * 1024 * 1024
    elif case["name"].startswith("reply"):
        status = case["name"].removeprefix("reply ")
        if status == "ct json":
            spec: dict[str, Any] = {"headers": {"content-type": "application/json"}}
            spec["body"] = '{"a":1}'
        else:
            headers = {"content-type": "text/plain", "x-z": "1", "location": "/elsewhere"}
            spec = {"status": int(status), "headers": headers, "body": f"b{status}"}
        content["content"] = json.dumps(spec)
    elif "body_base64" in request:
        content["content"] = base64.b64decode(request["body_base64"])
    elif "body" in request:
        content["content"] = request["body"].encode()
    if saw.get("content-type") == "application/json" and not content["headers"]:
        content["headers"] = [["content-type", "application/json"]]
    return content


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
@pytest.mark.parametrize("http2", [True, False], ids=["HTTP/2", "HTTP/1.1"])
def test_recorded_case(echo: Echo, case: dict[str, Any], http2: bool) -> None:
    request, expected = case["request"], case["response"]
    if case["name"] == "headers" and echo.h2c and not http2:
        pytest.skip("KAR cannot pass Connection: close on over HTTP/2")
    answer = echo.ask(request["method"], request["path"], http2, **content_of(case))
    assert answer.status_code == expected["status"]
    assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    known = {name: answer.headers[name] for name in answer.headers if answer.headers[name]}
    for name in ("date", "content-length", "connection"):
        known.pop(name, None)
    assert known == expected["headers"]
    if "body" in expected:
        assert answer.text == expected["body"]
    if "service_saw" in case:
        saw = answer.json()
        for each in ("method", "path", "query", "body"):
            assert saw[each] == case["service_saw"][each]
        assert saw["http_version"] == ("2" if echo.h2c else "1.1")
        headers = saw["headers"]
        headers.pop("connection", None)
        assert headers == {
            name: value.replace("<app_port>", str(echo.port))
            for name, value in case["service_saw"]["headers"].items()
        }


def test_equal_headers_all_arrive(echo: Echo) -> None:
    saw = echo.call("GET", "/", headers=[("x-a", "1"), ("x-a", "2")]).json()
    assert [value for name, value in saw["all_headers"] if name == "x-a"] == ["1", "2"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_all_methods_call(echo: Echo, method: str) -> None:
    answer = echo.call(method, "/a", content=b"x" if method in ("POST", "DELETE") else b"")
    assert answer.status_code == 200
    assert answer.json()["method"] == method


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/", "/"),
        ("//a//b", "//a//b"),
        ("/a%2Fb", "/a/b"),
        ("/a/../b", "/a/../b"),
        ("/a%20b", "/a%20b"),
        ("/Zo%C3%AB", "/Zo%C3%AB"),
        ("/http://example.com/", "/http://example.com/"),
        ("/a!b", "/a!b"),
        ("/a%2541", "/a%41"),
    ],
)
def test_a_path_is_decoded_and_encoded_again(echo: Echo, path: str, seen: str) -> None:
    target = "/kar/v1/service/echo/call" + path
    with httpx.Client(http1=False, http2=True, trust_env=False, verify=False) as client:
        extensions = {"target": target.encode()}
        answer = client.get(echo.sidecar, extensions=extensions)
    assert answer.json()["path"] == seen


def test_bytes_that_are_no_text_become_replacement_characters(echo: Echo) -> None:
    assert (
        echo.call("POST", "/", content=b"a\xe2\x82b\xff").json()["body"] == "a\ufffd\ufffdb\ufffd"
    )
    assert echo.told(hex="61ff").content == "a\ufffd".encode()


def test_only_status_content_type_and_body_come_back(echo: Echo) -> None:
    answer = echo.told(status=418, headers={"x-a": "1", "set-cookie": "a=b"}, body="tea")
    assert (answer.status_code, answer.text) == (418, "tea")
    assert set(answer.headers) - {"date", "content-length", "content-type"} == set()


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_is_followed_with_get(echo: Echo, status: int) -> None:
    headers = {"location": "/elsewhere?a=b"}
    saw = echo.told(status=status, headers=headers).json()
    assert (saw["method"], saw["path"], saw["query"]) == ("GET", "/elsewhere", "a=b")
    assert (saw["body"], "content-type" in saw["headers"]) == ("", False)


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_may_keep_method_and_body(echo: Echo, status: int) -> None:
    saw = echo.told(status=status, headers={"location": "/elsewhere"}).json()
    assert (saw["method"], saw["path"]) == ("POST", "/elsewhere")
    assert json.loads(saw["body"])["status"] == status


@pytest.mark.embedded_only
@pytest.mark.parametrize("host", ["http://127.0.0.1:1", "https://127.0.0.1:1", "//127.0.0.1:1"])
def test_a_redirect_to_another_port_is_refused(echo: Echo, host: str) -> None:
    answer = echo.told(status=302, headers={"location": f"{host}/elsewhere"})
    assert (answer.status_code, "another server" in answer.text) == (501, True)


@pytest.mark.embedded_only
def test_redirects_in_a_circle_are_refused(echo: Echo) -> None:
    answer = echo.told(status=307, headers={"location": "/spec"})
    assert (answer.status_code, "more than 9 times" in answer.text) == (501, True)


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("GET", "/kar/v1/service/echo/call?a=b", 301, "/kar/v1/service/echo/call/?a=b"),
        ("POST", "/kar/v1/service/echo/call", 307, "/kar/v1/service/echo/call/"),
        ("GET", "/kar/v1/system/health/", 301, "/kar/v1/system/health"),
        ("GET", "/kar//v1/system/health", 301, "/kar/v1/system/health"),
    ],
)
def test_a_path_almost_right_is_redirected(
    echo: Echo, method: str, path: str, status: int, location: str
) -> None:
    answer = echo.ask(method, path)
    assert (answer.status_code, answer.headers["location"]) == (status, location)


@pytest.mark.parametrize("method", ["POST", "HEAD", "DELETE"])
def test_health_is_for_get(echo: Echo, method: str) -> None:
    answer = echo.ask(method, "/kar/v1/system/health")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, OPTIONS")


@pytest.mark.embedded_only
@pytest.mark.parametrize(
    "path", ["/kar/v1/await", "/kar/v1/actor/a/1/call/m", "/kar/v1/event/topic/publish"]
)
def test_actors_events_and_promises_need_the_real_kar(echo: Echo, path: str) -> None:
    answer = echo.ask("POST", path)
    assert answer.status_code == 501
    assert "real KAR" in answer.text


@pytest.mark.embedded_only
@pytest.mark.parametrize("pragma", ["promise", "Promise"])
def test_calls_without_an_answer_need_the_real_kar(echo: Echo, pragma: str) -> None:
    answer = echo.call("POST", "/", headers={"pragma": pragma})
    assert answer.status_code == 501
    assert "real KAR" in answer.text


def test_a_body_that_does_not_fit_in_a_kafka_message(echo: Echo) -> None:
    content = b"x" * 999_000
    assert echo.call("POST", "/", content=content).json()["body"] == content.decode()
    answer = echo.call("POST", "/", content=b"x" * 1_000_000)
    assert (answer.status_code, answer.text) == (500, TOO_LARGE)
