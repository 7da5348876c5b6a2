"""Who is logged in: what each role is offered, whom the audit log names, and what is shown when a session ends."""

import re
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from dashboard.looking import SIZES, STATES, check, opened, refusals
from dashboard.people import Door, log_in, open_door
from holdfast_core.policy import PERMISSIONS, Permission
from holdfast_core.states import Role
from holdfast_worker.client import Client
from support.workers import until

#: What an open page may still show of a session that has ended, in milliseconds.
ENDS_MS: Final = 5_000
PAGES: Final = ("/tasks", "/tasks/jobs", "/tasks/workers", "/tasks/history")
#: What the browser says of a page whose session ends.
ENDED: Final = refusals(401)
#: Each button that does something, and what it takes.
OFFERS: Final = {
    "Pause…": Permission.TOGGLE,
    "Resume…": Permission.TOGGLE,
    "Change mode or reason…": Permission.TOGGLE,
    "Requeue…": Permission.REQUEUE,
    "Enqueue…": Permission.PRODUCE,
    "Cancel…": Permission.PRODUCE,
    "Retry…": Permission.PRODUCE,
}
#: Each button that changes nothing.
HARMLESS: Final = {"Log out", "Newer", "Older", "Export as CSV", "Export as JSON", "Dismiss"}
LACKING: Final = {
    Role.VIEWER: "You are a viewer: you see everything and change nothing. Pausing takes the role operator.",
    Role.PRODUCER: "You are a producer: you enqueue, cancel and retry jobs. Pausing and requeuing take the role"
    " operator.",
}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Generator[Door]:
    # An expired lease stays as it is.
    path = tmp_path_factory.mktemp("sessions") / "holdfast.db"
    with open_door(f"sqlite:///{path}", HOLDFAST_LEASE_GRACE_SECONDS="86400") as door:
        yield door


@pytest.fixture
def fresh(sqlite_url: str) -> Generator[Door]:
    """A server on which no attempt has failed yet: pages whose sessions end make some."""
    with open_door(sqlite_url) as door:
        yield door


@pytest.fixture(scope="module")
def patient(door: Door) -> Generator[Client]:
    with Client(door.url, token=door.token_of("operator", "Otto")) as client:
        yield client


@pytest.fixture
def client(patient: Client) -> Generator[Client]:
    """An operator's, from elsewhere, of a system that runs before the test and after."""
    yield patient
    if patient.status().system.workers_paused:
        patient.resume("test over", force=True)


@pytest.fixture(scope="module")
def jobs(door: Door, patient: Client) -> dict[str, str]:
    """One queued, one stale and one failed job of the type `kept`: their ids."""
    with Client(door.url, token=str(door.token(workerId="w-1")["token"])) as worker:
        stale = patient.enqueue("kept", {})
        assert worker.claim("w-1", 1).job is not None
        failed = patient.enqueue("kept", {})
        held = worker.claim("w-1", 600).job
        assert held is not None
        worker.fail(held.id, "w-1", "no such branch", lease_token=held.lease_token)
    queued = patient.enqueue("kept", {})
    until(lambda: patient.status().metrics.stale_running == 1, "the end of the lease")
    return {"queued": str(queued.id), "stale": str(stale.id), "failed": str(failed.id)}


def title(page: Page, text: str) -> None:
    expect(page.locator("#banner-title")).to_have_text(f"Workers: {text}")


def logged_out(page: Page, *, path: str | None = None) -> None:
    """The page says so, within five seconds, offers the way back, and shows nothing of before."""
    expect(page.locator("#banner .reason[role=alert]")).to_have_text("You are logged out.", timeout=ENDS_MS)
    title(page, "Unknown")
    expect(page).to_have_title("Workers: Unknown · Holdfast")
    wanted = path or urlsplit(page.url).path
    link = page.get_by_role("link", name="Log in again")
    expect(link).to_have_attribute("href", f"/login?next={wanted.replace('/', '%2F')}")
    expect(page.locator("#page")).to_have_text("", use_inner_text=True)
    for element in ("#session", "#pause", "#resume", "#change", "#lacking", "#degraded"):
        expect(page.locator(element)).to_be_hidden()
    assert not STATES.search(page.locator("#banner").inner_text())


def offered(page: Page) -> set[str]:
    """The buttons that are there to see."""
    return {label for one in page.get_by_role("button").all() if (label := one.inner_text()) not in HARMLESS}


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.WORKER])
def test_each_role_sees_everything_and_is_offered_exactly_what_it_may_do(
    browser: Browser, door: Door, client: Client, jobs: dict[str, str], role: Role
) -> None:
    found: set[str] = set()
    with opened(browser, door.url) as page:
        page.goto("/tasks")
        log_in(page, door.token_of(role, "Robin"))
        title(page, "Running")
        expect(page.locator("#session")).to_contain_text(f"Robin · {role}")
        found |= offered(page)
        client.pause("drain", "an upgrade")
        title(page, "Paused (Drain)")
        expect(page.locator("#blockers li")).to_have_count(1)
        expect(page.locator("#latest tbody tr").first).to_contain_text("an upgrade")
        found |= offered(page)
        lacking = page.locator("#lacking")
        if role in LACKING:
            expect(lacking).to_have_text(LACKING[role])
        else:
            expect(lacking).to_be_hidden()
        page.goto("/tasks/jobs?type=kept")
        expect(page.locator("#jobs tbody tr")).to_have_count(3)
        found |= offered(page)
        for status, job in jobs.items():
            page.goto(f"/tasks/jobs/{job}")
            expect(page.locator(".facts")).to_contain_text(status)
            expect(page.locator("#payload")).to_have_text("{}")
            expect(page.locator("#artifacts")).to_have_text("None.")
            title(page, "Paused (Drain)")
            found |= offered(page)
        page.goto("/tasks/workers")
        expect(page.locator("#workers tbody tr")).to_have_count(1)
        found |= offered(page)
        page.goto("/tasks/history")
        expect(page.locator("#history tbody tr").first).to_contain_text("an upgrade")
        found |= offered(page)
    assert found == {label for label, permission in OFFERS.items() if role in PERMISSIONS[permission]}


@pytest.mark.requirement("SEC-01")
def test_what_a_viewer_sends_all_the_same_is_refused(browser: Browser, door: Door, client: Client) -> None:
    job = client.enqueue("report", {})
    send = """async ([path, body]) => {
      const answer = await fetch(path, {method: "POST", body: JSON.stringify(body),
        headers: {"Content-Type": "application/json"}});
      return [answer.status, (await answer.json()).code];
    }"""
    with opened(browser, door.url, expected=refusals(403)) as page:
        page.goto("/tasks")
        log_in(page, door.token_of("viewer", "Vera"))
        title(page, "Running")
        for path, body in (
            ("/api/system/worker-pause", {"action": "pause", "mode": "drain", "reason": "I may not"}),
            ("/api/queue/jobs", {"type": "report", "payload": {}}),
            (f"/api/queue/jobs/{job.id}/cancel", {}),
            (f"/api/queue/jobs/{job.id}/requeue", {"reason": "I may not"}),
            ("/api/tokens", {"role": "admin", "user": "Vera"}),
        ):
            assert page.evaluate(send, [path, body]) == [403, "not_allowed"], path
        title(page, "Running")
        page.goto("/tasks/history")
        row = page.locator("#history tbody tr").first
        expect(row).to_contain_text("refused")
        expect(row).to_contain_text("Vera")
    assert client.job(job.id).status == "queued"


def test_an_operator_pauses_and_the_audit_log_names_the_person(
    browser: Browser, door: Door, client: Client
) -> None:
    with opened(browser, door.url) as page:
        page.goto("/tasks")
        made = door.token(role="operator", user="Olga <b>O'Neil</b>", name="her laptop")
        log_in(page, made["token"])
        page.locator("#pause").click()
        page.get_by_label("Reason").fill("Rolling API migration")
        page.get_by_role("button", name="Pause workers").click()
        title(page, "Paused (Drain)")
        expect(page.locator("#banner-facts")).to_contain_text("paused by Olga <b>O'Neil</b> since")
        expect(page.locator("#latest tbody tr").first).to_contain_text("Olga <b>O'Neil</b>")
        page.goto("/tasks/history")
        expect(page.locator("#history tbody tr").first).to_contain_text("Olga <b>O'Neil</b>")
    event = client.history().items[0]
    assert (event.actor, str(event.actor_user_id)) == (made["user"], made["userId"])


def end_by_log_out(page: Page, door: Door, made: dict[str, Any]) -> None:
    other = page.context.new_page()
    other.goto("/tasks/history")
    other.get_by_role("button", name="Log out").click()
    expect(other.get_by_label("Token")).to_be_visible()
    assert other.url == f"{door.url}/login"
    other.close()


def end_by_revocation(page: Page, door: Door, made: dict[str, Any]) -> None:
    door.revoke(made)


@pytest.mark.parametrize("end", [end_by_log_out, end_by_revocation])
def test_when_the_session_ends_no_open_page_shows_an_old_state_as_known(
    browser: Browser, fresh: Door, end: Callable[[Page, Door, dict[str, Any]], None]
) -> None:
    made = fresh.token(role="operator", user="Olga")
    with Client(fresh.url, token=fresh.token_of("operator", "Otto")) as client:
        client.enqueue("report", {})
        client.pause("drain", "an upgrade")
    with opened(browser, fresh.url, expected=ENDED) as first:
        first.goto("/tasks")
        log_in(first, made["token"])
        (cookie,) = first.context.cookies()
        pages = [first]
        for path in PAGES[1:]:
            pages.append(first.context.new_page())
            pages[-1].goto(path)
        for page in pages:
            title(page, "Paused (Drain)")
            expect(page.locator("#degraded")).to_be_hidden()
        end(first, fresh, made)
        for page in pages:
            logged_out(page)
        kept = httpx2.get(
            f"{fresh.url}/api/session", headers={"cookie": f"{cookie['name']}={cookie['value']}"}
        )
        assert kept.status_code == 401
        # The way back leads to the page that it was.
        pages[1].get_by_role("link", name="Log in again").click()
        log_in(pages[1], fresh.token_of("operator", "Olga"))
        assert pages[1].url == f"{fresh.url}/tasks/jobs"
        title(pages[1], "Paused (Drain)")
        # And the others are right again once somebody looks at them.
        first.evaluate("dispatchEvent(new Event('focus'))")
        title(first, "Paused (Drain)")
        expect(first.locator("#drain-state")).to_have_text("Safe to upgrade")
        expect(first.locator("#charts > *")).not_to_have_count(0)
        assert "Not known" not in first.locator("#page").inner_text()
        expect(first.locator("#session")).to_contain_text("Olga · operator")


def test_a_page_that_is_logged_out_asks_no_more_until_it_is_looked_at(browser: Browser, fresh: Door) -> None:
    with ExitStack() as stack:
        pages: list[tuple[Page, list[str]]] = []
        made = fresh.token(role="operator", user="Olga")
        job = fresh.admin.post("/api/queue/jobs", json={"type": "report", "payload": {}}).json()["id"]
        for path in (*PAGES, f"/tasks/jobs/{job}"):
            page = stack.enter_context(opened(browser, fresh.url, expected=ENDED))
            page.clock.install()  # so that a minute passes at once
            page.goto(path)
            log_in(page, made["token"])
            title(page, "Running")
            pages.append((page, []))
        fresh.revoke(made)
        for page, asked in pages:
            logged_out(page)
            page.on("request", lambda request, asked=asked: asked.append(urlsplit(request.url).path))
            page.clock.run_for(60_000)
            page.evaluate("dispatchEvent(new Event('focus'))")
        for page, asked in pages:
            until(lambda asked=asked: asked, "the one question", 10)
            page.clock.run_for(60_000)
            assert asked == ["/api/session"]
            logged_out(page)


def test_a_form_that_is_open_keeps_what_was_typed_until_one_is_logged_in_again(
    browser: Browser, door: Door, client: Client
) -> None:
    made = door.token(role="operator", user="Olga")
    with opened(browser, door.url, expected=ENDED) as page:
        page.goto("/tasks")
        log_in(page, made["token"])
        page.locator("#pause").click()
        page.get_by_label("Reason").fill("typed before")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("running")
        door.revoke(made)
        logged_out(page)
        expect(dialog.locator(".standing")).to_have_text(
            re.compile(r"^You saw version \d+\. You are logged out\.")
        )
        page.get_by_role("button", name="Pause workers").click()
        expect(dialog.get_by_role("alert")).to_contain_text("You are logged out.")
        check(page)
        with page.context.expect_page() as opening:
            dialog.get_by_role("alert").get_by_role("link").click()
        other = opening.value
        assert other.url == f"{door.url}/login?next=%2Ftasks"
        log_in(other, door.token_of("operator", "Olga"))
        title(other, "Running")
        page.evaluate("dispatchEvent(new Event('focus'))")
        expect(dialog.locator(".standing")).to_have_text(re.compile(r"^Version \d+: running$"))
        expect(page.get_by_label("Reason")).to_have_value("typed before")
        page.get_by_role("button", name="Pause workers").click()
        title(page, "Paused (Drain)")
        expect(page.locator("#banner .reason")).to_have_text("typed before")
        title(other, "Paused (Drain)")


def test_where_somebody_else_has_logged_in_meanwhile_the_page_says_who_and_refuses_in_words(
    browser: Browser, door: Door
) -> None:
    with opened(browser, door.url, expected=refusals(403)) as page:
        page.goto("/tasks")
        log_in(page, door.token_of("operator", "Olga"))
        page.locator("#pause").click()
        page.get_by_label("Reason").fill("not hers any more")
        other = page.context.new_page()
        other.goto("/login")
        log_in(other, door.token_of("viewer", "Vera"))
        page.get_by_role("button", name="Pause workers").click()
        expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text(
            re.compile(r"^Vera may not pause .* operator.*\.$")
        )
        page.keyboard.press("Escape")
        expect(page.locator("#session")).to_contain_text("Vera · viewer")
        expect(page.locator("#lacking")).to_have_text(LACKING[Role.VIEWER])
        for name in ("#pause", "#resume", "#change"):
            expect(page.locator(name)).to_be_hidden()
        title(page, "Running")


def test_going_back_to_a_page_after_logging_out_shows_nothing_of_it(
    browser: Browser, door: Door, client: Client
) -> None:
    client.pause("drain", "an upgrade")
    with opened(browser, door.url, expected=ENDED) as page:
        page.goto("/tasks")
        log_in(page, door.token_of("viewer", "Vera"))
        title(page, "Paused (Drain)")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        page.go_back()
        either = page.locator("#token, #banner .reason[role=alert]")
        expect(either).to_be_visible(timeout=ENDS_MS)
        assert not STATES.search(page.locator("body").inner_text())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_that_is_logged_out_is_accessible(browser: Browser, door: Door, scheme: Any) -> None:
    made = door.token(role="operator", user="Olga")
    with opened(
        browser, door.url, expected=ENDED, color_scheme=scheme, reduced_motion="reduce", viewport=SIZES[0]
    ) as page:
        page.goto("/tasks/jobs")
        log_in(page, made["token"])
        title(page, "Running")
        check(page)
        door.revoke(made)
        logged_out(page)
        check(page)


def test_without_javascript_the_page_says_who_one_is_and_how_things_stand(
    browser: Browser, door: Door
) -> None:
    answer = httpx2.post(f"{door.url}/login", json={"token": door.token_of("viewer", "Vera <b>")})
    name, _, value = answer.headers["set-cookie"].partition(";")[0].partition("=")
    with opened(browser, door.url, java_script_enabled=False) as page:
        page.context.add_cookies([{"name": name, "value": value, "url": door.url}])
        page.goto("/tasks")
        title(page, "Running")
        expect(page.locator("#session")).to_have_text("Vera <b>")
        assert "Authorization: Bearer" in page.locator("noscript").inner_text()
