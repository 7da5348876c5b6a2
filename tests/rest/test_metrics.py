"""`/metrics`, as Prometheus reads it."""

from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from holdfast_core.db.tables import workers
from holdfast_core.db.types import Now
from holdfast_core.services import MEASURES
from holdfast_core.states import WorkerState
from holdfast_core.store.workers import fleet_states
from rest.harness import Api, holder, on_job, open_api

pytestmark = pytest.mark.anyio


async def scraped(api: Api) -> dict[str, float]:
    """Each sample by its name and labels."""
    snapshots = api.services.snapshots  # what was looked at a moment ago is too old for a test
    api.services.meter._looked_at = snapshots._taken_at = snapshots._counted_at = float("-inf")
    text = (await api.ask("GET", "/metrics")).text
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_each_measure_is_there_with_all_its_values_from_the_start(database_url: str) -> None:
    async with open_api(database_url) as api:
        text = (await api.ask("GET", "/metrics")).text
        found = {
            (sample.name, value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            for value in sample.labels.values() or [None]
            if "le" not in sample.labels
        }
        wanted = {
            (measure.prometheus, value)
            for measure in MEASURES
            if measure.kind != "timer"
            for value in measure.values or [None]
        }
        timers = {
            (f"{measure.prometheus}_{part}", None)
            for measure in MEASURES
            if measure.kind == "timer"
            for part in ("sum", "count")
        }
        assert found == wanted | timers


async def test_what_has_happened_is_counted_and_how_things_stand_is_shown(database_url: str) -> None:
    async with open_api(database_url) as api:
        for _number in range(5):
            await api.enqueue()
        jobs = [await api.claimed(f"w-{number}") for number in range(4)]
        await api.post(on_job(jobs[0], "complete"), holder(jobs[0]))
        await api.post(on_job(jobs[1], "fail"), holder(jobs[1], errorMessage="it broke"))
        await api.post(on_job(jobs[2], "release"), holder(jobs[2]))
        await api.pause("quiesce")
        await api.post(on_job(jobs[3], "heartbeat"), holder(jobs[3], leaseSeconds=60, phase="parked"))
        assert (await api.claim("w-4"))["job"] is None
        queued = (await api.get("/api/queue/jobs", status="queued"))["items"]
        await api.post(f"/api/queue/jobs/{queued[0]['id']}/cancel", {"reason": "a test"})
        found = await scraped(api)
        wanted = {
            "holdfast_store_up": 1,
            "holdfast_worker_pause_state": 2,
            "holdfast_worker_pause_version": 2,
            "holdfast_worker_pause_violations": 0,
            "holdfast_worker_pause_sla_exceeded": 0,
            "holdfast_safe_to_upgrade": 0,
            "holdfast_jobs{running}": 1,
            "holdfast_jobs{parked}": 1,
            "holdfast_jobs{queued}": 1,
            "holdfast_claims_total{granted}": 4,
            "holdfast_claims_total{paused}": 1,
            "holdfast_heartbeats_total": 1,
            "holdfast_jobs_enqueued_total": 5,
            "holdfast_jobs_outcomes_total{release}": 1,
            "holdfast_jobs_ended_total{succeeded}": 1,
            "holdfast_jobs_ended_total{failed}": 1,
            "holdfast_jobs_ended_total{cancelled}": 1,
            "holdfast_jobs_ended_total{dead_letter}": 0,
            "holdfast_worker_pause_pause_total": 1,
            "holdfast_worker_pause_resume_total": 0,
            "holdfast_claim_latency_seconds_count": 4,
            "holdfast_claim_latency_seconds_bucket{+Inf}": 4,
        }
        assert {name: found.get(name) for name in wanted} == wanted
        assert found["holdfast_claim_latency_seconds_sum"] > 0
        first = found["holdfast_checkpoint_wait_seconds"]
        assert first > 0
        assert (await scraped(api))["holdfast_checkpoint_wait_seconds"] > first
        await api.resume()
        assert (await scraped(api))["holdfast_worker_pause_resume_total"] == 1


async def let_be_unheard(api: Api, seconds: dict[str, float]) -> None:
    """These workers were heard of so long ago, for the last time."""
    for name, ago in seconds.items():
        old = update(workers).where(workers.c.id == name).values(last_seen_at=Now(-ago))
        await api.database.write(lambda c, old=old: c.execute(old))  # type: ignore[misc]


async def test_workers_are_counted_by_the_state_that_the_fleet_view_shows(database_url: str) -> None:
    async with open_api(database_url) as api:
        for _number in range(4):
            await api.enqueue()
        await api.claimed("running")
        parked, mixed, other = [await api.claimed(name) for name in ("parked", "parking", "parking")]
        await api.pause("quiesce")
        for job, phase in ((parked, "parked"), (mixed, "parked"), (other, "running")):
            await api.post(on_job(job, "heartbeat"), holder(job, leaseSeconds=60, phase=phase))
        for name, enabled in (("idle", True), ("paused", False), ("missing", True), ("gone", True)):
            body = {"workerId": name, "autoEnabled": enabled}
            await api.post("/api/queue/workers/heartbeat", body)
        await api.get("/api/system/workers")  # which writes down what is known of them
        await let_be_unheard(api, {"missing": 120.0, "gone": 3_600.0})
        shown = (await api.get("/api/system/workers"))["items"]
        counted = Counter(worker["state"] for worker in shown)
        assert counted == dict.fromkeys(map(str, WorkerState), 1)
        states = await api.database.read(fleet_states)
        assert states == dict.fromkeys(WorkerState, 1)
        found = await scraped(api)
        assert {found[f"holdfast_workers{{{state}}}"] for state in WorkerState} == {1}
        assert found["holdfast_workers_connected"] == len(WorkerState) - 2
