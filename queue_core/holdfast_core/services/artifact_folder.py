"""Artifacts in a folder: one file each, named by its id, whole or not there."""

import errno
import os
import shutil
from pathlib import Path
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

    def put(self, artifact_id: UUID, content: IO[bytes]) -> None:
        """Keep the bytes. Raises StoreUnavailable; nothing is then left behind."""
        target = self.path_of(artifact_id)
        unfinished = target.with_name(target.name + ".part")
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with open(unfinished, "xb", opener=_only_ours) as file:
                    shutil.copyfileobj(content, file)
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(target)
                _sync_folder(target.parent)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def remove(self, artifact_id: UUID) -> None:
        """Remove the bytes, if they are there."""
        self.path_of(artifact_id).unlink(missing_ok=True)


def _only_ours(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_folder(path: Path) -> None:
    if os.name == "nt":
        return  # a folder cannot be opened there, and needs no such care
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
