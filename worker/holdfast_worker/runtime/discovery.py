"""The workers of this user on this host: where the control port of each is found.

One file a worker, in a folder that only its owner may enter: `{workerId, url, token, pid, startedAt}`. Beside it lies a
lock, which the worker holds as long as it lives, however it ends: so a second worker of the same id is refused, and
what a killed one left behind is known as such.
"""

import hashlib
import json
import os
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from holdfast_core.errors import ConfigurationError

__all__ = ["Announcement", "Found", "WorkerIdTaken", "announced", "running_workers"]

#: Somebody who looks whether a worker lives holds its lock for a moment: a start tries again for so long.
LOCK_SECONDS: Final = 1.0
LOCK_LOOK_SECONDS: Final = 0.01
#: A file of ours is a few hundred bytes; what is larger is none.
MAX_FILE_BYTES: Final = 65_536
#: How much of an id its file's name shows.
SHOWN_CHARACTERS: Final = 80


class WorkerIdTaken(ConfigurationError):
    """A worker of this id runs on this host already."""

    def __init__(self, worker_id: str, pid: int | None) -> None:
        who = "" if pid is None else f" (process {pid})"
        super().__init__(
            f"A worker with the id {worker_id!r} runs on this host already{who}. Give this one an id of its own:"
            " --worker-id, or HOLDFAST_WORKER_ID."
        )
        self.worker_id = worker_id
        self.pid = pid


@dataclass(frozen=True)
class Found:
    """A worker that runs: where it is asked, and with what token."""

    worker_id: str
    url: str
    token: str = field(repr=False)
    pid: int
    started_at: datetime

    def to_json(self) -> str:
        """The content of its file."""
        return json.dumps(
            {
                "workerId": self.worker_id,
                "url": self.url,
                "token": self.token,
                "pid": self.pid,
                "startedAt": self.started_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            }
        )

    @classmethod
    def of_json(cls, text: str | bytes) -> "Found":
        """Raises ValueError where it is not such a file."""
        try:
            read: Any = json.loads(text)
            entry = cast("dict[str, Any]", read)
            found = cls(
                worker_id=str(entry["workerId"]),
                url=str(entry["url"]),
                token=str(entry["token"]),
                pid=int(entry["pid"]),
                started_at=datetime.fromisoformat(str(entry["startedAt"])),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no discovery file: {error}") from None
        return found


class Announcement:
    """A worker's file, and the lock on its id."""

    def __init__(self, found: Found, path: Path, lock: Path) -> None:
        self.found = found
        self._path = path
        self._lock = lock

    def renew(self) -> None:
        """Show that both files are in use, and write anew what somebody tidied away: folders like /tmp and those of a
        login that has ended are cleared of what looks old."""
        with suppress(OSError, ConfigurationError):
            _own_folder()
            if not self._path.exists():
                _write(self._path, self.found.to_json())
            os.utime(self._path)
            os.utime(self._lock)

    def withdraw(self) -> None:
        """The worker ends."""
        with suppress(OSError):
            self._path.unlink()


@contextmanager
def announced(worker_id: str, url: str, token: str) -> Generator[Announcement]:
    """Be found under this id while the block runs.

    Raises WorkerIdTaken where a worker of this id lives on this host, and ConfigurationError where there is no folder
    that is ours alone.
    """
    folder = _own_folder()
    path, lock_path = folder / f"{_name(worker_id)}.json", folder / f"{_name(worker_id)}.lock"
    try:
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        raise _unusable(lock_path, f"cannot be opened ({error.strerror})") from None
    try:
        give_up = time.monotonic() + LOCK_SECONDS
        while not _try_lock(lock):
            if time.monotonic() >= give_up:
                raise WorkerIdTaken(worker_id, _pid_in(path))
            time.sleep(LOCK_LOOK_SECONDS)
        announcement = Announcement(
            Found(worker_id, url, token, os.getpid(), datetime.now(UTC)), path, lock_path
        )
        try:
            _write(path, announcement.found.to_json())
        except OSError as error:
            raise _unusable(path, f"cannot be written ({error.strerror})") from None
        try:
            yield announcement
        finally:
            announcement.withdraw()
    finally:
        os.close(lock)


def running_workers() -> list[Found]:
    """The workers of this user that run on this host, by id. Raises ConfigurationError where a folder is not ours
    alone, since what it says cannot be trusted."""
    found: dict[str, Found] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*.json")):
            worker = _alive(path)
            if worker is not None:
                found.setdefault(worker.worker_id, worker)
    return sorted(found.values(), key=lambda worker: worker.worker_id)


def _alive(path: Path) -> Found | None:
    """What the file says, where its worker holds the lock; None else."""
    try:
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    try:
        if _try_lock(lock):  # given back by closing the file
            return None
    finally:
        os.close(lock)
    return _read(path)


def _read(path: Path) -> Found | None:
    """None where it is gone, or is none of ours."""
    try:
        with path.open("rb") as file:
            return Found.of_json(file.read(MAX_FILE_BYTES))
    except (OSError, ValueError):
        return None


def _pid_in(path: Path) -> int | None:
    found = _read(path)
    return None if found is None else found.pid


def _name(worker_id: str) -> str:
    """A file's name for an id, whatever the id holds and however the file system takes capitals."""
    digest = hashlib.sha256(worker_id.encode()).hexdigest()[:16]
    return f"{quote(worker_id, safe='')[:SHOWN_CHARACTERS]}-{digest}"


def _write(path: Path, text: str) -> None:
    """All of it or nothing; for the owner's eyes from the start."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".new")  # 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


# The folder


def _runtime_path(*, make: bool) -> Path:
    from platformdirs import user_runtime_path

    with warnings.catch_warnings():
        # That a host has no such folder, and another is taken, is nothing that a person could mend here.
        warnings.simplefilter("ignore")
        return user_runtime_path("holdfast", ensure_exists=make)


def _own_folder() -> Path:
    """Where a worker of ours writes its file; made where it is missing."""
    try:
        folder = _runtime_path(make=True) / "workers"
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        named = error.filename or "the runtime folder"
        raise ConfigurationError(
            f"There is no folder for the worker's control file: {named}: {error.strerror or error}. Name one that is"
            " yours alone in XDG_RUNTIME_DIR."
        ) from None
    _check(folder)
    return folder


def _folders() -> list[Path]:
    """Where workers of this user may have written: a login has a folder that a service may not have."""
    try:
        own = _runtime_path(make=False) / "workers"
    except OSError as error:
        raise ConfigurationError(f"There is no folder for the control of workers: {error}") from None
    folders: list[Path] = []
    if own.is_dir():
        _check(own)
        folders.append(own)
    if sys.platform == "win32":
        return folders
    for place in (f"/run/user/{os.geteuid()}", f"{tempfile.gettempdir()}/runtime-{os.geteuid()}"):
        other = Path(place) / "holdfast" / "workers"
        # Somebody else may have made one by this name: then no worker of ours is in it.
        with suppress(OSError, ConfigurationError):
            if other != own and other.is_dir():
                _check(other)
                folders.append(other)
    return folders


def _check(folder: Path) -> None:
    """Raises ConfigurationError unless nobody else can read, write or replace what is in it."""
    if sys.platform == "win32":  # below the user's own profile
        return
    base = folder.parent.parent
    status = base.stat()
    if status.st_uid not in {0, os.geteuid()}:
        raise _unusable(base, "belongs to somebody else")
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise _unusable(base, "may be written by others")
    for one in (folder.parent, folder):
        status = one.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise _unusable(one, "is not a folder")
        if status.st_uid != os.geteuid():
            raise _unusable(one, "belongs to somebody else")
        if status.st_mode & 0o022:
            raise _unusable(one, "may be written by others")
        if status.st_mode & 0o077:
            one.chmod(0o700)


def _unusable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path} {why}, so the control of workers cannot be kept there. Remove it, or name a folder that is yours"
        " alone in XDG_RUNTIME_DIR."
    )


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: int) -> bool:
        os.lseek(file, 0, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
