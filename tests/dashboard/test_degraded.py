"""A page whose server goes away: it says that nothing is known, goes on, and is right again by itself (NFR-004)."""

import re
import signal
from collections.abc import Generator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from dashboard.looking import STATES, opened
from holdfast_worker.client import Client
from support.servers import Server, start_server

#: What a browser says of a server that is not there, or that ends in the middle of its words.
AWAY = r"Failed to load resource: .*"


@pytest.fixture
def server(sqlite_url: str) -> Generator[Server]:
    with start_server(sqlite_url) as server:
        yield server


@pytest.fixture
def page(browser: Browser, server: Server) -> Generator[Page]:
    with opened(browser, server.url, expected=AWAY) as page:
        yield page


def unknown(page: Page, *, seconds: float = 10) -> None:
    """The banner says that nothing is known, and since when; no state that was told before is left on the page."""
    expect(page.locator("#banner-title")).to_have_text("Workers: Unknown", timeout=seconds * 1_000)
    expect(page.locator("#banner-facts")).to_have_text(
        re.compile(r"^Unknown: the pause API does not answer since \d\d:\d\d:\d\d\. .+")
    )
    expect(page).to_have_title("Workers: Unknown · Holdfast")
    assert not STATES.search(page.locator("#banner-facts").inner_text())
    for name in ("pause", "resume"):
        expect(page.locator(f"#{name}")).to_be_disabled()


@pytest.mark.requirement("NFR-004")
def test_a_server_that_is_killed_is_unknown_and_known_again_once_it_is_back(
    page: Page, server: Server, sqlite_url: str
) -> None:
    with Client(server.url, token="") as client:
        client.pause("drain", "an upgrade")
    page.goto("/tasks")
    expect(page.locator("#drain-state")).to_have_text("Safe to upgrade")
    server.kill()
    unknown(page)
    drain = page.locator("#drain")
    expect(drain).to_contain_text("Unknown: the server does not answer.")
    assert not STATES.search(drain.inner_text())
    expect(drain.locator("dd")).to_have_count(0)
    expect(page.locator("#latest")).to_have_text("Unknown.")
    expect(page.get_by_role("heading", name="The last hour")).to_be_visible()
    with start_server(sqlite_url, "--port", str(urlsplit(server.url).port)) as again:
        expect(page.locator("#banner-title")).to_have_text("Workers: Paused (Drain)", timeout=20_000)
        expect(page.locator("#drain-state")).to_have_text("Safe to upgrade")
        with Client(again.url, token="") as client:
            client.resume("done")
        expect(page.locator("#banner-title")).to_have_text("Workers: Running")
        expect(page.locator("#degraded")).to_be_hidden(timeout=20_000)


@pytest.mark.parametrize("where", ["/tasks/jobs", "/tasks/workers", "/tasks/history"])
def test_each_page_goes_on_without_a_server_and_shows_nothing_old_as_new(
    page: Page, server: Server, where: str
) -> None:
    with Client(server.url, token="") as client:
        client.enqueue("t", {})
        client.presence("w")
        client.pause("drain", "an upgrade")
    page.goto(where)
    expect(page.locator("#page tbody tr")).to_have_count(1)
    server.kill()
    unknown(page)
    if where == "/tasks/history":  # what has happened stays so
        expect(page.locator("#page tbody tr")).to_have_count(1)
    else:
        expect(page.locator("#page")).to_contain_text("Not known: The server does not answer.")
        expect(page.locator("#page tbody tr")).to_have_count(0)


@pytest.mark.requirement("NFR-004", "SC-002")
def test_without_a_stream_the_page_asks_and_says_so(page: Page, server: Server) -> None:
    page.route("**/api/system/events", lambda route: route.abort())
    page.goto("/tasks")
    expect(page.locator("#degraded")).to_have_text("No live updates: asking every 5 s.")
    with Client(server.url, token="") as client:
        client.pause("drain", "by somebody else")
        expect(page.locator("#banner")).to_contain_text("by somebody else")
        client.resume("done")
        expect(page.locator("#banner-title")).to_have_text("Workers: Running")
    page.unroute("**/api/system/events")
    expect(page.locator("#degraded")).to_be_hidden(timeout=20_000)


def refuse(page: Page) -> str:
    """From now on all that the page asks is refused as by a server without its database. Its words."""
    words = "The database <b>does not</b> answer."
    body = f'{{"type": "x", "title": "x", "status": 503, "code": "store_unavailable", "detail": "{words}"}}'
    page.route(
        "**/api/**",
        lambda route: route.fulfill(status=503, content_type="application/problem+json", body=body),
    )
    return words


@pytest.mark.requirement("NFR-004")
def test_a_server_that_begins_to_refuse_is_unknown_in_its_own_words(page: Page, server: Server) -> None:
    with Client(server.url, token="") as client:
        client.pause("drain", "an upgrade")
    page.goto("/tasks")
    expect(page.locator("#drain-state")).to_have_text("Safe to upgrade")
    words = refuse(page)
    server.kill()  # which cuts the stream; what the page then asks is refused
    unknown(page)
    expect(page.locator("#banner-facts")).to_contain_text(words)
    expect(page.locator("#banner-facts b")).to_have_count(0)


def test_a_form_that_is_open_says_that_the_server_is_gone_and_keeps_what_was_typed(
    page: Page, server: Server, sqlite_url: str
) -> None:
    page.goto("/tasks")
    page.locator("#pause").click()
    page.get_by_label("Reason").fill("typed before")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Version 1: running")
    server.kill()
    unknown(page)
    expect(dialog).to_contain_text("You saw version 1. At the moment the server does not answer.")
    page.get_by_role("button", name="Pause workers").click()
    expect(dialog.get_by_role("alert")).to_contain_text("The server does not answer.")
    with start_server(sqlite_url, "--port", str(urlsplit(server.url).port)):
        expect(dialog).to_contain_text("Version 1: running", timeout=20_000)
        expect(page.get_by_label("Reason")).to_have_value("typed before")
        page.get_by_role("button", name="Pause workers").click()
        expect(page.locator("#banner .reason")).to_have_text("typed before")


def test_a_page_that_is_loaded_while_the_server_refuses_is_unknown_in_its_words(page: Page) -> None:
    page.goto("/tasks")
    expect(page.locator("#banner-title")).to_have_text("Workers: Running")
    words = refuse(page)
    page.reload()  # the shell is still told how things stand; from then on nothing is
    unknown_words = page.locator("#banner-facts")
    expect(unknown_words).to_have_text(words)
    expect(page.locator("#banner-title")).to_have_text("Workers: Unknown")
    assert not STATES.search(unknown_words.inner_text())


@pytest.mark.requirement("NFR-004")
def test_a_server_that_hangs_is_unknown_within_half_a_minute(page: Page, server: Server) -> None:
    page.goto("/tasks")
    expect(
        page.locator("#pause")
    ).to_be_enabled()  # the page itself has heard, not only the server that made it
    server.process.send_signal(signal.SIGSTOP)
    try:
        unknown(page, seconds=30)
    finally:
        server.process.send_signal(signal.SIGCONT)
    expect(page.locator("#banner-title")).to_have_text("Workers: Running", timeout=20_000)


def test_a_page_that_is_gone_back_to_says_how_things_stand_now(page: Page, server: Server) -> None:
    page.goto("/tasks")
    expect(page.locator("#banner-title")).to_have_text("Workers: Running")
    page.goto("/tasks/jobs")
    with Client(server.url, token="") as client:
        client.pause("drain", "meanwhile")
    page.go_back()
    expect(page.locator("#banner-title")).to_have_text("Workers: Paused (Drain)")
