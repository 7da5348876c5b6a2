"""Artifacts: files that a job leaves behind (CONTRACT section 4)."""

import re
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import AfterValidator, Field

from holdfast_core.schemas.base import Answer, Name, WorkerRequest
from holdfast_core.schemas.jobs import LeaseToken

__all__ = ["MAX_ARTIFACT_NAME", "OCTET_STREAM", "Artifact", "ArtifactList", "ContentType", "UploadRequest"]

MAX_ARTIFACT_NAME: Final = 255
OCTET_STREAM: Final = "application/octet-stream"


#: Controls, what breaks a line, and halves of surrogate pairs. Emoji are joined by others, which may stay.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _no_control_characters(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("holds a control character")
    return text


def _lower(text: str) -> str:
    return text.lower()


_TOKEN: Final = r"[A-Za-z0-9!#$&^_.+-]{1,63}"


ContentType = Annotated[
    str, Field(pattern=rf"^{_TOKEN}/{_TOKEN}(; ?[A-Za-z0-9_.+-]+=[A-Za-z0-9_.+-]+)*$", max_length=255)
]


class UploadRequest(WorkerRequest):
    """What comes with the bytes. `name` is a label, never a path: nothing is ever opened by it."""

    worker_id: Name
    name: Annotated[
        str, Field(min_length=1, max_length=MAX_ARTIFACT_NAME), AfterValidator(_no_control_characters)
    ]
    content_type: ContentType = OCTET_STREAM
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9A-Fa-f]{64}$"), AfterValidator(_lower)] | None = Field(
        default=None, description="`sha256:` and 64 hex digits; refused unless the bytes have it."
    )
    lease_token: LeaseToken | None = None


class Artifact(Answer):
    """One artifact, without its bytes."""

    id: UUID
    job_id: UUID
    name: str
    content_type: str
    size: int = Field(description="In bytes.")
    digest: str = Field(description="`sha256:` and 64 hex digits.")
    worker_id: str
    created_at: datetime


class ArtifactList(Answer):
    """All artifacts of a job, oldest first."""

    items: list[Artifact]
