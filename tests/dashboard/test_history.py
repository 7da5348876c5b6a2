"""The page of the audit log in a real browser: filters, older events, and taking all of it along."""

import csv
import io
import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from playwright.sync_api import Browser, Download, Page, Route, expect

from dashboard.looking import HOSTILE, LONG, WITHIN_SCREEN, opened
from holdfast_core.errors import NotPaused
from holdfast_worker.client import Client
from support.servers import Server, start_server

PAGE: Final = 50
#: As many that changed something; one more was refused, one more changed nothing.
CHANGED: Final = 120
REASONS: Final = (
    '=HYPERLINK("http://evil.example", "click")',
    "+1, -1",
    "-2+3",
    "@SUM(A1:A9)",
    'she said "stop", then; left',
    "two\nlines\r\nand\ta tab",
    HOSTILE,
    "größer, 升级, ترقية 😀",
    LONG,
    "'=already a text",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with start_server(f"sqlite:///{tmp_path_factory.mktemp('history')}/holdfast.db") as server:
        with Client(server.url, token="") as client:
            for number in range(CHANGED // 2):
                reason = REASONS[number] if number < len(REASONS) else f"reason {number}"
                client.pause("quiesce" if number % 3 else "drain", reason)
                client.resume(f"done with {number}")
            with pytest.raises(NotPaused):
                client.resume("too early")
        yield server


@pytest.fixture
def page(browser: Browser, server: Server) -> Generator[Page]:
    with opened(browser, server.url) as page:
        page.goto("/tasks/history")
        yield page


def told(server: Server, **query: str) -> list[dict[str, Any]]:
    """All events, as the API tells them."""
    events: list[dict[str, Any]] = []
    before: dict[str, str] = {}
    while True:
        answer = httpx2.get(
            f"{server.url}/api/system/control-events", params={"limit": "50", **query, **before}
        )
        found = answer.raise_for_status().json()
        events += found["items"]
        if found["nextBefore"] is None:
            return events
        before = {"before": found["nextBefore"]}


def rows(page: Page) -> list[list[str]]:
    cells: list[list[str]] = page.locator("#history tbody").evaluate(
        "(body) => [...body.rows].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return cells


def export(page: Page, button: str) -> Download:
    with page.expect_download() as download:
        page.locator(button).click()
    return download.value


def saved(download: Download, folder: Path) -> str:
    download.save_as(folder / "saved")
    return (folder / "saved").read_bytes().decode()


def visible(text: str) -> str:
    """What the pages make of a text: control and format characters as escapes."""

    def escaped(match: re.Match[str]) -> str:
        code = ord(match[0])
        names = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
        return names.get(match[0], f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")

    return re.sub("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", escaped, text)


def test_the_log_is_shown_newest_first_and_older_ones_on_request(page: Page, server: Server) -> None:
    events = told(server)
    assert len(events) == CHANGED + 1
    lines = page.locator("#history tbody tr")
    for number in range(PAGE, CHANGED, PAGE):
        expect(lines).to_have_count(number)
        page.get_by_role("button", name="Older").click()
    expect(lines).to_have_count(CHANGED + 1)
    expect(page.locator("#older")).to_be_hidden()
    shown = rows(page)
    assert [cells[5] for cells in shown] == [str(event["version"]) for event in events]
    assert [cells[4] for cells in shown] == [visible(event["reason"]) for event in events]
    assert [cells[2].split()[0] for cells in shown] == [event["outcome"] for event in events]
    assert shown[0][1:4] == ["resume", "refused not_paused", "local operator"]
    assert shown[-1][1] == "pause (drain)"
    assert page.evaluate(WITHIN_SCREEN)
    assert page.evaluate("() => document.querySelectorAll('main img, main script').length") == 0


def test_filters_by_outcome_and_action_hold_for_the_pages_and_for_what_is_exported(
    page: Page, server: Server, tmp_path: Path
) -> None:
    lines = page.locator("#history tbody tr")
    expect(lines).to_have_count(PAGE)
    page.get_by_label("Outcome").select_option("refused")
    expect(lines).to_have_count(1)
    assert [event["code"] for event in json.loads(saved(export(page, "#export-json"), tmp_path))] == [
        "not_paused"
    ]
    page.get_by_label("Action").select_option("pause")
    expect(page.locator("#history")).to_have_text("No such event.")
    page.get_by_label("Outcome").select_option("changed")
    expect(lines).to_have_count(PAGE)
    page.get_by_role("button", name="Older").click()
    expect(lines).to_have_count(CHANGED // 2)
    expect(page.locator("#older")).to_be_hidden()
    assert {cells[1] for cells in rows(page)} == {"pause (drain)", "pause (quiesce)"}
    exported = json.loads(saved(export(page, "#export-json"), tmp_path))
    assert exported == told(server, action="pause", outcome="changed")


def test_what_is_new_comes_on_top_by_itself(browser: Browser, tmp_path: Path) -> None:
    with (
        start_server(f"sqlite:///{tmp_path}/holdfast.db") as server,
        Client(server.url, token="") as client,
        opened(browser, server.url) as page,
    ):
        page.goto("/tasks/history")
        expect(page.locator("#history")).to_have_text("No such event.")
        client.pause("drain", "the first")
        expect(page.locator("#history tbody tr").first).to_contain_text("the first")
        client.resume("the second")
        expect(page.locator("#history tbody tr").first).to_contain_text("the second")
        expect(page.locator("#history tbody tr")).to_have_count(2)


def test_exported_json_is_what_the_api_tells(page: Page, server: Server, tmp_path: Path) -> None:
    download = export(page, "#export-json")
    assert download.suggested_filename == "holdfast-history.json"
    assert json.loads(saved(download, tmp_path)) == told(server)
    expect(page.get_by_text(f"{CHANGED + 1} events exported.")).to_be_visible()


def test_exported_csv_reads_back_as_what_the_api_tells_and_runs_in_no_spreadsheet(
    page: Page, server: Server, tmp_path: Path
) -> None:
    download = export(page, "#export-csv")
    assert download.suggested_filename == "holdfast-history.csv"
    text = saved(download, tmp_path)
    assert not [c for c in text.replace("\r\n", "") if c != "\n" and not c.isprintable()]
    read = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    events = told(server)
    assert len(read) == len(events) == CHANGED + 1
    for line, event in zip(read, events, strict=True):
        assert line.keys() == event.keys()
        for name, value in event.items():
            cell = line[name]
            if isinstance(value, str):
                assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")), "a formula"
                shown = visible(value)
                assert cell == (f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown), name
            else:
                assert cell == ("" if value is None else json.dumps(value)), name
    reasons = [line["reason"] for line in read]
    assert """'=HYPERLINK("http://evil.example", "click")""" in reasons
    assert r"two\nlines\r\nand\ta tab" in reasons


def test_while_one_export_runs_no_other_can_be_begun(page: Page) -> None:
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        waiting.append(route)

    page.route(re.compile(r"control-events\?limit=200"), hold)
    page.locator("#export-csv").click()
    expect(page.locator("#export-csv")).to_be_disabled()
    expect(page.locator("#export-json")).to_be_disabled()
    page.locator("#export-json").click(force=True)
    page.locator("#export-csv").click(force=True)
    with page.expect_download() as download:
        assert len(waiting) == 1
        waiting[0].continue_()
    assert download.value.suggested_filename.endswith(".csv")
    expect(page.locator("#export-csv")).to_be_enabled()
    expect(page.locator("#export-json")).to_be_enabled()


def test_an_export_that_breaks_off_saves_nothing_and_says_so(browser: Browser, server: Server) -> None:
    with opened(browser, server.url, expected="Failed to load resource: net::ERR_FAILED") as page:
        page.goto("/tasks/history")
        saved: list[str] = []
        page.on("download", lambda download: saved.append(download.url))
        page.route(re.compile(r"control-events\?limit=200"), lambda route: route.abort())
        page.locator("#export-csv").click()
        expect(page.get_by_text("Not exported: The server does not answer.")).to_be_visible()
        expect(page.locator("#export-csv")).to_be_enabled()
        assert saved == []
