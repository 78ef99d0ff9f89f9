"""The image and the manifest for Kubernetes, with what KAR's injector adds to the pods.

injected_pods.json was recorded: the template of each pod in the manifest, as the injector of the
real KAR received it, and the JSON patch that it responded with.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml
from support.kar import TRANSCRIPT, Kar
from support.processes import ROOT, Process, free_port

KUBERNETES = ROOT / "tests" / "kubernetes"
PODS = json.loads(Path(__file__).with_name("injected_pods.json").read_text())
CONFIG_DIR = "/var/run/secrets/kar.ibm.com"
# The real KAR reads each setting from a file, unless it is set in the environment.
SETTINGS = ("KAFKA_BROKERS", "KAFKA_VERSION", "REDIS_HOST", "REDIS_PORT")


def manifest() -> dict[str, dict[str, Any]]:
    """Return the objects of the manifest by their names."""
    objects = yaml.safe_load_all((KUBERNETES / "hello-async.yaml").read_text())
    return {each["metadata"]["name"]: each for each in objects}


def instruction(name: str) -> list[str]:
    """Return the arguments of an instruction of the Dockerfile in the form of a JSON list."""
    text = (KUBERNETES / "Dockerfile").read_text()
    (arguments,) = re.findall(rf"^{name} (\[.*\])$", text, re.MULTILINE)
    return [str(argument) for argument in json.loads(arguments)]


def injected_container(name: str) -> dict[str, Any]:
    """Return the only container of a pod, as the injector has changed it."""
    (patch,) = [pod["patch"] for pod in PODS if pod["name"] == name]
    (containers,) = [each["value"] for each in patch if each["path"] == "/spec/containers"]
    (container,) = containers
    assert isinstance(container, dict)
    return container


def start_container(kar: Kar, name: str, directory: Path) -> Process:
    """Run the command of a container, on ports of its own and in the test's application."""
    container = injected_container(name)
    variables = {each["name"]: each["value"] for each in container["env"]}
    ports = {variables["KAR_APP_PORT"]: str(free_port()), "3500": str(free_port())}
    for variable, value in variables.items():
        for old, new in {**ports, CONFIG_DIR: str(directory)}.items():
            value = value.replace(old, new)
        variables[variable] = value
    variables["KAR_APP"] = kar.app
    variables["PATH"] = f"{directory}:{kar.processes.environment['PATH']}"
    command = instruction("ENTRYPOINT") + container.get("args", instruction("CMD"))
    return kar.processes.start(*command, **variables)


def test_injected_pods_are_those_of_the_manifest() -> None:
    """Record the pods again if this fails."""
    templates = {name: each["spec"]["template"] for name, each in manifest().items()}
    assert {pod["name"]: pod["template"] for pod in PODS} == templates


def test_probe_reaches_kar() -> None:
    container = injected_container("async-server")
    port = container["readinessProbe"]["httpGet"]["port"]
    assert {"name": "KAR_RUNTIME_PORT", "value": str(port)} in container["env"]


def test_containers(kar: Kar, tmp_path: Path) -> None:
    directory = tmp_path / "config"
    directory.mkdir()
    (directory / "kar").symlink_to(kar.path.resolve())
    for setting in SETTINGS:
        if value := os.environ.get(setting):
            (directory / setting.lower()).write_text(value)
            del kar.processes.environment[setting]
    server = start_container(kar, "async-server", directory)
    server.wait_for_line("Running on")
    client = start_container(kar, "client", directory)
    assert client.wait() == 0
    assert client.stdout_lines() == TRANSCRIPT
    server.wait_for_line("[STDOUT] HTTP version: 2", 2)
