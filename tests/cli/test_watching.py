"""watch: each change once, across restarts of the server."""

import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from cli.harness import Bench, Cli, StandIn
from holdfast_worker.client import Client
from support.servers import start_server


@pytest.mark.requirement("SC-002")
def test_watch_tells_each_change_as_json_and_ctrl_c_ends_it_with_0(cli: Cli, bench: Bench) -> None:
    watching = cli.start("watch", "--json")
    watching.wrote('"event": "snapshot"')
    bench.client.pause("drain", "first \x9b31m")
    version = bench.client.resume("second").system.version
    bench.enqueue()
    watching.wrote(f'"version": {version},')
    watching.wrote('"queued": 1,')
    watching.interrupt()
    ended = watching.ended()
    assert (ended.code, len(ended.err.splitlines())) == (0, 1)
    assert "\x9b" not in ended.out
    events = [json.loads(line) for line in ended.out.splitlines()]
    assert all(event.keys() == {"event", "id", "data"} for event in events)
    told = [event["data"]["version"] for event in events if event["event"] == "system"]
    assert told == [version - 1, version]
    audit = [event for event in events if event["event"] == "audit"]
    assert [event["data"]["reason"] for event in audit] == ["first \x9b31m", "second"]
    assert [event["id"] for event in audit] == [event["data"]["id"] for event in audit]


def test_watch_writes_a_line_for_each_change_as_it_comes(cli: Cli, bench: Bench) -> None:
    bench.enqueue()
    watching = cli.start("watch")
    watching.wrote("1 queued")
    version = bench.client.pause("drain", "a\x1b[2J\nb", resume_after_seconds=3_600).system.version
    paused = watching.wrote(f"paused (drain), version {version} by ")
    assert r"a\x1b[2J\nb, ends by itself" in paused
    watching.wrote("1 queued, 0 scheduled, safe to upgrade")
    bench.client.resume("done")
    watching.wrote(f"running, version {version + 1}")
    bench.enqueue()
    watching.wrote("2 queued")
    watching.interrupt()
    ended = watching.ended()
    assert (ended.code, "missed" in ended.out) == (0, False)


def test_counts_that_are_told_anew_with_another_age_are_no_news(
    cli_for: Callable[[str], Cli], stand_in: StandIn, bench: Bench
) -> None:
    now = bench.client.status()
    snapshot = now.model_copy(update={"metrics": now.metrics.model_copy(update={"queued": 3})})
    aged = snapshot.metrics.model_copy(update={"measured_at": snapshot.metrics.measured_at + timedelta(9)})
    changed = aged.model_copy(update={"queued": 7})
    told = [("snapshot", snapshot), ("metrics", aged), ("metrics", changed), ("metrics", aged)]
    stream = "".join(f"event: {name}\ndata: {data.model_dump_json()}\n\n" for name, data in told)
    stand_in.answer(200, bench.client.last_answer, content_type="application/json")
    stand_in.answer_at("/events", 200, stream.encode(), content_type="text/event-stream; charset=utf-8")
    watching = cli_for(stand_in.url).start("watch")
    watching.said("The server has ended the stream. Waiting for it to come back.")
    watching.interrupt()
    counts = [line.split(", ")[2] for line in watching.ended().out.splitlines() if " queued" in line]
    assert counts[:3] == ["3 queued", "7 queued", "3 queued"]
    again = counts[3:6]  # at each connection the state is told anew
    assert again == counts[: len(again)]


def test_the_servers_last_words_and_what_is_newer_than_this_client_do_no_harm(
    cli_for: Callable[[str], Cli], stand_in: StandIn, bench: Bench
) -> None:
    bench.client.status()
    stand_in.answer(200, bench.client.last_answer, content_type="application/json")
    problem = {"type": "x", "title": "t", "status": 503, "code": "store_unavailable", "detail": "No\x1bdb."}
    stream = f"event: newer\ndata: what\n\nevent: error\ndata: {json.dumps(problem)}\n\n"
    stand_in.answer_at("/events", 200, stream.encode(), content_type="text/event-stream")
    watching = cli_for(stand_in.url).start("watch")
    watching.said(r"The server: No\x1bdb. Waiting for it to come back.")
    stand_in.answer_at("/events", 200, b"event: system\ndata: {}\n\n", content_type="text/event-stream")
    done = watching.ended()
    assert (done.code, done.out) == (1, "")
    assert "holds no System" in done.err
    assert "Traceback" not in done.err


def test_a_refused_toggle_is_told_too(cli: Cli, bench: Bench) -> None:
    watching = cli.start("watch")
    watching.wrote("running, version")
    assert cli("resume", "--reason", "too early").code == 3
    assert "was refused (not_paused): too early" in watching.wrote("resume by")


@pytest.mark.requirement("SC-004")
def test_watch_waits_for_a_server_that_goes_away_and_tells_what_it_missed(
    cli_for: Callable[[str], Cli], sqlite_url: str
) -> None:
    with start_server(sqlite_url) as server:
        port = server.url.rsplit(":", 1)[1]
        watching = cli_for(server.url).start("watch")
        watching.wrote("running, version 1")
        with Client(server.url, token="") as client:
            client.pause("drain", "before the restart")
        watching.wrote("paused (drain), version 2")
        server.stop()
        watching.said("Waiting for it to come back.")
    with start_server(sqlite_url) as elsewhere, Client(elsewhere.url, token="") as client:
        client.resume("unseen")
        client.pause("quiesce", "unseen, too")
        client.resume("at last")
    with start_server(sqlite_url, "--port", port) as server:
        watching.said("Connected again.")
        watching.wrote("version 5: at last")
        with Client(server.url, token="") as client:
            client.pause("drain", "after the restart")
        watching.wrote("paused (drain), version 6")
        watching.interrupt()
        ended = watching.ended()
    assert ended.code == 0
    assert ended.err.count("Waiting for it") == 1
    told = [line for line in ended.out.splitlines() if "version " in line]
    for line, said in zip(
        told,
        (
            "running, version 1",
            "paused (drain), version 2 by local operator: before the restart",
            "running, version 5",
            "missed meanwhile: resume (drain) by local operator, version 3: unseen",
            "missed meanwhile: pause (quiesce) by local operator, version 4: unseen, too",
            "missed meanwhile: resume (quiesce) by local operator, version 5: at last",
            "paused (drain), version 6 by local operator: after the restart",
        ),
        strict=True,
    ):
        assert said in line


def test_watch_of_a_server_that_is_not_there_ends_at_once(cli_for: Callable[[str], Cli]) -> None:
    done = cli_for("http://127.0.0.1:1")("watch")
    assert done.code == 6
    assert "holdfast serve" in done.err


def test_watch_of_what_streams_no_events_ends_and_says_so(
    cli_for: Callable[[str], Cli], stand_in: StandIn, bench: Bench
) -> None:
    bench.client.status()
    stand_in.answer(200, bench.client.last_answer, content_type="application/json")
    done = cli_for(stand_in.url)("watch")
    assert (done.code, done.out) == (1, "")
    assert "something else than a stream of events" in done.err
    assert stand_in.seen[-1][":path"] == "/api/system/events"
