"""Where a SQLite database lies: locks that hold only on local disks, and room to write."""

import shutil
import tempfile
from pathlib import Path
from typing import Final

from holdfast_server.doctor.checks import Check, ok, problem, size, warning

__all__ = ["can_write_in", "examine_place", "file_system_of", "nearest_folder"]

#: File systems over a network. Their locks and SQLite's shared memory cannot be relied on.
_NETWORK: Final = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
        "vboxsf",
    }
)
_MOUNTS: Final = Path("/proc/self/mounts")

LITTLE_BYTES: Final = 1024**3
TOO_LITTLE_BYTES: Final = 64 * 1024**2


def examine_place(path: Path) -> list[Check]:
    """The file system and the free space of a database file, which need not be there yet."""
    folder = nearest_folder(path)
    checks: list[Check] = []
    if _MOUNTS.exists():  # elsewhere the system does not say
        checks.append(_file_system(path, file_system_of(folder, _MOUNTS.read_text())))
    free = shutil.disk_usage(folder).free
    found = f"{size(free)} free."
    if free < TOO_LITTLE_BYTES:
        checks.append(
            problem("disk", found, "Free some space: when the disk is full, not even a pause can be made.")
        )
    elif free < LITTLE_BYTES:
        checks.append(warning("disk", found, "Free some space before it runs out."))
    else:
        checks.append(ok("disk", found))
    return checks


def nearest_folder(path: Path) -> Path:
    """The folder of a path, or the nearest one above it that exists."""
    return next(folder for folder in path.resolve().parents if folder.is_dir())


def file_system_of(path: Path, mounts: str) -> str:
    """The kind of file system that a path is on, by the lines of /proc/mounts; "" where they do not say."""
    kind, longest = "", -1
    for line in mounts.splitlines():
        _, place, found, *_ = line.split(" ")
        point = Path(place.encode().decode("unicode_escape"))  # \040 is a blank
        if path.is_relative_to(point) and len(point.parts) >= longest:  # of two at one place the later counts
            kind, longest = found, len(point.parts)
    return kind


def _file_system(path: Path, kind: str) -> Check:
    if kind in _NETWORK:
        return problem(
            "file system",
            f"{path} is on {kind}, a network file system, whose locks cannot be relied on.",
            "Put the database on a local disk, or use PostgreSQL.",
        )
    return ok("file system", f"{kind or 'unknown'}, local.")


def can_write_in(folder: Path) -> OSError | None:
    """Why no file can be made in a folder; None where it can."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error
    return None
