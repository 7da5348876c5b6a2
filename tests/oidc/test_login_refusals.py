"""The browser login beside its happy path: every refusal is a page that a person can read, and leads nowhere else."""

import re
import time
from collections.abc import Generator
from html import unescape
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
import pytest

from holdfast_core.settings import load_settings
from holdfast_dashboard.app import create_app
from support.provider import DASHBOARD, DASHBOARD_SECRET, Provider, sign_in, start_provider
from support.servers import Server, start_server
from support.stores import core

PATIENCE: Final = 20.0
CALLBACK: Final = "/login/oidc/callback"


def environment(issuer: str, **more: str) -> dict[str, str]:
    return {
        "HOLDFAST_AUTH_PROVIDER": "oidc",
        "HOLDFAST_OIDC_ISSUER": issuer,
        "HOLDFAST_OIDC_AUDIENCE": "https://holdfast.test/mcp",
        "HOLDFAST_OIDC_CLIENT_ID": DASHBOARD,
        "HOLDFAST_OIDC_CLIENT_SECRET": DASHBOARD_SECRET,
        "HOLDFAST_TRUSTED_PROXIES": "127.0.0.1",
        **more,
    }


@pytest.fixture(scope="module")
def dashboard(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    folder = tmp_path_factory.mktemp("dashboard")
    with start_server(f"sqlite:///{folder}/holdfast.db", **environment(provider.issuer)) as server:
        yield server


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Generator[httpx2.Client]:
    """A browser without a window, from an address of its own."""
    number = abs(hash(request.node.name))
    headers = {"X-Forwarded-For": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}
    with httpx2.Client(trust_env=False, headers=headers) as client:
        yield client


def came_back(client: httpx2.Client, server: Server, user: str = "ada", **how: Any) -> str:
    """The address to which the provider sends the browser back."""
    begin = f"{server.url}/login/oidc?next={quote(how.pop('wanted', '/tasks'), safe='')}"
    return str(sign_in(client, begin, user, server.url, **how).headers["location"])


def read(answer: httpx2.Response) -> str:
    """What a person reads on a page, which has nothing in it that could run."""
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "<script" not in answer.text
    assert "Traceback" not in answer.text
    return unescape(re.sub(r"<[^>]+>", " ", answer.text))


def refused(answer: httpx2.Response, status: int, says: str) -> None:
    """It is a page that says this, leads back to the login, and opens no session."""
    assert (answer.status_code, "Not logged in") == (status, "Not logged in"), answer.text
    assert says in read(answer)
    assert 'href="/login?next=%2Ftasks"' in answer.text
    assert "http-equiv" not in answer.text
    assert not [c for c in answer.headers.get_list("set-cookie") if not c.startswith("holdfast-login=")]


def test_a_login_keeps_what_it_compares_in_a_cookie_of_its_own(
    client: httpx2.Client, dashboard: Server
) -> None:
    answer = client.get(f"{dashboard.url}/login/oidc")
    assert answer.status_code == 303
    asks = {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}
    assert asks["redirect_uri"] == dashboard.url + CALLBACK
    assert (asks["response_type"], asks["code_challenge_method"]) == ("code", "S256")
    assert asks["scope"].split() == ["openid", "profile", "email", "roles"]
    assert all(len(asks[name]) >= 43 for name in ("state", "nonce", "code_challenge"))
    (cookie,) = answer.headers.get_list("set-cookie")
    assert re.fullmatch(r"holdfast-login=[^;]+; HttpOnly; Max-Age=600; Path=/; SameSite=lax", cookie), cookie


def test_who_comes_back_gets_a_session_and_a_page_that_goes_on(
    client: httpx2.Client, dashboard: Server
) -> None:
    answer = client.get(came_back(client, dashboard, wanted="/tasks/jobs?q=a b&x=<"))
    assert answer.status_code == 200
    assert "You are logged in as ada." in read(answer)
    assert answer.text.count('content="0;url=/tasks"') == 1, "an address with blanks is none of ours"
    cookies = answer.headers.get_list("set-cookie")
    assert [cookie.split("=")[0] for cookie in cookies] == ["holdfast", "holdfast-login"]
    assert "HttpOnly" in cookies[0]
    assert "SameSite=strict" in cookies[0]
    assert "Max-Age=0" in cookies[1]
    who = client.get(f"{dashboard.url}/api/session").json()
    assert (who["name"], who["roles"]) == ("ada", ["operator", "producer", "viewer"])


def test_a_page_that_was_wanted_is_the_one_that_comes(client: httpx2.Client, dashboard: Server) -> None:
    answer = client.get(came_back(client, dashboard, wanted="/tasks/jobs?q=a%20b&status=running"))
    assert 'content="0;url=/tasks/jobs?q=a%20b&amp;status=running"' in answer.text


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example/tasks",
        "/\\evil.example",
        "/tasks\\@evil.example",
        "/tasks/../../evil",
        "/tasks/%2e%2E/login",
        "/tasks\r\nSet-Cookie: a=b",
        "/tasks/\t/evil",
        "javascript:alert(1)",
        '/tasks?"><script>alert(1)</script>',
        "/api/session",
        "/tasks" + "/x" * 600,
        " /tasks",
        "",
    ],
)
def test_no_login_leads_to_another_site(client: httpx2.Client, dashboard: Server, wanted: str) -> None:
    answer = client.get(came_back(client, dashboard, wanted=wanted))
    assert answer.status_code == 200
    assert 'content="0;url=/tasks"' in answer.text
    assert "evil" not in answer.text
    assert "<script" not in answer.text


def test_a_cookie_that_was_tampered_with_leads_to_no_other_site(
    client: httpx2.Client, dashboard: Server
) -> None:
    there = came_back(client, dashboard)
    kept = client.cookies["holdfast-login"].rpartition(".")[0]
    cookie = f"holdfast-login={kept}.aHR0cHM6Ly9ldmlsLmV4YW1wbGUv"  # https://evil.example/
    client.cookies.clear()
    answer = client.get(there, headers={"Cookie": cookie})
    assert 'content="0;url=/tasks"' in answer.text


@pytest.mark.parametrize("state", ["", "x" * 43, "\u00e9"])
def test_a_state_of_another_login_is_refused(client: httpx2.Client, dashboard: Server, state: str) -> None:
    there = re.sub(r"(?<=[?&]state=)[^&]+", quote(state), came_back(client, dashboard))
    refused(client.get(there), 401, "another login")


def test_an_answer_in_another_browser_is_refused(client: httpx2.Client, dashboard: Server) -> None:
    there = came_back(client, dashboard)
    client.cookies.clear()
    refused(client.get(there), 401, "has not begun a login")


def test_an_answer_of_another_provider_is_refused(client: httpx2.Client, dashboard: Server) -> None:
    there = came_back(client, dashboard)
    for other in (re.sub(r"&iss=[^&]+", "", there), re.sub(r"&iss=[^&]+", "&iss=http://x", there)):
        refused(client.get(other), 401, "another provider")


def test_a_code_is_good_once(client: httpx2.Client, dashboard: Server) -> None:
    there = came_back(client, dashboard)
    cookie = f"holdfast-login={client.cookies['holdfast-login']}"
    assert client.get(there).status_code == 200
    client.cookies.clear()
    refused(client.get(there), 401, "has not begun a login")
    refused(client.get(there, headers={"Cookie": cookie}), 401, "used before")


def test_a_made_up_code_is_refused(client: httpx2.Client, dashboard: Server) -> None:
    there = re.sub(r"(?<=[?&]code=)[^&]+", "made-up", came_back(client, dashboard))
    refused(client.get(there), 401, "used before")


@pytest.mark.parametrize("where", ["login", "consent"])
def test_who_says_no_reads_that_and_nothing_of_what_the_provider_wrote(
    client: httpx2.Client, dashboard: Server, where: str
) -> None:
    answer = client.get(came_back(client, dashboard, "val", cancel=where))
    refused(answer, 403, "declined")
    assert "said no" not in answer.text


@pytest.mark.parametrize(
    ("error", "status"),
    [("access_denied", 403), ("temporarily_unavailable", 503), ("invalid_scope", 401), ("<script>", 401)],
)
def test_errors_of_the_provider_are_told_in_our_own_words(
    client: httpx2.Client, dashboard: Server, error: str, status: int
) -> None:
    there = came_back(client, dashboard)
    kept = {name: values[0] for name, values in parse_qs(urlsplit(there).query).items() if name != "code"}
    answer = client.get(dashboard.url + CALLBACK, params={**kept, "error": error})
    refused(answer, status, "The OpenID provider")


def test_who_has_no_role_reads_what_to_do(client: httpx2.Client, dashboard: Server) -> None:
    refused(client.get(came_back(client, dashboard, "nora")), 403, "HOLDFAST_OIDC_ROLE_MAP")


def test_guessing_at_answers_is_slowed_down(client: httpx2.Client, dashboard: Server) -> None:
    answers = [client.get(f"{dashboard.url}{CALLBACK}?state=x&code={number}") for number in range(25)]
    assert {answer.status_code for answer in answers} == {401, 429}
    refused(answers[-1], 429, "Too many attempts")
    assert int(answers[-1].headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("method", "path", "mode", "dest", "status"),
    [
        ("GET", CALLBACK, "navigate", "document", 401),
        ("GET", CALLBACK, "no-cors", "image", 403),
        ("GET", CALLBACK, "cors", "empty", 403),
        ("GET", CALLBACK, "navigate", "iframe", 403),
        ("HEAD", CALLBACK, "navigate", "document", 403),
        ("POST", CALLBACK, "navigate", "document", 403),
        ("GET", "/login/oidc", "navigate", "document", 403),
        ("GET", "/login", "no-cors", "image", 403),
        ("GET", "/tasks", "navigate", "iframe", 403),
        ("GET", "/api/session", "navigate", "document", 403),
        ("GET", f"{CALLBACK}/", "navigate", "document", 403),
    ],
)
def test_other_sites_may_send_a_browser_to_the_callback_and_ask_nothing_else(
    client: httpx2.Client, dashboard: Server, method: str, path: str, mode: str, dest: str, status: int
) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    assert client.request(method, dashboard.url + path, headers=headers).status_code == status


def test_the_way_is_shut_where_the_dashboard_is_no_client_of_the_provider(
    client: httpx2.Client, server: Server
) -> None:
    for path in ("/login/oidc", CALLBACK):
        refused(client.get(server.url + path), 404, "no login by an OpenID provider")


@pytest.mark.anyio
@pytest.mark.parametrize("auth", ["disabled", "token"])
async def test_the_way_is_shut_where_there_is_no_provider(sqlite_url: str, auth: str) -> None:
    async with core(sqlite_url, auth_provider=auth) as (services, _):
        app = create_app(lambda: services, load_settings(auth_provider=auth))
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app), base_url="http://127.0.0.1"
        ) as client:
            for path in ("/login/oidc", CALLBACK):
                refused(await client.get(path), 404, "no login by an OpenID provider")


@pytest.mark.parametrize("claims", ["userinfo", "id_token"])
def test_roles_are_found_where_the_provider_names_them(
    client: httpx2.Client, tmp_path_factory: pytest.TempPathFactory, claims: str
) -> None:
    """Also by a client without a secret, through a public address, and with the claim that one of them has for it."""
    folder = tmp_path_factory.mktemp(claims)
    with (
        start_provider(claims=claims) as provider,
        start_server(
            f"sqlite:///{folder}/holdfast.db",
            **environment(
                provider.issuer,
                HOLDFAST_OIDC_CLIENT_ID="public",
                HOLDFAST_OIDC_CLIENT_SECRET="",
                HOLDFAST_OIDC_ROLE_CLAIM="realm_access.roles",
                HOLDFAST_OIDC_ROLE_MAP="operator=admin",
            ),
        ) as server,
    ):
        assert client.get(came_back(client, server)).status_code == 200
        assert "admin" in client.get(f"{server.url}/api/session").json()["roles"]


def test_a_provider_that_is_away_and_one_that_does_not_know_us_are_told(
    client: httpx2.Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("away")
    with start_provider() as provider:
        settings = environment(provider.issuer, HOLDFAST_OIDC_CLIENT_SECRET="wrong")
        provider.stop()
    with start_server(f"sqlite:///{folder}/holdfast.db", **settings) as server:
        answer = client.get(f"{server.url}/login/oidc")
        refused(answer, 503, "does not answer as it should")
        assert int(answer.headers["retry-after"]) > 0
        with start_provider(port=provider.port) as provider:
            give_up = time.monotonic() + PATIENCE
            while client.get(f"{server.url}/login/oidc").status_code == 503:
                assert time.monotonic() < give_up, server.log
                time.sleep(0.1)
            refused(client.get(came_back(client, server)), 503, "does not accept this server as its client")
            assert "openid_client_refused" in server.log
            there = came_back(client, server)
        refused(client.get(there), 503, "does not answer as it should")
