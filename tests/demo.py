"""Run the example: the server, the client and the timed client, each beside a sidecar of KAR.

The KAR is the embedded one, or with --kar PATH a real one, which needs Kafka and Redis.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from subprocess import Popen

from environment import ROOT, VENV, prepare

PATIENCE = 60.0  # seconds: the real KAR may take long to start


def main(kar: str) -> None:
    prepare("requirements.txt")
    with tempfile.TemporaryDirectory() as runtime, socket.create_server(("", 0)) as free:
        environment = {
            **os.environ,
            "PATH": f"{VENV}/bin:{os.environ['PATH']}",
            "XDG_RUNTIME_DIR": runtime,  # a server of the same name elsewhere is not called
            "KAR_APP_PORT": str(free.getsockname()[1]),  # 8080 may be taken
        }
        free.close()
        run_all(kar, environment, Path(runtime, "server.log"))


def run_all(kar: str, environment: dict[str, str], log: Path) -> None:
    """Run the README's commands; exit with 1 and the reason if one of them does not end well."""
    run = ["run", "-h2c", "-app", "hello-async"]
    words = [*run, "-service", "async-server", "python", "server.py"]
    print("\n$ kar", *words, "&", flush=True)
    server = start_server([kar, *words], environment, log)
    try:
        for script in ("client.py", "timed-client.py"):
            words = [*run, "python", script]
            print("\n$ kar", *words, flush=True)
            status = subprocess.run(
                [kar, *words], cwd=ROOT, env=environment, check=False
            ).returncode
            if status:
                sys.exit(f"{script} ended with status {status}; see what it printed")
    finally:
        server.terminate()
        server.wait()
        print("\nMeanwhile the server printed:", log.read_text(), sep="\n", end="", flush=True)


def start_server(command: list[str], environment: dict[str, str], log: Path) -> Popen[bytes]:
    """Start a server and wait until it serves; the real KAR may need a second try."""
    for _ in range(2):
        with log.open("w") as output:
            try:
                server = Popen(command, cwd=ROOT, env=environment, stdout=output)
            except OSError as error:
                sys.exit(f"{command[0]} cannot be run: {error.strerror}; try without --kar")
        end = time.monotonic() + PATIENCE
        while server.poll() is None and time.monotonic() < end:
            if "Running on" in log.read_text():
                return server
            time.sleep(0.05)
        server.kill()
        server.wait()
    sys.exit(f"the server did not start:\n{log.read_text()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kar", default=str(ROOT / "tests/bin/kar"), metavar="PATH")
    main(parser.parse_args().kar)
