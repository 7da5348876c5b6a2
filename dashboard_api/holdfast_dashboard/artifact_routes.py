"""Artifacts of jobs: upload, list, download."""

import base64
from collections.abc import AsyncGenerator
from typing import IO, Final
from urllib.parse import quote

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from holdfast_core import errors
from holdfast_core.schemas import Artifact, ArtifactList, UploadRequest
from holdfast_dashboard.context import Context
from holdfast_dashboard.operations import Operations
from holdfast_dashboard.requests import answer
from holdfast_dashboard.uploads import read_upload

__all__ = ["artifact_operations"]

#: A browser that opens a download must not run it.
_SANDBOX: Final = "default-src 'none'; sandbox"
CHUNK: Final = 262_144


def artifact_operations(context: Context) -> Operations:
    """The routes under `/api/queue/jobs/{jobId}/artifacts`."""
    operations = Operations("queue")

    @operations.add(
        "POST",
        "/api/queue/jobs/{jobId}/artifacts/upload",
        summary="Leave a file with a job",
        form=UploadRequest,
        answers=Artifact,
        status=201,
        also=200,
        refuses=(errors.JobNotFound, errors.JobNotOwned, errors.LeaseLost, errors.JobStateConflict),
    )
    async def upload_artifact(request: Request, jobId: str) -> Response:  # noqa: N803 (the contract's name)
        """By the holder of the job, or by who has just ended its claim. 200 where the same bytes are there under the
        same name. Without `contentType`, that of the file's own part counts."""
        async with read_upload(request) as (upload, ignored, content):
            caller = context.caller(request)
            made = await context.services.artifacts.upload(caller, jobId, upload, content)
        where = f"/api/queue/jobs/{made.artifact.job_id}/artifacts/{made.artifact.id}/download"
        return answer(made.artifact, ignored, status=201 if made.is_new else 200, location=where)

    @operations.add(
        "GET",
        "/api/queue/jobs/{jobId}/artifacts",
        summary="A job's artifacts, oldest first",
        answers=ArtifactList,
        refuses=(errors.JobNotFound,),
    )
    async def list_artifacts(request: Request, jobId: str) -> Response:  # noqa: N803
        return answer(await context.services.artifacts.list(context.caller(request), jobId))

    @operations.add(
        "GET",
        "/api/queue/jobs/{jobId}/artifacts/{artifactId}/download",
        summary="The bytes of an artifact",
        answers=None,
        media_type="application/octet-stream",
        refuses=(errors.JobNotFound, errors.ArtifactNotFound),
    )
    async def download_artifact(request: Request, jobId: str, artifactId: str) -> Response:  # noqa: N803
        """As an attachment, of the content type that it was uploaded with."""
        found = await context.services.artifacts.download(context.caller(request), jobId, artifactId)
        if request.method == "HEAD":
            found.content.close()
            return Response(headers=_headers(found.artifact))
        return _Bytes(found.content, _headers(found.artifact))

    return operations


class _Bytes(StreamingResponse):
    """An open file, a chunk at a time. It is closed at the end, whatever that is."""

    def __init__(self, content: IO[bytes], headers: dict[str, str]) -> None:
        super().__init__(_chunks(content), headers=headers)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._content.close()


async def _chunks(content: IO[bytes]) -> AsyncGenerator[bytes]:
    while chunk := await run_sync(content.read, CHUNK):
        yield chunk


def _headers(artifact: Artifact) -> dict[str, str]:
    digest = base64.b64encode(bytes.fromhex(artifact.digest.removeprefix("sha256:"))).decode()
    return {
        "Content-Disposition": _disposition(artifact.name),
        "Content-Length": str(artifact.size),
        "Content-Type": artifact.content_type,
        "Content-Security-Policy": _SANDBOX,
        "ETag": f'"{artifact.digest}"',
        "Repr-Digest": f"sha-256=:{digest}:",
    }


def _disposition(label: str) -> str:
    """An attachment under the last part of the label (RFC 6266), in plain letters and in all."""
    name = label.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].strip(". ") or "artifact"
    plain = "".join(c if c.isascii() and (c.isalnum() or c in " ._-") else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
