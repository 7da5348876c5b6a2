"""The pages of jobs in a real browser: the list, the form for a new one, and one job."""

import itertools
import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import httpx2
import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, Route, expect

from dashboard.looking import HOSTILE, LONG, WITHIN_SCREEN, opened, refusals
from holdfast_core.schemas import Job
from holdfast_core.states import JobStatus
from holdfast_worker.client import Client
from support.servers import Server, start_server

JOBS: Final = 10_000
BATCH: Final = 1_000
PAGE: Final = 50
#: As many jobs as one type has.
OF_A_TYPE: Final = 500
LEASE_SECONDS: Final = 600
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    path = tmp_path_factory.mktemp("jobs") / "holdfast.db"
    # What the tests want stale, the sweep must not put back.
    with start_server(f"sqlite:///{path}", HOLDFAST_LEASE_GRACE_SECONDS="86400") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Generator[Client]:
    with Client(server.url, token="") as client:
        yield client


@pytest.fixture(scope="module")
def many(client: Client) -> list[str]:
    """The ids of 10,000 jobs, newest first: `bulk-0`, `bulk-1`, … of 500 each."""
    ids: list[str] = []
    for start in range(0, JOBS, BATCH):
        batch = client.enqueue_batch(
            [{"type": f"bulk-{n // OF_A_TYPE}", "payload": {"n": n}} for n in range(start, start + BATCH)]
        )
        ids += [str(job.id) for job in batch.items]
    return ids[::-1]


@pytest.fixture
def page(browser: Browser, server: Server) -> Generator[Page]:
    with opened(browser, server.url) as page:
        yield page


# --- a job in some state -----------------------------------------------------------------------------------------


def held(client: Client, payload: Any = None, *, seconds: int = LEASE_SECONDS, **more: Any) -> Job:
    """A job that runs, held by `w-1`."""
    job_type = f"t-{next(_numbers)}"
    client.enqueue(job_type, payload, **more)
    job = client.claim("w-1", seconds, allowed_types=[job_type]).job
    assert job is not None
    return job


def say(client: Client, job: Job, message: str, **more: Any) -> None:
    """A line of its log, as its worker."""
    body = {"workerId": job.claimed_by, "leaseToken": job.lease_token, "message": message, **more}
    httpx2.post(f"{client.url}/api/queue/jobs/{job.id}/events", json=body).raise_for_status()


def leave(client: Client, job: Job, name: str, content: bytes, content_type: str = "text/plain") -> None:
    """An artifact, as its worker."""
    httpx2.post(
        f"{client.url}/api/queue/jobs/{job.id}/artifacts/upload",
        data={"workerId": job.claimed_by, "leaseToken": job.lease_token, "name": name},
        files={"file": ("x", content, content_type)},
    ).raise_for_status()


def fact(page: Page, name: str) -> Locator:
    """The value beside a name in the facts of a job."""
    row = page.locator("dl.facts > div").filter(has=page.locator("dt", has_text=re.compile(f"^{name}$")))
    return row.locator("dd")


def dialog(page: Page) -> Locator:
    return page.get_by_role("dialog")


def blamed(page: Page, label: str) -> Locator:
    """The words beside a field of the form."""
    return dialog(page).locator(".field").filter(has=page.get_by_label(label)).locator(".error")


# --- the list ----------------------------------------------------------------------------------------------------


def shown(page: Page) -> list[str]:
    """The ids in the list, from above."""
    ids: list[str] = page.locator("#jobs tbody").evaluate(
        "(body) => [...body.querySelectorAll('a.id')].map((link) => link.title)"
    )
    return ids


#: From the second page on: what each page shows, until there is no older one. In the page, for it is two hundred times.
ALL_OLDER: Final = """async () => {
    const older = document.getElementById("older");
    const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
    const found = [];
    for (let number = 2; ; number += 1) {
        const until = Date.now() + 10_000;
        while (document.querySelector("main p[aria-live]").textContent !== `Page ${number}.`) {
            if (Date.now() > until) throw new Error(`page ${number} has not come`);
            await frame();
        }
        found.push([...document.querySelectorAll("#jobs tbody a.id")].map((link) => link.title));
        await frame();
        if (older.disabled) return found;
        older.click();
    }
}"""


def turn(page: Page, button: str, number: int) -> None:
    page.locator(button).click()
    said = page.locator("main p[aria-live]")
    expect(said).to_have_text("" if number == 1 else f"Page {number}.")


def test_ten_thousand_jobs_are_turned_through_without_loss_or_repetition(
    page: Page, client: Client, many: list[str]
) -> None:
    page.goto("/tasks/jobs?q=bulk-")
    rows = page.locator("#jobs tbody tr")
    expect(rows).to_have_count(PAGE)
    expect(page.locator("#newer")).to_be_disabled()
    found = [shown(page)]
    turn(page, "#older", 2)
    client.enqueue("bulk-late")  # a newer one comes in front, and shifts nothing
    found += page.evaluate(ALL_OLDER)
    assert len(found) == JOBS // PAGE
    assert list(itertools.chain(*found)) == many
    expect(page.locator("#older")).to_be_disabled()
    elements = page.evaluate("() => document.querySelectorAll('*').length")
    assert elements < 1_500, f"the page has {elements} elements"
    for number in range(JOBS // PAGE - 1, JOBS // PAGE - 6, -1):
        turn(page, "#newer", number)
        assert shown(page) == found[number - 1]
    expect(page.locator("#older")).to_be_enabled()


def test_the_first_page_shows_what_is_new_by_itself_and_a_later_one_stays(
    page: Page, client: Client, many: list[str]
) -> None:
    page.clock.install()
    page.goto("/tasks/jobs")
    expect(page.locator("#jobs tbody tr")).to_have_count(PAGE)
    job = client.enqueue("bulk-new")
    page.clock.run_for(3_000)
    expect(page.locator("#jobs tbody a.id").first).to_have_attribute("title", str(job.id))
    turn(page, "#older", 2)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(9_000)
    assert not [url for url in asked if "/api/queue/jobs" in url]
    turn(page, "#newer", 1)
    expect(page.locator("#newer")).to_be_disabled()


def test_filters_by_status_type_and_text_stand_in_the_address_and_outlive_a_reload(
    page: Page, client: Client, many: list[str]
) -> None:
    job = held(client)
    page.goto("/tasks/jobs")
    rows = page.locator("#jobs tbody tr")
    page.get_by_label("Status").select_option("running")
    page.get_by_label("Type", exact=True).fill(job.type)
    expect(rows).to_have_count(1)
    assert shown(page) == [str(job.id)]
    expect(rows.locator("td").nth(2)).to_have_text("running")
    expect(page).to_have_url(re.compile(rf"/tasks/jobs\?status=running&type={job.type}$"))
    page.reload()
    expect(rows).to_have_count(1)
    expect(page.get_by_label("Status")).to_have_value("running")
    expect(page.get_by_label("Type", exact=True)).to_have_value(job.type)
    page.get_by_label("Status").select_option("succeeded")
    expect(page.locator("#jobs")).to_have_text("No such job.")
    page.get_by_label("Status").select_option("")
    page.get_by_label("Type", exact=True).fill("")
    page.get_by_label("Text in type, id or worker").fill(many[7][-12:])
    expect(page).to_have_url(re.compile(rf"\?q={many[7][-12:]}$"))
    expect(rows.locator("a.id")).to_have_attribute("title", many[7])
    page.get_by_label("Text in type, id or worker").fill("bulk-3")
    expect(rows).to_have_count(PAGE)
    for number in range(2, OF_A_TYPE // PAGE + 1):
        turn(page, "#older", number)
    expect(page.locator("#older")).to_be_disabled()
    assert shown(page)[-1] == many[JOBS - 1 - 3 * OF_A_TYPE]
    # A new filter begins at the front again.
    page.get_by_label("Status").select_option("queued")
    expect(page.locator("#newer")).to_be_disabled()
    expect(page.locator("#older")).to_be_enabled()


def test_a_filter_that_is_refused_is_told_in_words_and_shows_no_old_rows(
    browser: Browser, server: Server, many: list[str]
) -> None:
    with opened(browser, server.url, expected=refusals(422)) as page:
        page.goto("/tasks/jobs")
        expect(page.locator("#jobs tbody tr")).to_have_count(PAGE)
        page.get_by_label("Type", exact=True).fill("two words")
        expect(page.locator("main p[aria-live]")).to_contain_text("Not known: ")
        expect(page.locator("#jobs tbody tr")).to_have_count(0)
        page.get_by_label("Type", exact=True).fill("bulk-2")
        expect(page.locator("#jobs tbody tr")).to_have_count(PAGE)


# --- a new one ---------------------------------------------------------------------------------------------------


def test_the_form_refuses_in_words_beside_the_field_and_a_good_job_leads_to_its_page(
    browser: Browser, server: Server, client: Client
) -> None:
    with opened(browser, server.url, expected=refusals(422)) as page:
        page.goto("/tasks/jobs")
        page.get_by_role("button", name="Enqueue…").click()
        send = dialog(page).get_by_role("button", name="Enqueue", exact=True)
        kind, payload = (
            page.get_by_label("Type", exact=True).last,
            page.get_by_label("Payload, a JSON object"),
        )
        priority, attempts = page.get_by_label("Priority"), page.get_by_label("Attempts at most")
        expect(kind).to_be_focused()
        for field, bad, words, good in (
            (kind, "", "type is required", "report"),
            (kind, "two words", "type ", "report"),
            (payload, '{"a": }', "payload cannot be read: ", "{}"),
            (payload, "[1]", "payload ", "{}"),
            (priority, "1001", "priority ", "7"),
            (priority, "1.5", "priority ", "7"),
            (attempts, "0", "maxAttempts ", "2"),
            (attempts, "101", "maxAttempts ", "2"),
        ):
            field.fill(bad)
            send.click()
            note = dialog(page).locator(".field").filter(has=field).locator(".error")
            expect(note).to_have_text(re.compile(f"^{words}.{{3,}}|^{words}$"))
            expect(field).to_have_attribute("aria-invalid", "true")
            expect(dialog(page).get_by_role("alert")).not_to_be_empty()
            expect(dialog(page).locator(".error:not(:empty)")).to_have_count(1)
            field.fill(good)
        page.get_by_label("Required capabilities").fill("gpu, two words")
        send.click()
        expect(dialog(page)).to_contain_text("requiredCapabilities")
        page.get_by_label("Required capabilities").fill(" gpu , linux,")
        payload.fill('{"month": "2026-02", "deep": {"list": [1, null]}}')
        send.click()
        page.wait_for_url(re.compile(r"/tasks/jobs/[0-9a-f-]{36}$"))
        expect(fact(page, "Type")).to_have_text("report")
        job = client.job(page.url.rsplit("/", 1)[1])
        assert (job.type, job.priority, job.max_attempts) == ("report", 7, 2)
        assert job.payload == {"month": "2026-02", "deep": {"list": [1, None]}}
        assert set(job.required_capabilities) == {"gpu", "linux"}
        expect(page.locator("#notices")).to_contain_text("is queued.")


def test_what_is_no_number_or_time_is_refused_and_never_taken_for_nothing(page: Page, client: Client) -> None:
    page.goto("/tasks/jobs")
    page.get_by_role("button", name="Enqueue…").click()
    page.get_by_label("Type", exact=True).last.fill("no-number")
    send = dialog(page).get_by_role("button", name="Enqueue", exact=True)
    for label, name, keys in (
        ("Priority", "priority", "1-e"),
        ("Attempts at most", "maxAttempts", "e5-"),
        ("Not before (optional)", "runAt", "1231"),
    ):
        field = page.get_by_label(label)
        field.press("Control+a")
        field.press("Delete")
        field.press_sequentially(keys)
        send.click()
        note = dialog(page).locator(".field").filter(has=field).locator(".error")
        expect(note).to_have_text(re.compile(f"^{name} .{{3,}}"))
        field.fill("")
    assert client.jobs(job_type="no-number").items == []
    send.click()
    page.wait_for_url(re.compile(r"/tasks/jobs/[0-9a-f-]{36}$"))
    (job,) = client.jobs(job_type="no-number").items
    assert (job.priority, job.max_attempts) == (0, 3)


def test_a_job_sent_twice_for_want_of_an_answer_is_there_once(
    browser: Browser, server: Server, client: Client
) -> None:
    with opened(browser, server.url, expected="Failed to load resource: net::ERR_FAILED") as page:
        page.goto("/tasks/jobs")
        page.get_by_role("button", name="Enqueue…").click()
        page.get_by_label("Type", exact=True).last.fill("asked-twice")
        lost: list[str] = []

        def lose(route: Route) -> None:
            """The server gets it, the page no answer."""
            if route.request.method == "POST" and not lost:
                lost.append(str(route.fetch().json()["id"]))
                route.abort()
            else:
                route.continue_()

        page.route("**/api/queue/jobs", lose)
        send = dialog(page).get_by_role("button", name="Enqueue", exact=True)
        send.click()
        expect(dialog(page).get_by_role("alert")).to_contain_text("Sending the same again is safe")
        send.click()
        page.wait_for_url(re.compile(r"/tasks/jobs/[0-9a-f-]{36}$"))
        assert page.url.endswith(lost[0])
        assert [str(job.id) for job in client.jobs(job_type="asked-twice").items] == lost


# --- one job -----------------------------------------------------------------------------------------------------


def test_a_job_shows_what_it_is_what_it_says_and_what_it_leaves_as_it_comes(
    page: Page, client: Client, tmp_path: Path
) -> None:
    job = held(client, {"month": "2026-02", "deep": [1, {"a": None}]}, max_attempts=4)
    say(client, job, "before anybody looked")
    page.goto(f"/tasks/jobs/{job.id}")
    expect(fact(page, "Status")).to_have_text("running")
    expect(fact(page, "Attempt")).to_have_text("1 of 4")
    expect(fact(page, "Worker")).to_have_text("w-1")
    assert json.loads(page.locator("#payload").inner_text()) == job.payload
    log = page.locator("#log li")
    expect(log.filter(has_text="before anybody looked")).to_have_count(1)
    say(client, job, "first line\nsecond line", level="warn", payload={"part": 3})
    expect(log.last).to_contain_text("w-1 warn first line\nsecond line", use_inner_text=True)
    expect(log.last).to_contain_text('{"part":3}')
    client.heartbeat(
        job.id, "w-1", LEASE_SECONDS, lease_token=job.lease_token, checkpoint="step 3", progress={"done": 2}
    )
    expect(fact(page, "Checkpoint")).to_have_text("step 3")
    expect(fact(page, "Progress")).to_have_text('{"done":2}')
    expect(page.locator("#artifacts")).to_have_text("None.")
    content = bytes(range(256)) * 40
    leave(client, job, "out/résumé <b>.bin", content, "application/x-thing")
    link = page.locator("#artifacts tbody a")
    expect(link).to_have_text("out/résumé <b>.bin")
    expect(page.locator("#artifacts tbody td").nth(1)).to_have_text("10,240 bytes")
    expect(page.locator("#artifacts tbody td").nth(2)).to_have_text("application/x-thing")
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "résumé _b_.bin"
    download.value.save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == content
    client.complete(job.id, "w-1", "all\nwell", lease_token=job.lease_token)
    expect(fact(page, "Status")).to_have_text("succeeded")
    expect(fact(page, "Result")).to_have_text("all\nwell", use_inner_text=True)
    expect(page.get_by_text("The job has ended.")).to_be_visible()
    expect(page.locator("#job-actions button")).to_have_count(0)
    sequences = page.locator("#log li").evaluate_all(
        "(all) => all.map((one) => Number(one.dataset.sequence))"
    )
    assert sequences == list(range(1, len(sequences) + 1))


def test_a_lease_counts_down_and_a_stale_job_is_requeued_with_a_reason(
    page: Page, server: Server, client: Client
) -> None:
    job = held(client, seconds=4)
    page.goto(f"/tasks/jobs/{job.id}")
    lease = page.locator("#lease")
    expect(lease).to_have_text(re.compile(r"^ends in [34] s unless it is renewed$"))
    expect(lease).to_have_text(re.compile(r"^ends in [12] s unless it is renewed$"))
    expect(page.locator("#requeue")).to_have_count(0)
    expect(lease).to_have_text(re.compile(r"^stale: ran out \d+ s ago, nobody heartbeats$"))
    expect(fact(page, "Status")).to_have_text("running stale")
    page.locator("#requeue").click()
    reason = page.get_by_label("Reason", exact=True)
    expect(reason).to_be_focused()
    send = dialog(page).get_by_role("button", name="Requeue this job")
    reason.fill("   ")
    send.click()
    expect(blamed(page, "Reason")).to_have_text("reason is required")
    assert client.job(job.id).status is JobStatus.RUNNING
    reason.fill("its worker has lost power")
    send.click()
    expect(fact(page, "Status")).to_have_text("queued")
    expect(fact(page, "Attempt")).to_have_text("2 of 3")
    expect(page.locator("#requeue")).to_have_count(0)
    assert "its worker has lost power" in server.log


def test_a_queued_job_is_cancelled_and_run_again_and_its_log_goes_on(
    page: Page, server: Server, client: Client
) -> None:
    job = client.enqueue(f"t-{next(_numbers)}")
    page.goto(f"/tasks/jobs/{job.id}")
    page.locator("#cancel").click()
    page.get_by_label("Reason (optional)").fill("not needed <b>any more</b>")
    dialog(page).get_by_role("button", name="Cancel this job").click()
    expect(fact(page, "Status")).to_have_text("cancelled")
    expect(fact(page, "Cancel reason")).to_have_text("not needed <b>any more</b>")
    expect(page.locator("#notices")).to_contain_text("The job is cancelled.")
    expect(page.locator("#retry")).to_be_focused()  # in the place of the button that is gone
    expect(page.get_by_text("The job has ended.")).to_be_visible()
    page.locator("#retry").click()
    page.get_by_label("Reason (optional)").fill("needed after all")
    dialog(page).get_by_role("button", name="Run this job again").click()
    expect(fact(page, "Status")).to_have_text("queued")
    assert "needed after all" in server.log
    expect(page.get_by_text("The job has ended.")).to_have_count(0)
    again = client.claim("w-1", LEASE_SECONDS, allowed_types=[job.type]).job
    assert again is not None
    say(client, again, "under way again")
    expect(page.locator("#log")).to_contain_text("under way again")
    sequences = page.locator("#log li").evaluate_all(
        "(all) => all.map((one) => Number(one.dataset.sequence))"
    )
    assert sequences == list(range(1, len(sequences) + 1))


def test_a_running_job_is_asked_to_stop_and_one_that_others_run_again_is_shown_so(
    page: Page, client: Client
) -> None:
    job = held(client)
    page.goto(f"/tasks/jobs/{job.id}")
    page.locator("#cancel").click()
    dialog(page).get_by_role("button", name="Cancel this job").click()
    expect(page.locator("#notices")).to_contain_text("Its worker is asked to stop it at the next heartbeat.")
    expect(fact(page, "Status")).to_have_text("running")
    expect(fact(page, "Cancellation asked")).not_to_be_empty()
    expect(page.locator("#cancel")).to_have_count(0)
    client.cancel_ack(job.id, "w-1", "stopped", lease_token=job.lease_token)
    expect(fact(page, "Status")).to_have_text("cancelled")
    client.retry(job.id, "by somebody else")
    expect(fact(page, "Status")).to_have_text("queued")


def test_attempts_errors_and_the_end_in_the_dead_letters_are_shown(page: Page, client: Client) -> None:
    job = held(client, max_attempts=1)
    page.goto(f"/tasks/jobs/{job.id}")
    expect(fact(page, "Attempt")).to_have_text("1 of 1")
    client.fail(job.id, "w-1", "no such branch", retryable=True, lease_token=job.lease_token)
    expect(fact(page, "Status")).to_have_text("dead letter")
    expect(fact(page, "Error")).to_have_text("no such branch")
    expect(page.locator("#retry")).to_be_visible()


def test_a_verb_that_comes_too_late_is_refused_in_the_server_s_words(
    browser: Browser, server: Server, client: Client
) -> None:
    with opened(browser, server.url, expected=refusals(409)) as page:
        job = client.enqueue(f"t-{next(_numbers)}")
        client.cancel(job.id, "done with")
        page.goto(f"/tasks/jobs/{job.id}")
        page.locator("#retry").click()
        client.retry(job.id)
        dialog(page).get_by_role("button", name="Run this job again").click()
        expect(dialog(page).get_by_role("alert")).to_contain_text("queued")
        dialog(page).get_by_role("button", name="Cancel", exact=True).click()
        expect(dialog(page)).to_have_count(0)


@pytest.mark.parametrize("width", [360, 1280])
def test_hostile_texts_are_shown_as_text_and_widen_nothing(
    browser: Browser, server: Server, client: Client, width: int
) -> None:
    with opened(browser, server.url, viewport={"width": width, "height": 800}) as page:
        dialogs: list[str] = []

        def alerted(shown: Dialog) -> None:
            dialogs.append(shown.message)
            shown.dismiss()

        page.on("dialog", alerted)
        text = f"{HOSTILE} {LONG}"
        job = held(client, {"text": text, HOSTILE: [LONG]})
        say(client, job, text, payload={"text": text})
        leave(client, job, f"<b>\u202e{LONG[:150]}", b"x")
        client.heartbeat(
            job.id,
            "w-1",
            LEASE_SECONDS,
            lease_token=job.lease_token,
            checkpoint="c" * 128,
            progress={"t": text},
        )
        for ended in (False, True):
            if ended:
                client.fail(job.id, "w-1", text, lease_token=job.lease_token)
            page.goto(f"/tasks/jobs/{job.id}")
            expect(fact(page, "Status")).to_have_text("failed" if ended else "running")
            expect(page.locator("#log")).to_contain_text("<img src=x onerror=alert(1)><script>")
            expect(page.locator("#log")).to_contain_text(r"\u202ecba\u2066\u200b")
            expect(page.locator("#payload")).to_contain_text("<img src=x onerror=alert(1)><script>")
            expect(page.locator("#artifacts tbody a")).to_have_text(re.compile(r"^<b>\\u202ew+$"))
            if ended:
                expect(fact(page, "Error")).to_contain_text(r"\u202ecba\u2066\u200b\x07\x1b[31m w")
            assert page.evaluate(WITHIN_SCREEN), "the page must not scroll sideways"
        page.goto(f"/tasks/jobs?status=failed&type={job.type}")
        expect(page.locator("#jobs tbody tr")).to_have_count(1)
        assert page.evaluate(WITHIN_SCREEN)
        assert page.evaluate("() => document.querySelectorAll('main img, main script').length") == 0
        inner = page.locator("main").inner_text()
        assert not set(inner) & set("\u202e\u2066\u200b\x07\x1b")
        assert dialogs == []


@pytest.mark.parametrize("given", ["0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90", "7", "%3Cb%3Ex%22", LONG])
def test_an_id_that_no_job_has_is_said(browser: Browser, server: Server, given: str) -> None:
    with opened(browser, server.url, expected=refusals(404)) as page:
        page.goto(f"/tasks/jobs/{given}")
        expect(page.get_by_text("There is no such job.")).to_be_visible()
        expect(page.locator("#job-actions button")).to_have_count(0)
        expect(page.locator("h2").first).to_have_text(f"Job {unquote(given)}")
        assert page.evaluate(WITHIN_SCREEN)


def test_a_log_that_was_refused_once_is_asked_for_again(
    browser: Browser, server: Server, client: Client
) -> None:
    """A browser gives a stream up for good where the answer is no stream."""
    with opened(browser, server.url, expected=refusals(503)) as page:
        job = held(client)
        say(client, job, "a line")
        refused: list[str] = []

        def refuse_once(route: Route) -> None:
            if refused:
                route.continue_()
            else:
                refused.append(route.request.url)
                route.fulfill(status=503, json={"detail": "Not now."})

        page.route("**/events/stream", refuse_once)
        page.goto(f"/tasks/jobs/{job.id}")
        expect(page.locator("#log li")).to_contain_text("a line")
        expect(page.get_by_text("The log is cut off; trying again.")).to_have_count(0)
        assert len(refused) == 1
