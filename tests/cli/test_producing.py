"""enqueue, cancel and requeue."""

from pathlib import Path
from uuid import UUID

import pytest

from cli.harness import Bench, Cli


def test_enqueue_prints_the_id_alone_on_stdout(cli: Cli, bench: Bench) -> None:
    done = cli("enqueue", "--type", "report", "--payload", '{"month": "2026-02", "n": 1e2}')
    assert done.code == 0
    job = bench.client.job(UUID(done.out.strip()))
    assert job.payload == {"month": "2026-02", "n": 100.0}
    assert (job.type, job.priority, job.max_attempts) == ("report", 0, 3)


def test_enqueue_takes_every_option(cli: Cli, bench: Bench) -> None:
    job = cli(
        *("enqueue", "--type", "report", "--priority", "-5", "--max-attempts", "7"),
        *("--requires", "gpu", "--requires", "docker", "--run-at", "2999-01-01T00:00:00Z", "--json"),
    ).json
    assert job["priority"] == -5
    assert job["maxAttempts"] == 7
    assert job["requiredCapabilities"] == ["docker", "gpu"]
    assert job["nextAttemptAt"] == "2999-01-01T00:00:00Z"
    assert job["payload"] == {}


def test_enqueue_works_while_paused(cli: Cli, bench: Bench) -> None:
    bench.client.pause("drain", "test")
    assert cli("enqueue", "--type", "report").code == 0
    assert bench.client.claim("holder", 60).job is None


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_payload_comes_from_a_file_or_from_stdin(
    cli: Cli, bench: Bench, tmp_path: Path, source: str
) -> None:
    text = '{"text": "täglich → \\ud83d\\ude00"}'
    path = tmp_path / "payload.json"
    path.write_text(text, encoding="utf-8")
    done = cli("enqueue", "--type", "t", "--payload", f"@{path}" if source == "file" else "-", stdin=text)
    assert done.code == 0, done.err
    assert bench.client.job(done.out.strip()).payload == {"text": "täglich → 😀"}


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "nope",
        "[1]",
        "1",
        "null",
        '{"a": NaN}',
        '{"a": 1',
        "@/no/such/file",
        "[" * 100_000,
        '{"a": ' + "9" * 5_000 + "}",
    ],
    ids=lambda text: text[:16],
)
def test_a_payload_that_is_no_object_ends_with_2(cli: Cli, bench: Bench, payload: str) -> None:
    done = cli("enqueue", "--type", "t", "--payload", payload)
    assert (done.code, done.out) == (2, "")
    assert "--payload" in done.err or "payload" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "more",
    [
        ["--type", "no name"],
        ["--type", "t", "--priority", "1001"],
        ["--type", "t", "--run-at", "tomorrow"],
        [],
    ],
    ids=" ".join,
)
def test_what_the_server_or_the_parser_refuses_ends_with_2(cli: Cli, bench: Bench, more: list[str]) -> None:
    done = cli("enqueue", *more)
    assert (done.code, done.out) == (2, "")


def test_a_payload_with_half_a_character_is_the_servers_to_refuse(cli: Cli, bench: Bench) -> None:
    done = cli("enqueue", "--type", "t", "--payload", '{"a": "\\ud800"}')
    assert done.code in {0, 2}
    assert "Traceback" not in done.err


def test_a_queued_job_is_cancelled_at_once(cli: Cli, bench: Bench) -> None:
    (job,) = bench.enqueue()
    done = cli("cancel", str(job.id), "--reason", "not needed")
    assert done.code == 0
    assert "cancelled" in done.out
    assert bench.client.job(job.id).cancel_reason == "not needed"


def test_a_running_job_is_asked_to_stop(cli: Cli, bench: Bench) -> None:
    job = bench.run_job()
    done = cli("cancel", str(job.id))
    assert done.code == 0
    assert "Asked" in done.err
    assert bench.client.job(job.id).cancel_requested_at is not None


def test_a_finished_job_cannot_be_cancelled(cli: Cli, bench: Bench) -> None:
    job = bench.run_job()
    bench.finish(job)
    assert cli("cancel", str(job.id)).code == 3


def test_a_stale_job_is_put_back_also_while_paused(cli: Cli, bench: Bench) -> None:
    job = bench.stale_job()
    bench.client.pause("drain", "test")
    done = cli("requeue", str(job.id), "--reason", "its worker is gone", "--json")
    assert done.code == 0
    assert (done.json["status"], done.json["attempt"]) == ("queued", 2)
    assert bench.client.status().metrics.safe_to_upgrade


def test_a_job_whose_worker_heartbeats_is_not_put_back(cli: Cli, bench: Bench) -> None:
    job = bench.run_job()
    assert cli("requeue", str(job.id), "--reason", "impatient").code == 3
    assert bench.status_of(job.id) == "running"


def test_requeue_stale_takes_all_stale_ones_and_leaves_live_ones(cli: Cli, bench: Bench) -> None:
    live = bench.run_job()
    stale = [bench.run_job(lease_seconds=1) for _ in range(2)]
    bench.until(lambda: bench.client.status().metrics.stale_running == 2)
    # The listing goes by the snapshot's own time, which may lie two seconds behind.
    done = cli("requeue", "--stale", "--reason", "gone", "--json")
    assert done.code == 0
    assert {job["id"] for job in done.json["items"]} == {str(job.id) for job in stale}
    assert bench.status_of(live.id) == "running"
    again = cli("requeue", "--stale", "--reason", "gone")
    assert (again.code, again.out) == (0, "")
    assert "No job is stale." in again.err


@pytest.mark.parametrize("arguments", [[], ["--stale", str(UUID(int=1))]], ids=["neither", "both"])
def test_requeue_wants_either_one_job_or_all_stale_ones(cli: Cli, arguments: list[str]) -> None:
    assert cli("requeue", *arguments, "--reason", "x").code == 2


def test_requeue_wants_a_reason(cli: Cli) -> None:
    assert cli("requeue", "--stale").code == 2
