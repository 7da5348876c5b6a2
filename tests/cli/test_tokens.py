"""`holdfast token`: the first one, what is kept of it, and how it ends."""

import json
import re
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import pytest

from cli.harness import Cli, Result
from holdfast_core.errors import NotAuthenticated
from holdfast_worker.client import Client
from support.servers import Server, start_server
from support.workers import until

TOKEN = re.compile(r"hf[aw]_[0-9a-f]{32}_[A-Za-z0-9_-]{43}\n")
#: A token that was revoked is refused by every process after this.
REVOKED_SECONDS = 5.0
#: A URL at which nothing answers.
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def server(database_url: str) -> Generator[Server]:
    with start_server(database_url, HOLDFAST_AUTH_PROVIDER="token") as server:
        yield server


@pytest.fixture
def host(database_url: str) -> Callable[..., Result]:
    """`holdfast token …` on the server's host. Which server HOLDFAST_URL names is nothing to it."""

    def run(*arguments: str, **environment: str) -> Result:
        settings = {"HOLDFAST_DATABASE_URL": database_url, "HOLDFAST_AUTH_PROVIDER": "token"}
        return Cli(NOWHERE)("token", *arguments, **(settings | environment))

    return run


def made(result: Result) -> tuple[str, str]:
    """The token that was made, and its id."""
    assert result.code == 0, result.err
    assert TOKEN.fullmatch(result.out)
    found = re.match(r"Made the token ([0-9a-f-]{36}): .* It is shown this once\.\n", result.err)
    assert found, result.err
    return result.out.strip(), found[1]


def refused_within(url: str, token: str, seconds: float) -> None:
    """Wait until the token is refused while it is in use; bounded."""
    with Client(url, token=token) as client:

        def look() -> bool:
            try:
                client.status()
            except NotAuthenticated:
                return True
            return False

        until(look, "the refusal", seconds)


def kept(database_url: str) -> bytes:
    """All that the database keeps of tokens, as it keeps it."""
    if database_url.startswith("sqlite"):
        path = Path(database_url.removeprefix("sqlite:///"))
        return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    import asyncpg

    async def read() -> bytes:
        connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
        try:
            rows: list[Any] = []
            for table in ("api_tokens", "agent_worker_tokens", "system_control_events"):
                rows += await connection.fetch(f"SELECT t::text AS line FROM {table} t")
            return "\n".join(row["line"] for row in rows).encode()
        finally:
            await connection.close()

    return anyio.run(read)


def test_the_first_token_is_made_on_a_fresh_database_and_opens_everything(tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path}/fresh.db"
    cli = Cli(NOWHERE)
    token, _ = made(
        cli("token", "create", "--role", "admin", "--user", "root", "--database-url", database_url)
    )
    with start_server(database_url, HOLDFAST_AUTH_PROVIDER="token") as server:
        cli = Cli(server.url)
        without = cli("status")
        assert (without.code, without.out) == (7, "")
        assert "holdfast login" in without.err
        assert "HOLDFAST_TOKEN" in without.err
        for arguments in (
            ["status"],
            ["enqueue", "--type", "t"],
            ["pause", "--mode", "drain", "--reason", "upgrade"],
            ["history"],
            ["resume", "--reason", "done"],
            ["workers"],
            ["token", "list", "--url", server.url],
            ["token", "create", "--url", server.url, "--worker-id", "exec-1"],
        ):
            done = cli(*arguments, HOLDFAST_TOKEN=token)
            assert done.code == 0, (arguments, done.err)
        (event, _) = cli("history", "--json", HOLDFAST_TOKEN=token).json["items"]
        assert event["actor"] == "root"


def test_a_token_is_shown_once_and_kept_nowhere(
    server: Server, database_url: str, host: Callable[..., Result]
) -> None:
    admin, _ = made(host("create", "--role", "admin", "--user", "root", "--name", "laptop"))
    worker, _ = made(host("create", "--worker-id", "exec-1", "--types", "a, b", "--capability", "gpu"))
    cli = Cli(server.url)
    by_server = cli(
        "token", "create", "--role", "viewer", "--user", "vera", "--url", server.url, HOLDFAST_TOKEN=admin
    )
    viewer, _ = made(by_server)
    assert cli("status", HOLDFAST_TOKEN=viewer).code == 0
    assert cli("status", "--token", "hfa_" + "0" * 32 + "_" + "x" * 43).code == 7
    places = {
        "the list": host("list", "--all").out + host("list", "--all", "--json").out,
        "the server's list": cli("token", "list", "--json", "--url", server.url, HOLDFAST_TOKEN=admin).out,
        "the log": server.log,
        "the database": kept(database_url).decode("latin-1"),
    }
    assert "laptop" in places["the list"]
    assert "laptop" in places["the database"]
    for token in (admin, worker, viewer):
        secret = token.split("_", 2)[2]
        for place, text in places.items():
            assert token not in text, place
            assert secret not in text, place


def test_a_list_shows_whose_what_until_when_and_when_last(
    server: Server, host: Callable[..., Result]
) -> None:
    token, token_id = made(host("create", "--role", "operator", "--user", "olga", "--expires", "12h"))
    made(host("create", "--worker-id", "exec-1", "--types", "a,b", "--capability", "gpu"))
    with Client(server.url, token=token) as client:
        client.status()
    used = until(lambda: host("list", "--json").json["items"][1]["lastUsedAt"], "the time of its use")
    done = host("list")
    heading, worker, person = done.out.splitlines()
    columns = ["ID", "KIND", "NAME", "ROLE", "USER", "WORKER", "EXPIRES", "LAST_USED", "REVOKED"]
    assert heading.split() == columns
    assert re.search(r"worker +exec-1 +worker +- +exec-1 \(a, b; gpu\) +- +- +-$", worker)
    assert re.search(rf"{token_id} +api +olga +operator +olga +- +\S+T\S+Z +{used[:19]}Z +-$", person)


def test_json_is_that_of_the_api(server: Server, host: Callable[..., Result]) -> None:
    done = host("create", "--role", "admin", "--user", "root", "--expires", "90d", "--json")
    assert done.code == 0
    by_host = done.json
    with Client(server.url, token=by_host["token"]) as client:
        client.create_token(role="admin", user="root", expires_in_seconds=60)
        assert json.loads(client.last_answer).keys() == by_host.keys()
        client.tokens()
        assert json.loads(client.last_answer)["items"][1] == host("list", "--json").json["items"][1] | {
            "lastUsedAt": json.loads(client.last_answer)["items"][1]["lastUsedAt"]
        }
    assert (by_host["role"], by_host["user"], by_host["createdBy"]) == ("admin", "root", "the server's host")


@pytest.mark.parametrize("by", ["host", "server"])
def test_a_revoked_token_is_refused_by_another_process_within_five_seconds(
    server: Server, database_url: str, host: Callable[..., Result], by: str
) -> None:
    admin, _ = made(host("create", "--role", "admin", "--user", "root"))
    token, token_id = made(host("create", "--role", "viewer", "--user", "vera"))
    with start_server(database_url, HOLDFAST_AUTH_PROVIDER="token") as other:
        for url in (server.url, other.url):
            with Client(url, token=token) as client:
                client.status()
        where = [] if by == "host" else ["--url", server.url, "--token", admin]
        done = host("revoke", token_id, *where)
        answered_at = time.monotonic()
        assert done.code == 0, done.err
        assert token_id in done.out
        for url in (other.url, server.url):
            refused_within(url, token, REVOKED_SECONDS - (time.monotonic() - answered_at))
        assert Cli(other.url)("status", HOLDFAST_TOKEN=admin).code == 0
    assert host("revoke", token_id).code == 0  # again: nothing changes
    assert token_id not in host("list").out
    assert token_id in host("list", "--all").out


def test_all_tokens_of_a_user_are_revoked_at_once(server: Server, host: Callable[..., Result]) -> None:
    tokens = [made(host("create", "--role", "viewer", "--user", "vera"))[0] for _ in range(2)]
    other, _ = made(host("create", "--role", "viewer", "--user", "olga"))
    done = host("revoke", "--user", "vera", "--json")
    assert (done.code, done.json) == (0, {"user": "vera", "revoked": 2})
    for token in tokens:
        refused_within(server.url, token, REVOKED_SECONDS)
    assert Cli(server.url)("status", HOLDFAST_TOKEN=other).code == 0
    unknown = host("revoke", "--user", "nobody")
    assert (unknown.code, unknown.out) == (1, "")
    assert "No user is called 'nobody'." in unknown.err


def test_a_token_that_has_expired_is_refused_and_listed_no_more(
    server: Server, host: Callable[..., Result]
) -> None:
    token, token_id = made(host("create", "--role", "viewer", "--user", "vera", "--expires", "4s"))
    assert Cli(server.url)("status", HOLDFAST_TOKEN=token).code == 0
    refused_within(server.url, token, 10.0)
    assert token_id not in host("list").out
    assert token_id in host("list", "--all").out


def test_what_is_not_known_is_named_and_the_rest_revoked(host: Callable[..., Result]) -> None:
    _, token_id = made(host("create", "--role", "viewer", "--user", "vera"))
    missing = "01999999-9999-7999-8999-999999999999"
    done = host("revoke", missing, "../x", token_id, "--json")
    assert done.code == 1
    assert f"Not known, so not revoked: {missing}, ../x." in done.err
    assert [item["id"] for item in done.json["items"]] == [token_id]
    assert host("list").err == "No token is good. --all shows those that were.\n"


def test_only_an_admin_makes_tokens_at_a_server(server: Server, host: Callable[..., Result]) -> None:
    operator, _ = made(host("create", "--role", "operator", "--user", "olga"))
    for arguments in (["create", "--role", "admin", "--user", "olga"], ["list"], ["revoke", "x-1"]):
        done = host(*arguments, "--url", server.url, HOLDFAST_TOKEN=operator)
        assert (done.code, done.out) == (7, ""), arguments
        assert "that takes the role admin" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create"], "--role ROLE --user NAME, or --worker-id ID"),
        (["create", "--role", "admin"], "--user is missing"),
        (["create", "--role", "admin", "--user", "a", "--worker-id", "w"], "exclude each other"),
        (["create", "--role", "worker", "--user", "a"], "'worker' is not one of"),
        (["create", "--worker-id", "w", "--user", "a"], "--user belongs to --role"),
        (["create", "--role", "admin", "--user", "a", "--types", "t"], "belong to --worker-id"),
        (["create", "--worker-id", "a b"], "workerId"),
        (["create", "--worker-id", "w", "--expires", "soon"], "not a duration"),
        (["create", "--worker-id", "w", "--expires", "0.5s"], "whole seconds"),
        (["create", "--worker-id", "w", "--token", "t"], "--token belongs to --url"),
        (["list", "--url", NOWHERE, "--database-url", "sqlite:////tmp/x"], "not both"),
        (["list", "--database-url", "nonsense"], "HOLDFAST_DATABASE_URL"),
        (["revoke"], "IDs of tokens, or --user"),
        (["revoke", "x", "--user", "a"], "IDs of tokens, or --user"),
        (["revoke", "--user", "a", "--url", NOWHERE], "on the server's host"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_made(sqlite_url: str, arguments: list[str], said: str) -> None:
    cli = Cli(NOWHERE)
    done = cli("token", *arguments, HOLDFAST_DATABASE_URL=sqlite_url)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err
    assert cli("token", "list", "--all", "--json", HOLDFAST_DATABASE_URL=sqlite_url).json == {"items": []}


def test_a_database_that_cannot_be_used_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = Cli(NOWHERE)("token", "list", "--database-url", f"sqlite:///{tmp_path}/file/holdfast.db")
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1


def test_a_server_that_is_away_ends_with_6() -> None:
    assert Cli(NOWHERE)("token", "list", "--url", NOWHERE, HOLDFAST_TOKEN="t").code == 6


def test_where_tokens_are_not_asked_for_that_is_said(sqlite_url: str) -> None:
    done = Cli(NOWHERE)("token", "create", "--worker-id", "w", "--database-url", sqlite_url)
    assert TOKEN.fullmatch(done.out)
    assert "HOLDFAST_AUTH_PROVIDER is disabled" in done.err
