"""Artifacts in a folder: one file each, named by its id, whole or not there."""

import errno
import os
import shutil
from pathlib import Path
from tempfile import mkstemp
from typing import IO
from uuid import UUID

from holdfast_core.errors import StoreUnavailable

__all__ = ["ArtifactFolder"]


class ArtifactFolder:
    """The folder that HOLDFAST_ARTIFACT_DIR names. All of this blocks: call it in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def path_of(self, artifact_id: UUID) -> Path:
        """Where the bytes of an artifact are. Ids begin with their time, so their ends are spread evenly."""
        name = str(artifact_id)
        return self._path / name[-2:] / name

    def has(self, artifact_id: UUID, size: int) -> bool:
        """Whether the bytes are there, all of them."""
        path = self.path_of(artifact_id)
        return path.is_file() and path.stat().st_size == size

    def open(self, artifact_id: UUID, size: int) -> IO[bytes]:
        """The bytes, which the caller closes. Raises StoreUnavailable where they are not there, or not whole."""
        try:
            file = self.path_of(artifact_id).open("rb")
        except OSError as error:
            raise _cannot_read(error.strerror or str(error)) from error
        found = os.fstat(file.fileno()).st_size
        if found != size:
            file.close()
            raise _cannot_read(f"it has {found:,} bytes instead of {size:,}")
        return file

    def put(self, artifact_id: UUID, content: IO[bytes]) -> None:
        """Keep the bytes. Raises StoreUnavailable; nothing is then left behind."""
        target = self.path_of(artifact_id)
        try:
            if not target.parent.is_dir():
                self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
                target.parent.mkdir(mode=0o700, exist_ok=True)
                _sync_folder(self._path)
            descriptor, unfinished = mkstemp(prefix=target.name, suffix=".part", dir=target.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    shutil.copyfileobj(content, file)
                    file.flush()
                    os.fsync(file.fileno())
                Path(unfinished).replace(target)
                _sync_folder(target.parent)
            except BaseException:
                Path(unfinished).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def remove(self, artifact_id: UUID) -> None:
        """Remove the bytes, if they are there."""
        self.path_of(artifact_id).unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    if os.name == "nt":
        return  # a folder cannot be opened there, and needs no such care
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _cannot_read(why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"The artifact's file in this server's HOLDFAST_ARTIFACT_DIR cannot be read: {why}. All servers must have"
        " the same folder there: is it mounted?",
        retry_after=30,
    )


def _cannot_write(path: Path, error: OSError) -> StoreUnavailable:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return StoreUnavailable(
            f"There is no room for the artifact in HOLDFAST_ARTIFACT_DIR ({path}). Nothing was kept; free some"
            " space and repeat.",
            retry_after=30,
        )
    return StoreUnavailable(
        f"HOLDFAST_ARTIFACT_DIR ({path}) cannot be written: {error.strerror or error}. Nothing was kept; mend"
        " that and repeat.",
        retry_after=30,
    )
