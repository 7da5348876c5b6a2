"""Pause, drain, upgrade, resume: the operator's walk by the command line alone, on either database."""

import json
from collections.abc import Callable
from urllib.parse import urlsplit

from cli.harness import Bench, Cli
from holdfast_worker.client import Client
from support.servers import start_server


def test_the_playbook_works_with_nothing_but_the_command_line(
    cli_for: Callable[[str], Cli], database_url: str
) -> None:
    with start_server(database_url) as before, Client(before.url, token="") as client:
        cli, bench = cli_for(before.url), Bench(client)
        job = bench.run_job()
        waits_its_turn = cli("enqueue", "--type", "test").out.strip()
        pausing = cli.start("pause", "--mode", "drain", "--reason", "upgrade", "--wait", "--json")
        pausing.said("1 running, 0 stale, 1 queued")
        assert client.claim("another", 60, wait_seconds=5).job is None
        bench.finish(job)
        paused = pausing.ended()
        assert paused.code == 0, paused.err
        assert paused.json["metrics"]["safeToUpgrade"] is True
        port = str(urlsplit(before.url).port)
    # The upgrade: another process on the same database finds the pause as it was.
    with start_server(database_url, "--port", port) as after:
        cli = cli_for(after.url)
        assert cli("wait", "--for", "drained").code == 0
        assert json.loads(cli("job", waits_its_turn, "--json").out)["status"] == "queued"
        version = paused.json["system"]["version"]
        assert cli("resume", "--reason", "done", "--expected-version", str(version)).code == 0
        lines = cli("history").out.splitlines()
        assert ["resume" in lines[1], "pause" in lines[2], len(lines)] == [True, True, 3]
