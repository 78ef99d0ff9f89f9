"""The commands and the code of README.md and tests/README.md, run as they are written there."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.kar import Kar
from support.processes import ROOT, Process, free_port

README = (ROOT / "README.md").read_text()
TESTS_README = (ROOT / "tests" / "README.md").read_text()

INSTALLS = "it installs packages"
RUNS_TESTS = "it runs the tests"
NEEDS_REAL_KAR = "it is for the real KAR"
NOT_RUN = {
    "python3 tests/demo.py": "test_demo.py runs it",
    "python3 tests/check.py": RUNS_TESTS,
    "python3 -m venv .venv": INSTALLS,
    ". .venv/bin/activate": "the tests already run in a virtual environment",
    "pip install -r tests/requirements.txt": INSTALLS,
    "pytest -n 4": RUNS_TESTS,
    'python3 tests/check.py -m "not slow"': RUNS_TESTS,
    "python3 tests/check.py tests/test_server": RUNS_TESTS,
    "python3 tests/check.py -k transcript": RUNS_TESTS,
    "KAR=/usr/local/bin/kar python3 tests/check.py": NEEDS_REAL_KAR,
    "export KAFKA_BROKERS=127.0.0.1:9092 KAFKA_VERSION=2.8.1": NEEDS_REAL_KAR,
    "export REDIS_HOST=127.0.0.1 REDIS_PORT=6379": NEEDS_REAL_KAR,
}
ADD_KAR_TO_PATH = 'export PATH="$PWD/tests/bin:$PATH"'
START_OWN_SERVICE = "kar run -h2c -app my-app -service dictionary python server.py"
START_OWN_CLIENT = "kar run -app my-app python translate.py"


@dataclass
class Command:
    """A command and the output that the README shows for it; a line … stands for any lines."""

    text: str
    output: list[str] = field(default_factory=list)

    @property
    def starts_server(self) -> bool:
        return self.text.endswith("server.py")


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def console_commands(text: str) -> list[Command]:
    """Return the commands that are shown with their output."""
    commands: list[Command] = []
    for block in code_blocks(text, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                commands.append(Command(line.removeprefix("$ ")))
            else:
                commands[-1].output.append(line)
    return commands


def plain_commands(text: str) -> list[str]:
    """Return the commands that are shown without output, and without their comments."""
    lines = [line for block in code_blocks(text, "sh") for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line) for line in lines if not line.startswith("#")]


SERVER_COMMANDS = [each for each in console_commands(README) if each.starts_server]
OTHER_COMMANDS = [each for each in console_commands(README) if not each.starts_server]


def test_each_command_is_run_or_excluded_with_a_reason() -> None:
    assert console_commands(TESTS_README) == []
    plain = {*plain_commands(README), *plain_commands(TESTS_README)}
    assert plain == NOT_RUN.keys() | {ADD_KAR_TO_PATH, START_OWN_SERVICE, START_OWN_CLIENT}


class Terminal:
    """A shell in which kar is the kar under test, with an application and a port of its own."""

    def __init__(self, kar: Kar, directory: Path) -> None:
        self.kar = kar
        self.port = str(free_port())
        self.add_kar_to_path = ADD_KAR_TO_PATH
        if not kar.is_embedded:
            (directory / "kar").symlink_to(kar.path.resolve())
            self.add_kar_to_path = f'export PATH="{directory}:$PATH"'

    def start(self, command: str, directory: Path = ROOT) -> Process:
        command = re.sub("hello-async|my-app", self.kar.app, command)
        command = re.sub(r"\b808[01]\b", self.port, command)
        lines = f"{self.add_kar_to_path}\ncd '{directory}'\n{command}"
        return self.kar.processes.start("sh", "-c", lines, KAR_APP_PORT=self.port)

    def start_server(self) -> Process:
        server = self.start(SERVER_COMMANDS[0].text)
        server.wait_for_line("Running on")
        return server


@pytest.fixture
def terminal(kar: Kar, tmp_path: Path) -> Terminal:
    directory = tmp_path / "bin"
    directory.mkdir()
    return Terminal(kar, directory)


def without_variable_parts(line: str) -> str:
    """Return a line without times, process numbers, ports, measured numbers and bars."""
    line = re.sub(r"\d{4}[-/]\d\d[-/]\d\d \d\d:\d\d:\d\d(\.\d{6}| \+\d{4})", "<time>", line)
    line = re.sub(r"\[\d+\] \[INFO\]", "[<pid>] [INFO]", line)
    line = re.sub(r"127\.0\.0\.1:\d+", "<address>", line)
    line = re.sub(r"(?<![\d.])\d+\.\d+(?![\d.])", "<number>", line)
    line = re.sub("[▁-█]+", "<bars>", line)
    return re.sub(r" +", " ", line).strip()


def assert_shown_output(process: Process, expected: list[str]) -> None:
    """Compare what a process wrote with what the README shows, in which … stands for any lines."""
    parts = []
    for line in expected:
        is_gap = line == "…"
        parts.append("(?:.*\n)*" if is_gap else re.escape(without_variable_parts(line)) + "\n")
    written = process.stdout_path.read_text().splitlines()
    text = "".join(without_variable_parts(line) + "\n" for line in written)
    assert re.fullmatch("".join(parts), text), text


@pytest.mark.parametrize("command", SERVER_COMMANDS, ids=lambda command: command.text)
def test_server_command(terminal: Terminal, command: Command) -> None:
    server = terminal.start(command.text)
    server.wait_for_line("Running on")
    assert_shown_output(server, command.output)


@pytest.mark.slow
@pytest.mark.parametrize("command", OTHER_COMMANDS, ids=lambda command: command.text)
def test_command_next_to_a_server(terminal: Terminal, command: Command) -> None:
    curl = shutil.which("curl")
    if command.text.startswith("curl") and (
        curl is None or b"HTTP2" not in subprocess.run([curl, "-V"], capture_output=True).stdout
    ):
        pytest.skip("this machine has no curl with HTTP/2")
    terminal.start_server()
    process = terminal.start(command.text)
    assert process.wait() == 0, process.stderr_lines()
    assert_shown_output(process, command.output)


def test_server_log_of_a_greeting(terminal: Terminal) -> None:
    (shown,) = [block for block in code_blocks(README, "text") if "HTTP version: 2" in block]
    server = terminal.start_server()
    assert terminal.start(OTHER_COMMANDS[0].text).wait() == 0
    server.wait_for_line("[STDOUT] HTTP version: 2", 2)
    last_line = server.stdout_path.read_text().splitlines()[-1]
    assert without_variable_parts(last_line) == without_variable_parts(shown)


def test_code_excerpts_are_in_the_scripts() -> None:
    route, call, *_ = code_blocks(README, "python")
    assert route in (ROOT / "server.py").read_text()
    assert call in (ROOT / "client.py").read_text()


def test_service_and_client_of_ones_own(terminal: Terminal, tmp_path: Path) -> None:
    """The section on that, followed to the letter."""
    _, _, application, client_program = code_blocks(README, "python")
    server = (ROOT / "server.py").read_text()
    imports = server[: server.index("greeting_log = ")]
    kept = server[server.index("# For a service of your own") :]
    main_without_calls = kept.replace("        hello_delay()", "        pass")
    main_without_calls = main_without_calls.replace("    configure_logging()\n", "")
    kept = main_without_calls.replace("hello_delay()", "1.0")
    (tmp_path / "server.py").write_text(imports + application + kept)
    (tmp_path / "client.py").write_text((ROOT / "client.py").read_text())
    (tmp_path / "translate.py").write_text(client_program)
    ruff = [str(Path(sys.executable).with_name("ruff")), "check", "--isolated", "--select"]
    subprocess.run([*ruff, "F401", "--fix", str(tmp_path)], check=True)
    subprocess.run([*ruff, "F", str(tmp_path)], check=True)
    terminal.start(START_OWN_SERVICE, tmp_path).wait_for_line("Running on")
    client = terminal.start(START_OWN_CLIENT, tmp_path)
    assert client.wait() == 0, client.stdout_lines()
    assert client.stdout_lines() == ["[STDOUT] ['ONE', 'TWO', 'THREE']"]
