"""The commands and the code of README.md and tests/README.md, run as they are written there."""

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.kar import Kar
from support.processes import ROOT, Process, free_port

README = (ROOT / "README.md").read_text()
TESTS_README = (ROOT / "tests" / "README.md").read_text()

NOT_RUN = {
    "python3 tests/demo.py": "test_demo.py runs it",
    "python3 tests/check.py": "it runs the tests",
    ". .venv/bin/activate": "the tests already run in a virtual environment",
    'python3 tests/check.py -m "not slow"': "it runs the tests",
    "python3 tests/check.py tests/test_server": "it runs the tests",
    "KAR=/usr/local/bin/kar python3 tests/check.py": "it runs the tests",
    ".venv/bin/python tests/benchmark.py": "it takes minutes and needs an idle machine",
    "docker build -f tests/kubernetes/Dockerfile -t hello-async .": "it needs Docker",
    "kind load docker-image hello-async": "it needs a cluster",
    "kubectl apply -f tests/kubernetes/hello-async.yaml": "it needs a cluster",
    "kubectl logs job/client": "it needs a cluster",
    "kubectl port-forward deployment/async-server 3500 &": "it needs a cluster",
    "curl http://127.0.0.1:3500/kar/v1/service/async-server/call/health": "it needs a cluster",
    "export KAFKA_BROKERS=192.0.2.10:9092 REDIS_HOST=192.0.2.10": "it is for the real KAR",
    "export KAFKA_VERSION=2.8.1": "it is for the real KAR",
}
ADD_KAR_TO_PATH = 'export PATH="$PWD/tests/bin:$PATH"'


@dataclass
class Command:
    """A command and the output that the README shows for it; a line … stands for any lines."""

    text: str
    output: list[str] = field(default_factory=list)


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


KAR_COMMANDS = [command for command in plain_commands(README) if command.startswith("kar ")]
START_SERVER, RUN_CLIENT, START_REPLICA, *OWN_SERVICE = KAR_COMMANDS


def test_each_command_is_run_or_excluded_with_a_reason() -> None:
    assert console_commands(TESTS_README) == []
    commands = {*plain_commands(README), *plain_commands(TESTS_README)} - {*KAR_COMMANDS}
    commands |= {command.text for command in console_commands(README)} & {*NOT_RUN}
    assert commands == {*NOT_RUN, ADD_KAR_TO_PATH}


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


@pytest.fixture
def terminal(kar: Kar, tmp_path: Path) -> Terminal:
    directory = tmp_path / "bin"
    directory.mkdir()
    return Terminal(kar, directory)


def without_variable_parts(line: str) -> str:
    """Return a line without times, process numbers, ports, measured numbers and levels."""
    line = re.sub(r"\d{4}[-/]\d\d[-/]\d\d \d\d:\d\d:\d\d(\.\d{6}| \+\d{4})", "<time>", line)
    line = re.sub(r"\[\d+\] \[INFO\]", "[<pid>] [INFO]", line)
    line = re.sub(r"127\.0\.0\.1:\d+", "<address>", line)
    line = re.sub(r"(?<![\d.])\d+\.\d+(?![\d.])", "<number>", line)
    line = re.sub(r"(sequential|gather|tasks) +[ .:=+*#@-]+$", r"\1 <levels>", line)
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


@pytest.fixture(scope="module")
def terminal_with_server(module_kar: Kar, tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    terminal = Terminal(module_kar, tmp_path_factory.mktemp("bin"))
    terminal.start(START_SERVER).wait_for_line("Running on")
    return terminal


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [command for command in console_commands(README) if command.text not in NOT_RUN],
    ids=lambda command: command.text,
)
def test_command_next_to_a_server(terminal_with_server: Terminal, command: Command) -> None:
    curl = shutil.which("curl")
    if command.text.startswith("curl") and (
        curl is None or b"HTTP2" not in subprocess.run([curl, "-V"], capture_output=True).stdout
    ):
        pytest.skip("this machine has no curl with HTTP/2")
    process = terminal_with_server.start(command.text)
    assert process.wait() == 0, process.stderr_lines()
    assert_shown_output(process, command.output)


def test_two_terminals_and_a_replica(terminal: Terminal) -> None:
    server = terminal.start(START_SERVER)
    server.wait_for_line("Running on")
    assert terminal.start(RUN_CLIENT).wait() == 0
    server.wait_for_line("[STDOUT] HTTP version: 2", 2)
    terminal.port = str(free_port())
    terminal.start(START_REPLICA).wait_for_line(f"Running on http://127.0.0.1:{terminal.port}")


def test_code_excerpts_are_in_the_scripts() -> None:
    route, call, *_ = code_blocks(README, "python")
    assert route in (ROOT / "server.py").read_text()
    assert call in (ROOT / "client.py").read_text()


def test_service_of_ones_own(terminal: Terminal, tmp_path: Path) -> None:
    """The section on that, followed to the letter."""
    _, _, service, client, second_service = code_blocks(README, "python")
    (tmp_path / "dictionary.py").write_text(service)
    (tmp_path / "translate.py").write_text(client)
    (tmp_path / "sentence.py").write_text(second_service)
    for name in ("server.py", "client.py"):
        shutil.copy(ROOT / name, tmp_path)
    start_service, run_client, start_second_service, call_second_service = OWN_SERVICE
    terminal.start(start_service, tmp_path).wait_for_line("Running on")
    process = terminal.start(run_client, tmp_path)
    assert (process.wait(), process.stdout_lines()) == (0, ["[STDOUT] ONE"])
    terminal.port = str(free_port())
    terminal.start(start_second_service, tmp_path).wait_for_line("Running on")
    process = terminal.start(call_second_service, tmp_path)
    assert (process.wait(), process.stdout_lines()) == (0, ['{"text":"TWO"}'])
