"""The routes of server.py, in process, with generated names, texts and bytes."""

import json
from collections.abc import Callable

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

CallApp = Callable[..., httpx.Response]

any_text = st.text(st.characters(exclude_categories=[]), max_size=50)
bounded = settings(max_examples=300, deadline=None, derandomize=True)


def is_valid_name(name: str) -> bool:
    """Return whether a name has more than blanks and can be encoded."""
    # The control characters \x1c to \x1f are blanks for Python, but not for Unicode and Pydantic.
    is_blank = not name.strip() and not any(character in "\x1c\x1d\x1e\x1f" for character in name)
    return not is_blank and not any("\ud800" <= character <= "\udfff" for character in name)


@bounded
@given(name=any_text, surname=any_text)
def test_hello_json_with_any_names(call_app: CallApp, name: str, surname: str) -> None:
    body = json.dumps({"name": name, "surname": surname}).encode()
    headers = {"content-type": "application/json"}
    response = call_app("POST", "/helloJson", content=body, headers=headers)
    if is_valid_name(name) and is_valid_name(surname):
        assert response.status_code == 200
        assert response.json()["message"].startswith("Hello ")
        assert name.strip() in response.json()["message"]
        assert surname.strip() in response.json()["message"]
    else:
        assert response.status_code == 422
        assert response.json()["detail"]


@bounded
@given(text=any_text)
def test_hello_text_with_any_text(call_app: CallApp, text: str) -> None:
    response = call_app("POST", "/helloText", content=text.encode(errors="surrogatepass"))
    if is_valid_name(text):
        assert response.status_code == 200
        assert text.strip() in response.json()
    else:
        assert response.status_code == 422
        assert response.json()["detail"]


@bounded
@given(
    body=st.binary(max_size=100),
    path=st.sampled_from(["/helloJson", "/helloText"]),
    content_type=st.sampled_from(["application/json", "text/plain", "x/y; charset=utf-16", ""]),
)
def test_any_bytes_get_a_json_response(
    call_app: CallApp, body: bytes, path: str, content_type: str
) -> None:
    response = call_app("POST", path, content=body, headers={"content-type": content_type})
    assert response.status_code in (200, 400, 422)
    response.json()
