"""Push sessions over real WebSockets to a real server: how they are opened, guarded and closed."""

import json
from typing import Any

import anyio
import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from holdfast_core.services import offers, session, sessions
from holdfast_dashboard import worker_sessions
from holdfast_server.commands import web
from rest.harness import SECURITY, open_socket
from support.core import until
from support.push import PATIENCE, SUBPROTOCOL, of, push, push_url
from support.servers import start_server

pytestmark = pytest.mark.anyio


async def post(url: str, path: str, body: dict[str, Any]) -> Any:
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE) as http:
        answer = await http.post(path, json=body)
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


async def read(url: str, path: str) -> Any:
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE) as http:
        answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def enqueue(url: str, **body: Any) -> Any:
    return await post(url, "/api/queue/jobs", {"type": "t", **body})


async def toggle(url: str, action: str, **body: Any) -> Any:
    mode = {"mode": "drain"} if action == "pause" else {}
    return await post(url, "/api/system/worker-pause", {"action": action, "reason": "a test", **mode, **body})


async def refused(url: str, **more: Any) -> httpx2.Response:
    """The answer to a WebSocket that is not opened."""
    options = {"subprotocols": [SUBPROTOCOL], "proxy": None, **more}
    with pytest.raises(InvalidStatus) as caught, anyio.fail_after(PATIENCE):
        async with connect(url, **options):
            pass
    response = caught.value.response
    answer = httpx2.Response(
        response.status_code, headers=list(response.headers.raw_items()), content=bytes(response.body)
    )
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    for name, value in SECURITY.items():
        assert answer.headers[name] == value
    assert "no-store" in answer.headers["cache-control"]
    return answer


async def test_a_worker_works_by_a_push_session(database_url: str) -> None:
    async with start_server(database_url) as server, push(server.url, "w-1", ready=1) as worker:
        assert worker.connection.subprotocol == SUBPROTOCOL
        assert worker.connection.protocol.extensions == []
        job = await enqueue(server.url, payload={"n": 1})
        offer = await worker.hear("offer")
        assert (offer["job"]["id"], offer["job"]["payload"]) == (job["id"], {"n": 1})
        accepted = await worker.ask("accept", **of(offer))
        assert accepted["type"] == "accepted"
        assert (await worker.ask("complete", **of(offer)))["type"] == "completeAck"
        assert (await read(server.url, f"/api/queue/jobs/{job['id']}"))["status"] == "succeeded"
        (shown,) = (await read(server.url, "/api/system/workers"))["items"]
        assert (shown["id"], shown["transport"], shown["state"]) == ("w-1", "ws", "idle")
        async with httpx2.AsyncClient(base_url=server.url) as http:
            metrics = (await http.get("/metrics")).text
        assert "\nholdfast_worker_sessions 1.0\n" in metrics
        assert '\nholdfast_offers_total{outcome="accepted"} 1.0\n' in metrics
        assert "\nholdfast_checkpoint_timeouts_total 0.0\n" in metrics


async def test_compression_is_not_agreed_to(sqlite_url: str) -> None:
    async with start_server(sqlite_url) as server:
        url = push_url(server.url, "w")
        async with connect(url, subprotocols=[SUBPROTOCOL], proxy=None, compression="deflate") as connection:  # type: ignore[list-item]
            assert connection.protocol.extensions == []


async def test_hosts_and_pages_that_are_not_ours_open_no_session(sqlite_url: str) -> None:
    async with start_server(sqlite_url) as server:
        url = push_url(server.url, "w")
        for headers, origin, status, code in (
            ({"Host": "evil.example"}, None, 421, "misdirected_request"),
            ({"Host": "localhost.evil.example"}, None, 421, "misdirected_request"),
            ({}, "http://evil.example", 403, "foreign_origin"),
            ({}, "null", 403, "foreign_origin"),
            ({}, f"{server.url}0", 403, "foreign_origin"),
            ({"Sec-Fetch-Site": "cross-site"}, None, 403, "foreign_origin"),
            ({"Sec-Fetch-Site": "cross-site"}, server.url, 403, "foreign_origin"),
        ):
            if "Host" in headers:
                answer = await refused(
                    url.replace("127.0.0.1", headers["Host"]),
                    host="127.0.0.1",
                    port=int(server.url[-5:].strip(":")),
                )
            else:
                answer = await refused(url, additional_headers=headers, origin=origin)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert (await read(server.url, "/api/system/workers"))["items"] == []
        async with connect(url, subprotocols=[SUBPROTOCOL], origin=server.url, proxy=None):  # type: ignore[list-item, arg-type]
            pass


async def test_what_cannot_be_a_session_is_refused_over_http(sqlite_url: str) -> None:
    async with start_server(sqlite_url) as server:
        answer = await refused(push_url(server.url, "w"), subprotocols=["another"])
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Sec-WebSocket-Protocol")
        answer = await refused(push_url(server.url, "w"), subprotocols=None)
        assert answer.status_code == 422
        for worker in ("a%20b", "x" * 129, "%F0%9F%98%80", "a%00"):
            answer = await refused(push_url(server.url, worker))
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "workerId")
        for path in ("/", "/nothing", "/mcp", "/api/queue/jobs", "/api/queue/workers/a/b/connect"):
            answer = await refused(f"{server.url.replace('http', 'ws', 1)}{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert "Traceback" not in server.log


async def test_a_plain_request_is_told_to_upgrade(sqlite_url: str) -> None:
    async with open_socket(sqlite_url) as api:
        for method in ("GET", "HEAD"):
            answer = await api.ask(method, "/api/queue/workers/w/connect")
            assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
        assert (await api.ask("GET", "/api/queue/workers/w/connect")).json()["code"] == "upgrade_required"
        assert (await api.ask("POST", "/api/queue/workers/w/connect", {})).status_code == 405


async def test_where_too_many_sessions_are_open_another_is_refused_for_now(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 1)
    async with open_socket(sqlite_url) as api:
        url = f"http://127.0.0.1:{api.port}"
        async with push(url, "a"):
            answer = await refused(push_url(url, "b"))
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) > 0

        async def room() -> bool:
            return len(api.services.sessions) == 0

        await until(room)
        async with push(url, "b"):
            pass


async def test_frames_that_are_too_large_or_no_text_close_the_session(sqlite_url: str) -> None:
    async with start_server(sqlite_url) as server:
        async with push(server.url, "w") as worker:
            await worker.say("heartbeat", filler="x" * 1_048_576)
            assert await worker.closed() == 1009
        async with push(server.url, "w") as worker:
            answer = await worker.ask("heartbeat", filler="x" * 1_040_000)
            assert (answer["type"], answer["ignoredFields"]) == ("heartbeatAck", ["filler"])
            await worker.connection.send(b"{}")
            assert await worker.closed() == 1003
        async with push(server.url, "w") as worker:
            for _number in range(20):
                await worker.connection.send("{")
            assert await worker.closed() == 1008
            assert [frame["code"] for frame in worker.frames[1:]] == ["invalid_request"] * 20
        async with push(server.url, "w") as worker:
            await worker.connection.send(b'{"type": "\xff"}', text=True)
            assert await worker.closed() == 1007
        async with push(server.url, "w", hello=False) as worker:
            assert (await worker.ask("heartbeat"))["type"] == "error"
            assert await worker.closed() == 1008
        assert "Traceback" not in server.log


async def test_a_worker_that_says_nothing_is_closed(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "HELLO_SECONDS", 0.2)
    monkeypatch.setattr(session, "HEARTBEAT_SECONDS", 0.1)
    async with open_socket(sqlite_url) as api:
        url = f"http://127.0.0.1:{api.port}"
        async with push(url, "mute", hello=False) as worker:
            with anyio.fail_after(4):
                assert await worker.closed() == 1001
        async with push(url, "silent") as worker:
            assert await worker.closed() == 1001
        async with push(url, "talking", hello=False) as worker:
            # What is no hello does not buy time.
            with anyio.move_on_after(PATIENCE):
                for _number in range(15):
                    await worker.connection.send("{")
            assert await worker.closed() == 1001


async def test_at_the_servers_end_sessions_are_closed_and_offers_go_back(database_url: str) -> None:
    async with start_server(database_url) as server, start_server(database_url) as other:
        jobs = [await enqueue(server.url) for _ in range(3)]
        async with push(server.url, "w", ready=3) as worker:
            offers = [await worker.hear("offer") for _ in jobs]
            await worker.ask("accept", **of(offers[0]))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, server.stop)
                assert await worker.closed() == 1012
        states = [await read(other.url, f"/api/queue/jobs/{job['id']}") for job in jobs]
        assert [(job["status"], job["attempt"]) for job in states] == [
            ("running", 1),
            ("queued", 1),
            ("queued", 1),
        ]
        assert "Traceback" not in server.log
        # The next session, at another server, takes the accepted one up.
        async with push(other.url, "w", hello=False) as worker:
            welcome = await worker.ask("hello", leaseSeconds=60, capabilities={}, jobs=[of(offers[0])])
            assert [lease["lost"] for lease in welcome["leases"]] == [False]
            assert (await worker.ask("complete", **of(offers[0])))["type"] == "completeAck"


async def test_a_session_that_is_cut_gives_back_what_was_not_accepted(database_url: str) -> None:
    async with start_server(database_url) as server:
        job = await enqueue(server.url)
        async with push(server.url, "w", ready=1) as worker:
            await worker.hear("offer")
            worker.connection.transport.abort()

        async def back() -> bool:
            return bool((await read(server.url, f"/api/queue/jobs/{job['id']}"))["status"] == "queued")

        await until(back)


async def test_a_second_session_closes_the_first_with_4002_also_at_another_server(database_url: str) -> None:
    async with (
        start_server(database_url) as one,
        start_server(database_url) as two,
        push(one.url, "w") as first,
        push(one.url, "w") as second,
        push(one.url, "x") as bystander,
    ):
        assert await first.closed() == 4002
        async with push(two.url, "w") as third:
            with anyio.fail_after(4):  # the poll behind takes 5
                assert await second.closed() == 4002
            for still in (third, bystander):
                assert (await still.ask("heartbeat"))["type"] == "heartbeatAck"


async def test_a_worker_that_stops_reading_is_cut_off_and_what_it_was_offered_goes_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its offers nor its connection stay: an open one would take memory for as long as it likes."""
    monkeypatch.setattr(worker_sessions, "SEND_SECONDS", 0.3)
    monkeypatch.setattr(web, "CUT_OFF_SECONDS", 0.3)
    async with open_socket(database_url) as api, push(f"http://127.0.0.1:{api.port}", "deaf") as worker:
        worker.connection.transport.pause_reading()
        filler = {"text": "x" * 900_000}
        jobs = [await api.enqueue(payload=filler) for _ in range(12)]
        await worker.say("readyForMore", slots=12)

        async def over() -> bool:
            return len(api.services.sessions) == 0

        await until(over, offers.ANSWER_SECONDS / 2)

        async def all_back() -> bool:
            return len((await api.get("/api/queue/jobs", status="queued"))["items"]) == len(jobs)

        await until(all_back)
        assert api.services.counters.own().count("offers_withdrawn") > 0

        async def cut() -> bool:
            protocols = [type(one).__name__ for one in api.server.server_state.connections]
            return web.SessionProtocol.__name__ not in protocols

        await until(cut)


async def test_a_hundred_sessions_hear_of_a_pause_and_acknowledge_it(database_url: str) -> None:
    async with (
        start_server(database_url) as one,
        start_server(database_url) as two,
        anyio.create_task_group() as tasks,
    ):
        acknowledged: list[int] = []
        ready = 0
        begun = anyio.Event()

        async def work(number: int) -> None:
            nonlocal ready
            async with push((one, two)[number % 2].url, f"w-{number}", observedVersion=1) as worker:
                ready += 1
                if ready == 100:
                    begun.set()
                told = await worker.hear("system")
                answer = await worker.ask("heartbeat", observedVersion=told["system"]["version"])
                assert answer["system"]["version"] == told["system"]["version"] == 2
                acknowledged.append(number)
                await worker.closed()

        for number in range(100):
            tasks.start_soon(work, number)
        with anyio.fail_after(PATIENCE):
            await begun.wait()
        await toggle(one.url, "pause")

        async def all_have() -> bool:
            status = await read(one.url, "/api/system/worker-pause")
            return bool(status["workers"]["acknowledged"] == 100)

        await until(all_have)
        assert len(acknowledged) == 100
        tasks.cancel_scope.cancel()


async def test_the_frames_of_a_drain_story(database_url: str) -> None:
    """A locally paused worker's racing offer is rejected with the reason, and re-queued unharmed."""
    async with start_server(database_url) as server, push(server.url, "w", ready=2) as worker:
        job = await enqueue(server.url)
        offer = await worker.hear("offer")
        # Its operator pauses it before it has read the offer.
        capabilities = {"autoEnabled": False}
        await worker.ask("heartbeat", capabilities=capabilities)
        answer = await worker.ask("reject", **of(offer), reason="worker paused by operator")
        assert answer["type"] == "releaseAck"
        back = await read(server.url, f"/api/queue/jobs/{job['id']}")
        assert (back["status"], back["attempt"], back["createdAt"]) == ("queued", 1, job["createdAt"])
        (shown,) = (await read(server.url, "/api/system/workers"))["items"]
        assert (shown["autoEnabled"], shown["state"]) == (False, "paused")
        await worker.say("readyForMore", slots=1)
        await worker.ask("heartbeat", capabilities=capabilities)
        assert [frame for frame in worker.frames if frame["type"] == "offer"] == [offer]
        # A resume of the system does not clear the local pause.
        await toggle(server.url, "pause")
        await toggle(server.url, "resume")
        await worker.hear("system")
        await worker.hear("system")
        await worker.ask("heartbeat")
        assert [frame for frame in worker.frames if frame["type"] == "offer"] == [offer]
        assert "worker paused by operator" in server.log
        assert json.dumps(offer["job"]["leaseToken"]) not in server.log
