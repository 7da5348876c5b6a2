"""A pause that lasts longer than it should: every page says so, by itself (OBS-01)."""

from collections.abc import Generator

import pytest
from playwright.sync_api import Browser, expect

from dashboard.looking import check, opened
from holdfast_worker.client import Client
from support.servers import Server, start_server

LATE = "This pause has lasted longer than it should."


@pytest.fixture
def server(sqlite_url: str) -> Generator[Server]:
    with start_server(sqlite_url, HOLDFAST_PAUSE_SLA_SECONDS="2") as server:
        yield server


def test_a_page_says_by_itself_that_a_pause_lasts_too_long(browser: Browser, server: Server) -> None:
    with opened(browser, server.url) as page, Client(server.url, token="") as client:
        page.goto("/tasks")
        client.pause("drain", "an upgrade")
        late = page.locator("#late")
        expect(page.locator("#banner .reason")).to_have_text("an upgrade")
        expect(late).to_be_hidden()
        expect(late).to_have_text(LATE)
        check(page)
        page.goto("/tasks/history")
        expect(late).to_have_text(LATE)
        client.resume("done")
        expect(late).to_be_hidden()
        expect(page.locator("#banner-title")).to_have_text("Workers: Running")
