"""The live services of one user, which their sidecars find in a directory.

The sidecar of a service has a file there and holds a lock on it. The operating system releases the
lock when the process exits, even if it is killed, so a dead sidecar is never taken for a live one.
A live one also touches its file again and again. If it stops, it is suspended, and gets no calls.
"""

import asyncio
import fcntl
import json
import os
import stat
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from .output import FatalError

REFRESH_PERIOD = 0.1  # seconds between two looks at the directory
CHECK_PERIOD = 1.0  # seconds between two looks at the own file
MAX_SILENCE = 11.0  # seconds for which the file of a live sidecar may stay untouched
UNLOCKED_PREFIX = "."  # of the name of a file that its sidecar has not locked yet


@dataclass(frozen=True)
class Replica:
    """The sidecar of a service, as its file describes it."""

    id: str
    application: str
    service: str
    app_port: int
    h2c: bool

    @property
    def address(self) -> str:
        """The host and port of the process."""
        return f"127.0.0.1:{self.app_port}"


class Registry:
    """The services of one application, as seen from one of its sidecars."""

    def __init__(self, application: str) -> None:
        """Raise FatalError if the directory cannot be used."""
        self.application = application
        self.directory = _runtime_directory()
        self._own_file = self.directory / uuid.uuid4().hex
        self._registering: asyncio.Task[None] | None = None
        self._replicas: list[Replica] = []

    def register(self, service: str, app_port: int, h2c: bool) -> None:
        """Make a service known until unregister(), or the exit of this process."""
        self.refresh()  # removes the files of crashed sidecars
        replica = Replica(self._own_file.name, self.application, service, app_port, h2c)
        self._write_file(replica)
        self._registering = asyncio.create_task(self._stay_registered(replica))

    def unregister(self) -> None:
        if self._registering:
            self._registering.cancel()
            self._own_file.unlink(missing_ok=True)

    async def _stay_registered(self, replica: Replica) -> None:
        """Touch the own file, and write it again whenever somebody has removed it."""
        while True:
            await asyncio.sleep(CHECK_PERIOD)
            try:
                os.utime(self._own_file)
            except OSError:
                with suppress(FatalError):
                    self._write_file(replica)

    def _write_file(self, replica: Replica) -> None:
        new_file = self.directory / (UNLOCKED_PREFIX + replica.id)
        # The descriptor stays open, and children do not inherit it. So this process holds the lock.
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(new_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            os.write(descriptor, json.dumps(asdict(replica)).encode())
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            new_file.rename(self._own_file)
        except OSError as error:
            new_file.unlink(missing_ok=True)
            raise FatalError(f"{self.directory}: {error.strerror}; set XDG_RUNTIME_DIR") from error

    def replicas(self, service: str) -> list[Replica]:
        """Return the live replicas of a service."""
        return [each for each in self._replicas if each.service == service]

    def is_live(self, replica: Replica) -> bool:
        return replica in self._replicas

    def refresh(self) -> None:
        """Look which sidecars are live now, and remove the files of dead ones."""
        try:
            paths = list(self.directory.iterdir())
        except OSError:
            return  # somebody removed the directory: keep the sidecars that are known
        found = [
            _read_or_remove(path) for path in paths if not path.name.startswith(UNLOCKED_PREFIX)
        ]
        self._replicas = [each for each in found if each and each.application == self.application]


def _read_or_remove(path: Path) -> Replica | None:
    """Return the live sidecar that holds the lock on a file; if nobody does, remove the file."""
    with suppress(OSError, ValueError, TypeError, RecursionError):  # removed, or not a sidecar's
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                if time.time() - os.fstat(file.fileno()).st_mtime < MAX_SILENCE:
                    return Replica(**json.load(file))
    return None


def _runtime_directory() -> Path:
    """Return the directory, in XDG_RUNTIME_DIR if that is set; make it if there is none."""
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        _make_private_directory(Path(runtime))
        directory = Path(runtime, "embedded-kar")
    else:
        directory = Path(tempfile.gettempdir(), f"embedded-kar-{os.getuid()}")
    _make_private_directory(directory)
    return directory


def _make_private_directory(path: Path) -> None:
    """Make a directory if there is none; refuse a link, and one that others can write to."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        os.scandir(path).close()  # fails if it cannot be read
        status = path.lstat()
    except OSError as error:
        raise FatalError(f"{path}: {error.strerror}; set XDG_RUNTIME_DIR") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise FatalError(
            f"{path} must be a directory, not a link, that only you can write to; "
            "set XDG_RUNTIME_DIR"
        )
