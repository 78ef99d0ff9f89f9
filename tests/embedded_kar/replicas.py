"""The live replicas of an application's services, and the choice among them for each call."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from .call import Answer, Call, Replica, UndeliveredError
from .runtime_folder import RuntimeFolder

PERIOD = 0.1  # seconds until a sidecar's start or death is seen

Pause = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar tells the others of itself; a service of "" takes no calls."""

    app: str
    service: str
    app_port: int
    h2c: bool


class Replicas:
    """The replicas of one application's services, as this sidecar sees them."""

    def __init__(self, app: str) -> None:
        self.app = app
        self.folder = RuntimeFolder()
        self.own: Path | None = None
        self.known: dict[str, Sidecar | None] = {}  # by file name; None is not of this application
        self.replicas: dict[str, Replica] = {}
        self.services: dict[str, list[Replica]] = {}

    def join(self, sidecar: Sidecar) -> None:
        self.own = self.folder.add(json.dumps(asdict(sidecar)).encode())

    def leave(self) -> None:
        if self.own:
            self.own.unlink(missing_ok=True)

    async def watch(self) -> None:
        """Follow the sidecars that come and go, until cancelled."""
        while True:
            with suppress(OSError):  # the folder may be gone for a moment, or for good
                await self.look()
            await asyncio.sleep(PERIOD)

    async def look(self) -> None:
        """See which sidecars live now. Calls in flight on a dead one's process are made again."""
        live = self.folder.live(set(self.known))
        if live.keys() == self.known.keys():
            return
        self.known = {name: self.known.get(name) or self._read(live[name]) for name in live}
        gone = [self.replicas.pop(name) for name in set(self.replicas) - set(self.known)]
        self.services = {}
        for name, sidecar in self.known.items():
            if sidecar and sidecar.service:
                if name not in self.replicas:
                    self.replicas[name] = Replica(sidecar.app_port, sidecar.h2c)
                self.services.setdefault(sidecar.service, []).append(self.replicas[name])
        for replicas in gone:
            await replicas.close()

    def _read(self, content: bytes) -> Sidecar | None:
        try:
            sidecar = Sidecar(**json.loads(content))
            return sidecar if sidecar.app == self.app and 0 < sidecar.app_port < 65536 else None
        except (ValueError, TypeError):
            return None  # a file of something else

    async def call(self, service: str, call: Call, pause: Pause) -> Answer:
        """Make a call on a live replica of a service, and again until one answers.

        Between attempts, or when there is no replica yet, pause(seconds) is awaited, which may
        raise to end the call.
        """
        failed: set[Replica] = set()
        delay = 0.01
        while True:
            live = self.services.get(service, [])
            if failed:
                failed.intersection_update(live)
                live = [replica for replica in live if replica not in failed] or live
            if live:
                replica = random.choice(live)
                try:
                    return await replica.deliver(call)
                except UndeliveredError:
                    failed.add(replica)
            await pause(delay)
            delay = min(delay * 2, 0.25)
