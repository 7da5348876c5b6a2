"""retry, blockers, workers, watch, a job's log and artifacts, batches, time limits."""

import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from cli.harness import Bench, Cli, StandIn
from holdfast_core.schemas import Job
from holdfast_worker.client import Client
from support.servers import start_server


def failed(bench: Bench, count: int = 1, job_type: str = "test") -> list[Job]:
    jobs: list[Job] = []
    for _ in range(count):
        bench.enqueue(job_type)
        job = bench.client.claim("holder", 600).job
        assert job is not None
        jobs.append(bench.client.fail(job.id, "holder", "it broke", lease_token=job.lease_token))
    return jobs


def test_retry_runs_single_jobs_again_and_tells_what_was_done_before_a_refusal(
    cli: Cli, bench: Bench
) -> None:
    first, second = failed(bench, 2)
    done = cli("retry", str(first.id), "--json")
    assert [job["status"] for job in done.json["items"]] == ["queued"]
    refused = cli("retry", str(second.id), str(first.id))
    assert refused.code == 3
    assert str(second.id) in refused.out
    assert "only a failed" in refused.err
    assert bench.status_of(second.id) == "queued"


def test_retry_by_status_takes_all_of_a_type_and_wants_a_reason(cli: Cli, bench: Bench) -> None:
    failed(bench, 3, "flaky")
    other = failed(bench, 1, "broken")[0]
    assert cli("retry", "--status", "failed").code == 2
    assert cli("retry").code == 2
    done = cli("retry", "--status", "failed", "--type", "flaky", "--reason", "fixed")
    assert (done.code, done.out) == (0, ""), done.err
    assert "Queued 3 jobs again." in done.err
    assert bench.status_of(other.id) == "failed"
    assert cli("retry", "--status", "failed", "--reason", "all", "--json").json["retried"] >= 1


def test_blockers_are_named_with_the_way_out(cli: Cli, bench: Bench) -> None:
    assert "Nothing keeps the system from drained." in cli("blockers").err
    stale = bench.stale_job()
    running = bench.run_job()
    done = cli("blockers")
    lines = done.out.splitlines()
    assert lines[0].split()[:4] == ["JOB", "TYPE", "WORKER", "VERDICT"]
    assert [line.split()[0] for line in lines[1:]] == [str(stale.id), str(running.id)]
    assert f"holdfast requeue {stale.id}" in lines[1]
    verdicts = {item["jobId"]: item["verdict"] for item in cli("blockers", "--json").json["items"]}
    assert verdicts == {str(stale.id): "stale", str(running.id): "progressing"}


def test_workers_are_listed_with_the_version_that_they_have_seen(cli: Cli, bench: Bench) -> None:
    bench.run_job()
    version = bench.client.status().system.version
    bench.client.claim("holder", 60, observed_version=version)
    bench.until(lambda: any(w.observed_version == version for w in bench.client.workers().items))
    done = cli("workers")
    (line,) = [line for line in done.out.splitlines() if line.startswith("holder ")]
    assert line.split()[1] == "running"
    assert f"The pause is at version {version}." in done.err
    assert "holder" in [item["id"] for item in cli("workers", "--json").json["items"]]


def test_watch_tells_each_change_and_ends_with_ctrl_c(cli: Cli, bench: Bench) -> None:
    watching = cli.start("watch", "--json")
    watching.said("Following")
    bench.client.pause("drain", "first \x1b[31m")
    bench.client.resume("second")
    bench.enqueue()
    bench.until(lambda: bench.client.status().metrics.queued == 1)
    threading_wait(2.5)  # the counts are told within a second or two, behind all the rest
    os.kill(watching.pid, signal.SIGINT)
    ended = watching.ended()
    assert ended.code in {1, 130}
    events = [json.loads(line) for line in ended.out.splitlines()]
    assert events[0]["event"] == "snapshot"
    told = [event["data"]["version"] for event in events if event["event"] == "system"]
    first = events[0]["data"]["system"]["version"]
    assert told == list(range(first + 1, first + 1 + len(told)))
    assert len(told) == 2
    assert events[-1]["event"] in {"metrics", "workers"}
    assert "Traceback" not in ended.err


def threading_wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def test_watch_waits_for_a_server_that_goes_away_and_tells_what_it_missed(
    cli_for: Callable[[str], Cli], sqlite_url: str
) -> None:
    with start_server(sqlite_url) as server:
        port = server.url.rsplit(":", 1)[1]
        cli = cli_for(server.url)
        watching = cli.start("watch")
        watching.said("Following")
        with Client(server.url, token="") as client:
            client.pause("drain", "before the restart")
        server.stop()
        watching.said("Waiting for it to come back.")
    with start_server(sqlite_url, "--port", port):
        watching.said("Connected again.")
        with Client(f"http://127.0.0.1:{port}", token="") as client:
            client.resume("after the restart")
            threading_wait(2.0)
        os.kill(watching.pid, signal.SIGINT)
        out = watching.ended().out
    assert "paused (drain), version 2" in out
    assert "running, version 3" in out


def test_watch_of_a_server_that_is_not_there_ends_at_once(cli_for: Callable[[str], Cli]) -> None:
    done = cli_for("http://127.0.0.1:1")("watch")
    assert done.code == 6
    assert "holdfast serve" in done.err


def log(bench: Bench, job: Job, message: str) -> None:
    body = {"workerId": "holder", "leaseToken": job.lease_token, "message": message, "payload": {"n": 1}}
    httpx2.post(f"{bench.client.url}/api/queue/jobs/{job.id}/events", json=body).raise_for_status()


def test_a_jobs_log_is_printed_and_followed_to_its_end(cli: Cli, bench: Bench) -> None:
    job = bench.run_job()
    for number in range(250):
        log(bench, job, f"line {number}\x1b[2J")
    shown = cli("job", str(job.id), "--log")
    lines = shown.out.splitlines()
    assert len(lines) == 250
    assert lines[7].endswith(r'INFO  holder: line 7\x1b[2J {"n": 1}')
    assert json.loads(cli("job", str(job.id), "--log", "--json").out.splitlines()[3])["sequence"] == 4
    following = cli.start("job", str(job.id), "--log", "--follow")
    log(bench, job, "the last line")
    bench.finish(job)
    ended = following.ended()
    assert ended.code == 0
    assert len(ended.out.splitlines()) == 251
    assert "The job has ended: succeeded." in ended.err


def test_an_artifact_is_saved_whole_or_not_at_all(cli: Cli, bench: Bench, tmp_path: Path) -> None:
    job = bench.run_job()
    assert "no artifacts" in cli("job", str(job.id), "--artifacts").err
    content = os.urandom(300_000)
    httpx2.post(
        f"{bench.client.url}/api/queue/jobs/{job.id}/artifacts/upload",
        data={"workerId": "holder", "name": "../logs/out.bin"},
        files={"file": ("x", content)},
    ).raise_for_status()
    (line,) = cli("job", str(job.id), "--artifacts").out.splitlines()[1:]
    assert line.split()[1:3] == ["../logs/out.bin", "300000"]
    target = tmp_path / "saved"
    done = cli("job", str(job.id), "--download", "../logs/out.bin", "-o", str(target))
    assert (done.code, done.out.strip()) == (0, str(target))
    assert target.read_bytes() == content
    again = cli("job", str(job.id), "--download", line.split()[0], "-o", str(target))
    assert again.code == 2
    assert "--force" in again.err
    assert cli("job", str(job.id), "--download", line.split()[0], "-o", str(target), "--force").code == 0
    missing = cli("job", str(job.id), "--download", "nothing")
    assert missing.code == 2
    assert "../logs/out.bin" in missing.err
    nowhere = cli("job", str(job.id), "--download", "../logs/out.bin", "-o", str(tmp_path / "no" / "x"))
    assert nowhere.code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def test_a_batch_is_enqueued_in_its_order_and_says_how_far_it_came(
    cli: Cli, bench: Bench, tmp_path: Path
) -> None:
    lines = [
        json.dumps({"type": "many", "payload": {"n": n}, "idempotencyKey": f"b-{n}"}) for n in range(2_300)
    ]
    path = tmp_path / "jobs.jsonl"
    path.write_text("\n\n".join(lines))
    done = cli("enqueue", "--batch", str(path))
    assert done.code == 0, done.err
    ids = done.out.split()
    assert (len(ids), ids) == (2_300, sorted(ids))
    assert "2000 enqueued." in done.err
    again = cli("enqueue", "--batch", "-", stdin="\n".join(lines))
    assert again.out.split() == ids, "what is there already is not added twice"
    path.write_text("\n".join([*(json.dumps({"type": "more"}) for _ in range(1_000)), '{"type": "x y"}']))
    broken = cli("enqueue", "--batch", str(path))
    assert broken.code == 2
    assert "The lines up to 1000 were enqueued" in broken.err
    assert len(broken.out.split()) == 1_000
    for wrong, said in ((b"{", "line 1 is not JSON"), (b"[1]", "line 1 is no object")):
        refused = cli("enqueue", "--batch", "-", stdin=wrong)
        assert refused.code == 2
        assert said in refused.err
    assert cli("enqueue", "--batch", str(path), "--type", "t").code == 2
    assert cli("enqueue").code == 2
    while bench.client.jobs(status="queued", limit=1).items:
        bench.clear()


def test_an_enqueue_under_a_key_is_made_once(cli: Cli, bench: Bench) -> None:
    key = hashlib.sha256(os.urandom(8)).hexdigest()
    first, again = (cli("enqueue", "--type", "t", "--idempotency-key", key) for _ in range(2))
    assert first.out == again.out
    other = cli("enqueue", "--type", "u", "--idempotency-key", key)
    assert other.code == 2
    assert "different request" in other.err


def test_a_pause_with_a_time_limit_shows_when_it_ends(cli: Cli, bench: Bench) -> None:
    done = cli("pause", "--mode", "drain", "--reason", "a test", "--for", "1h30m", "--json")
    at = datetime.fromisoformat(done.json["system"]["resumeAt"])
    assert abs((at - datetime.now(UTC)) - timedelta(minutes=90)) < timedelta(minutes=2)
    assert "Ends by itself:" in cli("status").out
    for wrong in ("30s", "8d", "90.5s"):
        refused = cli("pause", "--mode", "drain", "--reason", "a test", "--for", wrong)
        assert refused.code == 2
        assert "--for" in refused.err


def test_a_toggle_under_a_key_is_made_once_and_its_replay_after_a_change_is_superseded(
    cli: Cli, bench: Bench
) -> None:
    key = hashlib.sha256(os.urandom(8)).hexdigest()
    pause = ("pause", "--mode", "drain", "--reason", "a test", "--idempotency-key", key)
    first, again = cli(*pause, "--json"), cli(*pause, "--json")
    assert first.json["system"] == again.json["system"]
    assert (first.json["replayed"], again.json["replayed"]) == (False, True)
    assert "Paused already" in again.err
    bench.client.resume("done")
    stale = cli(*pause)
    assert stale.code == 8
    assert "since then it has changed" in stale.err
    assert not bench.client.status().system.workers_paused


def test_a_toggle_that_was_not_confirmed_is_asked_for_again_under_the_same_key(
    cli_for: Callable[[str], Cli], stand_in: StandIn
) -> None:
    body = {
        "type": "/problems/x",
        "title": "t",
        "status": 503,
        "code": "pause_not_confirmed",
        "detail": "Not yet.",
    }
    stand_in.answer(503, json.dumps(body).encode(), retry_after="1", content_type="application/problem+json")
    done = cli_for(stand_in.url)("pause", "--mode", "drain", "--reason", "a test")
    assert done.code == 1
    assert done.err.count("Asking again under the same key.") == 2
    keys = {headers["idempotency-key"] for headers in stand_in.seen}
    assert (len(stand_in.seen), len(keys)) == (3, 1)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"event: a\r\ndata: 1\r\nid: x\r\n\r\n: ping\r\n\r\ndata: 2\r\ndata: 3\r\n\r\n"],
        [b"event: a\r", b"\ndata: 1\r\nid: x\r\n\r", b"\n: ping\n\nda", b"ta: 2\rdata:3\r", b"\r\n\r"],
        [
            bytes([byte])
            for byte in b"event: a\ndata: 1\nid: x\n\n:\n\ndata: 2\ndata: 3\nunknown\nretry: 5\n\ndata: cut"
        ],
    ],
)
def test_a_stream_of_events_is_read_however_it_is_cut(pieces: list[bytes]) -> None:
    from holdfast_worker.events import server_events

    got = [(event.event, event.data, event.id) for event in server_events(pieces)]
    assert got == [("a", "1", "x"), ("message", "2\n3", "x")]
