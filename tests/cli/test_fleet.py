"""blockers and workers."""

import pytest

from cli.harness import Bench, Cli


@pytest.mark.requirement("QS-04")
def test_blockers_are_named_with_the_way_out(cli: Cli, bench: Bench) -> None:
    empty = cli("blockers")
    assert (empty.code, empty.out) == (0, "")
    assert "Nothing keeps the system from drained." in empty.err
    stale = bench.stale_job()
    running = bench.run_job()
    bench.client.heartbeat(running.id, "holder", 600, lease_token=running.lease_token, checkpoint="half\x1b")
    done = cli("blockers")
    lines = done.out.splitlines()
    assert done.code == 0
    assert lines[0].split() == [
        *("JOB", "TYPE", "WORKER", "VERDICT", "AGE", "HEARTBEAT", "CHECKPOINT", "ADVICE")
    ]
    assert [line.split()[:4] for line in lines[1:]] == [
        [str(stale.id), "test", "holder", "stale"],
        [str(running.id), "test", "holder", "progressing"],
    ]
    assert f"holdfast requeue {stale.id}" in lines[1]
    assert "half\\x1b" in lines[2]
    answer = cli("blockers", "--json").json
    assert {item["jobId"]: item["verdict"] for item in answer["items"]} == {
        str(stale.id): "stale",
        str(running.id): "progressing",
    }
    assert answer["total"] == 2


def test_workers_are_listed_with_the_version_that_they_have_seen(cli: Cli, bench: Bench) -> None:
    bench.run_job()
    version = bench.client.status().system.version
    bench.client.claim("holder", 60, worker_capabilities=["gpu"], observed_version=version)
    bench.until(lambda: any(w.observed_version == version for w in bench.client.workers().items))

    def holder() -> list[str]:
        done = cli("workers")
        assert done.code == 0
        assert f"The pause is at version {bench.client.status().system.version}." in done.err
        heading, *lines = [line.split() for line in done.out.splitlines()]
        assert heading == ["ID", "STATE", "VIA", "JOBS", "LAST_SEEN", "VERSION", "ENABLED", "CAPABILITIES"]
        (found,) = [line for line in lines if line[0] == "holder"]
        return found

    row = holder()
    assert row[1:4] == ["running", "rest", "1"]
    assert row[5:] == [str(version), "yes", "gpu"]
    bench.client.pause("drain", "test")
    assert holder()[5] == f"{version}<{version + 1}", "who lags behind is told without colour, too"
    assert "holder" in [item["id"] for item in cli("workers", "--json").json["items"]]
