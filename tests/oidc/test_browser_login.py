"""Logging in to the dashboard by a real provider, in a real browser that takes the two for different sites."""

from collections.abc import Generator
from typing import Any, Final

import httpx2
import pytest
from playwright.sync_api import Browser, Page

from support.provider import DASHBOARD, DASHBOARD_SECRET, Provider
from support.servers import Server, start_server

PATIENCE_MS: Final = 20_000

_POST = """async ([path, body]) => {
  const answer = await fetch(path, {
    method: "POST", headers: {"Content-Type": "application/json"}, body: body && JSON.stringify(body)
  });
  const text = await answer.text();
  return [answer.status, text && JSON.parse(text)];
}"""


@pytest.fixture(scope="module")
def dashboard(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """A server that is the provider's client."""
    folder = tmp_path_factory.mktemp("dashboard")
    with start_server(
        f"sqlite:///{folder}/holdfast.db",
        HOLDFAST_AUTH_PROVIDER="oidc",
        HOLDFAST_OIDC_ISSUER=provider.issuer,
        HOLDFAST_OIDC_AUDIENCE="https://holdfast.test/mcp",
        HOLDFAST_OIDC_CLIENT_ID=DASHBOARD,
        HOLDFAST_OIDC_CLIENT_SECRET=DASHBOARD_SECRET,
    ) as server:
        assert "localhost" in provider.issuer
        assert "127.0.0.1" in server.url
        yield server


@pytest.fixture
def page(browser: Browser) -> Generator[Page]:
    """A page of a browser that has never been here."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page()
    context.close()


def log_in(page: Page, dashboard: Server, user: str, wanted: str = "/tasks") -> None:
    """From the page that is wanted, which sends to the login, through the provider's pages, and back."""
    page.goto(dashboard.url + wanted)
    page.click("#oidc")
    page.fill("input[name=name]", user)
    page.click("button[value=go]")
    page.wait_for_selector("h1:has-text('Allow access')")
    page.click("button[value=go]")


def post(page: Page, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """What the server answers to the page's own script."""
    status, answer = page.evaluate(_POST, [path, body])
    return status, answer


@pytest.mark.requirement("SEC-01")
def test_a_person_logs_in_pauses_under_their_own_name_and_logs_out(page: Page, dashboard: Server) -> None:
    problems: list[str] = []
    page.on("console", lambda said: problems.append(f"{said.type} {said.location['url']} {said.text}"))
    log_in(page, dashboard, "ada", "/tasks/history?outcome=changed")
    page.wait_for_url(f"{dashboard.url}/tasks/history?outcome=changed")
    page.wait_for_selector("#session:has-text('ada')")
    cookies = {cookie["name"]: cookie for cookie in page.context.cookies(dashboard.url)}
    assert set(cookies) == {"holdfast"}
    assert (cookies["holdfast"]["httpOnly"], cookies["holdfast"]["sameSite"]) == (True, "Strict")
    assert not [problem for problem in problems if problem.startswith(f"error {dashboard.url}")]

    pause = {"action": "pause", "mode": "drain", "reason": "a person's own"}
    status, paused = post(page, "/api/system/worker-pause", pause)
    assert status == 200
    assert paused["system"]["requestedBy"] == "ada"
    assert [event["actor"] for event in paused["audit"]["latest"]] == ["ada"]
    assert post(page, "/api/system/worker-pause", {"action": "resume", "reason": "done"})[0] == 200

    page.click("#log-out")
    page.wait_for_selector("#oidc")
    old = {"Cookie": f"holdfast={cookies['holdfast']['value']}"}
    for _ in range(200):
        answer = httpx2.get(f"{dashboard.url}/api/session", headers=old, trust_env=False)
        if answer.status_code == 401:
            break
        page.wait_for_timeout(25)
    assert answer.status_code == 401
    page.goto(f"{dashboard.url}/tasks")
    assert page.url == f"{dashboard.url}/login?next=%2Ftasks"


def test_an_open_stream_of_a_page_ends_with_the_session(page: Page, dashboard: Server) -> None:
    log_in(page, dashboard, "val")
    page.wait_for_selector("#session:has-text('val')")
    took = page.evaluate(
        """async () => {
  const stream = await fetch("/api/system/events");
  const reader = stream.body.getReader();
  await reader.read();
  const out = await fetch("/logout", {method: "POST"});
  const began = performance.now();
  while (!(await reader.read()).done);
  return [stream.status, out.status, (performance.now() - began) / 1000];
}"""
    )
    assert took[:2] == [200, 204]
    assert took[2] < 5.0


def test_a_person_without_a_role_reads_what_to_do(page: Page, dashboard: Server) -> None:
    log_in(page, dashboard, "nora")
    page.wait_for_selector("h1:has-text('Not logged in')")
    assert "has no role here" in page.inner_text("main")
    page.click("text=Back to the login")
    page.wait_for_selector("#oidc")


def test_a_person_who_says_no_at_the_provider_reads_that_and_can_begin_again(
    page: Page, dashboard: Server
) -> None:
    page.goto(f"{dashboard.url}/tasks")
    page.click("#oidc")
    page.click("button[value=cancel]")
    page.wait_for_selector("h1:has-text('Not logged in')")
    assert "declined" in page.inner_text("main")
    page.click("text=Back to the login")
    page.click("#oidc")
    page.wait_for_selector("input[name=name]")


def test_a_link_from_another_site_leads_to_our_pages_and_to_nothing_that_acts(
    page: Page, dashboard: Server, provider: Provider
) -> None:
    log_in(page, dashboard, "val")
    page.wait_for_selector("#session:has-text('val')")
    for path, status in (
        ("/login/oidc", 403),
        ("/login/oidc/callback?state=s&code=c", 401),
        ("/api/session", 403),
        ("/tasks", 200),
    ):
        page.goto(f"{provider.issuer}/.well-known/openid-configuration")
        with page.expect_navigation() as there:
            page.evaluate("(address) => { location.href = address }", dashboard.url + path)
        assert there.value is not None
        assert there.value.status == status, path
    # The session's cookie stays back on the way from there; our own page then brings it.
    page.wait_for_selector("#session:has-text('val')")
