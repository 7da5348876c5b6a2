"""The way in: who has a token of a person comes in, where it leads, and what no other page can do with the cookie."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from dashboard.looking import SIZES, check, focused, opened, refusals, tab_to
from dashboard.people import Door, log_in, open_door
from holdfast_dashboard.login_page import local_page
from support.servers import start_server
from support.tokens import bearer
from support.workers import until

#: Where no login may lead.
ELSEWHERE: Final = (
    "//evil.example/tasks",
    "///evil.example/tasks",
    "https://evil.example/tasks",
    "https:evil.example/tasks",
    "javascript:alert(1)",
    "data:text/html,x",
    "\\\\evil.example/tasks",
    "/\\evil.example/tasks",
    "/tasks\\..\\..\\evil.example",
    "/\t/evil.example/tasks",
    "/tasks\n//evil.example",
    "/tasks/../healthz",
    "/tasks/..%2fhealthz/%2e%2e/healthz",
    "/tasks/%2E%2e/%2e%2e/healthz",
    "/tasks/./..",
    "/tasksx",
    "/tasks@evil.example",
    "/tasks#//evil.example",
    "/tasks//evil.example",
    "tasks",
    "/login",
    "",
    " /tasks/jobs",
    "/tasks/jobs?q=<script>",
)
OURS: Final = (
    "/tasks",
    "/tasks/jobs",
    "/tasks/jobs?status=failed&type=a%2Fb&q=x+y",
    "/tasks/jobs/0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90",
    "/tasks/history?next=//evil.example",
)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Generator[Door]:
    with open_door(f"sqlite:///{tmp_path_factory.mktemp('login')}/holdfast.db") as door:
        yield door


def refused(page: Page, words: str) -> None:
    """Nobody came in, and the form says why."""
    expect(page.locator("#token-error")).to_contain_text(words)
    expect(page.get_by_label("Token")).to_be_focused()
    expect(page.get_by_label("Token")).to_have_attribute("aria-invalid", "true")
    assert urlsplit(page.url).path == "/login"
    assert page.context.cookies() == []


def test_a_good_token_leads_to_the_page_that_was_asked_for(browser: Browser, door: Door) -> None:
    with opened(browser, door.url) as page:
        page.goto("/tasks/jobs?status=running&q=a+b")
        assert page.url == f"{door.url}/login?next=%2Ftasks%2Fjobs%3Fstatus%3Drunning%26q%3Da%2Bb"
        log_in(page, f"  {door.token_of('operator', 'Olga')}\n")
        assert page.url == f"{door.url}/tasks/jobs?status=running&q=a+b"
        expect(page.locator("#banner-title")).to_have_text("Workers: Running")
        expect(page.locator("#session")).to_have_text("Olga · operatorLog out")
        page.goto("/login?next=/tasks/history")
        expect(page.locator("#who")).to_contain_text("You are logged in as Olga.")
        expect(page.get_by_label("Token")).to_be_visible()
        page.get_by_role("link", name="Go on").click()
        expect(page.locator("#history")).to_be_visible()


def test_a_wrong_a_workers_an_expired_and_a_revoked_token_are_refused_in_words(
    browser: Browser, door: Door
) -> None:
    worker, short, gone = (
        door.token(workerId="w-1"),
        door.token(role="viewer", user="Vera", expiresInSeconds=1),
        door.token(role="viewer", user="Vera"),
    )
    door.revoke(gone)
    headers = bearer(short["token"])
    until(lambda: httpx2.get(f"{door.url}/api/session", headers=headers).status_code == 401, "its end", 10)
    with opened(browser, door.url, expected=refusals(401, 403)) as page:
        page.goto("/login")
        page.get_by_role("button", name="Log in").click()
        refused(page, "Paste or type a token.")
        for token, words in (
            ("hfa_no-such-token", "not known here"),
            ("e30.e30.e30", "not known here"),
            (worker["token"], "This is a worker's token: the dashboard is for people."),
            (short["token"], "has expired or was revoked"),
            (gone["token"], "has expired or was revoked"),
        ):
            page.get_by_label("Token").fill(token)
            page.get_by_role("button", name="Log in").click()
            refused(page, words)
        log_in(page, door.token_of("viewer", "Vera"))
        assert page.url == f"{door.url}/tasks"


def test_too_many_wrong_tokens_are_told_to_wait_and_who_is_in_goes_on(
    browser: Browser, sqlite_url: str
) -> None:
    with (
        open_door(sqlite_url) as door,
        opened(browser, door.url) as inside,
        opened(browser, door.url, expected=refusals(401, 429)) as page,
    ):
        inside.goto("/tasks")
        log_in(inside, door.token_of("viewer", "Vera"))
        good = door.token_of("viewer", "Victor")
        page.goto("/login")
        statuses = [
            httpx2.post(f"{door.url}/login", json={"token": f"wrong-{n}"}).status_code for n in range(40)
        ]
        assert statuses[:20] == [401] * 20
        assert 429 in statuses
        page.get_by_label("Token").fill(good)
        page.get_by_role("button", name="Log in").click()
        refused(page, "Too many attempts from your address have failed.")
        expect(page.locator("#token-error")).to_contain_text("Try again in 3 s.")
        inside.goto("/tasks/jobs")
        expect(inside.locator("#jobs")).to_have_text("No such job.")

        def again() -> bool:
            page.get_by_role("button", name="Log in").click()
            page.wait_for_timeout(500)
            return urlsplit(page.url).path == "/tasks"

        until(again, "room for one more attempt", 20)


def test_the_session_is_a_cookie_that_no_script_reads_and_the_token_is_kept_nowhere(
    browser: Browser, door: Door
) -> None:
    with opened(browser, door.url) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url + str(request.headers)))
        page.goto("/tasks")
        token = door.token_of("operator", "Olga")
        with page.expect_response("**/login") as answer:
            log_in(page, token)
        header = answer.value.header_value("set-cookie") or ""
        assert "domain" not in header.casefold()
        (cookie,) = page.context.cookies()
        name = urlsplit(door.url).hostname
        assert (cookie["name"], cookie["domain"], cookie["path"]) == ("holdfast", name, "/")
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert token not in cookie["value"]
        expect(page.locator("#latest")).to_be_visible()
        assert page.evaluate("document.cookie") == ""
        kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.documentElement.outerHTML])"
        shown = page.evaluate(kept)
        secret = token.split("_", 2)[2]
        for text in (shown, page.url, page.content(), *asked):
            assert secret not in text
            assert cookie["value"] not in text
        assert not any(secret in line for line in door.server.log.splitlines())


def test_over_https_the_cookie_is_for_this_host_and_https_alone(sqlite_url: str) -> None:
    with open_door(sqlite_url, HOLDFAST_PUBLIC_URL="https://holdfast.example.org") as door:
        answer = httpx2.post(f"{door.url}/login", json={"token": door.token_of("viewer", "Vera")})
        parts = {part.strip().casefold() for part in answer.headers["set-cookie"].split(";")}
        assert answer.headers["set-cookie"].startswith("__Host-holdfast=")
        assert {"secure", "httponly", "samesite=strict", "path=/"} <= parts


@pytest.mark.parametrize("wanted", ELSEWHERE)
def test_what_is_no_page_of_ours_is_not_gone_to(wanted: str) -> None:
    assert local_page(wanted) == "/tasks"


@pytest.mark.parametrize("wanted", OURS)
def test_a_page_of_ours_is_gone_to_as_it_was_asked_for(wanted: str) -> None:
    assert local_page(wanted) == wanted


def test_no_login_leads_to_another_site(browser: Browser, door: Door) -> None:
    token = door.token_of("viewer", "Vera")
    with opened(browser, door.url) as page:  # which looks that nobody else was asked for anything
        for wanted in ELSEWHERE[:12]:
            page.goto(f"/login?next={quote(wanted, safe='')}")
            log_in(page, token)
            assert page.url == f"{door.url}/tasks", wanted
        page.goto(f"/login?next={quote(chr(34) + '><b id=x>', safe='')}")
        expect(page.locator("#x")).to_have_count(0)


def test_a_session_that_has_ended_is_no_login_and_its_cookie_goes(browser: Browser, door: Door) -> None:
    with opened(browser, door.url, expected=refusals(401)) as page:
        made = door.token(role="viewer", user="Vera")
        page.goto("/tasks/history")
        log_in(page, made["token"])
        page.goto("about:blank")
        door.revoke(made)
        until(lambda: page.goto("/tasks/history") and urlsplit(page.url).path == "/login", "the end", 10)
        assert page.url == f"{door.url}/login?next=%2Ftasks%2Fhistory"
        expect(page.locator("#who")).to_have_count(0)
        assert page.context.cookies() == []


def test_the_organisation_s_login_comes_first_where_there_is_one(browser: Browser, sqlite_url: str) -> None:
    oidc = {
        "HOLDFAST_AUTH_PROVIDER": "oidc",
        "HOLDFAST_OIDC_ISSUER": "http://127.0.0.1:9",
        "HOLDFAST_OIDC_AUDIENCE": "holdfast",
    }
    link = "Log in with your organisation"
    with open_door(sqlite_url, **oidc, HOLDFAST_OIDC_CLIENT_ID="dashboard") as door:
        for scripts in (True, False):
            with opened(browser, door.url, java_script_enabled=scripts) as page:
                page.goto("/login?next=/tasks/jobs%3Fq=a%26b")
                expect(page.get_by_role("link", name=link)).to_have_attribute(
                    "href", "/login/oidc?next=%2Ftasks%2Fjobs%3Fq%3Da%26b"
                )
        with opened(browser, door.url) as page:
            page.goto("/login?next=//evil.example")
            expect(page.get_by_role("link", name=link)).to_have_attribute("href", "/login/oidc?next=%2Ftasks")
            check(page)
            log_in(page, door.token_of("viewer", "Vera"))  # a token is good as ever
    with open_door(sqlite_url, **oidc) as door:
        answer = httpx2.get(f"{door.url}/login")
        assert answer.status_code == 200
        assert link not in answer.text


def test_where_nobody_has_to_log_in_nothing_speaks_of_it(browser: Browser, sqlite_url: str) -> None:
    with start_server(sqlite_url) as server, opened(browser, server.url) as page:
        page.goto("/login?next=%2Ftasks%2Fjobs")
        assert page.url == f"{server.url}/tasks/jobs"
        expect(page.locator("#enqueue")).to_be_visible()
        page.goto("/login")
        assert page.url == f"{server.url}/tasks"
        expect(page.locator("#pause")).to_be_enabled()
        for element in ("#session", "#lacking"):
            expect(page.locator(element)).to_be_hidden()
        assert "local operator" not in page.locator("body").inner_text()


def test_without_javascript_the_page_says_what_it_needs(browser: Browser, door: Door) -> None:
    with opened(browser, door.url, java_script_enabled=False, viewport=SIZES[0]) as page:
        page.goto("/tasks")
        expect(page.get_by_role("heading", name="Log in to Holdfast")).to_be_visible()
        assert "needs JavaScript" in page.locator("main").inner_text()
        expect(page.get_by_role("button")).to_have_count(0)
        expect(page.locator("#token")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_in_each_state(browser: Browser, door: Door, scheme: Any) -> None:
    look = {"color_scheme": scheme, "reduced_motion": "reduce"}
    with opened(browser, door.url, expected=refusals(401), **look) as page:
        page.goto("/login")
        check(page)
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#token-error")).not_to_be_empty()
        check(page)
        log_in(page, door.token_of("viewer", "Vera " + "w" * 190))
        expect(page.locator("#lacking")).to_be_visible()
        check(page)
        page.goto("/login")
        expect(page.locator("#who")).to_be_visible()
        check(page)


def test_the_keyboard_is_enough_to_come_in_and_to_go(browser: Browser, door: Door) -> None:
    with opened(browser, door.url) as page:
        token = door.token_of("operator", "Olga")
        page.goto("/tasks/workers")
        assert focused(page) == "token"
        page.keyboard.type(token)
        page.keyboard.press("Enter")
        expect(page.locator("#log-out")).to_be_visible()
        assert page.url == f"{door.url}/tasks/workers"
        tab_to(page, "log-out")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Token")).to_be_focused()
        page.keyboard.type(token)
        tab_to(page, "log-in")
        page.keyboard.press("Space")
        expect(page.locator("#log-out")).to_be_visible()
        page.goto("/login")
        expect(page.get_by_label("Token")).to_be_focused()
        page.keyboard.press("Shift+Tab")
        assert focused(page) == "log-out"
        page.keyboard.press("Enter")
        expect(page.locator("#who")).to_have_count(0)


#: A page of somebody else: it sends what a page can send, with all cookies that the browser lets it, and says what
#: came of it.
HOSTILE_PAGE: Final = """<!doctype html><title>x</title><body><script>
const victim = "VICTIM";
const body = JSON.stringify({action: "pause", mode: "drain", reason: "forged"});
const json = {"Content-Type": "application/json"};
const ways = {
  simple: [victim + "/api/system/worker-pause", {method: "POST", mode: "no-cors", body}],
  json: [victim + "/api/system/worker-pause", {method: "POST", headers: json, body}],
  cancel: [victim + "/api/queue/jobs/JOB/cancel", {method: "POST", mode: "no-cors"}],
  leave: [victim + "/logout", {method: "POST", mode: "no-cors"}],
  enter: [victim + "/login", {method: "POST", mode: "no-cors", body: JSON.stringify({token: "x"})}],
  read: [victim + "/api/system/worker-pause", {}],
  "read blindly": [victim + "/api/system/worker-pause", {mode: "no-cors"}],
};
async function send([address, options]) {
  try {
    const answer = await fetch(address, {credentials: "include", ...options});
    return `${answer.type} ${answer.status} ${await answer.text()}`;
  } catch { return "nothing"; }
}
function form(type) {
  return new Promise((resolve) => {
    const frame = Object.assign(document.createElement("iframe"), {name: `frame-${type}`});
    const sent = Object.assign(document.createElement("form"), {method: "post", enctype: type,
      action: victim + "/api/system/worker-pause", target: frame.name});
    const field = Object.assign(document.createElement("input"), {name: body.slice(0, -1) + ', "x": "', value: '"}'});
    sent.append(field);
    document.body.append(frame, sent);
    frame.addEventListener("load", () => resolve("sent"));
    sent.submit();
  });
}
function stream() {
  return new Promise((resolve) => {
    const source = new EventSource(victim + "/api/system/events", {withCredentials: true});
    source.addEventListener("snapshot", (event) => resolve(event.data));
    source.addEventListener("error", () => { source.close(); resolve("nothing"); });
  });
}
(async () => {
  const results = {};
  for (const [name, way] of Object.entries(ways)) results[name] = await send(way);
  for (const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) {
    results[type] = await form(type);
  }
  results.stream = await stream();
  window.results = results;
})();
</script>"""

#: Of those that are no forms.
WAYS: Final = 8


@contextmanager
def site_with(html: str) -> Generator[int]:
    """A site on another port of this machine, which has this page. Yields the port."""
    page = html.encode()

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the library's name)
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            yield site.server_port
        finally:
            site.shutdown()
            thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_another_origin_cannot_act_or_read_with_the_cookie(
    browser: Browser, door: Door, host: str
) -> None:
    job = door.admin.post("/api/queue/jobs", json={"type": "held", "payload": {}}).json()["id"]
    before = door.admin.get("/api/system/worker-pause").json()["system"]
    context = browser.new_context(base_url=door.url)
    try:
        own = context.new_page()
        own.goto("/tasks")
        log_in(own, door.token_of("admin", "Anna"))
        with site_with(HOSTILE_PAGE.replace("VICTIM", door.url).replace("JOB", job)) as port:
            page = context.new_page()
            asked: dict[str, Any] = {}
            told: dict[str, int] = {}
            with_cookie: set[str] = set()
            wire = context.new_cdp_session(page)  # what a page may not read is no response to Playwright
            wire.send("Network.enable")
            wire.on("Network.requestWillBeSent", lambda e: asked.update({e["requestId"]: e["request"]}))
            wire.on(
                "Network.responseReceivedExtraInfo", lambda e: told.update({e["requestId"]: e["statusCode"]})
            )
            wire.on(
                "Network.requestWillBeSentExtraInfo",
                lambda e: "cookie" in map(str.casefold, e["headers"]) and with_cookie.add(e["requestId"]),
            )
            page.goto(f"http://{host}:{port}/")
            results = page.wait_for_function("window.results", timeout=30_000).json_value()
        attacks = {request for request, sent in asked.items() if sent["url"].startswith(door.url)}
        assert len(attacks) >= WAYS, "the attacks were under way"
        answers = {(asked[attack]["method"], told[attack]) for attack in attacks if attack in told}
        # What asks blindly and changes nothing may be answered: nobody can read it.
        assert answers - {("GET", 200)} == {("GET", 403), ("OPTIONS", 403), ("POST", 403)}
        # From 127.0.0.1 the cookie comes along: a browser takes other ports for the same site.
        assert bool(attacks & with_cookie) is (host == "127.0.0.1")
        assert {text for way, text in results.items() if "/" not in way} <= {
            "nothing",
            "opaque 0 ",
        }
        after = door.admin.get("/api/system/worker-pause").json()["system"]
        assert after == before
        assert door.admin.get(f"/api/queue/jobs/{job}").json()["status"] == "queued"
        events = door.admin.get("/api/system/control-events").json()["items"]
        assert not [event for event in events if event["reason"] == "forged"]
        own.reload()  # and nobody was logged out
        expect(own.locator("#session")).to_contain_text("Anna")
    finally:
        context.close()


def test_what_comes_with_a_cookie_and_without_an_origin_is_taken_for_forged(door: Door) -> None:
    entered = httpx2.post(f"{door.url}/login", json={"token": door.token_of("admin", "Anna")})
    cookie = {"cookie": entered.headers["set-cookie"].split(";")[0]}
    body = {"action": "pause", "mode": "drain", "reason": "forged"}
    path = f"{door.url}/api/system/worker-pause"
    assert httpx2.get(path, headers=cookie).status_code == 200
    assert httpx2.post(path, headers=cookie, json=body).json()["code"] == "foreign_origin"
    good = httpx2.post(path, headers=cookie | {"origin": door.url}, json=body)
    assert good.status_code == 200
    assert good.json()["system"]["requestedBy"] == "Anna"
    done = {"action": "resume", "reason": "done"}
    assert httpx2.post(path, headers=cookie | {"sec-fetch-site": "same-origin"}, json=done).status_code == 200
