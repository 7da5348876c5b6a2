"""Writing a person's settings: all at once, with what was there kept beside them."""

import os
import stat
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["ChangedMeanwhile", "read", "replace"]


class ChangedMeanwhile(Exception):
    """Somebody else has written the file since it was read."""


def read(path: Path) -> bytes | None:
    """What is in the file; None where there is none. Raises OSError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def replace(path: Path, before: bytes | None, after: bytes) -> Path | None:
    """Put `after` into a file that held `before`. Returns where `before` is kept.

    Whoever reads the file sees the one or the other; a symbolic link stays one, and the mode as it was. Raises
    ChangedMeanwhile, OSError.
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    new = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(after)
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            new.chmod(stat.S_IMODE(target.stat().st_mode))
        if read(target) != before:
            raise ChangedMeanwhile
        backup = None if before is None else _keep(target, before)
        new.replace(target)
    except BaseException:
        with suppress(FileNotFoundError):
            new.unlink()
        raise
    return backup


def _keep(target: Path, before: bytes) -> Path:
    """A copy beside the file, under a name of this moment. It never overwrites another."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    backup = target.with_name(f"{target.name}.{now}.bak")
    mode = stat.S_IMODE(target.stat().st_mode)
    with os.fdopen(os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(before)
    return backup
