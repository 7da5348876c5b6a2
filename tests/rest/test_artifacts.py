"""Artifacts over REST: what comes back is what came, within limits, and a browser runs none of it."""

import hashlib
import os
import resource
import socket
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from support.servers import Server, start_server

LIMIT = 16 * 1024 * 1024
MIB = 1024 * 1024


@pytest.fixture(params=["database", "folder"])
def kept_in(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "artifacts" if request.param == "folder" else None


@pytest.fixture
def server(database_url: str, kept_in: Path | None) -> Generator[Server]:
    more = {} if kept_in is None else {"HOLDFAST_ARTIFACT_DIR": str(kept_in)}
    with start_server(database_url, **more) as running:
        yield running


def claimed(server: Server, worker: str = "w") -> dict[str, Any]:
    httpx2.post(server.url + "/api/queue/jobs", json={"type": "t"})
    body = {"workerId": worker, "leaseSeconds": 60}
    job: dict[str, Any] = httpx2.post(server.url + "/api/queue/jobs/claim", json=body).json()["job"]
    return job


def upload(
    server: Server, job: dict[str, Any], content: bytes, name: str = "out.txt", **fields: str
) -> httpx2.Response:
    said = {"workerId": job["claimedBy"], "name": name, "leaseToken": job["leaseToken"], **fields}
    return httpx2.post(
        f"{server.url}/api/queue/jobs/{job['id']}/artifacts/upload",
        data=said,
        files={"file": ("x", content)},
        timeout=60,
    )


def download(server: Server, artifact: dict[str, Any]) -> httpx2.Response:
    path = f"/api/queue/jobs/{artifact['jobId']}/artifacts/{artifact['id']}/download"
    return httpx2.get(server.url + path, timeout=60)


def listed(server: Server, job: dict[str, Any]) -> list[dict[str, Any]]:
    answer = httpx2.get(f"{server.url}/api/queue/jobs/{job['id']}/artifacts")
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def files_in(folder: Path | None) -> list[Path]:
    return [] if folder is None else [path for path in folder.rglob("*") if path.is_file()]


def test_what_was_uploaded_comes_back_byte_for_byte(server: Server, kept_in: Path | None) -> None:
    job = claimed(server)
    contents = [b"", b"a\0\r\n--boundary", os.urandom(3 * MIB), os.urandom(LIMIT)]
    for number, content in enumerate(contents):
        made = upload(server, job, content, name=f"n-{number}", contentType="text/plain")
        assert made.status_code == 201, made.text
        artifact = made.json()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert (artifact["size"], artifact["digest"], artifact["workerId"]) == (len(content), digest, "w")
        back = download(server, artifact)
        assert (back.status_code, back.content == content) == (200, True)
        assert back.headers["content-length"] == str(len(content))
        assert made.headers["location"] == back.request.url.path
    assert [item["name"] for item in listed(server, job)] == [f"n-{n}" for n in range(4)]
    assert len(files_in(kept_in)) == (0 if kept_in is None else 4)


def test_a_download_is_an_attachment_that_no_browser_runs_whatever_it_is_called(
    server: Server, kept_in: Path | None, tmp_path: Path
) -> None:
    job = claimed(server)
    names = {
        "../../etc/passwd": "passwd",
        "logs\\out.log": "out.log",
        'a"; filename="b.html': "a__ filename__b.html",
        "é 😀.txt": "_ _.txt",
        "..": "artifact",
        "/": "artifact",
        "<script>.html": "_script_.html",
    }
    for name, plain in names.items():
        page = b"<script>alert(1)</script>" + name.encode()
        artifact = upload(server, job, page, name=name, contentType="text/html").json()
        assert artifact["name"] == name
        back = download(server, artifact)
        headers = back.headers
        assert headers["content-disposition"].startswith(f'attachment; filename="{plain}"; filename*=UTF-8')
        assert headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["content-type"] == "text/html", "as it was given, nothing added"
        assert back.content == page
    for name in ("a\r\nSet-Cookie: x=y", "a\0", "", "x" * 256):
        refused = upload(server, job, b"x", name=name)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), name
    for path in files_in(kept_in):
        assert kept_in is not None
        assert path.is_relative_to(kept_in)
    assert not (tmp_path / "etc").exists()


def test_a_digest_that_does_not_fit_keeps_nothing_and_one_that_does_is_the_same_artifact(
    server: Server, kept_in: Path | None
) -> None:
    job = claimed(server)
    right = f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    wrong = upload(server, job, b"content", digest="sha256:" + "0" * 64)
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "digest")
    assert (listed(server, job), files_in(kept_in)) == ([], [])
    first = upload(server, job, b"content", digest=right.upper().replace("SHA", "sha"))
    again = upload(server, job, b"content", digest=right)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert upload(server, job, b"content", name="another").status_code == 201
    assert upload(server, job, b"other content").status_code == 201
    assert len(listed(server, job)) == 3
    assert len(files_in(kept_in)) == (0 if kept_in is None else 3)


def test_only_the_holder_and_who_has_just_ended_its_claim_may_upload(
    server: Server, kept_in: Path | None
) -> None:
    job = claimed(server)
    for fields, code in (
        ({"workerId": "somebody-else"}, "job_not_owned"),
        ({"leaseToken": "another"}, "lease_lost"),
    ):
        refused = upload(server, job, b"x", **fields)
        assert (refused.status_code, refused.json()["code"]) == (409, code)
    body = {"action": "pause", "mode": "quiesce", "reason": "upgrade"}
    httpx2.post(server.url + "/api/system/worker-pause", json=body)
    assert upload(server, job, b"while paused").status_code == 201
    held = {"workerId": "w", "leaseToken": job["leaseToken"]}
    httpx2.post(f"{server.url}/api/queue/jobs/{job['id']}/complete", json=held)
    assert upload(server, job, b"trailing").status_code == 201
    missing = {**job, "id": "0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90"}
    assert upload(server, missing, b"x").json()["code"] == "job_not_found"
    assert len(files_in(kept_in)) == (0 if kept_in is None else 2)
    artifact = listed(server, job)[0]
    for wrong, code in (
        ({"id": missing["id"]}, "artifact_not_found"),
        ({"id": "x"}, "artifact_not_found"),
        ({"jobId": missing["id"]}, "job_not_found"),
    ):
        answer = download(server, {**artifact, **wrong})
        assert (answer.status_code, answer.json()["code"]) == (404, code)


def test_a_form_that_is_wrong_is_refused_by_name(server: Server) -> None:
    job = claimed(server)
    path = f"{server.url}/api/queue/jobs/{job['id']}/artifacts/upload"
    good = {"workerId": "w", "name": "n"}
    file = ("f", b"x")
    for data, files, field in (
        (good, {"other": file}, "file"),
        (good, [("file", file), ("file", file)], "file"),
        ({"name": "n"}, {"file": file}, "workerId"),
        ({**good, "lease_token": "x"}, {"file": file}, "lease_token"),
        ({**good, "contentType": "text"}, {"file": file}, "contentType"),
        ({**good, "workerId": ["w", "w"]}, {"file": file}, "workerId"),
    ):
        answer = httpx2.post(path, data=data, files=files)
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["field"] == field, answer.text
    # A file before its fields, and what is not known here.
    answer = httpx2.post(path, data={**good, "stage": "tests"}, files={"file": ("f", b"y", "text/html")})
    assert (answer.status_code, answer.headers["Holdfast-Ignored-Fields"]) == (201, "stage")
    assert answer.json()["contentType"] == "text/html", "that of its part"
    no_form = httpx2.post(path, json=good)
    assert (no_form.status_code, no_form.json()["code"]) == (415, "unsupported_media_type")
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
        broken = httpx2.post(path, content=b"no form at all", headers={"Content-Type": content_type})
        assert (broken.status_code, broken.json()["code"]) == (422, "invalid_request"), content_type
    elsewhere = httpx2.post(server.url + "/api/queue/jobs", data=good, files={"file": file})
    assert elsewhere.status_code == 415, "a form is taken for uploads only"
    # A form names its own charset; some of those raise at every text.
    texts = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in good.items()
    )
    whole = texts + '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nx\r\n--b--\r\n'
    for charset in ("undefined", "punycode"):
        headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
        answer = httpx2.post(path, content=whole.encode(), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), charset


def test_both_places_answer_ranges_and_head_alike(server: Server) -> None:
    artifact = upload(
        server, claimed(server), b"0123456789", contentType="text/plain; charset=latin-1"
    ).json()
    url = f"{server.url}/api/queue/jobs/{artifact['jobId']}/artifacts/{artifact['id']}/download"
    whole = httpx2.get(url)
    for asked in ("bytes=2-4", "bytes=90-", "bytes=x", "words=1-2"):  # a server may pass over a Range
        answer = httpx2.get(url, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (200, b"0123456789"), asked
    head = httpx2.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}
    assert (head.headers["content-length"], head.headers["content-type"]) == (
        "10",
        "text/plain; charset=latin-1",
    )
    assert head.headers["etag"] == f'"{artifact["digest"]}"'


def memory_of(server: Server) -> int:
    """Its resident bytes."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def terabyte() -> Iterator[bytes]:
    """The beginning of a form, and then chunks without end; who reads them all is told so."""
    yield (
        b'--b\r\nContent-Disposition: form-data; name="workerId"\r\n\r\nw\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    )
    chunk = b"x" * MIB
    for _ in range(1_000_000):
        yield chunk


def test_a_terabyte_is_refused_at_the_limit_with_flat_memory(server: Server, kept_in: Path | None) -> None:
    job = claimed(server)
    upload(server, job, b"warm up")
    before = memory_of(server)
    parts = urlsplit(server.url)
    sent = 0
    with socket.create_connection((parts.hostname or "", parts.port or 0), 30) as connection:
        path = f"/api/queue/jobs/{job['id']}/artifacts/upload"
        head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nTransfer-Encoding: chunked\r\n"
        connection.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n")
        try:
            for chunk in terabyte():
                connection.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                sent += len(chunk)
                assert sent < 10 * LIMIT, "it should have been refused by now"
        except OSError:
            pass  # the server has done with us, and has said why
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")
    assert LIMIT <= sent < 10 * LIMIT
    assert memory_of(server) - before < 48 * MIB
    assert [item["size"] for item in listed(server, job)] == [len(b"warm up")]
    assert len(files_in(kept_in)) == (0 if kept_in is None else 1)
    # With a length it is refused before a byte of it is read; a byte too much is refused as well.
    with socket.create_connection((parts.hostname or "", parts.port or 0), 30) as connection:
        connection.sendall(head.replace("Transfer-Encoding: chunked", f"Content-Length: {10**12}").encode())
        connection.sendall(b"Content-Type: multipart/form-data; boundary=b\r\n\r\n")
        assert b" 413 " in connection.recv(65_536).split(b"\r\n")[0]
    over = upload(server, job, b"x" * (LIMIT + 1))
    assert (over.status_code, over.json()["code"]) == (413, "body_too_large")
    assert len(listed(server, job)) == 1


def test_a_full_disk_keeps_nothing_and_says_so(postgres_database_url: str, tmp_path: Path) -> None:
    """A limit on the size of files is what a process here can have of a full disk: the system refuses the write."""
    folder = tmp_path / "artifacts"
    with start_server(postgres_database_url, HOLDFAST_ARTIFACT_DIR=str(folder)) as server:
        job = claimed(server)
        limit = MIB // 2
        subprocess.run(["prlimit", "--pid", str(server.process.pid), f"--fsize={limit}:{limit}"], check=True)
        # Too large for the folder; and so large that it would wait on disk already on its way in.
        for size in (MIB - 100_000, 3 * MIB):
            refused = upload(server, job, b"x" * size)
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable"), refused.text
            assert "room" in refused.json()["detail"]
        assert (listed(server, job), files_in(folder)) == ([], [])
        assert upload(server, job, b"x" * (limit // 2)).status_code == 201


def test_artifacts_stay_readable_when_the_place_for_new_ones_changes(
    database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts"
    with start_server(database_url) as server:
        job = claimed(server)
        in_database = upload(server, job, b"one", name="one").json()
    with start_server(database_url, HOLDFAST_ARTIFACT_DIR=str(folder)) as server:
        in_folder = upload(server, job, b"two", name="two").json()
        assert [download(server, one).content for one in (in_database, in_folder)] == [b"one", b"two"]
    with start_server(database_url) as server:
        assert download(server, in_database).content == b"one"
        away = download(server, in_folder)
        assert (away.status_code, away.json()["code"]) == (503, "store_unavailable")
        assert "HOLDFAST_ARTIFACT_DIR" in away.json()["detail"]
