"""The process that kar runs: its output and input, its end, and kar's."""

import contextlib
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from support.http2 import FrameConnection, http2_client
from support.kar import Kar
from support.processes import Process, accepts_connections, free_port, wait_until


def python(kar: Kar, program: str, **environment: str) -> Process:
    return kar.run(sys.executable, "-c", program, **environment)


def start_in_shell(kar: Kar, line: str) -> Process:
    """Start a line of bash, in which KAR stands for kar run with the test's application."""
    run = f"{shlex.quote(str(kar.path))} run -app {kar.app}"
    return kar.processes.start("bash", "-c", line.replace("KAR", run))


def stamped(process: Process) -> list[bytes]:
    """Return the lines of kar's output as bytes, without the time."""
    return [line[27:] for line in process.stdout_path.read_bytes().split(b"\n")[:-1]]


def test_output_of_both_streams(kar: Kar) -> None:
    process = kar.run(
        "sh", "-c", f"echo out; echo err >&2; echo; printf 'no end'; sleep {kar.lifetime}"
    )
    assert process.wait() == 0
    lines = process.stdout_lines()
    assert [line for line in lines if "[STDOUT]" in line] == [
        "[STDOUT] out",
        "[STDOUT] ",
        "[STDOUT] no end",
    ]
    assert "[STDERR] err" in lines


def test_output_lines_of_up_to_65535_bytes(kar: Kar) -> None:
    program = (
        "import sys, time\n"
        "for stream, byte in ((sys.stdout, 'o'), (sys.stderr, 'e')):\n"
        "    for size in (0, 1, 65534, 65535, 3): print(byte * size, file=stream)\n"
        "    stream.flush()\n"
        "    stream.buffer.write(bytes(set(range(256)) - {10}))\n"
        "    stream.flush()\n"
        f"time.sleep({kar.lifetime})"
    )
    process = python(kar, program)
    assert process.wait() == 0
    lines = stamped(process)
    for prefix, byte in (b"[STDOUT] ", b"o"), (b"[STDERR] ", b"e"):
        expected = [byte * size for size in (0, 1, 65534, 65535, 3)]
        expected.append(bytes(set(range(256)) - {10}))
        found = [line for line in lines if line.startswith(prefix)]
        assert found == [prefix + line for line in expected]


@pytest.mark.embedded_only
def test_longer_output_line_is_copied_with_a_warning(kar: Kar) -> None:
    """The real KAR stops reading, and the program hangs."""
    process = python(kar, "for size in (65536, 65535, 300000, 3): print('o' * size)")
    assert process.wait() == 0
    (warning,) = process.stderr_lines()
    assert "[WARNING] [STDOUT] a line has more than 65,535 bytes" in warning
    lines = [line.removeprefix(b"[STDOUT] ") for line in stamped(process)]
    assert b"".join(lines) == b"o" * (65536 + 65535 + 300000 + 3)
    assert lines[-1] == b"ooo"


@pytest.mark.embedded_only
def test_output_does_not_fill_the_memory(kar: Kar) -> None:
    program = (
        "import sys\n"
        "print('early', flush=True); sys.stdin.readline()\n"
        "for number in range(100_000): print(number)\n"
        "for _ in range(30): sys.stdout.write('x' * 1024 * 1024)\n"
        "print('\\nlate', flush=True); sys.stdin.readline()\n"
    )
    process = python(kar, program)
    sizes = []
    for word in ("early", "late"):
        process.wait_for_line(f"[STDOUT] {word}")
        sizes.append(psutil.Process(process.pid).memory_info().rss)
        assert process.popen.stdin
        process.popen.stdin.write(b"\n")
        process.popen.stdin.flush()
    assert process.wait() == 0
    assert sizes[1] - sizes[0] < 5 * 1024 * 1024
    numbers = [int(line[9:]) for line in process.stdout_lines() if line[9:].isdigit()]
    assert numbers == list(range(100_000))


def test_more_connections_than_the_soft_limit_of_open_files(kar: Kar) -> None:
    """kar raises the limit for itself, but not for its program."""
    port = free_port()
    run = f"exec KAR -runtime_port {port} sh -c 'ulimit -Sn; exec sleep 1000'"
    process = start_in_shell(kar, f"ulimit -Sn 100; {run}")
    process.wait_for_line("[STDOUT] 100")
    for _ in range(200):
        with http2_client(f"http://127.0.0.1:{port}") as client:
            assert client.get("/kar/v1/system/health").text == "OK"
    assert process.stderr_lines() == []


def test_standard_input_is_passed_on(kar: Kar) -> None:
    process = kar.run("sh", "-c", f"read line; echo got $line; sleep {kar.lifetime}")
    assert process.popen.stdin
    process.popen.stdin.write(b"this\n")
    process.popen.stdin.flush()
    assert process.wait() == 0
    assert "[STDOUT] got this" in process.stdout_lines()


def test_process_inherits_directory_environment_and_group(kar: Kar) -> None:
    program = (
        "import os, time; print(os.getcwd(), os.environ['X_Y'], "
        f"os.getpgid(0) == os.getpgid(os.getppid())); time.sleep({kar.lifetime})"
    )
    process = python(kar, program, X_Y="x y")
    assert process.wait() == 0
    assert process.stdout_lines()[0].endswith(" x y True")


@pytest.mark.parametrize(("end", "status"), [("true", 0), ("exit 7", 7), ("kill -9 $$", 0)])
def test_exit_status(kar: Kar, end: str, status: int) -> None:
    """After a signal, KAR's launcher has no status, and keeps its own, which is 0."""
    assert kar.run("sh", "-c", f"sleep {kar.lifetime}; {end}").wait() == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_kar_kills_the_process_at_once(kar: Kar, number: signal.Signals) -> None:
    program = (
        "import signal, time\n"
        "for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, signal.SIG_IGN)\n"
        f"time.sleep({kar.lifetime}); print('ready', flush=True); time.sleep(1000)"
    )
    process = python(kar, program)
    process.wait_for_line("ready")
    child = process.child()
    start = time.monotonic()
    process.send_signal(number)
    assert process.wait() == 0
    assert time.monotonic() - start < 5
    assert not child.is_running()


def test_signal_to_the_process_goes_through_its_handler(kar: Kar) -> None:
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (print('handled', flush=True), sys.exit(3)))\n"
        f"time.sleep({kar.lifetime}); print('ready', flush=True); time.sleep(1000)"
    )
    process = python(kar, program)
    process.wait_for_line("ready")
    process.child().send_signal(signal.SIGINT)
    assert process.wait() == 3
    assert process.stdout_lines()[-1] == "[STDOUT] handled"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "program",
    [
        "exec sleep 1000",
        "trap exit TERM INT; while :; do :; done",
        "exec python -c 'import asyncio; asyncio.run(asyncio.sleep(1000))'",
    ],
)
def test_signal_to_the_whole_group_is_silent(
    kar: Kar, program: str, number: signal.Signals
) -> None:
    """Ctrl-C in a terminal, and the command timeout, send a signal to kar and to the process."""
    process = kar.run("sh", "-c", f"sleep {kar.lifetime}; echo ready; {program}")
    process.wait_for_line("ready")
    os.killpg(process.pid, number)
    assert (process.wait(), process.stderr_lines()) == (0, [])
    assert process.stdout_lines()[0] == "[STDOUT] ready"


@pytest.mark.embedded_only  # the real kar waits for the requests in flight
def test_signal_with_open_connections_is_silent(kar: Kar) -> None:
    sidecar = kar.start_sidecar()
    call = b"POST /kar/v1/service/missing/call/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
    requests = [b"", b"GET /ka", call + b"\r\nhal", call + b"\r\nbody"]
    with contextlib.ExitStack() as stack:
        for request in requests:
            connection = socket.create_connection(("127.0.0.1", sidecar.port))
            stack.enter_context(connection)
            connection.sendall(request)
        http2 = stack.enter_context(FrameConnection(sidecar.url))
        http2.open_stream("POST", "/kar/v1/service/missing/call/", b"body")
        http2.flush()
        asynchronous = httpx.post(
            sidecar.service_url("missing") + "/", headers={"Pragma": "async"}, trust_env=False
        )
        assert asynchronous.status_code == 202
        sidecar.process.terminate()
        assert sidecar.process.wait() == 0
        # Only the asynchronous call is reported, since nobody else would notice that it is lost.
        (line,) = sidecar.process.stderr_lines()
        assert "[ERROR] POST /kar/v1/service/missing/call/: kar was stopped" in line


def test_parent_that_ignores_sigchld(kar: Kar) -> None:
    process = start_in_shell(kar, f"trap '' CHLD; exec KAR sh -c 'sleep {kar.lifetime}; exit 7'")
    assert process.wait() == 7


@pytest.mark.parametrize("end", ["cat <&3' 3< <(echo inherited)", "cat $0' <(echo inherited)"])
def test_inherited_descriptor(kar: Kar, end: str) -> None:
    process = start_in_shell(kar, f"KAR sh -c 'sleep {kar.lifetime}; {end}")
    assert (process.wait(), process.stdout_lines()) == (0, ["[STDOUT] inherited"])


def read_slowly(command: list[str], environment: dict[str, str]) -> bytes:
    """Return the output of a command, which is a non-blocking pipe that is read late."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen(command, env=environment, stdout=writer), os.fdopen(reader, "rb") as pipe:
        wait_until(lambda: not select.select([], [writer], [], 0)[1], "a full pipe")
        os.close(writer)
        return pipe.read()


def test_non_blocking_output(kar: Kar) -> None:
    program = f"yes {'x' * 99} | head -5000; sleep {kar.lifetime}"
    command = [str(kar.path), "run", "-app", kar.app, "sh", "-c", program]
    lines = read_slowly(command, kar.processes.environment).splitlines()
    assert [line[27:] for line in lines] == [b"[STDOUT] " + b"x" * 99] * 5000


def test_non_blocking_output_of_rest(kar: Kar) -> None:
    kar.start_echo("-h2c")
    request = ("post", "echo", "spec", '{"repeat": 500000}')
    command = [str(kar.path), "rest", "-app", kar.app, *request]
    assert read_slowly(command, kar.processes.environment) == b"x" * 500_000 + b"\n"


def test_closed_standard_output_does_not_stop_kar(kar: Kar) -> None:
    process = start_in_shell(kar, f"exec KAR sh -c 'echo lost; sleep {kar.lifetime}' >&-")
    assert (process.wait(), process.stderr_lines()) == (0, [])


@pytest.mark.embedded_only
def test_closed_standard_input_is_empty_for_the_program(kar: Kar) -> None:
    """If it were closed for the program, too, cat would fail, or read another file."""
    process = start_in_shell(kar, "exec KAR sh -c 'cat; echo end' <&-")
    assert (process.wait(), process.stdout_lines()) == (0, ["[STDOUT] end"])


@pytest.mark.embedded_only
def test_full_disk_does_not_stop_the_component(kar: Kar) -> None:
    process = start_in_shell(kar, "exec KAR sh -c 'echo lost; echo lost >&2; exit 7' >/dev/full")
    assert (process.wait(), process.stderr_lines()) == (7, [])


@contextlib.contextmanager
def running(kar: Kar, *arguments: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run kar with streams of the test's own until the end of the context."""
    command = [str(kar.path), "run", "-app", kar.app, *arguments]
    with subprocess.Popen(command, env=kar.processes.environment, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.embedded_only
@pytest.mark.parametrize(("stream", "program"), [("stdout", ["yes"]), ("stderr", [])])
def test_reader_that_stops_does_not_stop_kar(kar: Kar, stream: str, program: list[str]) -> None:
    """Its pipe is full, and still the sidecar responds and SIGTERM ends kar.

    An error that is longer than what a pipe takes at once is cut off.
    """
    port = str(free_port())
    url = f"http://127.0.0.1:{port}/kar/v1/service/x/call/{'x' * 12_000}"
    reader, writer = os.pipe()
    with running(kar, "-runtime_port", port, *program, **{stream: writer}) as process:
        wait_until(lambda: accepts_connections(int(port)), "the sidecar to listen")
        if program:
            wait_until(lambda: not select.select([], [writer], [], 0)[1], "a full pipe")
        for _ in range(20):
            assert httpx.head(url, trust_env=False, timeout=10).status_code == 501
        process.terminate()
        assert process.wait(10) == 0
    os.close(reader)
    os.close(writer)


def test_kar_runs_until_the_output_is_closed(kar: Kar) -> None:
    """The program exits, but a process that it has started still has the output."""
    command = f"(sleep {kar.lifetime}; echo late) & exit 7"
    process = kar.run("sh", "-c", command)
    assert (process.wait(), process.stdout_lines()) == (7, ["[STDOUT] late"])


@pytest.mark.embedded_only
def test_signal_does_not_wait_for_the_output(kar: Kar) -> None:
    """The real kar waits until everybody has closed the output."""
    process = kar.run("sh", "-c", "sleep 1000 & echo $!")
    process.wait_for_line("[STDOUT]")
    process.terminate()
    assert (process.wait(), process.stderr_lines()) == (0, [])
    psutil.Process(int(process.stdout_lines()[0].split()[1])).kill()


def test_other_signals_do_not_stop_kar(kar: Kar) -> None:
    """Its program does not inherit that."""
    process = kar.run("sh", "-c", f"sleep {kar.lifetime}; echo ready; exec sleep 1000")
    process.wait_for_line("ready")
    for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2):
        process.send_signal(number)
    process.child().send_signal(signal.SIGUSR1)
    assert (process.wait(), process.stderr_lines()) == (0, [])


@pytest.mark.embedded_only
def test_kar_and_its_program_exit_when_nobody_reads_their_output(kar: Kar) -> None:
    """SIGPIPE kills the real kar, and leaves the program behind."""
    with running(kar, "yes", stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline().endswith(b"[STDOUT] y\n")
        (child,) = psutil.Process(process.pid).children()
        process.stdout.close()
        assert process.wait(10) == 0
        assert not child.is_running()
