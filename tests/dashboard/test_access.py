"""The pages for everybody: checked by axe-core in light and dark and on a narrow screen, by keyboard alone, and without
JavaScript."""

import re
from collections.abc import Generator
from typing import Any, Final

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from dashboard.looking import SIZES, check, focused, opened, tab_to
from holdfast_core.schemas import Job
from holdfast_worker.client import Client
from support.servers import Server, start_server
from support.workers import until

#: What is under way when a page loses the server.
CUT: Final = "Failed to load resource: net::ERR_.*"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    path = tmp_path_factory.mktemp("access") / "holdfast.db"
    with start_server(f"sqlite:///{path}", HOLDFAST_LEASE_GRACE_SECONDS="86400") as server:
        yield server


@pytest.fixture(scope="module")
def patient(server: Server) -> Generator[Client]:
    with Client(server.url, token="") as client:
        yield client


@pytest.fixture
def client(patient: Client) -> Generator[Client]:
    """Of a system that runs, with nothing in it, before the test and after."""
    clear(patient)
    yield patient
    clear(patient)


@pytest.fixture(params=["light", "dark"])
def look(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How the browser is set. Without motion, or colours would be looked at while they change."""
    return {"color_scheme": request.param, "reduced_motion": "reduce"}


def clear(client: Client) -> None:
    for status in ("queued", "running"):
        for job in client.jobs(status=status).items:
            client.cancel(job.id)
    for job in client.jobs(status="running").items:
        client.cancel_ack(job.id, "w-1")
    if client.status().system.workers_paused:
        client.resume("test over")


def held(client: Client, seconds: int = 600) -> Job:
    client.enqueue("report", {"month": "2026-02"})
    job = client.claim("w-1", seconds).job
    assert job is not None
    return job


def stale(client: Client) -> Job:
    job = held(client, 1)
    until(lambda: client.status().metrics.stale_running == 1, "the end of the lease")
    return job


def title(page: Page, text: str) -> None:
    expect(page.locator("#banner-title")).to_have_text(f"Workers: {text}")


def test_the_overview_is_accessible_in_each_state(
    browser: Browser, server: Server, client: Client, look: dict[str, Any]
) -> None:
    with opened(browser, server.url, **look) as page:
        page.goto("/tasks")
        title(page, "Running")
        check(page)
        job, dead = held(client), stale(client)
        client.pause("drain", "Rolling API migration")
        title(page, "Paused (Drain)")
        expect(page.locator("#blockers li")).to_have_count(2)
        expect(page.locator("#blockers").get_by_role("button", name="Requeue…")).to_be_visible()
        check(page)
        client.requeue(dead.id, "its worker is dead")
        client.complete(job.id, "w-1", lease_token=job.lease_token)
        expect(page.locator("#banner .mark")).to_have_text("Safe to upgrade")
        expect(page.locator("#drain-state")).to_have_text("Safe to upgrade")
        check(page)


def test_the_dialogs_and_a_warning_are_accessible(
    browser: Browser, server: Server, client: Client, look: dict[str, Any]
) -> None:
    with opened(browser, server.url, **look) as page:
        held(client)
        page.goto("/tasks")
        page.get_by_role("button", name="Pause…").click()
        expect(page.get_by_role("dialog", name="Pause all workers")).to_be_visible()
        page.get_by_role("button", name="Pause workers").click()
        expect(page.get_by_text("reason is required")).to_be_visible()
        check(page)
        page.get_by_label("Reason").fill("Rolling API migration")
        page.get_by_role("button", name="Pause workers").click()
        title(page, "Paused (Drain)")
        page.get_by_role("button", name="Resume…").click()
        page.get_by_label("Reason").fill("done")
        check(page)
        page.get_by_role("button", name="Resume workers").click()
        expect(page.get_by_role("alertdialog")).to_contain_text("Not drained: 1 job running")
        expect(page.get_by_role("alertdialog").get_by_role("listitem")).to_have_count(1)
        check(page)
        page.get_by_role("button", name="Continue").click()
        title(page, "Running")
        expect(page.locator(".notice.warning")).to_be_visible()
        check(page)


def test_every_other_page_is_accessible(
    browser: Browser, server: Server, client: Client, look: dict[str, Any]
) -> None:
    with opened(browser, server.url, **look) as page:
        done, job = held(client), held(client)
        body = {"workerId": "w-1", "leaseToken": done.lease_token}
        path = f"{server.url}/api/queue/jobs/{done.id}"
        for level in ("info", "warn", "error"):
            said = {**body, "message": "a line", "level": level, "payload": {"n": 1}}
            httpx2.post(f"{path}/events", json=said).raise_for_status()
        form = {**body, "name": "out/report.txt"}
        httpx2.post(
            f"{path}/artifacts/upload", data=form, files={"file": ("x", b"x", "text/plain")}
        ).raise_for_status()
        client.fail(done.id, "w-1", "no such branch", lease_token=done.lease_token)
        client.presence("local-1", auto_enabled=False, observed_version=1)
        client.pause("quiesce", "an upgrade")
        client.heartbeat(
            job.id,
            "w-1",
            600,
            lease_token=job.lease_token,
            phase="parked",
            checkpoint="step 3",
            progress={"n": 1},
        )
        page.goto("/tasks/jobs")
        expect(page.locator("#jobs .badge.parked")).to_be_visible()
        check(page)
        page.locator("#enqueue").click()
        expect(page.get_by_role("dialog", name="Enqueue a job")).to_be_visible()
        check(page)
        page.goto(f"/tasks/jobs/{job.id}")
        expect(page.locator("#lease")).to_contain_text("ends in")
        check(page)
        page.goto(f"/tasks/jobs/{done.id}")
        expect(page.locator("#log li.error")).to_be_visible()
        expect(page.locator("#artifacts a")).to_be_visible()
        check(page)
        page.goto("/tasks/workers")
        expect(page.locator("#workers .local").first).to_be_visible()
        check(page)
        page.goto("/tasks/history")
        expect(page.locator("#history tbody tr").first).to_contain_text("pause (quiesce)")
        check(page)


@pytest.mark.requirement("NFR-004")
def test_a_page_that_knows_nothing_is_accessible(
    browser: Browser, server: Server, client: Client, look: dict[str, Any]
) -> None:
    client.pause("drain", "what was known before")
    with opened(browser, server.url, expected=CUT, **look) as page:
        page.goto("/tasks")
        title(page, "Paused (Drain)")
        expect(page.locator("#drain-state")).to_have_text("Safe to upgrade")
        page.route("**/api/**", lambda route: route.abort())
        page.context.set_offline(True)
        page.context.set_offline(False)  # the page asks anew, and is not answered
        title(page, "Unknown")
        expect(page.locator("#banner")).to_have_class("unknown")
        expect(page.locator("#drain-state")).to_have_text(re.compile("^Unknown"))
        check(page)


def test_the_keyboard_is_enough_to_pause_and_resume(browser: Browser, server: Server, client: Client) -> None:
    with opened(browser, server.url) as page:
        held(client)
        page.goto("/tasks")
        expect(page.locator("#drain-state")).to_contain_text("Workers take jobs.")
        page.keyboard.press("Tab")
        assert focused(page) == "Skip to the page"
        tab_to(page, "pause")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Reason")).to_be_focused()
        focused(page)
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.locator("#pause")).to_be_focused()
        page.keyboard.press("Space")
        expect(page.get_by_label("Reason")).to_be_focused()
        page.keyboard.press("Shift+Tab")  # to the modes
        page.keyboard.press("ArrowDown")
        focused(page)
        page.keyboard.press("Tab")
        page.keyboard.type("by keyboard")
        tab_to(page, "Pause workers")
        page.keyboard.press("Enter")
        title(page, "Paused (Quiesce)")
        expect(page.get_by_role("dialog")).to_have_count(0)
        assert client.status().system.reason == "by keyboard"
        assert page.evaluate("() => document.activeElement !== document.body"), "the focus is lost"
        if focused(page) != "resume":
            tab_to(page, "resume")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Reason")).to_be_focused()
        page.keyboard.type("by keyboard, too")
        tab_to(page, "Resume workers")
        page.keyboard.press("Space")
        expect(page.get_by_role("alertdialog")).to_be_visible()
        assert focused(page) == "Back", "the safe answer is the first"
        page.keyboard.press("Escape")
        expect(page.get_by_role("alertdialog")).to_have_count(0)
        assert client.status().system.workers_paused
        assert focused(page) == "Resume workers"
        page.keyboard.press("Enter")
        expect(page.get_by_role("alertdialog")).to_be_visible()
        tab_to(page, "Continue")
        page.keyboard.press("Enter")
        title(page, "Running")
        expect(page.get_by_role("dialog")).to_have_count(0)  # the stream may tell before the answer is there
        assert page.evaluate("() => document.activeElement !== document.body"), "the focus is lost"
        tab_to(page, "Dismiss")
        page.keyboard.press("Enter")
        expect(page.locator("#notices")).to_be_empty()


def test_tab_does_not_leave_an_open_dialog(browser: Browser, server: Server, client: Client) -> None:
    with opened(browser, server.url) as page:
        page.goto("/tasks")
        page.get_by_role("button", name="Pause…").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        for _ in range(12):
            page.keyboard.press("Tab")
            where = "() => document.activeElement.closest('body > :not(dialog)')?.id ?? null"
            assert page.evaluate(where) is None


@pytest.mark.parametrize("path", ["/tasks", "/tasks/jobs", "/tasks/workers", "/tasks/history"])
def test_without_javascript_the_page_still_says_the_state(
    browser: Browser, server: Server, client: Client, path: str
) -> None:
    with opened(browser, server.url, java_script_enabled=False, viewport=SIZES[0]) as page:
        held(client)
        page.goto(path)
        title(page, "Running")
        client.pause("drain", "Rolling <b>API</b> migration")
        page.reload()
        title(page, "Paused (Drain)")
        expect(page.locator("#banner-facts")).to_contain_text("Rolling <b>API</b> migration")
        expect(page.locator("#banner-facts")).to_contain_text("paused by local operator since")
        expect(page.locator("main noscript > p").first).to_be_visible()
        assert "need JavaScript" in page.locator("main").inner_text()
        expect(page.locator("main .tiles div").first).to_have_text("Running1")
        expect(page.locator("main tbody tr").first).to_contain_text("pause (drain)")
        expect(page.get_by_role("button")).to_have_count(0)
