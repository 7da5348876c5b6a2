"""Artifacts: files that a job's workers leave with it (CONTRACT section 4)."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Final
from uuid import UUID

import structlog
from anyio import CancelScope
from anyio.to_thread import run_sync
from sqlalchemy import Connection

from holdfast_core.callers import Caller
from holdfast_core.db import Database
from holdfast_core.errors import (
    ArtifactNotFound,
    BodyTooLarge,
    FieldError,
    InvalidRequest,
    JobNotFound,
    JobStateConflict,
    StoreUnavailable,
)
from holdfast_core.ids import uuid7
from holdfast_core.policy import Permission, admit, admit_worker
from holdfast_core.schemas import Artifact, ArtifactList, UploadRequest
from holdfast_core.services.artifact_folder import ArtifactFolder
from holdfast_core.services.holders import may_add
from holdfast_core.services.jobs import job_uuid
from holdfast_core.services.presence import Presence
from holdfast_core.services.tokens import fence
from holdfast_core.settings import Settings
from holdfast_core.store import artifacts as store
from holdfast_core.store.jobs import find as find_job
from holdfast_core.store.logs import hold

__all__ = ["ArtifactService", "Download", "Uploaded"]

log = structlog.get_logger(__name__)

CHUNK: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An artifact, and whether this call has added it."""

    artifact: Artifact
    is_new: bool


@dataclass(frozen=True, slots=True)
class Download:
    """An artifact, and its bytes: an open file, which the caller closes."""

    artifact: Artifact
    content: IO[bytes]


class ArtifactService:
    """Keeps artifacts, in the database or in a folder."""

    def __init__(self, database: Database, presence: Presence, settings: Settings) -> None:
        self._database = database
        self._presence = presence
        self._settings = settings
        self._folder = None if settings.artifact_dir is None else ArtifactFolder(settings.artifact_dir)

    async def upload(
        self, caller: Caller, job_id: str, request: UploadRequest, content: IO[bytes]
    ) -> Uploaded:
        """Keep the bytes of an open file, as the job's holder, or as who has just ended its claim.

        The same bytes under the same name are kept once. Raises InvalidRequest where the digest is another,
        BodyTooLarge, JobNotFound, JobNotOwned, LeaseLost, or JobStateConflict where the job has too many.
        """
        admit_worker(caller, request.worker_id, "upload artifacts")
        found = job_uuid(job_id)
        token_hash = fence(self._settings, request.lease_token)
        self._presence.seen(request.worker_id, None)
        size, digest = await run_sync(_measured, content)
        if size > self._settings.artifact_max_bytes:
            raise BodyTooLarge(
                f"The artifact has {size:,} bytes; {self._settings.artifact_max_bytes:,} are taken"
                " (HOLDFAST_ARTIFACT_MAX_BYTES)."
            )
        if request.digest not in {None, digest}:
            raise InvalidRequest.of(
                FieldError(
                    "digest", f"is not that of the bytes that came, which is {digest}; nothing was kept"
                )
            )

        def looking(connection: Connection) -> tuple[Artifact, bool] | None:
            may_add(find_job(connection, found), found, request.worker_id, token_hash)
            return store.find_same(connection, found, request.name, digest)

        # Before a byte is written for somebody who may not, or who has done so before.
        same = await self._database.read(looking)
        if same is not None:
            await self._restore(*same, content)
            return Uploaded(same[0], is_new=False)
        artifact_id = uuid7()
        data: bytes | None = None
        if self._folder is None:
            data = await run_sync(content.read)
        else:
            await run_sync(self._folder.put, artifact_id, content)
        committing = False

        def work(connection: Connection) -> Uploaded:
            nonlocal committing
            may_add(hold(connection, found), found, request.worker_id, token_hash)
            same = store.find_same(connection, found, request.name, digest)
            if same is not None:
                return Uploaded(same[0], is_new=False)
            if store.count(connection, found) >= store.MAX_ARTIFACTS:
                raise JobStateConflict(
                    f"The job has {store.MAX_ARTIFACTS:,} artifacts, which is all that it may."
                )
            new = store.NewArtifact(
                id=artifact_id,
                job_id=found,
                name=request.name,
                content_type=request.content_type,
                size=size,
                digest=digest,
                worker_id=request.worker_id,
                content=data,
            )
            added = Uploaded(store.add(connection, new), is_new=True)
            committing = True
            return added

        try:
            return await self._database.write(work)
        finally:
            # A commit that failed may have been done all the same: a file too many is better than a lost one.
            if not committing:
                with CancelScope(shield=True):
                    await self.remove_files([artifact_id])

    async def _restore(self, artifact: Artifact, is_here: bool, content: IO[bytes]) -> None:
        """Put back the file of an artifact that was uploaded before, if it has gone from the folder."""
        if is_here or self._folder is None or await run_sync(self._folder.has, artifact.id, artifact.size):
            return
        log.warning("artifact_restored", artifact_id=str(artifact.id), job_id=str(artifact.job_id))
        await run_sync(self._folder.put, artifact.id, content)

    async def list(self, caller: Caller, job_id: str) -> ArtifactList:
        """All artifacts of a job, oldest first. Raises JobNotFound."""
        admit(caller, Permission.LOOK, "see artifacts")
        found = job_uuid(job_id)

        def reading(connection: Connection) -> ArtifactList:
            if find_job(connection, found) is None:
                raise JobNotFound(f"No job has the id {found}.")
            return ArtifactList(items=store.list_of(connection, found))

        return await self._database.read(reading)

    async def download(self, caller: Caller, job_id: str, artifact_id: str) -> Download:
        """One artifact with its bytes. Raises JobNotFound, ArtifactNotFound, or StoreUnavailable where its file is
        not in this server's folder: it is there for who asks a server that has the folder, so it is not "not found"."""
        admit(caller, Permission.LOOK, "see artifacts")
        found = job_uuid(job_id)

        def reading(connection: Connection) -> tuple[Artifact, bytes | None]:
            if find_job(connection, found) is None:
                raise JobNotFound(f"No job has the id {found}.")
            wanted = _artifact_uuid(artifact_id)
            known = store.find(connection, found, wanted)
            if known is None:
                raise ArtifactNotFound(f"The job has no artifact with the id {wanted}.")
            artifact, is_here = known
            content = store.content_of(connection, wanted) if is_here else None
            if is_here and content is None:  # removed between the two statements
                raise ArtifactNotFound(f"The job has no artifact with the id {wanted}.")
            return artifact, content

        artifact, content = await self._database.read(reading)
        if content is not None:
            return Download(artifact, io.BytesIO(content))
        if self._folder is None:
            raise StoreUnavailable(
                "The artifact's bytes are in a folder, and this server has none: set HOLDFAST_ARTIFACT_DIR as it"
                " was when they came.",
                retry_after=30,
            )
        return Download(artifact, await run_sync(self._folder.open, artifact.id, artifact.size))

    async def remove_files(self, artifact_ids: Sequence[UUID]) -> None:
        """Remove the files of artifacts that are no more. What cannot be removed is named in the log."""
        if self._folder is None:
            return
        for artifact_id in artifact_ids:
            try:
                await run_sync(self._folder.remove, artifact_id)
            except OSError as error:
                log.warning("artifact_not_removed", artifact_id=str(artifact_id), cause=str(error))


def _measured(content: IO[bytes]) -> tuple[int, str]:
    """Size and digest of a file, which then stands at its beginning again."""
    found = hashlib.sha256()
    size = 0
    content.seek(0)
    while chunk := content.read(CHUNK):
        found.update(chunk)
        size += len(chunk)
    content.seek(0)
    return size, f"sha256:{found.hexdigest()}"


def _artifact_uuid(artifact_id: str) -> UUID:
    try:
        return UUID(artifact_id)
    except ValueError:
        raise ArtifactNotFound("No artifact has this id: the list of a job's artifacts has them.") from None
