"""status, history, jobs, job: what they show, as text and as JSON."""

import json
from uuid import UUID

import httpx2
import pytest

from cli.harness import Bench, Cli


def api(bench: Bench, path: str) -> bytes:
    return httpx2.get(bench.client.url + path, trust_env=False).raise_for_status().content


def test_status_tells_a_running_system(cli: Cli, bench: Bench) -> None:
    bench.enqueue(count=2)
    done = cli("status")
    assert done.code == 0
    assert done.err == ""
    facts = dict(line.split(":", 1) for line in done.out.splitlines())
    assert facts["Workers"].strip() == "Running"
    assert facts["Queued"].split()[0] == "2"
    assert facts["Running"].strip() == "0"
    assert "Safe to upgrade" not in facts


def test_status_tells_a_pause_its_reason_and_what_still_runs(cli: Cli, bench: Bench) -> None:
    bench.run_job()
    version = bench.client.pause("quiesce", "Rolling API migration").system.version
    facts = dict(line.split(":", 1) for line in cli("status").out.splitlines())
    assert facts["Workers"].strip() == "Paused (Quiesce)"
    assert facts["Reason"].strip() == "Rolling API migration"
    assert facts["Version"].strip().startswith(f"{version}, of ")
    assert facts["Running"].strip() == "1"
    assert facts["Safe to upgrade"].strip() == "not yet"


def test_json_is_what_the_api_answered(cli: Cli, bench: Bench) -> None:
    (job,) = bench.enqueue(note="täglich\u2028")
    bench.client.pause("drain", "for the log")
    for arguments, path in [
        (["job", str(job.id)], f"/api/queue/jobs/{job.id}"),
        (["jobs", "--limit", "7", "--type", "test"], "/api/queue/jobs?limit=7&type=test"),
        (["history", "--limit", "3"], "/api/system/control-events?limit=3"),
    ]:
        done = cli(*arguments, "--json")
        assert (done.code, done.err) == (0, "")
        assert done.out.encode() == api(bench, path) + b"\n"


def test_status_as_json_is_the_snapshot(cli: Cli, bench: Bench) -> None:
    shown = cli("status", "--json").json
    assert shown.keys() == json.loads(api(bench, "/api/system/worker-pause")).keys()
    assert shown["system"]["workersPaused"] is False


def test_history_lists_the_newest_first_and_filters_by_outcome_and_action(cli: Cli, bench: Bench) -> None:
    bench.client.pause("drain", "an older one")
    bench.client.resume("an older one")
    bench.client.pause("drain", "first")
    bench.client.pause("drain", "first")
    bench.client.resume("second")
    done = cli("history", "--limit", "3")
    assert done.code == 0
    heading, *lines = [line.split() for line in done.out.splitlines()]
    assert heading[:5] == ["TIME", "ACTION", "MODE", "OUTCOME", "VERSION"]
    assert [(line[1], line[3], line[-1]) for line in lines] == [
        ("resume", "changed", "second"),
        ("pause", "unchanged", "first"),
        ("pause", "changed", "first"),
    ]
    assert "There are older ones" in done.err
    only = cli("history", "--outcome", "unchanged", "--limit", "1", "--json").json["items"]
    assert [event["outcome"] for event in only] == ["unchanged"]
    resumes = cli("history", "--action", "resume", "--outcome", "changed", "--limit", "1", "--json").json[
        "items"
    ]
    assert [(event["action"], event["reason"]) for event in resumes] == [("resume", "second")]
    paused = cli("history", "--action", "pause", "--limit", "2").out.splitlines()[1:]
    assert [line.split()[1] for line in paused] == ["pause", "pause"]


def test_a_refused_request_shows_its_code(cli: Cli, bench: Bench) -> None:
    assert cli("resume", "--reason", "too early").code == 3
    line = cli("history", "--limit", "1").out.splitlines()[1]
    assert "refused:not_paused" in line
    assert "too early" in line


def test_jobs_filters_and_says_when_there_are_more(cli: Cli, bench: Bench) -> None:
    held = bench.run_job()
    bench.enqueue("other", count=2)
    listed = cli("jobs", "--status", "running", "--claimed-by", "holder")
    heading, line = [row.split() for row in listed.out.splitlines()]
    assert heading[:3] == ["ID", "TYPE", "STATUS"]
    assert line[:5] == [str(held.id), "test", "running", "1/3", "holder"]
    more = cli("jobs", "--type", "other", "--limit", "1")
    assert len(more.out.splitlines()) == 2
    assert "There are older ones" in more.err
    assert [job["id"] for job in cli("jobs", "--q", str(held.id), "--json").json["items"]] == [str(held.id)]


def test_no_jobs_is_said_on_stderr(cli: Cli, bench: Bench) -> None:
    done = cli("jobs", "--type", "no.such")
    assert (done.code, done.out) == (0, "")
    assert "No such jobs." in done.err


def test_job_shows_what_is_known(cli: Cli, bench: Bench) -> None:
    job = bench.run_job()
    bench.client.complete(job.id, "holder", "all well", lease_token=job.lease_token)
    facts = dict(line.split(":", 1) for line in cli("job", str(job.id)).out.splitlines())
    assert facts["Status"].strip() == "succeeded"
    assert facts["Result"].strip() == "all well"
    assert facts["Payload"].strip() == "{}"
    assert "Error" not in facts


@pytest.mark.parametrize("job_id", [str(UUID(int=7)), "nope", "..", "a/b", ""])
def test_a_job_that_is_not_there_is_one_line_and_exit_1(cli: Cli, job_id: str) -> None:
    done = cli("job", "--", job_id)
    assert done.code == 1
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert "`holdfast jobs` lists the ids" in done.err


def test_a_limit_beyond_the_bound_is_a_usage_error(cli: Cli) -> None:
    assert cli("jobs", "--limit", "201").code == 2
    assert cli("history", "--limit", "0").code == 2


def test_a_name_that_cannot_be_is_the_servers_422_and_exit_2(cli: Cli, bench: Bench) -> None:
    done = cli("jobs", "--type", "not a name")
    assert done.code == 2
    assert "type" in done.err


def test_control_characters_are_shown_escaped_in_a_pipe(cli: Cli, bench: Bench) -> None:
    (job,) = bench.enqueue(note="\x1b[2Jx\x9b\u202e")
    bench.client.pause("drain", "one\ntwo \x1b[31mred")
    for done in (cli("status"), cli("history", "--limit", "1"), cli("job", str(job.id))):
        assert done.code == 0
        assert not any(unsafe in done.out for unsafe in "\x1b\x9b\u202e")
    assert "one\\ntwo \\x1b[31mred" in cli("status").out


def test_text_that_the_encoding_lacks_is_escaped_and_no_traceback(cli: Cli, bench: Bench) -> None:
    bench.client.pause("drain", "a → b")
    done = cli("status", PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert done.code == 0
    assert "a \\u2192 b" in done.out
