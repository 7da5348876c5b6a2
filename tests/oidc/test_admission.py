"""Tokens of an OpenID provider at a real server: who is admitted to what, and when it ends."""

import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from oidc.harness import asked, from_elsewhere, server_of, status_of
from support.provider import Provider, access_token, start_provider
from support.servers import Server, start_server
from support.stub_issuer import AUDIENCE, JWKS, StubIssuer, stub_issuer
from support.tokens import create_token_now

#: The contract: what has ended is refused within this, everywhere.
SECONDS_TO_END = 5.0
PATIENCE = 20.0


class Stream:
    """An open stream of events; `ended_at` says when it did."""

    def __init__(self, url: str, token: str) -> None:
        self._opened = threading.Event()
        self._done = threading.Event()
        self.status = 0
        self.ended_at = 0.0
        self._thread = threading.Thread(target=self._read, args=(url, from_elsewhere(token)), daemon=True)
        self._thread.start()
        assert self._opened.wait(PATIENCE)

    def _read(self, url: str, headers: dict[str, str]) -> None:
        with (
            httpx2.Client(trust_env=False, timeout=PATIENCE) as client,
            client.stream("GET", f"{url}/api/system/events", headers=headers) as answer,
        ):
            self.status = answer.status_code
            for _ in answer.iter_bytes():
                self._opened.set()
        self.ended_at = time.monotonic()
        self._opened.set()
        self._done.set()

    def ends(self) -> float:
        """When it has ended, by the monotonic clock."""
        assert self._done.wait(PATIENCE), "the stream is still open"
        assert self.status == 200
        return self.ended_at


def becomes(status: int, request: Callable[[], httpx2.Response]) -> float:
    """Ask until the answer has this status; how long that took, in seconds."""
    began = time.monotonic()
    while (answer := request()).status_code != status:
        assert time.monotonic() - began < PATIENCE, answer.text
        time.sleep(0.05)
    return time.monotonic() - began


def test_a_user_of_the_provider_does_what_its_role_admits_and_the_audit_log_names_it(
    server: Server, issuer: StubIssuer
) -> None:
    operator = issuer.token(sub="1", name="Ada", roles=["operator"])
    viewer = issuer.token(sub="2", name="Val", roles=["viewer"])
    pause = {"action": "pause", "mode": "drain", "reason": "r"}
    refused = asked(server.url, viewer, "/api/system/worker-pause", method="POST", json=pause)
    assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
    done = asked(server.url, operator, "/api/system/worker-pause", method="POST", json=pause)
    assert done.status_code == 200
    try:
        assert done.json()["system"]["requestedBy"] == "Ada"
        user_id = asked(server.url, operator).json()["userId"]
        assert done.json()["system"]["requestedByUserId"] == user_id
        log = asked(server.url, viewer, "/api/system/control-events?outcome=refused").json()["items"]
        assert (log[0]["actor"], log[0]["outcome"]) == ("Val", "refused")
    finally:
        resume = {"action": "resume", "reason": "the next test"}
        asked(server.url, operator, "/api/system/worker-pause", method="POST", json=resume)


def test_a_user_stays_the_same_when_its_name_changes(server: Server, issuer: StubIssuer) -> None:
    before, after = (
        asked(server.url, issuer.token(sub="renamed", name=name)).json() for name in ("Ada B.", "Ada L.")
    )
    assert before["userId"] == after["userId"]
    assert after["name"] == "Ada L."


def test_a_scope_narrows_what_a_user_may_do(server: Server, issuer: StubIssuer) -> None:
    token = issuer.token(scope="openid holdfast:viewer")
    assert asked(server.url, token).json()["roles"] == ["viewer"]
    pause = {"action": "pause", "mode": "drain", "reason": "r"}
    assert asked(server.url, token, "/api/system/worker-pause", method="POST", json=pause).status_code == 403


@pytest.mark.parametrize("way", ["REST", "MCP", "SSE", "WebSocket"])
def test_a_user_without_a_role_is_refused(server: Server, issuer: StubIssuer, way: str) -> None:
    assert status_of(way, server.url, issuer.token(sub="nobody", roles=["cleaner"])) == 403


def test_a_user_without_a_role_is_told_the_way_out(server: Server, issuer: StubIssuer) -> None:
    answer = asked(server.url, issuer.token(sub="nobody", name="Nora", roles=[]))
    assert answer.json()["code"] == "not_allowed"
    assert answer.json()["detail"].startswith("Nora is known, but has no role here.")
    assert "HOLDFAST_OIDC_ROLE_MAP" in answer.json()["detail"]


def test_an_open_stream_ends_with_its_token(server: Server, issuer: StubIssuer) -> None:
    end = int(time.time()) + 3
    late = Stream(server.url, issuer.token(exp=end)).ends() - time.monotonic() + time.time() - end
    assert -0.5 < late < SECONDS_TO_END


def test_a_disabled_user_is_refused_and_its_streams_end(
    server: Server, issuer: StubIssuer, database: Path
) -> None:
    token = issuer.token(sub="leaver", name="Lea")
    stream = Stream(server.url, token)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE users SET disabled_at = created_at WHERE subject = 'leaver'")
    began = time.monotonic()
    assert becomes(401, lambda: asked(server.url, token)) < SECONDS_TO_END
    assert stream.ends() - began < SECONDS_TO_END
    again = asked(server.url, issuer.token(sub="leaver", name="Lea", jti="another"))
    assert (again.status_code, again.json()["detail"]) == (401, "The user Lea is disabled here.")


def test_a_withdrawn_key_ends_what_is_open_by_it(tmp_path: Path) -> None:
    with stub_issuer() as issuer, server_of(f"sqlite:///{tmp_path}/holdfast.db", issuer) as server:
        old = issuer.token()
        stream = Stream(server.url, old)
        assert asked(server.url, old).status_code == 200
        del issuer.keys["one"]
        issuer.add("two", "RS256")
        began = time.monotonic()
        assert asked(server.url, issuer.token(kid="two")).status_code == 200
        assert becomes(401, lambda: asked(server.url, old)) < SECONDS_TO_END
        assert stream.ends() - began < SECONDS_TO_END


def test_a_flood_of_made_up_keys_asks_the_provider_once(server: Server, issuer: StubIssuer) -> None:
    assert asked(server.url, issuer.token()).status_code == 200
    before = issuer.asked[JWKS]
    answers = [
        asked(server.url, issuer.token(header={"kid": f"made up {number}"})).status_code
        for number in range(30)
    ]
    assert set(answers) == {401}
    assert issuer.asked[JWKS] - before <= 1


def test_tokens_of_our_own_are_taken_while_the_provider_is_away(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/holdfast.db"
    with stub_issuer() as issuer, server_of(url, issuer) as server:
        issuer.is_away = True
        refused = asked(server.url, issuer.token())
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert int(refused.headers["retry-after"]) > 0
        ours = create_token_now(url, role="viewer", user="val").token
        assert asked(server.url, ours).json()["name"] == "val"
        issuer.is_away = False
        becomes(200, lambda: asked(server.url, issuer.token()))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Provider, Server]]:
    folder = tmp_path_factory.mktemp("real")
    environment = {"HOLDFAST_AUTH_PROVIDER": "oidc", "HOLDFAST_OIDC_AUDIENCE": AUDIENCE}
    with (
        start_provider() as provider,
        start_server(
            f"sqlite:///{folder}/holdfast.db",
            **environment,
            HOLDFAST_OIDC_ISSUER=provider.issuer,
            HOLDFAST_TRUSTED_PROXIES="127.0.0.1",
        ) as server,
    ):
        yield provider, server


def test_a_user_who_logged_in_at_a_real_provider_is_admitted(real: tuple[Provider, Server]) -> None:
    provider, server = real
    token = access_token(provider, "ada", AUDIENCE, "openid holdfast:viewer holdfast:producer")[
        "access_token"
    ]
    who = asked(server.url, token).json()
    assert (who["name"], who["roles"], who["provider"]) == ("ada", ["producer", "viewer"], "oidc")


def test_a_program_is_admitted_by_its_client_credentials(real: tuple[Provider, Server]) -> None:
    provider, server = real
    who = asked(server.url, provider.robot_token(AUDIENCE)).json()
    assert (who["name"], who["roles"]) == ("robot", ["producer", "viewer"])


def test_a_token_of_a_real_provider_for_another_service_is_refused(real: tuple[Provider, Server]) -> None:
    provider, server = real
    assert asked(server.url, provider.robot_token("https://elsewhere.test")).status_code == 401


def test_an_id_token_of_a_real_provider_is_no_access_token(real: tuple[Provider, Server]) -> None:
    provider, server = real
    granted = access_token(provider, "ada", AUDIENCE)
    assert asked(server.url, granted["access_token"]).status_code == 200
    assert asked(server.url, granted["id_token"]).status_code == 401


def test_a_real_provider_changes_its_keys_without_a_restart_of_ours(real: tuple[Provider, Server]) -> None:
    provider, server = real
    old = provider.robot_token(AUDIENCE)
    assert asked(server.url, old).status_code == 200
    provider.new_key(keep=False)
    assert asked(server.url, provider.robot_token(AUDIENCE)).status_code == 200
    assert becomes(401, lambda: asked(server.url, old)) < SECONDS_TO_END
