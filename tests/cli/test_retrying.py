"""retry: single jobs, and all that ended one way."""

import json
from collections.abc import Callable

import pytest

from cli.harness import Bench, Cli, StandIn
from holdfast_core.schemas import Job


def failed(bench: Bench, count: int = 1, job_type: str = "test") -> list[Job]:
    jobs: list[Job] = []
    for _ in range(count):
        bench.enqueue(job_type)
        job = bench.client.claim("holder", 600).job
        assert job is not None
        jobs.append(bench.client.fail(job.id, "holder", "it broke", lease_token=job.lease_token))
    return jobs


def test_single_jobs_run_again_and_what_was_done_before_a_refusal_is_told(cli: Cli, bench: Bench) -> None:
    first, second = failed(bench, 2)
    done = cli("retry", str(first.id), "--json")
    assert [(job["status"], job["attempt"]) for job in done.json["items"]] == [("queued", 1)]
    refused = cli("retry", str(second.id), str(first.id))
    assert refused.code == 3
    assert str(second.id) in refused.out
    assert "only a failed" in refused.err
    assert bench.status_of(second.id) == "queued"


def test_by_status_it_takes_all_of_a_type(cli: Cli, bench: Bench) -> None:
    failed(bench, 3, "flaky")
    other = failed(bench, 1, "broken")[0]
    done = cli("retry", "--status", "failed", "--type", "flaky", "--reason", "fixed")
    assert (done.code, done.out) == (0, ""), done.err
    assert "Queued 3 jobs again." in done.err
    assert bench.status_of(other.id) == "failed"
    assert cli("retry", "--status", "failed", "--reason", "all", "--json").json == {"retried": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--status", "failed"),
        ("--status", "failed", "--reason", " "),
        ("--status", "queued", "--reason", "x"),
        ("--status", "failed", "--reason", "x", "an-id"),
        ("an-id", "--type", "t"),
        ("an-id", "--yes"),
    ],
    ids=lambda arguments: " ".join(arguments) or "nothing",
)
def test_what_is_not_clear_ends_with_2_and_changes_nothing(
    cli: Cli, bench: Bench, arguments: tuple[str, ...]
) -> None:
    (job,) = failed(bench)
    done = cli("retry", *arguments)
    assert (done.code, done.out) == (2, "")
    assert bench.status_of(job.id) == "failed"
    bench.client.retry(job.id)


@pytest.mark.parametrize(
    ("typed", "more", "code", "status"),
    [("n\n", (), 1, "failed"), ("y\n", (), 0, "queued"), ("", ("--yes",), 0, "queued")],
    ids=["no", "yes", "--yes"],
)
def test_on_a_terminal_it_asks_before_it_acts_on_many(
    cli: Cli, bench: Bench, typed: str, more: tuple[str, ...], code: int, status: str
) -> None:
    (job,) = failed(bench, 1, "asked")
    arguments = ("retry", "--status", "failed", "--type", "asked", "--reason", "x", *more)
    done = cli.on_terminal(*arguments, typed=typed)
    assert done.code == code, done.out
    assert ("Run all jobs of type asked again that ended in failed?" in done.out) == (not more)
    assert bench.status_of(job.id) == status
    if status == "failed":
        bench.client.retry(job.id)


def test_it_goes_on_while_there_are_more_and_tells_how_far_it_came(
    cli_for: Callable[[str], Cli], stand_in: StandIn
) -> None:
    stand_in.answer_in_turn(
        (200, b'{"retried": 10000, "more": true}'),
        (200, b'{"retried": 7, "more": false}'),
    )
    done = cli_for(stand_in.url)("retry", "--status", "dead_letter", "--reason", "x", "--json")
    assert (done.code, done.json) == (0, {"retried": 10_007})
    assert "10000 so far." in done.err
    assert {seen[":path"] for seen in stand_in.seen} == {"/api/queue/jobs/retry"}
    problem = {"type": "x", "title": "t", "status": 503, "code": "store_unavailable", "detail": "Gone."}
    stand_in.answer_in_turn((200, b'{"retried": 10000, "more": true}'), (503, json.dumps(problem).encode()))
    cut = cli_for(stand_in.url)("retry", "--status", "dead_letter", "--reason", "x")
    assert cut.code == 1
    assert "Queued 10000 jobs again before this" in cut.err
