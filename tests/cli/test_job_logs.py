"""job --log: printed whole, and followed to the job's end across cuts."""

import json
from collections.abc import Callable

import httpx2

from cli.harness import Bench, Cli, StandIn
from holdfast_core.schemas import Job
from holdfast_worker.client import Client
from support.servers import start_server


def log(client: Client, job: Job, message: str) -> None:
    body = {"workerId": "holder", "leaseToken": job.lease_token, "message": message, "payload": {"n": 1}}
    httpx2.post(f"{client.url}/api/queue/jobs/{job.id}/events", json=body, trust_env=False).raise_for_status()


def test_a_log_is_printed_whole_and_moves_no_cursor(cli: Cli, bench: Bench) -> None:
    job = bench.run_job()
    for number in range(250):  # more than a page
        log(bench.client, job, f"line {number}\x1b[2J\x9b")
    lines = cli("job", str(job.id), "--log").out.splitlines()
    assert len(lines) == 250
    assert lines[7].endswith(r'INFO  holder: line 7\x1b[2J\x9b {"n": 1}')
    as_json = cli("job", str(job.id), "--log", "--json").out
    assert "\x9b" not in as_json
    entries = [json.loads(line) for line in as_json.splitlines()]
    assert [entry["sequence"] for entry in entries] == list(range(1, 251))
    assert entries[7]["message"] == "line 7\x1b[2J\x9b"


def test_a_log_is_followed_to_the_end_of_its_job(cli: Cli, bench: Bench) -> None:
    job = bench.run_job()
    log(bench.client, job, "first")
    following = cli.start("job", str(job.id), "--log", "--follow")
    following.wrote("first")
    log(bench.client, job, "last")
    following.wrote("last")
    bench.finish(job)
    ended = following.ended()
    assert ended.code == 0
    assert [line.split("holder: ")[1].split()[0] for line in ended.out.splitlines()] == ["first", "last"]
    assert ended.err == "The job has ended: succeeded.\n"


def test_a_followed_log_goes_on_behind_a_restart_of_the_server(
    cli_for: Callable[[str], Cli], sqlite_url: str
) -> None:
    with start_server(sqlite_url) as server, Client(server.url, token="") as client:
        port = server.url.rsplit(":", 1)[1]
        client.enqueue("test")
        job = client.claim("holder", 600).job
        assert job is not None
        log(client, job, "before")
        following = cli_for(server.url).start("job", str(job.id), "--log", "--follow")
        following.wrote("before")
        server.stop()
        following.said("Waiting for it to come back.")
    with start_server(sqlite_url, "--port", port) as server, Client(server.url, token="") as client:
        log(client, job, "after")
        client.complete(job.id, "holder", lease_token=job.lease_token)
        ended = following.ended()
    assert ended.code == 0
    assert [line.split("holder: ")[1].split()[0] for line in ended.out.splitlines()] == ["before", "after"]
    assert "The job has ended: succeeded." in ended.err


def test_a_stream_that_ends_before_its_job_is_opened_again_behind_the_last_event(
    cli_for: Callable[[str], Cli], stand_in: StandIn, bench: Bench
) -> None:
    job = bench.run_job()
    log(bench.client, job, "hello")
    (event,) = bench.client.log_of(job.id).items
    bench.finish(job)
    bench.client.job(job.id)
    # A job to those who ask for one, one event of a log to those who follow it.
    stand_in.answer(200, bench.client.last_answer, content_type="application/json")
    cut = f"event: log\nid: 7\ndata: {event.model_dump_json()}\n\n".encode()
    stand_in.answer_at("stream", 200, cut, content_type="text/event-stream")
    following = cli_for(stand_in.url).start("job", str(job.id), "--log", "--follow")
    following.said("The server has ended the stream. Waiting for it to come back.")
    end = f"event: end\ndata: {bench.client.last_answer.decode()}\n\n".encode()
    stand_in.answer_at("stream", 200, end, content_type="text/event-stream")
    ended = following.ended()
    assert ended.code == 0
    assert "The job has ended: succeeded." in ended.err
    streams = [seen for seen in stand_in.seen if "stream" in seen[":path"]]
    assert [seen.get("last-event-id") for seen in streams[:2]] == [None, "7"]


def test_the_log_of_no_job_ends_with_1(cli: Cli, bench: Bench) -> None:
    for more in ([], ["--follow"]):
        done = cli("job", "00000000-0000-0000-0000-000000000000", "--log", *more)
        assert (done.code, done.out) == (1, "")
        assert "`holdfast jobs` lists the ids" in done.err
    assert cli("job", "x", "--follow").code == 2
    assert cli("job", "x", "--log", "--artifacts").code == 2
