"""Workers of other ages than the server: newer ones say more, older ones say less, and none loses its job for it."""

import json
from typing import Any

import pytest

from rest.harness import Operation, holder, open_api, with_body
from rest.test_bad_bodies import GOOD, WORKERS, good_body

pytestmark = pytest.mark.anyio

IGNORED = "holdfast-ignored-fields"


async def test_fields_of_the_future_are_ignored_and_named_on_every_call_of_a_worker(
    database_url: str,
) -> None:
    async with open_api(database_url) as api:

        async def said(path: str, body: dict[str, Any]) -> Any:
            answer = await api.ask("POST", path, {**body, "gpuSeconds": 1.5, "trace": {"a": [None]}})
            assert answer.status_code == 200, answer.text
            assert answer.headers[IGNORED] == "gpuSeconds, trace"
            return answer.json()

        await said("/api/queue/workers/heartbeat", {"workerId": "w-1", "autoEnabled": True})
        for verb, more, status in (
            ("complete", {}, "succeeded"),
            ("fail", {"errorMessage": "it broke"}, "failed"),
            ("release", {}, "queued"),
        ):
            await api.enqueue()
            claim = {"workerId": "w-1", "leaseSeconds": 60}
            job = (await said("/api/queue/jobs/claim", claim))["job"]
            path = f"/api/queue/jobs/{job['id']}"
            assert (await said(f"{path}/heartbeat", holder(job, leaseSeconds=60)))["status"] == "running"
            assert (await said(f"{path}/{verb}", holder(job, **more)))["status"] == status
        job = (await said("/api/queue/jobs/claim", {**claim, "waitSeconds": 5}))["job"]
        path = f"/api/queue/jobs/{job['id']}"
        await api.post(f"{path}/cancel")
        assert (await said(f"{path}/cancel/ack", holder(job)))["status"] == "cancelled"


async def test_a_worker_that_knows_no_lease_token_is_served_by_its_name(database_url: str) -> None:
    async with open_api(database_url) as api:
        for verb, more, status in (
            ("complete", {"resultSummary": "done"}, "succeeded"),
            ("fail", {"errorMessage": "it broke"}, "failed"),
        ):
            await api.enqueue()
            job = await api.claimed("old")
            path = f"/api/queue/jobs/{job['id']}"
            beat = await api.post(f"{path}/heartbeat", {"workerId": "old", "leaseSeconds": 60})
            assert beat["status"] == "running"
            assert beat["leaseToken"] is None
            await api.refused(409, "job_not_owned", "POST", f"{path}/{verb}", {"workerId": "other", **more})
            assert (await api.post(f"{path}/{verb}", {"workerId": "old", **more}))["status"] == status
            # Nothing at all stands for "unknown", too.
            again = {"workerId": "old", "leaseToken": None, **more}
            assert (await api.post(f"{path}/{verb}", again))["status"] == status


async def test_where_the_settings_ask_for_it_a_call_without_a_token_is_refused_by_the_fields_name(
    sqlite_url: str,
) -> None:
    async with open_api(sqlite_url, require_lease_token=True) as api:
        await api.enqueue()
        job = await api.claimed()
        for verb in ("heartbeat", "complete", "fail", "cancel/ack"):
            body = {"workerId": "w-1", "leaseSeconds": 60, "errorMessage": "it broke"}
            problem = await api.refused(
                422, "invalid_request", "POST", f"/api/queue/jobs/{job['id']}/{verb}", body
            )
            assert [error["field"] for error in problem["errors"]] == ["leaseToken"]
        assert (await api.post(f"/api/queue/jobs/{job['id']}/complete", holder(job)))["status"] == "succeeded"


@pytest.mark.parametrize(
    "operation", [op for op in with_body() if op.id in WORKERS], ids=lambda operation: operation.id
)
async def test_names_that_are_ignored_are_shown_so_that_they_harm_nobody(
    sqlite_url: str, operation: Operation
) -> None:
    async with open_api(sqlite_url) as api:
        await api.enqueue()
        job = await api.claimed()
        body = (
            {**good_body(operation), "leaseToken": job["leaseToken"]}
            if "leaseToken" in operation.body["properties"]
            else good_body(operation)
        )
        assert body["workerId"] == GOOD["workerId"] == "w-1"
        if operation.id == "acknowledge_cancel":
            await api.post(f"/api/queue/jobs/{job['id']}/cancel")
        hostile = {
            "a\r\nSet-Cookie: x=y": 1,
            "b\0": 1,
            "\u202e": 1,
            "é" * 300: 1,
            "😀": 1,
            "": 1,
            "x" * 100_000: 1,
            **{f"f{n}": 1 for n in range(20_000)},
        }
        answer = await api.ask("POST", operation.at(job["id"]), {**body, **hostile})
        assert answer.status_code in {200, 201}, answer.text[:500]
        assert "set-cookie" not in answer.headers
        named = answer.headers[IGNORED]
        assert named.isascii()
        assert named.isprintable()
        assert named.startswith(r"a\r\nSet-Cookie: x=y, b\x00, \u202e, ")
        assert len(named) < 4_096, f"{len(named)} characters in a header"


async def test_a_worker_that_knows_none_of_the_new_answers_needs_none_of_them(sqlite_url: str) -> None:
    """What the oldest client reads is where it has always been."""
    async with open_api(sqlite_url) as api:
        job = await api.enqueue(payload={"a": 1})
        answer = await api.claim()
        assert set(answer) == {"job", "system"}
        beat = await api.post(
            f"/api/queue/jobs/{job['id']}/heartbeat", {"workerId": "w-1", "leaseSeconds": 60}
        )
        assert beat["id"] == job["id"]
        assert beat["payload"] == {"a": 1}
        assert json.dumps(beat).count('"system"') == 1
