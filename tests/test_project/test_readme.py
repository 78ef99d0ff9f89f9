"""The README: its commands run as they stand there, and print what it shows."""

import re
import shutil
import subprocess

import pytest
from support.kar import EMBEDDED_KAR, Kar
from support.processes import ROOT, Process, Processes, free_port

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, list[str]]]:
    """Return each command that the README shows with its output, and the lines of that."""
    found: list[tuple[str, list[str]]] = []
    for block in blocks("console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


SERVERS = [each for each in commands() if "server.py" in each[0]]
OTHERS = [each for each in commands() if each not in SERVERS]
(ACTIVATE,) = [block for block in blocks("sh") if "activate" in block]


def alike(line: str) -> str:
    """Return a line without what differs from run to run: times, numbers of processes, bars."""
    line = re.sub(r"\d{4}[-/]\d\d[-/]\d\d \d\d:\d\d:\d\d(\.\d{6}| \+\d{4})", "<time>", line)
    line = re.sub(r"\[\d+\] \[INFO\]", "[<pid>] [INFO]", line)
    line = re.sub(r"(?<![\d.])\d+\.\d+(?![\d.])", "<n>", line)
    return re.sub(r" +", " ", re.sub("[▁-█]+", "<bars>", line))


def terminal(kar: Kar, command: str, port: str) -> Process:
    """Start a command as in a terminal of the README, but with a port that is free."""
    first = ACTIVATE if kar.is_embedded else f'alias kar="{kar.path}"\n. .venv/bin/activate\n'
    words = command.replace("hello-async", kar.app)
    words = f"exec {words}" if "server.py" in words else words  # to be ended itself, not the shell
    words = re.sub(r"\b808[01]\b", port, words)
    return kar.processes.start("sh", "-c", f"{first}\n{words}", KAR_APP_PORT=port)


@pytest.mark.parametrize(("command", "output"), SERVERS, ids=[each[0] for each in SERVERS])
def test_a_server_prints_what_the_readme_shows(kar: Kar, command: str, output: list[str]) -> None:
    port = str(free_port())
    server = terminal(kar, command, port)
    server.wait_for_line("Running on")
    lines = server.stdout_path.read_text().splitlines()
    expected = [re.sub(r"\b808[01]\b", port, line) for line in output]
    assert list(map(alike, lines)) == list(map(alike, expected))


@pytest.mark.parametrize(("command", "output"), OTHERS, ids=[each[0] for each in OTHERS])
def test_a_command_prints_what_the_readme_shows(kar: Kar, command: str, output: list[str]) -> None:
    curl = shutil.which("curl")
    if command.startswith("curl") and (
        not curl or b"HTTP2" not in subprocess.run([curl, "-V"], capture_output=True).stdout
    ):
        pytest.skip("there is no curl that speaks HTTP/2")
    port = str(free_port())
    server = terminal(kar, SERVERS[0][0], port)
    server.wait_for_line("Running on")
    process = terminal(kar, command, port)
    assert process.wait() == 0, process.stderr_lines()
    lines = process.stdout_path.read_text().splitlines()
    assert list(map(alike, lines)) == list(map(alike, output))
    if "client.py" in command and "timed" not in command:
        (shown,) = [block for block in blocks("text") if "HTTP version: 2" in block]
        server.wait_for_line("[STDOUT] HTTP version: 2", 2)
        assert alike(server.stdout_path.read_text().splitlines()[-1]) == alike(shown.strip())


def test_the_demo_shows_the_transcripts(kar: Kar) -> None:
    words = ["python3", "tests/demo.py"]
    assert " ".join(words) in blocks("sh")[0]
    if not kar.is_embedded:
        words += ["--kar", str(kar.path)]
    demo = kar.processes.start(*words)
    assert demo.wait() == 0
    text = "\n".join(map(alike, demo.stdout_path.read_text().splitlines()))
    shown = [output for command, output in OTHERS if command.endswith("client.py")]
    assert len(shown) == 2
    for output in shown:
        assert "\n".join(map(alike, output)) in text


def test_the_demo_says_why_it_fails(processes: Processes) -> None:
    demo = processes.start("python3", "tests/demo.py", "--kar", "/no/such/kar")
    assert demo.wait() == 1
    assert "/no/such/kar" in demo.stderr_lines()[-1]
    assert not any("Traceback" in line for line in demo.stderr_lines())


def test_each_message_of_the_table_is_one_that_the_programs_print() -> None:
    programs = [*ROOT.glob("*.py"), *EMBEDDED_KAR.parent.parent.glob("embedded_kar/*.py")]
    code = " ".join(path.read_text() for path in programs)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # texts over two lines
    rows = re.findall(r"^\| `(.*?)` \|", README, re.MULTILINE)
    assert len(rows) >= 10
    for row in rows:
        if row not in ("Address already in use", "status 422; see what the server printed"):
            kind, _, advice = row.partition("; ")
            assert kind in code, row
            assert advice in code, row


def test_each_file_that_the_readme_names_is_there() -> None:
    names = re.findall(r"`((?:tests/)?[\w/-]+\.py|tests/[\w/]+)`", README)
    assert len(names) >= 8
    for name in names:
        assert (ROOT / name).exists(), name


def test_the_figures_of_the_readme_are_those_of_the_benchmark() -> None:
    """Not the values, which are of one run, but each line of it."""
    (shown,) = [block for block in blocks("text") if "bare ASGI function" in block]
    bench = (ROOT / "tests/bench/bench.py").read_text()
    goals = re.findall(r"^ *[\d.]+  (.*?)(?: \(goal .*\))?$", shown, re.MULTILINE)
    assert len(goals) == 8
    for goal in goals:
        assert re.sub(r"(server|sidecar) after", "{name} after", goal) in bench
    assert "MISSED" not in shown


@pytest.mark.parametrize(
    ("name", "most"), [("server.py", 160), ("client.py", 100), ("timed-client.py", 250)]
)
def test_what_is_there_to_be_read_stays_short(name: str, most: int) -> None:
    assert len((ROOT / name).read_text().splitlines()) < most
