"""MCP with OAuth 2.1: the SDK's own client finds the provider, registers, lets a user log in, and asks for more."""

import json
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
import pytest
from anyio.to_thread import run_sync
from mcp import Client, types
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthToken,
)
from pydantic import AnyUrl

from holdfast_core.policy import INCLUDED, may_call
from holdfast_core.states import Role
from holdfast_server.mcp.catalog import TOOLS
from support.provider import Provider, access_token, sign_in
from support.servers import Server, start_server
from support.tokens import bearer

pytestmark = pytest.mark.anyio

PATIENCE = 30
REDIRECT = "http://127.0.0.1:1/callback"
METADATA = "/.well-known/oauth-protected-resource/mcp"
PAUSE = {"mode": "drain", "reason": "r"}
PEOPLE = "holdfast:viewer holdfast:producer holdfast:operator"


@asynccontextmanager
async def serving(database_url: str, provider: Provider) -> AsyncGenerator[Server]:
    """A server for whose callers the provider vouches, under an address that it knows."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with start_server(
        database_url,
        "--port",
        str(port),
        HOLDFAST_AUTH_PROVIDER="oidc",
        HOLDFAST_OIDC_ISSUER=provider.issuer,
        HOLDFAST_PUBLIC_URL=f"http://127.0.0.1:{port}",
    ) as server:
        yield server


@dataclass
class Person:
    """Somebody with a browser, and what the client keeps of them. `asked`: what it has sent them away for."""

    name: str
    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None
    asked: list[dict[str, str]] = field(default_factory=list)
    _came_back: dict[str, str] = field(default_factory=dict)

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info

    async def log_in(self, url: str) -> None:
        """Follow the provider's pages, and say yes to what they ask."""
        self.asked.append(_query(url))
        with httpx2.Client(trust_env=False, timeout=PATIENCE) as browser:
            answer = await run_sync(sign_in, browser, url, self.name, REDIRECT)
        self._came_back = _query(answer.headers["location"])

    async def come_back(self) -> AuthorizationCodeResult:
        return AuthorizationCodeResult.model_validate(self._came_back)


def _query(url: str) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(urlsplit(url).query).items()}


def _metadata() -> OAuthClientMetadata:
    return OAuthClientMetadata(
        redirect_uris=[AnyUrl(REDIRECT)],
        client_name="an agent",
        token_endpoint_auth_method="none",
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        application_type="native",
    )


@asynccontextmanager
async def agent(server: Server, person: Person, mode: str = "auto") -> AsyncGenerator[Client]:
    """The SDK's client, acting for this person."""
    url = f"{server.url}/mcp"
    oauth = OAuthClientProvider(url, _metadata(), person, person.log_in, person.come_back)
    async with (
        httpx2.AsyncClient(auth=oauth, timeout=PATIENCE, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


def with_viewers_scope(server: Server, provider: Provider, name: str) -> Person:
    """Somebody whose client has a token already, which may only look."""
    granted = access_token(provider, name, f"{server.url}/mcp", "holdfast:viewer")
    assert granted["scope"] == "holdfast:viewer"
    known = OAuthClientInformationFull(
        client_id="public", redirect_uris=[AnyUrl(REDIRECT)], token_endpoint_auth_method="none"
    )
    return Person(name, OAuthToken.model_validate(granted), known)


async def said(client: Client, name: str, arguments: dict[str, Any]) -> str:
    with anyio.fail_after(PATIENCE):
        (content,) = (await client.call_tool(name, arguments)).content
    assert isinstance(content, types.TextContent)
    return content.text


def admitted(role: Role) -> list[str]:
    return [tool.name for tool in TOOLS if may_call(INCLUDED[role], tool.name)]


@pytest.fixture(params=["auto", "legacy"], ids=["2026-07-28", "2025-11-25"])
def mode(request: pytest.FixtureRequest) -> str:
    """How the client negotiates: the newest protocol, or the handshake of the older ones."""
    mode: str = request.param
    return mode


async def test_a_client_that_knows_nothing_finds_its_way_in(
    sqlite_url: str, provider: Provider, mode: str
) -> None:
    ada = Person("ada")
    async with serving(sqlite_url, provider) as server, agent(server, ada, mode) as client:
        (asked,) = ada.asked
        assert asked["resource"] == f"{server.url}/mcp"
        assert asked["code_challenge_method"] == "S256"
        assert set(PEOPLE.split()) <= set(asked["scope"].split())
        assert ada.client is not None
        assert ada.client.issuer == provider.issuer
        assert ada.client.client_id not in {"public", "dashboard"}  # it has registered itself

        assert [tool.name for tool in (await client.list_tools()).tools] == admitted(Role.OPERATOR)
        paused = json.loads(await said(client, "system.pause", PAUSE))
        assert paused["system"]["requestedBy"] == "ada"
        # Workers have tokens of ours, so no wider scope is asked for.
        claim = {"workerId": "w", "leaseSeconds": 60}
        assert (await said(client, "queue.claim", claim)).startswith("[not_allowed] ")
        assert len(ada.asked) == 1


async def test_roles_and_scopes_both_bound_what_a_token_may_do(
    sqlite_url: str, provider: Provider, mode: str
) -> None:
    async with serving(sqlite_url, provider) as server:
        async with agent(server, Person("val"), mode) as client:  # with all scopes, and the role viewer
            assert [tool.name for tool in (await client.list_tools()).tools] == admitted(Role.VIEWER)
        ada = with_viewers_scope(server, provider, "ada")
        async with agent(server, ada, mode) as client:  # an operator, with the scope of a viewer
            assert [tool.name for tool in (await client.list_tools()).tools] == admitted(Role.VIEWER)
            assert not ada.asked


@pytest.mark.requirement("SEC-01")
async def test_a_call_that_takes_a_wider_scope_is_made_once_the_user_has_granted_it(
    sqlite_url: str, provider: Provider
) -> None:
    async with serving(sqlite_url, provider) as server:
        ada = with_viewers_scope(server, provider, "ada")
        async with agent(server, ada) as client:
            assert json.loads(await said(client, "system.status", {}))["system"]["version"] == 1
            assert not ada.asked
            paused = json.loads(await said(client, "system.pause", PAUSE))
            assert paused["system"]["workersPaused"]
            (asked,) = ada.asked
            assert {"holdfast:viewer", "holdfast:operator"} <= set(asked["scope"].split())
            assert asked["resource"] == f"{server.url}/mcp"
            assert [tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools] == admitted(
                Role.OPERATOR
            )
            events = json.loads(await said(client, "system.history", {}))["items"]
            assert [(e["outcome"], e["actor"]) for e in events] == [("changed", "ada"), ("refused", "ada")]
            assert len(ada.asked) == 1


async def test_in_a_session_of_an_older_protocol_it_is_the_tool_error(
    sqlite_url: str, provider: Provider
) -> None:
    async with serving(sqlite_url, provider) as server:
        ada = with_viewers_scope(server, provider, "ada")
        async with agent(server, ada, "legacy") as client:
            for name, arguments in (("system.pause", PAUSE), ("queue.enqueue", {"type": "t"})):
                assert (await said(client, name, arguments)).startswith("[not_allowed] ")
        assert not ada.asked


async def test_who_may_not_even_with_every_scope_is_told_so(sqlite_url: str, provider: Provider) -> None:
    async with serving(sqlite_url, provider) as server:
        val = with_viewers_scope(server, provider, "val")
        async with agent(server, val) as client:
            assert (await said(client, "system.pause", PAUSE)).startswith("[not_allowed] val may not pause")
            assert not val.asked, "no wider scope would help, so none is asked for"


# What the client goes by


async def test_challenges_and_metadata_are_those_of_the_rfcs(sqlite_url: str, provider: Provider) -> None:
    async with (
        serving(sqlite_url, provider) as server,
        httpx2.AsyncClient(base_url=server.url, trust_env=False) as http,
    ):
        resource = f"{server.url}/mcp"
        for path in (METADATA, METADATA.removesuffix("/mcp")):
            found = await http.get(path)
            assert found.status_code == 200
            assert found.headers["content-type"] == "application/json"
            assert found.json() == {
                "resource": resource,
                "authorization_servers": [provider.issuer],
                "scopes_supported": sorted(PEOPLE.split()),
                "bearer_methods_supported": ["header"],
                "resource_name": "Holdfast",
            }

        nobody = await http.post("/mcp", json={})
        assert nobody.status_code == 401
        assert challenge(nobody) == {
            "realm": "holdfast",
            "scope": PEOPLE,
            "resource_metadata": server.url + METADATA,
        }
        call = envelope("system.pause", PAUSE)
        assert challenge(await http.post("/mcp", **call))["scope"] == "holdfast:operator"
        # A scope that no provider has is not asked for.
        claim = envelope("queue.claim", {"workerId": "w", "leaseSeconds": 60})
        assert challenge(await http.post("/mcp", **claim))["scope"] == PEOPLE
        # Only of /mcp: over REST there is no flow.
        assert challenge(await http.get("/api/system/worker-pause")) == {"realm": "holdfast"}

        viewer = access_token(provider, "ada", resource, "holdfast:viewer")["access_token"]
        http.headers.update(bearer(viewer))
        refused = await http.post("/mcp", **call)
        assert refused.status_code == 403
        assert challenge(refused) == {
            "realm": "holdfast",
            "error": "insufficient_scope",
            "scope": "holdfast:operator",
            "resource_metadata": server.url + METADATA,
        }
        assert refused.json()["error"]["message"].startswith("[not_allowed] ada may not pause")
        producing = await http.post("/mcp", **envelope("queue_enqueue", {"type": "t"}))
        assert challenge(producing)["scope"] == "holdfast:producer"
        claiming = await http.post("/mcp", **claim)
        assert claiming.status_code == 200
        assert claiming.json()["result"]["isError"] is True
        assert "www-authenticate" not in claiming.headers


async def test_a_token_for_another_server_is_refused(sqlite_url: str, provider: Provider) -> None:
    async with (
        serving(sqlite_url, provider) as server,
        httpx2.AsyncClient(base_url=server.url, trust_env=False) as http,
    ):
        for audience in (
            f"{server.url}/mcp/other",
            "https://other.example.org/mcp",
            "http://127.0.0.1:1/mcp",
        ):
            token = access_token(provider, "ada", audience, PEOPLE)["access_token"]
            answer = await http.post("/mcp", **envelope("system.status", {}, **bearer(token)))
            assert answer.status_code == 401, audience
            assert challenge(answer)["error"] == "invalid_token"
            assert token not in answer.text
        token = access_token(provider, "ada", f"{server.url}/mcp", PEOPLE)["access_token"]
        answer = await http.post("/mcp", **envelope("system.status", {}, **bearer(token)))
        assert answer.status_code == 200


def challenge(answer: httpx2.Response) -> dict[str, str]:
    """What WWW-Authenticate says."""
    (given,) = answer.headers.get_list("www-authenticate")
    assert given.startswith("Bearer ")
    return dict(re.findall(r'(\w+)="([^"]*)"', given))


def envelope(name: str, arguments: dict[str, Any], **headers: str) -> dict[str, Any]:
    """A call of 2026-07-28, by hand."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    call = {"name": name, "arguments": arguments, "_meta": meta}
    return {
        "json": {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call},
        "headers": {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": "tools/call",
            "mcp-name": name,
            **headers,
        },
    }
