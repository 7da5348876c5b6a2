"""Pausing and resuming from the page, as an operator does it, with real workers."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from dashboard.looking import HOSTILE, opened, refusals
from holdfast_core.schemas import Job
from holdfast_worker.client import Client
from support.servers import Server, start_server
from support.workers import Ledger, start_worker, until

PAUSE = "/api/system/worker-pause"
#: Notes each version that the banner has shown together with the word that it is safe.
WATCHES = """() => {
  window.safe = [];
  const look = () => {
    const lines = [...document.querySelectorAll("#banner-facts p")].map((line) => line.textContent);
    const version = Number(/version (\\d+)/.exec(lines.join("\\n"))?.[1]);
    const parts = [...document.querySelectorAll("#banner, #drain-state")];
    const said = parts.some((part) => part.textContent.includes("Safe to upgrade"));
    if (said && !window.safe.includes(version)) window.safe.push(version);
  };
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
  look();
}"""


@pytest.fixture
def server(sqlite_url: str) -> Generator[Server]:
    # An expired lease stays as it is: what the tests want stale, the sweep must not put back.
    with start_server(sqlite_url, HOLDFAST_LEASE_GRACE_SECONDS="86400") as server:
        yield server


@pytest.fixture
def client(server: Server) -> Generator[Client]:
    with Client(server.url, token="") as client:
        yield client


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Browser, server: Server) -> Generator[Page]:
    more: str = getattr(request, "param", "")
    with opened(browser, server.url, expected=refusals(409, 422) + more) as page:
        page.goto("/tasks")
        yield page


def run_job(client: Client, *, lease_seconds: int = 600) -> Job:
    """A new job, held by `holder`."""
    client.enqueue("review", {})
    job = client.claim("holder", lease_seconds).job
    assert job is not None
    return job


def pause(page: Page, reason: str, *, mode: str = "drain", minutes: str = "") -> None:
    page.locator("#pause").click()
    page.locator(f"dialog input[value={mode}]").check()
    page.get_by_label("Reason").fill(reason)
    if minutes:
        page.get_by_label("Ends by itself after minutes").fill(minutes)
    page.get_by_role("button", name="Pause workers").click()


def resume(page: Page, reason: str = "done") -> None:
    page.locator("#resume").click()
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name="Resume workers").click()


def title(page: Page, text: str) -> None:
    expect(page.locator("#banner-title")).to_have_text(text)
    expect(page).to_have_title(f"{text} · Holdfast")


def tile(page: Page, name: str, count: int) -> None:
    expect(page.locator(f"[data-count={name}] dd")).to_have_text(str(count))


@pytest.mark.requirement("FR-009", "US1-2", "SC-004")
def test_the_quickstart_goes_through_the_page_alone(
    page: Page, server: Server, client: Client, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    # It hears of a cancel within a third of its lease.
    with start_worker(server.url, "codex-1", tmp_path, "--lease", "3s") as worker:
        title(page, "Workers: Running")
        expect(page.locator("#pause")).to_be_enabled()
        expect(page.locator("#resume")).to_be_disabled()
        long = client.enqueue("t", ledger.payload(steps=100_000, seconds=0.05))
        waiting = client.enqueue("t", ledger.payload(steps=1))
        tile(page, "running", 1)

        pause(page, "Rolling API migration")
        title(page, "Workers: Paused (Drain)")
        banner = page.locator("#banner")
        expect(banner).to_contain_text("Rolling API migration")
        expect(banner).to_contain_text("by local operator")
        expect(banner).to_contain_text("version 2")
        expect(page.locator("#pause")).to_be_disabled()
        expect(page.locator("#drain-state")).to_have_text("Not yet safe: 1 job still runs.")
        expect(page.locator("#blockers li")).to_contain_text("codex-1")
        expect(banner).to_contain_text("seen by 1 of 1 worker")
        tile(page, "queued", 1)
        expect(page.get_by_text("Safe to upgrade")).to_have_count(0)
        client.cancel(long.id, "its time is over")
        expect(page.locator("#drain-state")).to_have_text("Safe to upgrade")
        expect(banner).to_contain_text("Safe to upgrade")
        expect(page.locator("progress")).to_have_js_property("value", 1)
        tile(page, "queued", 1)

        resume(page, "Maintenance complete")
        title(page, "Workers: Running")
        until(lambda: client.job(waiting.id).status == "succeeded", "the job that waited")
        expect(page.get_by_text("Safe to upgrade")).to_have_count(0)

        steps = client.enqueue("t", ledger.payload(steps=100_000, seconds=0.05))
        tile(page, "running", 1)
        pause(page, "Short-lived infra tweak", mode="quiesce")
        title(page, "Workers: Paused (Quiesce)")
        expect(page.locator("#drain-state")).to_have_text("All parked")
        expect(page.locator("#drain-words")).to_contain_text("1 of 1 parked")
        page.goto(f"/tasks/jobs/{steps.id}")
        expect(page.locator("#log")).to_contain_text("Paused at checkpoint")
        page.goto("/tasks/history")
        rows = page.locator("#history tbody tr")
        expect(rows).to_have_count(3)
        assert [row.split("\t")[1] for row in rows.all_inner_texts()] == [
            "pause (quiesce)",
            "resume (drain)",
            "pause (drain)",
        ]
        expect(rows.first).to_contain_text("Short-lived infra tweak")
        worker.kill()


@pytest.mark.requirement("QS-02", "FR-009")
def test_an_early_resume_asks_says_what_runs_and_is_audited_and_its_warning_stays(
    page: Page, client: Client
) -> None:
    job = run_job(client)
    pause(page, "an upgrade")
    title(page, "Workers: Paused (Drain)")
    sent: list[Any] = []
    page.on("request", lambda r: sent.append(r.post_data_json) if r.method == "POST" else None)
    resume(page, "in a hurry")
    asked = page.get_by_role("alertdialog")
    expect(asked).to_contain_text("1 job running (0 parked) and 0 stale")
    expect(asked.get_by_role("listitem")).to_contain_text("review on holder, progressing")
    asked.get_by_role("button", name="Back").click()
    expect(asked).to_have_count(0)
    assert sent == []
    assert client.status().system.workers_paused
    page.get_by_role("button", name="Resume workers").click()  # what was typed is still there
    page.get_by_role("alertdialog").get_by_role("button", name="Continue").click()
    title(page, "Workers: Running")
    assert sent == [{"action": "resume", "reason": "in a hurry", "expectedVersion": 2, "forceResume": True}]
    event = client.history(limit=1).items[0]
    assert (event.action, event.force_resume, event.running) == ("resume", True, 1)
    warning = page.locator(".notice.warning")
    expect(warning).to_contain_text("Resumed before the drain ended: 1 job still running")
    page.get_by_role("link", name="Workers").click()
    expect(warning).to_contain_text("1 job still running")
    page.reload()
    expect(warning).to_contain_text("1 job still running")
    warning.get_by_role("button", name="Dismiss").click()
    expect(warning).to_have_count(0)
    page.reload()
    title(page, "Workers: Running")
    expect(warning).to_have_count(0)
    client.complete(job.id, "holder", lease_token=job.lease_token)


@pytest.mark.requirement("FR-009", "SC-004")
def test_the_drain_card_counts_down_and_names_what_it_waits_for(page: Page, client: Client) -> None:
    jobs = [run_job(client) for _ in range(3)]
    tile(page, "running", 3)
    expect(page.locator("progress")).to_be_hidden()
    pause(page, "an upgrade")
    bar, words, blockers = (
        page.locator("progress"),
        page.locator("#drain-words"),
        page.locator("#blockers li"),
    )
    expect(blockers).to_have_count(3)
    for number, job in enumerate(jobs):
        expect(page.locator("#drain-state")).to_contain_text("Not yet safe")
        expect(words).to_contain_text(f"{number} of 3 done")
        expect(bar).to_have_js_property("value", number)
        expect(bar).to_have_js_property("max", 3)
        for blocker in blockers.all():
            expect(blocker).to_contain_text("progressing")
        client.complete(job.id, "holder", lease_token=job.lease_token)
        tile(page, "running", 2 - number)
        if number < 2:
            expect(blockers).to_have_count(2 - number)
    expect(page.locator("#drain-state")).to_have_text("Safe to upgrade")
    expect(blockers.filter(visible=True)).to_have_count(0)


@pytest.mark.requirement("FR-009")
def test_it_is_never_called_safe_while_a_job_runs(page: Page, client: Client) -> None:
    title(page, "Workers: Running")
    page.evaluate(WATCHES)
    held: list[int] = []
    drained: list[int] = []
    for _ in range(3):
        # Drained, and so called safe; then at once resumed, claimed and paused again, while the page still says so.
        drained.append(client.pause("drain", "nothing runs").system.version)
        expect(page.locator("#drain-state")).to_have_text("Safe to upgrade")
        client.resume("go on")
        job = run_job(client)
        held.append(client.pause("drain", "one runs").system.version)
        expect(page.locator("#drain-state")).to_have_text("Not yet safe: 1 job still runs.")
        assert page.evaluate("window.safe") == drained, held
        client.complete(job.id, "holder", lease_token=job.lease_token)
        expect(page.locator("#drain-state")).to_have_text("Safe to upgrade")
        drained.append(held.pop())
        client.resume("done")
        title(page, "Workers: Running")
    assert page.evaluate("window.safe") == drained


@pytest.mark.requirement("FR-009")
def test_nothing_can_be_pressed_before_the_state_is_known(page: Page, client: Client) -> None:
    client.pause("drain", "an upgrade")
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        waiting.append(route)

    page.route("**/api/system/events", hold)
    page.goto("/tasks")
    title(page, "Workers: Paused (Drain)")  # as the server has written it
    for name in ("#pause", "#resume"):
        expect(page.locator(name)).to_be_disabled()
    expect(page.locator("#change")).to_be_hidden()
    waiting[0].continue_()
    expect(page.locator("#resume")).to_be_enabled()
    expect(page.locator("#change")).to_be_visible()
    expect(page.locator("#pause")).to_be_disabled()


def test_a_drained_system_is_resumed_without_a_question(page: Page, client: Client) -> None:
    pause(page, "an upgrade")
    expect(page.locator("#drain-state")).to_have_text("Safe to upgrade")
    expect(page.locator("#drain-words")).to_have_text("Nothing was running when the pause began.")
    expect(page.locator("progress")).to_have_js_property("value", 1)  # of 1: full
    resume(page)
    title(page, "Workers: Running")
    assert client.history(limit=1).items[0].force_resume is False
    expect(page.locator(".notice.warning")).to_have_count(0)


@pytest.mark.requirement("FR-009", "QS-04")
def test_a_stale_job_is_named_and_requeued_and_the_drain_ends(page: Page, client: Client) -> None:
    job = run_job(client, lease_seconds=1)
    tile(page, "stale", 1)
    pause(page, "an upgrade")
    blocker = page.locator("#blockers li")
    expect(blocker).to_contain_text("stale")
    expect(blocker).to_contain_text("holder")
    expect(page.locator("#drain-words")).to_contain_text("1 stale: nobody heartbeats for it")
    blocker.get_by_role("button", name="Requeue").click()
    page.get_by_role("dialog").get_by_role("button", name="Requeue").click()
    expect(page.get_by_role("dialog")).to_contain_text("reason is required")
    page.get_by_label("Reason").fill("its host is gone")
    page.get_by_role("dialog").get_by_role("button", name="Requeue").click()
    expect(page.locator("#drain-state")).to_have_text("Safe to upgrade")
    tile(page, "queued", 1)
    assert client.job(job.id).attempt == 2


def test_mode_and_reason_are_changed_while_paused_and_a_time_limit_is_kept(
    page: Page, client: Client
) -> None:
    with page.expect_request(lambda request: request.method == "POST") as request:
        pause(page, "first", minutes="30")
    assert request.value.post_data_json == {
        "action": "pause",
        "mode": "drain",
        "reason": "first",
        "expectedVersion": 1,
        "resumeAfterSeconds": 1_800,
    }
    title(page, "Workers: Paused (Drain)")
    expect(page.locator("#banner")).to_contain_text("ends by itself")
    before = client.status().system
    assert before.resume_at is not None
    assert (before.resume_at - before.updated_at).total_seconds() == pytest.approx(1_800, abs=5)
    page.locator("#change").click()
    expect(page.get_by_label("Reason")).to_have_value("first")
    page.locator("dialog input[value=quiesce]").check()
    page.get_by_label("Reason").fill("second")
    page.get_by_role("dialog").get_by_role("button", name="Change the pause").click()
    title(page, "Workers: Paused (Quiesce)")
    after = client.status().system
    assert (after.reason, after.version, after.requested_at) == (
        "second",
        before.version + 1,
        before.requested_at,
    )
    assert after.resume_at == before.resume_at
    page.locator("#change").click()
    page.get_by_label("Keep its end").uncheck()
    page.get_by_role("dialog").get_by_role("button", name="Change the pause").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert client.status().system.resume_at is None


def test_what_cannot_be_is_refused_beside_its_field_and_nothing_is_sent(page: Page, client: Client) -> None:
    sent: list[str] = []
    page.on("request", lambda r: sent.append(r.url) if r.method == "POST" else None)
    pause(page, "   ")
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("[aria-invalid]")).to_have_attribute("name", "reason")
    expect(dialog).to_contain_text("reason is required")
    page.get_by_label("Reason").fill("good")
    page.get_by_label("Ends by itself after minutes").fill("0.5")
    page.get_by_role("button", name="Pause workers").click()
    expect(dialog.locator("[aria-invalid]")).to_have_attribute("name", "resumeAfterSeconds")
    assert sent == []
    assert client.history().items == []
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    title(page, "Workers: Running")


@pytest.mark.parametrize("page", [r"|.*net::ERR_FAILED"], indirect=True, ids=["an answer is lost"])
def test_pressing_twice_sends_once_and_sending_again_counts_once(page: Page, client: Client) -> None:
    keys: list[str] = []
    page.on("request", lambda r: keys.append(r.headers["idempotency-key"]) if r.method == "POST" else None)
    lost = [True]

    def lose(route: Route) -> None:
        """The server gets it, and the page never hears of it."""
        if route.request.method == "POST" and lost.pop():
            httpx2.post(route.request.url, content=route.request.post_data, headers=route.request.headers)
            route.abort()
        else:
            route.fallback()

    page.route(f"**{PAUSE}", lose)
    page.locator("#pause").click()
    page.get_by_label("Reason").fill("twice")
    page.get_by_role("button", name="Pause workers").dblclick()
    expect(page.get_by_role("alert")).to_contain_text("It may have been carried out or not")
    lost.append(False)
    page.get_by_role("button", name="Pause workers").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert [event.outcome for event in client.history().items] == ["changed"]


@pytest.mark.requirement("FR-009")
def test_of_two_operators_the_slower_is_told_and_nothing_of_theirs_is_undone(
    browser: Browser, server: Server, page: Page, client: Client
) -> None:
    with opened(browser, server.url, expected=refusals(409)) as other:
        other.goto("/tasks/jobs")
        other.locator("#pause").click()
        other.get_by_label("Reason").fill("the slower one's")
        pause(page, "the faster one's")
        dialog = other.get_by_role("dialog")
        expect(dialog).to_contain_text("Changed meanwhile by local operator: version 2")
        expect(dialog).to_contain_text("the faster one's")
        other.get_by_role("button", name="Pause workers").click()
        expect(dialog.get_by_role("alert")).to_contain_text("version")
        assert client.status().system.reason == "the faster one's"
        assert client.history(limit=1).items[0].code == "version_conflict"
        dialog.get_by_role("button", name="Act on what is there now").click()
        dialog.get_by_role("button", name="Pause workers").click()
        expect(dialog).to_have_count(0)
        for one in (page, other):
            expect(one.locator("#banner")).to_contain_text("the slower one's")
    assert client.status().system.version == 3


def test_a_reason_is_text_wherever_it_is_shown(page: Page, client: Client) -> None:
    shown = json.loads(json.dumps(HOSTILE)).split("\u202e")[0]
    pause(page, HOSTILE)
    title(page, "Workers: Paused (Drain)")
    expect(page.locator("#banner .reason")).to_contain_text(shown)
    expect(page.locator("#latest")).to_contain_text(shown)
    expect(page.locator("#banner .reason")).to_contain_text(r"\u202ecba\u2066\u200b\x07\x1b[31m")
    page.locator("#change").click()
    expect(page.get_by_role("dialog")).to_contain_text(shown)
    page.goto("/tasks/history")
    expect(page.locator("#history")).to_contain_text(shown)
    assert page.locator("img, #page script").count() == 0
    assert client.status().system.reason == HOSTILE
