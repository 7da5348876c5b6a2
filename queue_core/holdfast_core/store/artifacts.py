"""Artifacts: what is known of them, and, where no folder is set, their bytes."""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, String, bindparam, func, insert, select

from holdfast_core.db.tables import artifacts
from holdfast_core.db.types import Now, columns
from holdfast_core.schemas import Artifact

__all__ = [
    "MAX_ARTIFACTS",
    "NewArtifact",
    "add",
    "content_of",
    "count",
    "find",
    "find_same",
    "ids_of",
    "list_of",
]

#: Artifacts of one job.
MAX_ARTIFACTS: Final = 1_000

# All but the bytes.
_KNOWN: Final = tuple(column for column in artifacts.c if column.name != "content")
_IS_HERE: Final = artifacts.c.content.is_not(None).label("is_here")

_LIST = select(*_KNOWN).where(artifacts.c.job_id == bindparam("wanted")).order_by(artifacts.c.id)

_FIND = select(*_KNOWN, _IS_HERE).where(
    artifacts.c.job_id == bindparam("wanted"), artifacts.c.id == bindparam("artifact_id")
)

_CONTENT = select(artifacts.c.content).where(artifacts.c.id == bindparam("artifact_id"))

# The same bytes under the same name.
_SAME = select(*_KNOWN, _IS_HERE).where(
    artifacts.c.job_id == bindparam("wanted"),
    artifacts.c.name == bindparam("called", type_=String()),
    artifacts.c.digest == bindparam("with_digest", type_=String()),
)

_COUNT = select(func.count()).where(artifacts.c.job_id == bindparam("wanted"))

_ADD = insert(artifacts).values(created_at=Now()).returning(*_KNOWN)

# The artifacts of some jobs whose bytes are in the folder.
_IDS = select(artifacts.c.job_id, artifacts.c.id).where(
    artifacts.c.job_id.in_(bindparam("jobs", expanding=True)), artifacts.c.content.is_(None)
)


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """An artifact that is to be added. `content` is None where its bytes are in the folder."""

    id: UUID
    job_id: UUID
    name: str
    content_type: str
    size: int
    digest: str
    worker_id: str
    content: bytes | None


def _artifact(row: Any) -> Artifact:
    return Artifact.model_validate(columns(row))


def list_of(connection: Connection, job_id: UUID) -> list[Artifact]:
    """All artifacts of a job, oldest first."""
    return [_artifact(row) for row in connection.execute(_LIST, {"wanted": job_id})]


def count(connection: Connection, job_id: UUID) -> int:
    """How many artifacts a job has."""
    found: int = connection.execute(_COUNT, {"wanted": job_id}).scalar_one()
    return found


def find(connection: Connection, job_id: UUID, artifact_id: UUID) -> tuple[Artifact, bool] | None:
    """An artifact of a job, and whether its bytes are in the database. None where there is none."""
    row = connection.execute(_FIND, {"wanted": job_id, "artifact_id": artifact_id}).one_or_none()
    return None if row is None else (_artifact(row), row.is_here)


def content_of(connection: Connection, artifact_id: UUID) -> bytes | None:
    """The bytes of an artifact that are in the database. None where it has gone."""
    content: bytes | None = connection.execute(_CONTENT, {"artifact_id": artifact_id}).scalar_one_or_none()
    return content


def find_same(connection: Connection, job_id: UUID, name: str, digest: str) -> tuple[Artifact, bool] | None:
    """The artifact of a job with this name and these bytes, and whether those are in the database. None where
    there is none."""
    row = connection.execute(_SAME, {"wanted": job_id, "called": name, "with_digest": digest}).one_or_none()
    return None if row is None else (_artifact(row), row.is_here)


def add(connection: Connection, new: NewArtifact) -> Artifact:
    """Add an artifact."""
    values = {
        "id": new.id,
        "job_id": new.job_id,
        "name": new.name,
        "content_type": new.content_type,
        "size": new.size,
        "digest": new.digest,
        "worker_id": new.worker_id,
        "content": new.content,
    }
    return _artifact(connection.execute(_ADD, values).one())


def ids_of(connection: Connection, job_ids: list[UUID]) -> dict[UUID, list[UUID]]:
    """The artifacts of these jobs whose bytes are in the folder, by job."""
    found: dict[UUID, list[UUID]] = {}
    for row in connection.execute(_IDS, {"jobs": job_ids}):
        found.setdefault(row.job_id, []).append(row.id)
    return found
