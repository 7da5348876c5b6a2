"""What the provider grants for a code is looked at before anybody is logged in by it."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from holdfast_core.errors import HoldfastError, NotAuthenticated, Unavailable
from holdfast_core.services import Vouched
from holdfast_core.services.issuer import Issuer
from holdfast_core.services.issuer_login import IssuerLogin, Pending
from holdfast_core.settings import load_settings
from support.stub_issuer import AUDIENCE, StubIssuer, new_key, stub_issuer, unsigned

pytestmark = pytest.mark.anyio

CLIENT: Final = "the dashboard"
REDIRECT: Final = "https://holdfast.test/login/oidc/callback"
PENDING: Final = Pending.new()


@asynccontextmanager
async def login(**settings: str) -> AsyncGenerator[tuple[StubIssuer, IssuerLogin]]:
    """The way in, at an issuer that grants what a test puts into its `answers`."""
    with stub_issuer() as there:
        there.metadata = {
            "authorization_endpoint": f"{there.url}/auth?tenant=a",
            "token_endpoint": f"{there.url}/token",
            "userinfo_endpoint": f"{there.url}/me",
        }
        grant(there, good(there))
        known = load_settings(
            auth_provider="oidc",
            oidc_issuer=there.url,
            oidc_audience=AUDIENCE,
            oidc_client_id=CLIENT,
            **settings,
        )
        async with aclosing(Issuer(known)) as issuer:
            assert issuer.login is not None
            yield there, issuer.login


def good(there: StubIssuer, **changed: Any) -> str:
    """An ID token for this login."""
    return there.token(**{"aud": CLIENT, "nonce": PENDING.nonce, **changed})


def grant(there: StubIssuer, id_token: Any, **more: Any) -> None:
    there.answers["/token"] = (
        200,
        {"access_token": "opaque", "token_type": "Bearer", "id_token": id_token, **more},
    )


async def finish(way: IssuerLogin, **answer: str) -> Vouched:
    return await way.finish(PENDING, {"state": PENDING.state, "code": "c", **answer}, REDIRECT)


async def test_a_good_id_token_logs_in() -> None:
    async with login() as (there, way):
        who = await finish(way)
        assert (who.issuer, who.subject, who.name) == (there.url, "ada", "Ada")
        assert {role.value for role in who.roles} == {"operator", "producer", "viewer"}
        assert there.asked["/me"] == 0, "it had said everything"


BAD: Final[dict[str, Callable[[StubIssuer], Any]]] = {
    "none": lambda _: None,
    "a number": lambda _: 7,
    "nonsense": lambda _: "a.b.c",
    "of another login": lambda there: good(there, nonce="x" * 43),
    "without a nonce": lambda there: good(there, nonce=None),
    "with a nonce of another kind": lambda there: good(there, nonce=["x"]),
    "with a nonce of other letters": lambda there: good(there, nonce="\ud800"),
    "an access token": lambda there: good(there, aud=AUDIENCE),
    "for another client": lambda there: good(there, aud="another"),
    "for us and another client": lambda there: good(there, aud=[CLIENT, "another"]),
    "for us, given to another client": lambda there: good(there, aud=[CLIENT, "another"], azp="another"),
    "given to another client": lambda there: good(there, azp="another"),
    "given to a list": lambda there: good(there, azp=[CLIENT]),
    "of another issuer": lambda there: good(there, iss="https://elsewhere.test"),
    "expired": lambda there: good(there, exp=int(time.time()) - 1),
    "not yet good": lambda there: good(there, iat=int(time.time()) + 120),
    "without a subject": lambda there: good(there, sub=None),
    "without a signature": lambda there: unsigned(
        there.claims(aud=CLIENT, nonce=PENDING.nonce), {"alg": "none", "kid": "one"}
    ),
    "signed by somebody else": lambda there: good(there, key=new_key("RS256")),
}


@pytest.mark.parametrize("bad", BAD)
async def test_an_id_token_that_is_not_good_logs_nobody_in(bad: str) -> None:
    async with login() as (there, way):
        grant(there, BAD[bad](there))
        with pytest.raises((NotAuthenticated, Unavailable)):
            await finish(way)


async def test_an_id_token_for_several_that_names_us_logs_in() -> None:
    async with login() as (there, way):
        grant(there, good(there, aud=[CLIENT, "another"], azp=CLIENT))
        assert (await finish(way)).subject == "ada"


async def test_the_provider_is_asked_for_what_the_id_token_does_not_say() -> None:
    async with login() as (there, way):
        grant(there, good(there, roles=None, name=None))
        there.answers["/me"] = (
            200,
            {"sub": "ada", "roles": ["viewer"], "preferred_username": "ada l", "aud": "x"},
        )
        who = await finish(way)
        assert (who.name, {role.value for role in who.roles}) == ("ada l", {"viewer"})


@pytest.mark.parametrize(
    "said", [{"sub": "another", "roles": ["admin"]}, {"roles": ["admin"]}, {"sub": ["ada"]}]
)
async def test_what_is_said_of_another_user_does_not_count(said: dict[str, Any]) -> None:
    async with login() as (there, way):
        grant(there, good(there, roles=None))
        there.answers["/me"] = 200, said
        with pytest.raises(NotAuthenticated):
            await finish(way)


@pytest.mark.parametrize(
    ("status", "answer", "told"),
    [
        (400, {"error": "invalid_grant"}, NotAuthenticated),
        (401, {"error": "invalid_client"}, Unavailable),
        (400, {}, Unavailable),
        (500, {"error": "invalid_grant"}, Unavailable),
        (200, {}, Unavailable),
        (302, {"id_token": "x"}, Unavailable),
    ],
)
async def test_a_code_that_is_not_taken_logs_nobody_in(
    status: int, answer: dict[str, Any], told: type[HoldfastError]
) -> None:
    async with login() as (there, way):
        there.answers["/token"] = status, answer
        with pytest.raises(told) as refused:
            await finish(way)
        assert "invalid" not in refused.value.detail


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("authorization_endpoint", "javascript:alert(1)"),
        ("authorization_endpoint", "http://login.example.org/auth"),
        ("authorization_endpoint", None),
        ("token_endpoint", "http://login.example.org/token"),
        ("token_endpoint", None),
    ],
)
async def test_addresses_that_anybody_could_answer_are_not_gone_to(endpoint: str, url: str | None) -> None:
    async with login() as (there, way):
        there.metadata[endpoint] = url
        with pytest.raises(Unavailable):
            await (way.begin(REDIRECT) if endpoint == "authorization_endpoint" else finish(way))


async def test_each_login_is_begun_with_values_of_its_own() -> None:
    async with login() as (there, way):
        one, other = [await way.begin(REDIRECT) for _ in range(2)]
        assert one[1] != other[1]
        query = parse_qs(urlsplit(one[0]).query)
        assert one[0].startswith(f"{there.url}/auth?tenant=a&response_type=code&")
        assert (query["client_id"], query["redirect_uri"]) == ([CLIENT], [REDIRECT])
        assert one[1].verifier not in one[0]


@pytest.mark.parametrize(
    ("methods", "secret", "sent"),
    [
        (
            ["client_secret_basic", "client_secret_post"],
            "s e/c",
            ("Basic dGhlK2Rhc2hib2FyZDpzK2UlMkZj", False),
        ),
        (["client_secret_post"], "s e/c", (None, True)),
        (["private_key_jwt"], "s e/c", ("Basic dGhlK2Rhc2hib2FyZDpzK2UlMkZj", False)),
        (["client_secret_basic"], None, (None, False)),
    ],
    ids=["basic", "post", "neither", "public"],
)
async def test_the_client_says_who_it_is_as_the_provider_takes_it(
    monkeypatch: pytest.MonkeyPatch, methods: list[str], secret: str | None, sent: tuple[str | None, bool]
) -> None:
    async with login(**({} if secret is None else {"oidc_client_secret": secret})) as (there, way):
        there.metadata["token_endpoint_auth_methods_supported"] = methods
        seen: list[tuple[dict[str, str], dict[str, str]]] = []
        wire = way._wire
        post = wire.post

        async def watched(url: str, form: dict[str, str], headers: dict[str, str]) -> Any:
            seen.append((form, headers))
            return await post(url, form, headers)

        monkeypatch.setattr(wire, "post", watched)
        await finish(way)
        ((form, headers),) = seen
        assert (
            headers.get("authorization"),
            form.get("client_secret") == secret and secret is not None,
        ) == sent
        assert ("client_id" in form) == (headers.get("authorization") is None)
        assert form["code_verifier"] == PENDING.verifier
