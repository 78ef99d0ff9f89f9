"""The embedded KAR among other users, other people's files, and clients that go wrong."""

import contextlib
import fcntl
import json
import os
import random
import socket
import time

import h2.connection
import psutil
import pytest
from support.http2 import http2_client, send_next_to_greetings
from support.kar import Kar, Sidecar
from support.processes import Process, free_port, wait_until

pytestmark = pytest.mark.embedded_only
CALL = "/kar/v1/service/async-server/call/"
GREETING = CALL + "helloText"
OK = [200] * 50


@pytest.fixture(scope="module")
def greeter(module_kar: Kar) -> Sidecar:
    """A sidecar through which a server.py can be called."""
    module_kar.start_server(HELLO_DELAY="0.5")
    return module_kar.start_sidecar()


def fatal(process: Process) -> str:
    assert process.wait() == 1
    assert len(process.stdout_lines()) == 1
    return process.stdout_lines()[0]


def test_all_ports_are_on_loopback(kar: Kar) -> None:
    replica = kar.start_server().process
    for process in psutil.Process(replica.pid), replica.child():
        ports = [each for each in process.net_connections() if each.status == "LISTEN"]
        assert [each.laddr.ip for each in ports] == ["127.0.0.1"]


def test_runtime_directory_is_private(kar: Kar) -> None:
    kar.start_echo()
    directory = kar.processes.directory / "embedded-kar"
    assert directory.stat().st_mode & 0o777 == 0o700
    (file,) = directory.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_runtime_directory_without_xdg_runtime_dir(kar: Kar) -> None:
    temporary = kar.processes.directory / "tmp"
    temporary.mkdir()
    flags = ("-service", "x")
    kar.run(*flags, "sleep", "1000", XDG_RUNTIME_DIR="", TMPDIR=str(temporary)).child()
    directory = temporary / f"embedded-kar-{os.getuid()}"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert len(list(directory.iterdir())) == 1


@pytest.mark.parametrize("level", ["XDG_RUNTIME_DIR", "below"])
def test_runtime_directory_that_is_a_link(kar: Kar, level: str) -> None:
    directory = kar.processes.directory
    (directory / "other").mkdir(mode=0o700)
    if level == "below":
        (directory / "embedded-kar").symlink_to(directory / "other")
        process = kar.run("true")
    else:
        (directory / "link").symlink_to(directory / "other")
        process = kar.run("true", XDG_RUNTIME_DIR=str(directory / "link"))
    assert "XDG_RUNTIME_DIR" in fatal(process)
    assert list((directory / "other").iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give folders away")
def test_runtime_directory_of_another_user(kar: Kar) -> None:
    directory = kar.processes.directory / "embedded-kar"
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, -1)
    assert "XDG_RUNTIME_DIR" in fatal(kar.run("true"))


def test_runtime_directory_that_others_can_write_to(kar: Kar) -> None:
    directory = kar.processes.directory / "embedded-kar"
    directory.mkdir()
    directory.chmod(0o777)
    assert "XDG_RUNTIME_DIR" in fatal(kar.run("true"))


def test_runtime_directory_that_cannot_be_made(kar: Kar) -> None:
    assert "/dev/null/x" in fatal(kar.run("true", XDG_RUNTIME_DIR="/dev/null/x"))


@pytest.mark.slow
def test_runtime_directory_with_other_files(kar: Kar) -> None:
    """They are removed, since no process holds them; a directory, a pipe and a link stay."""
    directory = kar.processes.directory / "embedded-kar"
    directory.mkdir(mode=0o700)
    dead = {"app": kar.app, "service": "echo", "app_port": free_port(), "h2c": True}
    contents = [b"", b"{", b"\xff" * 100_000, b"[]", b'{"app": 1}', b"null"]
    for number, content in enumerate([*contents, json.dumps(dead).encode()]):
        (directory / str(number)).write_bytes(content)
    outside = kar.processes.directory / "outside"
    outside.write_text("mine")
    (directory / "link").symlink_to(outside)
    (directory / "directory").mkdir()
    os.mkfifo(directory / "pipe")
    kar.start_echo("-h2c")
    with http2_client(kar.start_sidecar().service_url("echo")) as client:
        assert client.get("/").status_code == 200
    kept = {path.name for path in directory.iterdir()}
    assert len(kept - {"link", "directory", "pipe"}) == 1  # the server's
    assert outside.read_text() == "mine"


@pytest.mark.slow
def test_locked_file_with_invalid_content(kar: Kar) -> None:
    directory = kar.processes.directory / "embedded-kar"
    directory.mkdir(mode=0o700)
    (directory / "nested").write_text("[" * 100_000)
    port_of_nobody = {"app": kar.app, "service": "echo", "app_port": -1, "h2c": True}
    with (
        (directory / "a").open("w") as first,
        (directory / "b").open("w") as second,
        (directory / "nested").open("a") as nested,
    ):
        json.dump(port_of_nobody, first, indent=1)
        first.flush()
        for file in (first, second, nested):
            fcntl.flock(file, fcntl.LOCK_EX)
        kar.start_echo("-h2c")
        with http2_client(kar.start_sidecar().service_url("echo")) as client:
            assert client.get("/").status_code == 200
        assert {"a", "b", "nested"} <= {path.name for path in directory.iterdir()}


@pytest.mark.slow
def test_file_of_a_service_that_is_removed_comes_back(kar: Kar) -> None:
    directory = kar.processes.directory / "embedded-kar"
    kar.start_echo()
    (file,) = directory.iterdir()
    file.unlink()
    directory.rmdir()
    wait_until(file.exists, "the file")
    with http2_client(kar.start_sidecar().service_url("echo")) as client:
        assert client.get("/").status_code == 200


@pytest.mark.skipif(os.getuid() == 0, reason="root can read all directories")
def test_runtime_directory_that_cannot_be_read(kar: Kar) -> None:
    directory = kar.processes.directory / "embedded-kar"
    directory.mkdir(mode=0o300)
    message = fatal(kar.run("true"))
    directory.chmod(0o700)  # pytest could not remove it otherwise
    assert "XDG_RUNTIME_DIR" in message


def test_idle_sidecar_sleeps(kar: Kar) -> None:
    process = psutil.Process(kar.start_sidecar().process.pid)
    time.sleep(0.5)  # until it has started
    before = process.num_ctx_switches().voluntary
    time.sleep(1)
    assert process.num_ctx_switches().voluntary - before < 5


@pytest.mark.slow
@pytest.mark.parametrize("path", ["//127.0.0.2//b", "http://127.0.0.2/", "@127.0.0.2"])
def test_path_never_leads_to_another_host(greeter: Sidecar, path: str) -> None:
    with http2_client(greeter.url) as client:
        response = client.get("/", extensions={"target": (CALL + path).encode()})
        assert response.status_code == 404
        assert response.json()["detail"] == "Not Found"


@pytest.mark.slow
def test_proxy_in_the_environment_is_ignored(kar: Kar) -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:1")
    port = str(free_port())
    server = kar.run(
        *["-service", "async-server", "-app_port", port, "python", "server.py"], **proxies
    )
    server.wait_for_line("Running on")
    client = kar.run("-h2c", "python", "client.py", **proxies)
    assert client.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/kar/v1/nope"), ("TRACE", "/kar/v1/system/health"), ("POST", "/kar/v1/await")],
)
def test_early_response_next_to_50_greetings(greeter: Sidecar, method: str, path: str) -> None:
    """Hypercorn breaks a connection when data comes for a request that already has its response."""
    _, greetings = send_next_to_greetings(greeter.url, GREETING, method, path, b"x" * 100_000)
    assert greetings == OK


@pytest.mark.slow
def test_too_large_body_next_to_50_greetings(greeter: Sidecar) -> None:
    body = b"x" * 3 * 1024 * 1024
    assert send_next_to_greetings(greeter.url, GREETING, "POST", GREETING, body) == (500, OK)


@pytest.mark.slow
def test_large_body_next_to_50_greetings(greeter: Sidecar) -> None:
    """The service refuses the body, on the connection that carries its greetings."""
    body = b"x" * 900_000
    assert send_next_to_greetings(greeter.url, GREETING, "POST", GREETING, body) == (422, OK)


@pytest.mark.slow
def test_500_invalid_requests(greeter: Sidecar) -> None:
    chance = random.Random(0)
    for number in range(500):
        with socket.create_connection(("127.0.0.1", greeter.port), 10) as sock:
            sock.sendall(nonsense(chance, number))
            if chance.random() < 0.3:
                sock.settimeout(0.05)
                with contextlib.suppress(OSError):
                    sock.recv(65536)
            if chance.random() < 0.3:  # reset instead of a polite end
                linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    with http2_client(greeter.url) as client:
        assert client.get("/kar/v1/system/health").text == "OK"
        assert client.get(CALL + "health").json() == {"message": "I am healthy"}


def nonsense(chance: random.Random, number: int) -> bytes:
    """Return the bytes of a request, of HTTP/1.1 or HTTP/2, that is wrong somewhere."""
    path = chance.choice(["/", CALL, CALL + "%zz", CALL + "%00%ff", "/kar/v1/" + "a/" * 500, "*"])
    method = chance.choice(["GET", "POST", "BREW", "get", "CONNECT", "PRI", "X" * 300])
    if number % 2:
        head = f"{method} {path} HTTP/1.{chance.randrange(3)}\r\n".encode()
        fields = [b"host: x", b"host: y", b"content-length: 9", b"content-length: -1", b": x"]
        fields += [b"transfer-encoding: chunked", b"upgrade: h2c", b"connection: upgrade"]
        fields += [b"expect: 100-continue", b"pragma: async", b"upgrade: websocket", b"te: x"]
        fields += [b"x" * 9999, b"\x00: \xff"]
        request = head + b"\r\n".join(chance.sample(fields, 3)) + b"\r\n\r\n" + b"zz\r\n" * 3
        return request[: chance.randrange(len(request))] if chance.random() < 0.3 else request
    connection = h2.connection.H2Connection()
    connection.config.validate_outbound_headers = False
    connection.config.normalize_outbound_headers = False
    connection.initiate_connection()
    fields2 = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "x")]
    fields2 += [("X-Upper", "x"), ("connection", "close"), ("x", "\r\n"), ("te", "x"), ("", "x")]
    connection.send_headers(1, chance.sample(fields2, chance.randrange(1, 9)))
    connection.send_data(1, os.urandom(chance.randrange(9999)), end_stream=chance.random() < 0.5)
    if chance.random() < 0.5:
        connection.reset_stream(1)
    request = connection.data_to_send()
    if chance.random() < 0.3:
        position = chance.randrange(len(request))
        request = request[:position] + os.urandom(9) + request[position + 9 :]
    return request[: chance.randrange(len(request))] if chance.random() < 0.3 else request
