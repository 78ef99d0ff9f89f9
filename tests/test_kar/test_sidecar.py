"""A sidecar's HTTP API, with cases that were recorded from the real KAR."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.kar import Service

CASES = json.loads(Path(__file__).with_name("recorded_cases.json").read_text())
RUNS = [
    pytest.param(case, service, caller, id=f"{case['name']}-{service}-{caller}")
    for case in CASES
    for service in case["services"]
    for caller in case["callers"]
]


def content(value: str | dict[str, Any]) -> bytes:
    """Return the bytes of a recorded value: text, bytes in hexadecimal, or a repeated text."""
    if isinstance(value, str):
        return value.encode()
    if "hex" in value:
        return bytes.fromhex(value["hex"])
    repeated: str = value["repeat"] * value["count"]
    return repeated.encode()


@pytest.mark.parametrize(("case", "echo", "caller_version"), RUNS, indirect=["echo"])
def test_sidecar_responds_as_recorded(
    echo: Service, case: dict[str, Any], caller_version: str
) -> None:
    def recorded(text: str) -> str:
        """Return a recorded text with the placeholders filled in."""
        text = text.replace("<service>", echo.replica.service)
        return text.replace("<app_port>", str(echo.replica.port))

    sent = case["request"]
    headers = [(name.encode(), content(value)) for name, value in sent["headers"]]
    response = echo.request(
        sent["method"], recorded(sent["path"]), headers, content(sent["body"]), caller_version
    )
    expected = case["response"]
    assert (response.status_code, response.http_version) == (expected["status"], caller_version)
    names = ("allow", "content-type", "location", "x-content-type-options")
    assert {name: response.headers[name] for name in names if response.headers.get(name)} == {
        name: recorded(value) for name, value in expected["headers"].items()
    }
    if "body" in expected:
        assert response.text == recorded(expected["body"])
    if "service_saw" in case:
        saw = response.json()
        assert {name: saw[name] for name in ("method", "path", "query", "body")} == {
            name: case["service_saw"][name] for name in ("method", "path", "query", "body")
        }
        assert saw["http_version"] == ("2" if echo.h2c else "1.1")
        assert sorted(saw["all_headers"]) == [
            [name, recorded(value)] for name, value in case["service_saw"]["headers"]
        ]


def test_sidecar_names_go_as_user_agent(echo: Service) -> None:
    saw = echo.call("GET", "/").json()
    assert saw["headers"]["user-agent"] == f"Go-http-client/{'2.0' if echo.h2c else '1.1'}"


def test_sidecar_follows_nine_redirects(echo: Service) -> None:
    """The tenth is refused by the embedded KAR; the real one begins again and again."""
    saw = echo.call("POST", "/redirects/9", body=b"x").json()
    assert (saw["method"], saw["path"], saw["body"]) == ("POST", "/redirects/0", "x")
    assert saw["headers"]["referer"] == f"{echo.replica.url}/redirects/1"


def test_body_is_not_sent_again_after_a_redirect_dropped_it(echo: Service) -> None:
    """A 302 makes the request a GET without a body, and so it stays after a 307."""
    spec = {"status": 302, "headers": {"location": "/redirects/1"}}
    names = ("content-type", "content-language", "content-location", "x-a")
    headers = [(name.encode(), b"x") for name in names]
    saw = echo.call("POST", "/spec", headers, json.dumps(spec).encode()).json()
    assert (saw["method"], saw["path"], saw["body"]) == ("GET", "/redirects/0", "")
    assert [name for name in names if name in saw["headers"]] == ["x-a"]


def test_request_just_below_the_limit_is_passed_on(echo: Service) -> None:
    body = json.dumps({"padding": "x" * 999_000}).encode()
    assert echo.call("POST", "/spec", body=body).status_code == 200


def test_headers_count_in_the_size_of_a_request(echo: Service) -> None:
    response = echo.call("POST", "/", [(b"x-a", b"x" * 20_000)], b"x" * 990_000)
    assert (response.status_code, "too large" in response.text) == (500, True)


def test_query_that_is_not_utf8_is_dropped(h2c_echo: Service) -> None:
    service = h2c_echo.replica.service
    response = h2c_echo.request("GET", f"/kar/v1/service/{service}/call/x?\udcff")
    assert (response.status_code, response.json()["query"]) == (200, "")


def test_async_call_logs_an_error_status(h2c_echo: Service) -> None:
    """The real KAR prints the line next to the service, the embedded one next to the caller."""
    body = json.dumps({"status": 500, "body": "oops"}).encode()
    response = h2c_echo.call("POST", "/spec", [(b"pragma", b"async")], body)
    assert (response.status_code, response.text) == (202, "OK")
    line = "[ERROR] Asynchronous POST of /spec returned status 500 with body oops"
    embedded = h2c_echo.kar.is_embedded
    process = h2c_echo.sidecar.process if embedded else h2c_echo.replica.process
    process.wait_for_line(line)


@pytest.mark.embedded_only
@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/kar/v1/await", []),
        ("/kar/v1/actor/a/1/call/m", []),
        ("/kar/v1/event/topic/publish", []),
        ("/kar/v1/system/information/sidecars", []),
        ("/kar/v1/system/shutdown", []),
        ("/metrics", []),
        ("/kar/v1/service/echo/call/", [(b"pragma", b"promise")]),
    ],
)
def test_what_needs_the_real_kar_is_refused(
    h2c_echo: Service, path: str, headers: list[tuple[bytes, bytes]]
) -> None:
    response = h2c_echo.request("POST", path, headers)
    assert (response.status_code, "needs the real KAR" in response.text) == (501, True)


@pytest.mark.embedded_only
def test_query_string_is_reported_once_for_each_path(h2c_echo: Service) -> None:
    for _ in range(2):
        assert h2c_echo.call("GET", "/with-query?a=b").json()["query"] == ""
    assert h2c_echo.call("GET", "/other-query?a=b").status_code == 200
    lines = [line for line in h2c_echo.sidecar.process.stderr_lines() if "-query:" in line]
    assert len(lines) == 2
    assert "[WARNING] GET /kar/v1/service/echo/call/with-query: " in lines[0]
