"""Artifacts in the core: who may add them, and that row and bytes stand and fall together."""

import hashlib
import io
import os
import stat
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest
from sqlalchemy import Connection, func, select

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db import Database, Lane, Work
from holdfast_core.db.tables import artifacts
from holdfast_core.errors import (
    ArtifactNotFound,
    BodyTooLarge,
    InvalidRequest,
    JobNotFound,
    JobNotOwned,
    JobStateConflict,
    LeaseLost,
    StoreUnavailable,
)
from holdfast_core.schemas import Artifact, Job, UploadRequest, parse_request
from holdfast_core.services import Services
from holdfast_core.services.artifacts import Uploaded
from holdfast_core.store import artifacts as store
from support.core import (
    cancel,
    cancel_ack,
    claimed,
    complete,
    enqueue,
    expire,
    fail,
    get,
    pause,
    release,
    requeue,
    resume,
    row,
    sql,
)
from support.stores import core

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["database", "folder"])
def kept_in(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """The folder for artifacts, or None where the database keeps them."""
    return tmp_path / "artifacts" if request.param == "folder" else None


async def upload(services: Services, job: Job, content: bytes = b"bytes", **body: Any) -> Uploaded:
    """As the claim `job` came from; `leaseToken=None` leaves the token out."""
    said = {"workerId": job.claimed_by, "leaseToken": job.lease_token, "name": "out.txt", **body}
    request, _ = parse_request(
        UploadRequest, {name: value for name, value in said.items() if value is not None}
    )
    return await services.artifacts.upload(LOCAL_OPERATOR, str(job.id), request, io.BytesIO(content))


async def download(services: Services, artifact: Artifact) -> bytes:
    found = await services.artifacts.download(LOCAL_OPERATOR, str(artifact.job_id), str(artifact.id))
    assert found.artifact == artifact
    with found.content as content:
        return content.read()


async def listed(services: Services, job: Job) -> list[Artifact]:
    return (await services.artifacts.list(LOCAL_OPERATOR, str(job.id))).items


async def rows(database: Database) -> int:
    """How many artifacts the database knows, of whatever job."""
    count: int = await database.read(
        lambda c: c.execute(select(func.count()).select_from(artifacts)).scalar_one()
    )
    return count


def files_in(folder: Path | None) -> set[str]:
    """The names of all files under the folder, unfinished ones too."""
    return set() if folder is None else {path.name for path in folder.rglob("*") if path.is_file()}


async def test_bytes_come_back_as_they_were_and_the_job_is_not_touched(
    database_url: str, kept_in: Path | None
) -> None:
    async with core(database_url, artifact_dir=kept_in, artifact_max_bytes=100_000) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        before = await row(database, job)
        await pause(services)
        contents = [b"", b"\0\r\n", os.urandom(100_000)]
        made = [await upload(services, job, content, name=f"n{n}") for n, content in enumerate(contents)]
        assert all(one.is_new for one in made)
        assert [await download(services, one.artifact) for one in made] == contents
        for one, content in zip(made, contents, strict=True):
            assert one.artifact.size == len(content)
            assert one.artifact.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert await listed(services, job) == [one.artifact for one in made]
        assert await row(database, job) == before, "the job itself is not touched"
        with pytest.raises(BodyTooLarge, match="100,001"):
            await upload(services, job, b"x" * 100_001)
        with pytest.raises(InvalidRequest) as refused:
            await upload(services, job, b"other", digest=made[0].artifact.digest)
        assert [error.field for error in refused.value.errors] == ["digest"]
        assert await listed(services, job) == [one.artifact for one in made]
        assert files_in(kept_in) == (set() if kept_in is None else {str(one.artifact.id) for one in made})
        await resume(services)


async def test_who_has_ended_its_own_claim_may_still_upload_until_another_has_the_job(
    database_url: str, kept_in: Path | None
) -> None:
    async with core(database_url, artifact_dir=kept_in) as (services, _):
        for end in (complete, fail, release, cancel_ack):
            await enqueue(services, priority=1)
            job = await claimed(services)
            if end is cancel_ack:
                await cancel(services, job)
            await end(services, job)
            assert (await upload(services, job, b"with its token")).is_new
            assert (await upload(services, job, b"by its name", leaseToken=None)).is_new
            with pytest.raises(LeaseLost):
                await upload(services, job, leaseToken="another")
            with pytest.raises(JobNotOwned):
                await upload(services, job, workerId="somebody-else", leaseToken=None)
            if (await get(services, job)).status == "queued":
                again = await claimed(services, "w-2")
                assert again.id == job.id
                with pytest.raises(JobNotOwned):
                    await upload(services, job)
                await complete(services, again)
            assert len(await listed(services, job)) == 2


async def test_who_has_lost_the_job_or_never_had_it_leaves_nothing(
    database_url: str, kept_in: Path | None
) -> None:
    async with core(database_url, artifact_dir=kept_in) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await expire(database, job)
        await upload(services, job, b"stale, but nobody has taken it")
        await requeue(services, job)
        with pytest.raises(LeaseLost):
            await upload(services, job)
        again = await claimed(services)
        with pytest.raises(LeaseLost):
            await upload(services, job)
        with pytest.raises(LeaseLost):
            await upload(services, job, b"stale, but nobody has taken it")
        await expire(database, again)
        await cancel(services, again)
        with pytest.raises(LeaseLost):
            await upload(services, again)
        waiting = await enqueue(services)
        with pytest.raises(JobStateConflict, match="never claimed"):
            await upload(services, waiting.model_copy(update={"claimed_by": "w"}))
        missing = waiting.model_copy(update={"id": LOCAL_OPERATOR.user_id, "claimed_by": "w"})
        with pytest.raises(JobNotFound):
            await upload(services, missing)
        with pytest.raises(JobNotFound):
            await listed(services, missing)
        assert await rows(database) == 1
        assert len(files_in(kept_in)) == (0 if kept_in is None else 1)


async def test_a_claim_that_ends_while_the_bytes_are_written_leaves_nothing(
    database_url: str, kept_in: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with core(database_url, artifact_dir=kept_in) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        write = database.write

        async def late(work: Work[Any], *, lane: Lane = Lane.PLAIN) -> Any:
            monkeypatch.undo()
            assert len(files_in(kept_in)) == (0 if kept_in is None else 1)
            await expire(database, job)
            await requeue(services, job)
            return await write(work, lane=lane)

        monkeypatch.setattr(database, "write", late)
        with pytest.raises(LeaseLost):
            await upload(services, job)
        assert await rows(database) == 0
        assert files_in(kept_in) == set()


async def test_the_same_bytes_under_the_same_name_are_kept_once_however_many_bring_them(
    database_url: str, kept_in: Path | None
) -> None:
    folder = {"artifact_dir": kept_in}
    async with core(database_url, **folder) as (one, database), core(database_url, **folder) as (two, _):
        await enqueue(one)
        job = await claimed(one)
        made: list[Uploaded] = []

        async def bring(services: Services) -> None:
            made.append(await upload(services, job))

        async with anyio.create_task_group() as tasks:
            for services in (one, two, one, two):
                tasks.start_soon(bring, services)
        assert sorted(each.is_new for each in made) == [False, False, False, True]
        (artifact,) = await listed(two, job)
        assert all(each.artifact == artifact for each in made)
        assert await rows(database) == 1
        assert files_in(kept_in) == (set() if kept_in is None else {str(artifact.id)})
        assert await download(two, artifact) == b"bytes"


async def test_a_job_with_too_many_artifacts_takes_no_more_but_knows_those_it_has(
    database_url: str, kept_in: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_ARTIFACTS", 3)
    async with core(database_url, artifact_dir=kept_in) as (services, _):
        await enqueue(services)
        job = await claimed(services)
        for number in range(3):
            await upload(services, job, name=f"n{number}")
        with pytest.raises(JobStateConflict, match="3 artifacts"):
            await upload(services, job, name="n3")
        assert not (await upload(services, job, name="n0")).is_new
        assert len(await listed(services, job)) == 3
        assert len(files_in(kept_in)) == (0 if kept_in is None else 3)


async def test_an_insert_that_fails_leaves_neither_row_nor_file(
    database_url: str, kept_in: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def broken(connection: Connection, new: store.NewArtifact) -> Artifact:
        seen.append(files_in(kept_in))
        raise RuntimeError("no insert today")

    async with core(database_url, artifact_dir=kept_in) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        with monkeypatch.context() as patch:
            patch.setattr(store, "add", broken)
            with pytest.raises(RuntimeError, match="no insert today"):
                await upload(services, job)
        assert [len(files) for files in seen] == [0 if kept_in is None else 1], "the file was there before"
        assert await rows(database) == 0
        assert files_in(kept_in) == set()
        assert (await upload(services, job)).is_new


async def test_a_commit_of_unknown_outcome_loses_no_bytes(
    database_url: str, kept_in: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with core(database_url, artifact_dir=kept_in) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        write = database.write

        async def unanswered(work: Work[Any], *, lane: Lane = Lane.PLAIN) -> Any:
            await write(work, lane=lane)
            raise StoreUnavailable("The connection broke before the answer to COMMIT came.")

        with monkeypatch.context() as patch:
            patch.setattr(database, "write", unanswered)
            with pytest.raises(StoreUnavailable):
                await upload(services, job)
        again = await upload(services, job)
        assert not again.is_new
        assert await download(services, again.artifact) == b"bytes"


async def test_a_lost_or_damaged_file_is_told_as_such_and_a_repeated_upload_mends_it(
    database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts"
    async with core(database_url, artifact_dir=folder) as (services, _):
        await enqueue(services)
        job = await claimed(services)
        artifact = (await upload(services, job)).artifact
        (path,) = [path for path in folder.rglob("*") if path.is_file()]
        for harm in (path.unlink, lambda: path.write_bytes(b"byt")):
            harm()
            with pytest.raises(StoreUnavailable, match="HOLDFAST_ARTIFACT_DIR"):
                await download(services, artifact)
            assert await upload(services, job) == Uploaded(artifact, is_new=False)
            assert await download(services, artifact) == b"bytes"
        assert files_in(folder) == {str(artifact.id)}


async def test_only_its_owner_may_look_into_the_folder(sqlite_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "artifacts"
    async with core(sqlite_url, artifact_dir=folder) as (services, _):
        await enqueue(services)
        await upload(services, await claimed(services))
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert {path.is_dir() for path in modes} == {True, False}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items()), modes


async def test_a_folder_that_cannot_be_written_is_named_and_nothing_is_kept(
    sqlite_url: str, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "a-file"
    in_the_way.write_bytes(b"")
    async with core(sqlite_url, artifact_dir=in_the_way / "artifacts") as (services, database):
        await enqueue(services)
        job = await claimed(services)
        with pytest.raises(StoreUnavailable, match=r"HOLDFAST_ARTIFACT_DIR .*cannot be written"):
            await upload(services, job)
        assert await rows(database) == 0


async def test_an_artifact_belongs_to_its_job_alone(database_url: str, kept_in: Path | None) -> None:
    async with core(database_url, artifact_dir=kept_in) as (services, _):
        await enqueue(services)
        await enqueue(services)
        one, two = await claimed(services), await claimed(services)
        artifact = (await upload(services, one)).artifact
        assert await listed(services, two) == []
        for job_id, artifact_id in (
            (two.id, str(artifact.id)),
            (one.id, str(one.id)),
            (one.id, "../../etc/passwd"),
        ):
            with pytest.raises(ArtifactNotFound):
                await services.artifacts.download(LOCAL_OPERATOR, str(job_id), artifact_id)
        with pytest.raises(JobNotFound):
            await services.artifacts.download(LOCAL_OPERATOR, str(LOCAL_OPERATOR.user_id), str(artifact.id))


async def test_jobs_that_are_removed_take_their_artifacts_with_them(
    database_url: str, kept_in: Path | None
) -> None:
    async with core(database_url, artifact_dir=kept_in, retention_days=1) as (services, database):
        kept: list[UUID] = []
        for is_old in (True, True, False, False):
            await enqueue(services)
            job = await claimed(services)
            made = [(await upload(services, job, name=name)).artifact.id for name in ("one", "two")]
            await complete(services, job)
            if is_old:
                past = "'2001-01-01T00:00:00.000000Z'"
                await sql(database, f"UPDATE agent_jobs SET finished_at = {past} WHERE id = '{job.id}'")
            else:
                kept += made
        assert await services.upkeep.remove() == 2
        assert await rows(database) == 4
        assert files_in(kept_in) == (set() if kept_in is None else {str(one) for one in kept})
