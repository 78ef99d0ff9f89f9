"""The embedded KAR among other users, other people's files, and clients that go wrong."""

import contextlib
import fcntl
import os
import shlex
import time

import psutil
import pytest
from support.http2 import http2_client, send_next_to_greetings
from support.kar import Kar, Sidecar, fatal_error
from support.processes import wait_until

pytestmark = pytest.mark.embedded_only
CALL = "/kar/v1/service/async-server/call/"
GREETING = CALL + "helloText"


@pytest.fixture(scope="module")
def greeter(module_kar: Kar) -> Sidecar:
    """A sidecar through which a server.py can be called."""
    module_kar.start_server(HELLO_DELAY="0.5")
    return module_kar.start_sidecar()


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
    assert "XDG_RUNTIME_DIR" in fatal_error(process)
    assert list((directory / "other").iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give directories away")
def test_runtime_directory_of_another_user(kar: Kar) -> None:
    directory = kar.processes.directory / "embedded-kar"
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, -1)
    assert "XDG_RUNTIME_DIR" in fatal_error(kar.run("true"))


ROOT_READS_ALL = pytest.mark.skipif(os.getuid() == 0, reason="root can read all directories")


@pytest.mark.parametrize("mode", [0o770, 0o707, pytest.param(0o300, marks=ROOT_READS_ALL)], ids=oct)
def test_runtime_directory_with_the_wrong_mode(kar: Kar, mode: int) -> None:
    directory = kar.processes.directory / "embedded-kar"
    directory.mkdir()
    directory.chmod(mode)
    message = fatal_error(kar.run("true"))
    directory.chmod(0o700)  # pytest could not remove it otherwise
    assert "XDG_RUNTIME_DIR" in message


def test_runtime_directory_that_cannot_be_made(kar: Kar) -> None:
    assert "/dev/null/x" in fatal_error(kar.run("true", XDG_RUNTIME_DIR="/dev/null/x"))


def test_file_of_a_service_that_cannot_be_written(kar: Kar) -> None:
    command = f"{shlex.quote(str(kar.path))} run -app {kar.app} -service x sleep 1000"
    process = kar.processes.start("sh", "-c", f"(ulimit -f 0; exec {command}) | cat")
    process.wait()
    assert "XDG_RUNTIME_DIR" in process.stdout_lines()[0]


@pytest.mark.slow
def test_runtime_directory_with_other_files(kar: Kar) -> None:
    """Those that no process holds are removed; a directory, a pipe and a link stay."""
    directory = kar.processes.directory / "embedded-kar"
    directory.mkdir(mode=0o700)
    contents = ["", "{", "[]", '{"app": 1}', "null", "[" * 100_000]
    for number, content in enumerate(contents):
        (directory / str(number)).write_text(content)
        (directory / f"held-{number}").write_text(content)
    outside = kar.processes.directory / "outside"
    outside.write_text("mine")
    (directory / "link").symlink_to(outside)
    (directory / "directory").mkdir()
    os.mkfifo(directory / "pipe")
    with contextlib.ExitStack() as stack:
        for number in range(len(contents)):
            file = stack.enter_context((directory / f"held-{number}").open())
            fcntl.flock(file, fcntl.LOCK_EX)
        kar.start_echo("-h2c")
        with http2_client(kar.start_sidecar().service_url("echo")) as client:
            assert client.get("/").status_code == 200
    names = {path.name for path in directory.iterdir() if not path.name.startswith("held-")}
    assert len(names - {"link", "directory", "pipe"}) == 1  # the server's
    assert outside.read_text() == "mine"


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


def test_idle_sidecar_sleeps(kar: Kar) -> None:
    kar.start_echo("-h2c")
    sidecar = kar.start_sidecar()
    with http2_client(sidecar.service_url("echo")) as client:
        assert client.get("/").status_code == 200
    process = psutil.Process(sidecar.process.pid)
    time.sleep(0.5)  # until it has finished the call
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
@pytest.mark.parametrize(
    ("method", "path", "size", "status"),
    [
        ("POST", "/kar/v1/nope", 100_000, 404),
        ("TRACE", "/kar/v1/system/health", 100_000, 405),
        ("POST", "/kar/v1/await", 100_000, 501),
        ("POST", GREETING, 3 * 1024 * 1024, 500),  # too large for KAR
        ("POST", GREETING, 900_000, 422),  # by the service, on the connection of its greetings
    ],
)
def test_refused_request_next_to_50_greetings(
    greeter: Sidecar, method: str, path: str, size: int, status: int
) -> None:
    """Hypercorn breaks a connection when data comes for a request that already has its response."""
    responses = send_next_to_greetings(greeter.url, GREETING, method, path, b"x" * size)
    assert responses == (status, [200] * 50)
