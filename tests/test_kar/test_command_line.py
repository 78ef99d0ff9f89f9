"""kar's command line: flags in Go's forms, ports, messages and exit statuses; kar rest."""

import json
import re
import socket
from pathlib import Path

import pytest
from support.kar import Kar, fatal_error
from support.processes import Process, free_port


def show(kar: Kar) -> list[str]:
    """Return a command that prints its variables and its arguments."""
    variables = "$KAR_RUNTIME_PORT $KAR_APP_PORT $KAR_REQUEST_TIMEOUT"
    return ["sh", "-c", f"sleep {kar.lifetime}; echo {variables} $0 $1", "a", "-h2c"]


def bare(kar: Kar, *arguments: str, **environment: str) -> Process:
    """Start kar with no application."""
    return kar.processes.start(kar.path, *arguments, **environment)


@pytest.mark.parametrize(
    "flags",
    [
        ["-app", "x", "-app_port", "18", "-runtime_port", "PORT", "-h2c"],
        ["-app=x", "-app_port=18", "-runtime_port=PORT", "-h2c=true"],
        ["--app", "x", "--app_port=18", "--runtime_port", "PORT", "--h2c"],
        ["-app", "x", "-app_port", "18", "-runtime_port", "PORT", "-v", "info", "--"],
        ["-app=x", "-app_port=18", "-runtime_port=PORT", "-h2c=1", "-h2c=t", "-h2c=TRUE", "-h2c=F"],
    ],
)
def test_flags_in_the_forms_of_go(kar: Kar, flags: list[str]) -> None:
    port = str(free_port())
    process = bare(kar, "run", *[flag.replace("PORT", port) for flag in flags], *show(kar))
    assert process.wait() == 0
    assert f"[STDOUT] {port} 18 -1000 a -h2c" in process.stdout_lines()


def test_ports_from_the_environment(kar: Kar) -> None:
    port = str(free_port())
    process = kar.run(*show(kar), KAR_RUNTIME_PORT=port, KAR_APP_PORT="18")
    assert process.wait() == 0
    assert process.stdout_lines() == [f"[STDOUT] {port} 18 -1000 a -h2c"]


def test_flag_with_its_default_gives_way_to_the_environment(kar: Kar) -> None:
    process = kar.run("-app_port", "8080", *show(kar), KAR_APP_PORT="18")
    assert process.wait() == 0
    assert process.stdout_lines()[0].split()[2] == "18"


def test_default_ports(kar: Kar) -> None:
    process = bare(kar, "run", "-app", kar.app, *show(kar))
    assert process.wait() == 0
    assert re.fullmatch(r"\[STDOUT\] \d+ 8080 -1000 a -h2c", process.stdout_lines()[0])


def test_missing_application(kar: Kar) -> None:
    assert fatal_error(bare(kar, "run", "true")) == "app name is required"


@pytest.mark.parametrize("command", ["no-such-command", "./no-such-command", "/etc/passwd"])
def test_run_command_that_cannot_be_started(kar: Kar, command: str) -> None:
    message = fatal_error(kar.run(command))
    assert message.startswith("failed to start service: ")
    assert command in message


@pytest.mark.parametrize("name", ["a b", "a/b", "Zoë", "a" * 260])
def test_run_with_invalid_application_name(kar: Kar, name: str) -> None:
    message = fatal_error(bare(kar, "run", "-app", name, "true"))
    assert message.startswith("failed to connect to Kafka: ")
    assert "Topic name is invalid: " in message
    assert f"'kar_{name}'" in message


def test_runtime_port_in_use(kar: Kar) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = fatal_error(kar.run("-runtime_port", str(port), "true"))
    problem = f"listen tcp 127.0.0.1:{port}: bind: address already in use"
    assert message == f"TCP listener failed: {problem}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-nope"], "flag provided but not defined: -nope"),
        (["run", "-app_port", "abc"], 'invalid value "abc" for flag -app_port: parse error'),
        (["run", "-h2c=tRUE"], 'invalid boolean value "tRUE" for -h2c: parse error'),
        (["run", "-v"], "flag needs an argument: -v"),
        *[
            (
                ["run", f"-missing_component_timeout={value}"],
                f'invalid value "{value}" for flag -missing_component_timeout: parse error',
            )
            for value in ("3", "abc", "", "1x", "s", "1 s", "9999999h")
        ],
        (["rest", "-nope"], "flag provided but not defined: -nope"),
        (["rest", "-h2c"], "flag provided but not defined: -h2c"),
        (["run", "-content_type", "x"], "flag provided but not defined: -content_type"),
        (["run", "-app_port", " 9124 "], 'invalid value " 9124 " for flag -app_port: parse error'),
        (["run", "-app"], "flag needs an argument: -app"),
        (["nope"], "invalid command"),
        ([], "invalid command"),
    ],
)
def test_invalid_arguments_are_named_before_the_usage(
    kar: Kar, arguments: list[str], message: str
) -> None:
    process = bare(kar, *arguments)
    assert process.wait() == 2
    assert process.stderr_lines()[0] == message
    assert any(line.startswith("Usage") for line in process.stderr_lines())


@pytest.mark.parametrize(
    "arguments",
    [["help"], ["-h"], ["--h"], ["-help"], ["--help"], ["run", "-h"], ["run", "--help"]],
)
def test_help_exits_0(kar: Kar, arguments: list[str]) -> None:
    process = bare(kar, *arguments)
    assert (process.wait(), process.stderr_lines()) == (0, [])
    assert "Usage" in process.stdout_path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("value", ["0", "300ms", "1.5h30m", "+.5s", "-1us", "2µs"])
def test_run_accepts_durations(kar: Kar, value: str) -> None:
    process = kar.run("-missing_component_timeout", value, "sleep", str(kar.lifetime))
    assert (process.wait(), process.stderr_lines()) == (0, [])


def test_version(kar: Kar) -> None:
    process = bare(kar, "version")
    assert (process.wait(), len(process.stdout_lines())) == (0, 1)


@pytest.mark.embedded_only
@pytest.mark.parametrize("arguments", [["invoke"], ["run", "-app", "x", "-actors", "y", "true"]])
def test_actors_need_the_real_kar(kar: Kar, arguments: list[str]) -> None:
    process = bare(kar, *arguments)
    assert process.wait() == 2
    assert any("need the real KAR" in line for line in process.stderr_lines())


@pytest.mark.embedded_only
@pytest.mark.parametrize("port", ["-1", "65536"])
def test_port_out_of_range(kar: Kar, port: str) -> None:
    assert f"address {port}: invalid port" in fatal_error(kar.run("-app_port", port, "true"))


@pytest.mark.embedded_only
def test_invalid_port_in_the_environment(kar: Kar) -> None:
    message = fatal_error(kar.run("true", KAR_APP_PORT="x"))
    assert message == "error parsing KAR_APP_PORT as an integer"


def test_rest_calls_a_service(kar: Kar) -> None:
    kar.start_server(HELLO_DELAY="0")
    person = '{"name":"Alan","surname":"Turing"}'
    text = ("-content_type", "text/plain", "post", "async-server", "helloText", "Zoë")
    for arguments, output in (
        (("post", "async-server", "helloJson", person), '{"message":"Hello Alan Turing"}'),
        (("get", "async-server", "health"), '{"message":"I am healthy"}'),
        (("", "async-server", "health"), '{"message":"I am healthy"}'),
        (text, '"Hello Zoë"'),
    ):
        process = kar.rest(*arguments)
        assert (process.wait(), process.stderr_lines()) == (0, [])
        assert process.stdout_lines() == [output]
    wrong = kar.rest("post", "async-server", "helloJson", "{}")
    assert (wrong.wait(), wrong.stdout_lines()) == (0, [])
    assert wrong.stderr_lines()[0] == "[STDERR] HTTP status: 422"
    assert wrong.stderr_lines()[1].startswith('[STDERR] {"detail":')


@pytest.mark.parametrize("arguments", [[], ["get", "async-server"], ["a", "b", "c", "d", "e"]])
def test_rest_with_wrong_number_of_arguments(kar: Kar, arguments: list[str]) -> None:
    message = f"rest expects either three or four arguments; got {len(arguments)}"
    assert fatal_error(kar.rest(*arguments)) == message


@pytest.mark.embedded_only  # the real kar rest waits for longer than its timeout
def test_rest_without_a_service_calls_no_component(kar: Kar) -> None:
    port = str(free_port())
    echo = kar.run("-app_port", port, "python", "tests/support/echo_service.py")
    echo.wait_for_line("Running on")
    process = kar.rest("-missing_component_timeout", "500ms", "get", "", "x")
    assert process.wait() == 1
    assert "deadline expired" in process.stdout_lines()[0]


def test_rest_in_a_component(kar: Kar) -> None:
    """It inherits KAR_RUNTIME_PORT, on which the sidecar of the component listens."""
    with socket.create_server(("127.0.0.1", 0)) as sidecar:
        port = str(sidecar.getsockname()[1])
        arguments = ("rest", "-app", kar.app, "get", "echo", "x")
        process = bare(kar, *arguments, KAR_RUNTIME_PORT=port)
        assert "bind: address already in use" in fatal_error(process)


@pytest.mark.parametrize("flag", ["-h2c", "-h2c=false"])
def test_rest_with_invalid_method(kar: Kar, flag: str) -> None:
    kar.start_echo(flag)
    process = kar.rest("a b", "echo", "x")
    assert process.wait() == 1
    reason = 'error invoking the service: net/http: invalid method "A B"'
    assert process.stdout_lines()[0].endswith(f"[ERROR] {reason}")


@pytest.mark.embedded_only
def test_rest_with_a_body_that_is_not_utf8(kar: Kar) -> None:
    process = kar.rest("post", "echo", "x", "\udcff")
    assert process.wait() == 1
    assert "Base64" in process.stdout_lines()[0]


def test_rest_with_content_type_that_is_not_utf8(kar: Kar) -> None:
    kar.start_echo("-h2c")
    process = kar.rest("-content_type", "\udcff", "post", "echo", "x", "body")
    assert process.wait() == 0
    assert json.loads(process.stdout_lines()[0])["headers"]["content-type"] == "\ufffd"


@pytest.mark.embedded_only
def test_module_of_the_user_in_pythonpath(kar: Kar, tmp_path: Path) -> None:
    (tmp_path / "h2.py").write_text("raise SystemExit('not this one')")
    process = bare(kar, "version", PYTHONPATH=str(tmp_path))
    assert (process.wait(), process.stderr_lines()) == (0, [])


@pytest.mark.embedded_only
def test_missing_packages_are_named(kar: Kar) -> None:
    process = kar.processes.start("python", "-S", kar.path, "run", "-app", "x", "true")
    assert process.wait() == 1
    (line,) = process.stderr_lines()
    assert line.endswith("pip install hypercorn h2 starlette")
