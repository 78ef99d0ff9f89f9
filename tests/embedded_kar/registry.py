"""The live sidecars of one user, which find each other in a directory.

Each sidecar has a file there and holds a lock on it. The lock ends with the process, however that
exits, so a dead sidecar is never taken for a live one.
"""

import asyncio
import fcntl
import json
import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PERIOD = 0.1  # seconds until the start or exit of a sidecar is seen
MAX_FILE = 64 * 1024  # bytes


class RegistryError(Exception):
    """The directory cannot be used; str() says why, and what to do."""


@dataclass(frozen=True)
class Replica:
    """A process of a service with its sidecar; id is the name of the sidecar's file."""

    id: str
    service: str
    app_port: int
    h2c: bool


@dataclass(frozen=True)
class Record:
    """What a sidecar's file says, as JSON; without a service it only calls others."""

    application: str
    service: str
    app_port: int
    h2c: bool


class Registry:
    """The sidecars of one application, as seen from one of them."""

    def __init__(self, application: str) -> None:
        """Raise RegistryError if the directory cannot be used."""
        self.application = application
        self.directory = _runtime_directory()
        self._own_file: Path | None = None
        self._records: dict[str, Record | None] = {}  # by file name; None is not ours
        self._services: dict[str, list[Replica]] = {}
        self._changed = asyncio.Event()

    def register(self, service: str, app_port: int, h2c: bool) -> None:
        """Make this sidecar known until unregister(), or the exit of this process."""
        record = Record(self.application, service, app_port, h2c)
        path = self.directory / uuid.uuid4().hex
        with self._locked_directory():
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            os.write(file, json.dumps(asdict(record)).encode())
            fcntl.flock(file, fcntl.LOCK_EX)  # held while the file is open, which no child inherits
        self._own_file = path

    def unregister(self) -> None:
        if self._own_file:
            self._own_file.unlink(missing_ok=True)

    def replicas(self, service: str) -> list[Replica]:
        """Return the live replicas of a service."""
        return self._services.get(service, [])

    def is_live(self, replica: Replica) -> bool:
        return replica.id in self._records

    async def change(self, timeout: float) -> None:
        """Return when replicas have come or gone, or after a timeout in seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()

    def refresh(self) -> None:
        """Look which sidecars are live now, and remove the files of dead ones."""
        try:
            names = os.listdir(self.directory)
        except OSError:
            return  # somebody removed the directory: those that are known stay so
        records = {}
        for name in names:
            with suppress(OSError):  # the file has just been removed, or cannot be read
                if self._is_live_file(name):
                    known = name in self._records
                    records[name] = self._records[name] if known else self._read(name)
        if records.keys() == self._records.keys():
            return
        self._records = records
        self._services = {}
        for name, record in records.items():
            if record and record.service:
                replica = Replica(name, record.service, record.app_port, record.h2c)
                self._services.setdefault(record.service, []).append(replica)
        self._changed.set()
        self._changed = asyncio.Event()

    def _read(self, name: str) -> Record | None:
        """Return the record of a file, or None if it is another application's, or not a record."""
        with (self.directory / name).open("rb") as file:
            content = file.read(MAX_FILE)
        try:
            fields: Any = json.loads(content)
            record = Record(**fields)
        except (ValueError, TypeError):
            return None
        is_valid = isinstance(record.service, str) and record.app_port in range(1, 65536)
        return record if is_valid and record.application == self.application else None

    def _is_live_file(self, name: str) -> bool:
        """Return whether a sidecar holds a file; remove it if it is a dead sidecar's."""
        path = self.directory / name
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
                return False
            if _is_locked(file):
                return True
            with self._locked_directory():  # nobody is between making a file and locking it
                if _is_locked(file):
                    return True
                path.unlink(missing_ok=True)
                return False
        finally:
            os.close(file)

    @contextmanager
    def _locked_directory(self) -> Iterator[None]:
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
        finally:
            os.close(directory)


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)  # its maker may be about to lock it
    return False


def _runtime_directory() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
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
        status = path.lstat()
    except OSError as error:
        raise RegistryError(f"{path}: {error.strerror}; set XDG_RUNTIME_DIR") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise RegistryError(
            f"{path} must be a directory, not a link, that only you can write to; "
            "set XDG_RUNTIME_DIR"
        )
