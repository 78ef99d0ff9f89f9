"""Make many calls over one HTTP/2 connection, each with a name of its own; none may be lost.

First straight to the server, then through a sidecar of the embedded KAR. Status 1 if one is lost.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.http2 import async_http2_client
from support.kar import EMBEDDED_KAR, Kar
from support.processes import Processes


async def calls(address: str, count: int, in_flight: int) -> tuple[int, int]:
    """Return how many calls were answered rightly, and how many connections that took."""
    good = 0
    connections = set()
    numbers = iter(range(count))

    async def worker(client: httpx.AsyncClient) -> None:
        nonlocal good
        for number in numbers:
            person = {"name": "John", "surname": f"Doe {number}"}
            try:
                answer = await client.post("helloJson", json=person)
            except httpx.HTTPError as error:
                print(f"call {number}: {error!r}", file=sys.stderr)
                continue
            right = {"message": f"Hello John Doe {number}"}
            good += answer.status_code == 200 and answer.json() == right
            stream = answer.extensions["network_stream"]
            connections.add(stream.get_extra_info("client_addr"))

    async with async_http2_client(address) as client:
        await asyncio.gather(*[worker(client) for _ in range(in_flight)])
    return good, len(connections)


def main(straight: int, through_kar: int, in_flight: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(Path(folder))
        try:
            running = processes.start_server(HELLO_DELAY="0")
            _, address = running.process, running.url
            kar = Kar(EMBEDDED_KAR, processes)
            kar.start_server(HELLO_DELAY="0")
            sidecar = f"{kar.start_sidecar().url}/kar/v1/service/async-server/call"
            lost = 0
            for way, where, count in (
                ("straight to the server", address, straight),
                ("through the embedded KAR", sidecar, through_kar),
            ):
                start = time.perf_counter()
                good, connections = asyncio.run(calls(where, count, in_flight))
                seconds = time.perf_counter() - start
                print(f"{way}: {good} of {count} calls, {connections} connection, {seconds:.1f} s")
                lost += count - good + connections - 1
        finally:
            processes.end()
    return int(lost > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--straight", type=int, default=50_000, metavar="CALLS")
    parser.add_argument("--through-kar", type=int, default=10_000, metavar="CALLS")
    parser.add_argument("-c", type=int, default=50, metavar="IN_FLIGHT")
    options = parser.parse_args()
    sys.exit(main(options.straight, options.through_kar, options.c))
