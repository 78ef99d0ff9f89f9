"""The folder where one user's live sidecars find each other: a file each, held with a lock."""

import fcntl
import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .start_error import StartError


class RuntimeFolder:
    """A file for each live sidecar, under XDG_RUNTIME_DIR, else in a folder of the user's own.

    A sidecar holds a lock on its file. It ends with the process, however that dies, so that a dead
    sidecar is never taken for a live one. Files come and go under a lock on the folder.
    """

    def __init__(self) -> None:
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        if runtime:
            _own(Path(runtime))
            self.path = Path(runtime, "embedded-kar")
        else:
            self.path = Path(tempfile.gettempdir(), f"embedded-kar-{os.getuid()}")
        _own(self.path)

    def add(self, content: bytes) -> Path:
        """Make this process's file and return its path."""
        path = self.path / uuid.uuid4().hex
        with self._locked():
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            os.write(fd, content)
            fcntl.flock(fd, fcntl.LOCK_EX)  # fd stays open, and is not inherited, so this is all
        return path

    def live(self, known: set[str]) -> dict[str, bytes]:
        """Return the live sidecars' names, each with its content, left empty for known names.

        Files of dead sidecars are removed, whatever is in them.
        """
        live = {}
        for name in os.listdir(self.path):
            try:
                fd = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue  # it has just gone, or is nobody's sidecar
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
                    continue
                if _is_held(fd):
                    live[name] = b"" if name in known else os.read(fd, 64 * 1024)
                    continue
                with self._locked():  # nobody is between making a file and taking its lock
                    if not _is_held(fd):
                        (self.path / name).unlink(missing_ok=True)
            finally:
                os.close(fd)
        return live

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _is_held(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)  # for the one who is making the file, and has the folder's lock
    return False


def _own(path: Path) -> None:
    """Make a folder unless it is there; refuse a link, another user's, and one others can write."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}; set XDG_RUNTIME_DIR") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise StartError(
            f"{path} must be a folder, no link, that only you can write to; set XDG_RUNTIME_DIR"
        )
