"""job --artifacts and --download: saved whole or not at all, and over nothing."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import click
import httpx2
import pytest

from cli.harness import Bench, Cli, StandIn
from holdfast_core.schemas import Artifact, Job
from holdfast_worker.terminal.saving import _file_name, save


def upload(bench: Bench, job: Job, name: str, content: bytes) -> Artifact:
    made = httpx2.post(
        f"{bench.client.url}/api/queue/jobs/{job.id}/artifacts/upload",
        data={"workerId": "holder", "name": name},
        files={"file": ("x", content)},
        trust_env=False,
    ).raise_for_status()
    return Artifact.model_validate_json(made.content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_artifacts_are_listed_and_saved_by_id_or_name(cli: Cli, bench: Bench, tmp_path: Path) -> None:
    job = bench.run_job()
    assert "no artifacts" in cli("job", str(job.id), "--artifacts").err
    content = os.urandom(300_000)
    made = upload(bench, job, "../logs/out.bin", content)
    (line,) = cli("job", str(job.id), "--artifacts").out.splitlines()[1:]
    assert line.split()[:3] == [str(made.id), "../logs/out.bin", "300000"]
    target = tmp_path / "saved"
    done = cli("job", str(job.id), "--download", "../logs/out.bin", "-o", str(target))
    assert (done.code, done.out.strip()) == (0, str(target))
    assert target.read_bytes() == content
    into = cli("job", str(job.id), "--download", str(made.id), "-o", str(tmp_path))
    assert (into.code, into.out.strip()) == (0, str(tmp_path / "out.bin"))
    assert names(tmp_path) == ["out.bin", "saved"]


def test_nothing_is_written_over_unless_asked_for(cli: Cli, bench: Bench, tmp_path: Path) -> None:
    job = bench.run_job()
    upload(bench, job, "a", b"new")
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        target = tmp_path / name
        refused = cli("job", str(job.id), "--download", "a", "-o", str(target))
        assert refused.code == 2
        assert "--force" in refused.err
    assert (tmp_path / "file").read_bytes() == b"old"
    assert cli("job", str(job.id), "--download", "a", "-o", str(tmp_path / "file"), "--force").code == 0
    assert (tmp_path / "file").read_bytes() == b"new"
    assert names(tmp_path) == ["file", "link"]


def test_a_name_that_another_takes_during_the_download_stays_theirs(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = upload(bench, bench.run_job(), "a", b"ours")
    download = bench.client.download

    def slow(wanted: Artifact, into: IO[bytes]) -> None:
        download(wanted, into)
        (tmp_path / "a").write_bytes(b"theirs")

    monkeypatch.setattr(bench.client, "download", slow)
    with pytest.raises(click.UsageError, match="is there already"):
        save(bench.client, artifact, tmp_path / "a", over=False)
    assert (tmp_path / "a").read_bytes() == b"theirs"
    assert names(tmp_path) == ["a"]


def test_bytes_of_another_digest_are_not_kept(
    cli_for: Callable[[str], Cli], stand_in: StandIn, bench: Bench, tmp_path: Path
) -> None:
    job = bench.run_job()
    upload(bench, job, "a", b"what was uploaded")
    bench.client.artifacts_of(job.id)
    stand_in.answer(200, bench.client.last_answer, content_type="application/json")
    stand_in.answer_at("download", 200, b"what somebody else sends")
    done = cli_for(stand_in.url)("job", str(job.id), "--download", "a", "-o", str(tmp_path / "a"))
    assert (done.code, done.out) == (1, "")
    assert "its digest is another" in done.err
    assert names(tmp_path) == []


def test_a_name_does_not_stand_in_for_anothers_id_and_the_newest_of_a_name_counts(
    cli: Cli, bench: Bench, tmp_path: Path
) -> None:
    job = bench.run_job()
    first = upload(bench, job, "report", b"first")
    upload(bench, job, str(first.id), b"not the first")
    upload(bench, job, "report", b"second")
    for wanted, content in ((str(first.id), b"first"), ("report", b"second")):
        target = tmp_path / wanted
        assert cli("job", str(job.id), "--download", wanted, "-o", str(target)).code == 0
        assert target.read_bytes() == content


def test_what_is_not_there_or_cannot_be_written_ends_with_1(cli: Cli, bench: Bench, tmp_path: Path) -> None:
    job = bench.run_job()
    upload(bench, job, "a", b"x")
    missing = cli("job", str(job.id), "--download", "nothing")
    assert missing.code == 1
    assert "It has 'a'" in missing.err
    nowhere = cli("job", str(job.id), "--download", "a", "-o", str(tmp_path / "no" / "x"))
    assert nowhere.code == 1
    assert "cannot be written" in nowhere.err
    assert names(tmp_path) == []
    assert cli("job", str(job.id), "-o", "x").code == 2


def test_a_label_is_never_a_path() -> None:
    plain = {
        "id": "00000000-0000-0000-0000-000000000001",
        "jobId": "00000000-0000-0000-0000-000000000002",
        "contentType": "a/b",
        "size": 1,
        "digest": "sha256:" + "0" * 64,
        "workerId": "w",
        "createdAt": "2026-02-20T02:00:00Z",
    }
    for label, name in {
        "/etc/passwd": "passwd",
        "..": plain["id"],
        "a/../..": plain["id"],
        "C:\\windows\\x.dll": "x.dll",
        ".bashrc": "bashrc",
        "out/": "out",
        "/": plain["id"],
        "report\u202efdp.exe": "report_u202efdp.exe",
    }.items():
        assert _file_name(Artifact.model_validate_json(json.dumps({**plain, "name": label}))) == name
