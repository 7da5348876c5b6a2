"""The worker's status page in a real browser."""

import re
import subprocess
import sys
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from holdfast_core.states import JobPhase, PauseMode
from holdfast_worker.tray.model import TrayModel
from support.browser import chromium
from support.control_port import Steered, ask, steered

#: How long the page may take to show what has changed: it looks each second.
SHOWN_MS = 5_000


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def context(browser: Browser) -> Generator[BrowserContext]:
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def port() -> Generator[Steered]:
    with steered("exec-1") as port:
        yield port


@pytest.fixture
def complaints(context: BrowserContext) -> list[str]:
    """What the browser complains of: scripts that fail, what the policy forbids, what cannot be loaded."""
    found: list[str] = []
    context.on("console", lambda line: found.append(line.text) if line.type in {"error", "warning"} else None)
    context.on("weberror", lambda error: found.append(str(error.error)))
    return found


def address(port: Steered) -> str:
    url: str = ask(port.control.url, "POST", "/open", port.control.token).json["url"]
    return url


@pytest.fixture
def page(context: BrowserContext, port: Steered, complaints: list[str]) -> Page:
    page = context.new_page()
    page.goto(address(port))
    expect(page.locator("#worker")).to_have_text("exec-1")
    return page


def badge(page: Page, text: str) -> None:
    expect(page.locator("#badge")).to_have_text(text, timeout=SHOWN_MS)


@pytest.mark.requirement("ST-05")
def test_the_page_flips_the_local_pause_and_shows_what_the_others_set(
    page: Page, port: Steered, complaints: list[str]
) -> None:
    badge(page, "Idle")
    button = page.locator("#pause")
    expect(button).to_have_text("Pause")
    button.click()
    badge(page, "Paused")
    expect(button).to_have_text("Resume")
    expect(page.locator("#local")).to_have_text("Paused by its operator, until resumed or restarted")
    assert port.worker.hold.locally_paused is True
    port.worker.resume()  # in code
    badge(page, "Idle")
    expect(button).to_have_text("Pause")
    for verb, shown in (("pause", "Paused"), ("resume", "Idle")):
        subprocess.run(
            [sys.executable, "-m", "holdfast_worker.cli", "worker", verb], check=True, capture_output=True
        )
        badge(page, shown)
    tray = TrayModel("exec-1")
    tray.look()
    tray.turn()
    badge(page, "Paused")
    button.click()
    badge(page, "Idle")
    assert (tray.look().variant, port.worker.hold.locally_paused) == ("idle", False)
    assert complaints == []


def test_both_pauses_are_told_apart(page: Page, port: Steered, complaints: list[str]) -> None:
    port.learn(PauseMode.DRAIN, 7, "<b>disk</b>\u202e")
    badge(page, "Paused")
    expect(page.locator("#words")).to_have_text("Paused by the system; no job.")
    expect(page.locator("#local")).to_have_text("Takes work")
    expect(page.locator("#system")).to_have_text(
        re.compile(r"^Paused \(Drain\), version 7 by local operator\s<b>disk</b>\\u\{202e\}$")
    )
    port.worker.pause()
    expect(page.locator("#words")).to_have_text("Paused by its operator, and by the system; no job.")
    port.learn(None, 8)
    expect(page.locator("#system")).to_have_text("Running, version 8")
    expect(page.locator("#words")).to_have_text("Paused by its operator; no job.")
    assert complaints == []


def test_jobs_are_shown_with_phase_and_checkpoint(page: Page, port: Steered) -> None:
    expect(page.locator("#no-jobs")).to_be_visible()
    port.take(1, JobPhase.PARKED, "step 3")
    badge(page, "Busy")
    row = page.locator("#rows tr")
    expect(row).to_have_count(1)
    expect(row.locator("td").nth(3)).to_have_text("parked")
    expect(row.locator("td").nth(4)).to_have_text("step 3")
    port.take(2)
    expect(row).to_have_count(2, timeout=SHOWN_MS)
    port.worker.jobs = []
    expect(page.locator("#no-jobs")).to_be_visible(timeout=SHOWN_MS)


def test_a_server_that_does_not_answer_is_shown(page: Page, port: Steered) -> None:
    port.worker.connected = False
    badge(page, "Disconnected")
    expect(page.locator("#words")).to_have_text("The server does not answer; no job here.")
    port.worker.connected = True
    badge(page, "Idle")


def test_stop_asks_first(page: Page, port: Steered) -> None:
    page.locator("#stop").click()
    dialog = page.get_by_role("dialog", name="Stop this worker?")
    expect(dialog).to_be_visible()
    page.get_by_role("button", name="Keep it running").click()
    expect(dialog).to_be_hidden()
    assert port.worker.hold.stopping is False
    page.locator("#stop").click()
    page.get_by_role("button", name="Stop it").click()
    expect(page.locator("#words")).to_have_text("It stops: nothing runs any more.")
    assert port.worker.hold.stopping is True
    expect(page.locator("#pause")).to_be_disabled()


def test_the_keyboard_is_enough(page: Page, port: Steered) -> None:
    page.keyboard.press("Tab")
    expect(page.locator("#pause")).to_be_focused()
    page.keyboard.press("Enter")
    badge(page, "Paused")
    expect(page.locator("#pause")).to_be_focused()
    page.keyboard.press("Space")
    badge(page, "Idle")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#keep")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#ask")).to_be_hidden()
    expect(page.locator("#stop")).to_be_focused()
    assert port.worker.hold.stopping is False


def test_a_worker_that_is_gone_is_said_to_be(context: BrowserContext) -> None:
    page = context.new_page()
    with steered("exec-1") as port:
        page.goto(address(port))
        badge(page, "Idle")
    expect(page.locator("#words")).to_have_text("The worker does not answer.", timeout=SHOWN_MS)
    expect(page.get_by_role("alert")).to_contain_text("The worker does not answer.")
    expect(page.locator("#pause")).to_be_disabled()


def test_the_code_leaves_the_address_and_a_reload_needs_none(
    page: Page, port: Steered, context: BrowserContext
) -> None:
    assert page.url == f"{port.control.url}/"
    page.reload()
    expect(page.locator("#worker")).to_have_text("exec-1")
    stored: list[str] = page.evaluate(
        "() => [...Object.values(sessionStorage), ...Object.values(localStorage)]"
    )
    assert len(stored) == 1
    assert port.control.token not in stored
    other = context.new_page()  # another tab has no token
    other.goto(port.control.url)
    expect(other.get_by_role("alert")).to_contain_text("holdfast worker status --open")


@pytest.mark.parametrize("end", ["", "#wrong"])
def test_without_a_good_code_the_page_shows_nothing_and_says_how(
    context: BrowserContext, port: Steered, end: str
) -> None:
    page = context.new_page()
    page.goto(f"{port.control.url}/{end}")
    expect(page.get_by_role("alert")).to_contain_text("Run `holdfast worker status --open`")
    expect(page.locator("#content")).to_be_hidden()
    expect(page.locator("#worker")).to_have_text("Not open")


def test_a_code_that_was_used_opens_no_second_page(context: BrowserContext, port: Steered) -> None:
    url = address(port)
    first, second = context.new_page(), context.new_page()
    first.goto(url)
    badge(first, "Idle")
    second.goto(url)
    expect(second.get_by_role("alert")).to_contain_text("holdfast worker status --open")


def test_a_hidden_page_does_not_ask(page: Page, port: Steered) -> None:
    badge(page, "Idle")
    page.clock.install()
    hide = "(hidden) => { Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(60_000)
    assert len(asked) <= 1, "at most one that was under way"
    port.worker.pause()
    page.evaluate(hide, False)
    badge(page, "Paused")


class _Blank(BaseHTTPRequestHandler):
    """A page of somebody else's, which lets its scripts ask whom they want."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Elsewhere</title>")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def elsewhere() -> Generator[str]:
    """Another site, on this very host."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Blank) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_sites_page_can_neither_read_nor_change_anything(
    context: BrowserContext, port: Steered, elsewhere: str
) -> None:
    code = address(port).partition("#")[2]
    page = context.new_page()
    page.goto(elsewhere)
    answers: list[int] = []
    page.on("response", lambda answer: answers.append(answer.status))
    tried = page.evaluate(
        """async ([url, code]) => {
            const json = {"Content-Type": "application/json"};
            const tries = [
                fetch(`${url}/status`),
                fetch(`${url}/pause`, {method: "POST", mode: "no-cors"}),
                fetch(`${url}/session`, {method: "POST", mode: "no-cors", body: JSON.stringify({code})}),
                fetch(`${url}/session`, {method: "POST", headers: json, body: JSON.stringify({code})}),
            ];
            const done = await Promise.allSettled(tries);
            return done.map((one) => one.status === "fulfilled" ? one.value.type : "rejected");
        }""",
        [port.control.url, code],
    )
    # Two of them a page may send without asking: they are refused, and not even that may be seen.
    assert tried == ["rejected"] * 4
    assert set(answers) <= {403}
    assert port.worker.hold.locally_paused is False
    assert ask(port.control.url, "POST", "/session", None, {"code": code}).status == 200, "the code is unused"


@pytest.mark.parametrize("variant", ["idle", "busy", "paused", "disconnected", "stop", "closed", "gone"])
def test_the_page_is_accessible_in_light_and_dark(browser: Browser, scheme: Any, variant: str) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 360, "height": 720})
    try:
        page = context.new_page()
        with steered("exec-1") as port:
            if variant in {"busy", "paused"}:
                port.take(1, JobPhase.RUNNING, "a checkpoint with a long name, which says where the job is")
            if variant == "paused":
                port.learn(PauseMode.QUIESCE, 2)
            port.worker.connected = variant != "disconnected"
            page.goto(port.control.url if variant == "closed" else address(port))
            if variant == "closed":
                expect(page.locator("#worker")).to_have_text("Not open")
            else:
                shown = {"stop": "Idle", "gone": "Idle"}.get(variant, variant.capitalize())
                badge(page, shown)
            if variant == "stop":
                page.locator("#stop").click()
            if variant != "gone":
                check(page)
        if variant == "gone":
            expect(page.locator("#words")).to_have_text("The worker does not answer.", timeout=SHOWN_MS)
            check(page)
    finally:
        context.close()


def check(page: Page) -> None:
    found = Axe().run(
        page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    )
    assert found.violations_count == 0, found.generate_report()
    too_wide = page.evaluate(
        "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    assert too_wide is False, "the page must not scroll sideways"
