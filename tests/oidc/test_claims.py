"""What a token says of its user becomes a name and roles here."""

import json
from base64 import urlsafe_b64encode
from contextlib import aclosing
from typing import Any, Final

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from holdfast_core.errors import ConfigurationError, NotAuthenticated
from holdfast_core.services import Vouched
from holdfast_core.services.issuer import Issuer
from holdfast_core.settings import load_settings
from support.stub_issuer import AUDIENCE, StubIssuer

OPERATOR = {"operator", "producer", "viewer"}


async def vouched(issuer: StubIssuer, known_as: dict[str, str] | None = None, **claims: Any) -> Vouched:
    known = load_settings(
        auth_provider="oidc", oidc_issuer=issuer.url, oidc_audience=AUDIENCE, **(known_as or {})
    )
    async with aclosing(Issuer(known)) as one:
        return await one.verify(issuer.token(**claims))


@pytest.mark.parametrize(
    ("known_as", "claims", "roles"),
    [
        ({}, {"roles": "operator"}, OPERATOR),
        ({}, {"roles": "cleaner viewer"}, {"viewer"}),
        ({}, {"roles": ["cleaner", "operator", 7, None]}, OPERATOR),
        ({}, {"roles": None}, set()),
        ({}, {"roles": {"operator": True}}, set()),
        ({}, {"roles": ["Operator", "worker"]}, set()),
        ({"oidc_role_claim": "realm_access.roles"}, {"realm_access": {"roles": ["viewer"]}}, {"viewer"}),
        ({"oidc_role_claim": "realm_access.roles"}, {"realm_access": ["viewer"]}, set()),
        ({"oidc_role_claim": "https://x.test/roles"}, {"https://x.test/roles": ["viewer"]}, {"viewer"}),
        (
            {"oidc_role_claim": "groups", "oidc_role_map": "queue ops=operator,admin=viewer"},
            {"groups": ["queue ops"]},
            OPERATOR,
        ),
        ({"oidc_role_map": "ops=operator"}, {"roles": ["operator"]}, set()),
    ],
)
@pytest.mark.anyio
async def test_roles_come_from_the_claim_by_the_map(
    issuer: StubIssuer, known_as: dict[str, str], claims: dict[str, Any], roles: set[str]
) -> None:
    assert {role.value for role in (await vouched(issuer, known_as, **claims)).roles} == roles


@pytest.mark.parametrize(
    ("scopes", "roles"),
    [
        ({}, OPERATOR),
        ({"scope": "openid profile"}, OPERATOR),
        ({"scope": "openid holdfast:viewer"}, {"viewer"}),
        ({"scope": "holdfast:admin"}, OPERATOR),
        ({"scp": ["holdfast:producer"]}, {"producer", "viewer"}),
        ({"scp": "holdfast:producer"}, {"producer", "viewer"}),
        ({"scope": "holdfast:worker"}, set()),
        ({"scope": 7, "scp": {"holdfast:viewer": 1}}, OPERATOR),
    ],
)
@pytest.mark.anyio
async def test_scopes_narrow_the_roles_and_never_widen_them(
    issuer: StubIssuer, scopes: dict[str, Any], roles: set[str]
) -> None:
    assert {role.value for role in (await vouched(issuer, **scopes)).roles} == roles


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"preferred_username": "ada", "name": "Ada L.", "email": "a@x.test"}, "ada"),
        ({"name": "Ada L.", "email": "a@x.test"}, "Ada L."),
        ({"name": "  ", "email": "a@x.test"}, "a@x.test"),
        ({"name": ["Ada"]}, "subject"),
        ({"name": "A\u202eda\x1b[2J"}, "A\\u202eda\\x1b[2J"),
        ({"name": "\ud800"}, "\\ud800"),
        ({"name": "x" * 999}, "x" * 255),
    ],
)
@pytest.mark.anyio
async def test_the_name_is_the_one_that_people_know_and_hides_nothing(
    issuer: StubIssuer, claims: dict[str, Any], name: str
) -> None:
    said = await vouched(issuer, **{"name": None, "sub": "subject", **claims})
    assert (said.name, said.subject, said.issuer) == (name, "subject", issuer.url)


def test_the_provider_cannot_make_workers() -> None:
    with pytest.raises(
        ConfigurationError, match=r"HOLDFAST_OIDC_ROLE_MAP .*workers take tokens of this server"
    ):
        load_settings(oidc_role_map="robots=worker")


_JSON: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["viewer", AUDIENCE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_NAMES: Final = (
    *("iss", "aud", "sub", "exp", "iat", "nbf", "jti", "azp", "client_id", "typ", "events", "nonce"),
    *("name", "preferred_username", "email", "roles", "scope", "scp", "realm_access"),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(_NAMES), _JSON, max_size=3),
    st.dictionaries(st.sampled_from(["kid", "typ", "crit", "b64", "jwk", "cty", "zip"]), _JSON, max_size=2),
)
def test_whatever_a_genuine_token_says_it_is_taken_or_refused(
    issuer: StubIssuer, claims: dict[str, Any], header: dict[str, Any]
) -> None:
    parts = [
        json.dumps(part) for part in ({"alg": "ES256", "kid": "ES256", **header}, issuer.claims(**claims))
    ]
    signed = ".".join(urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)
    signature = ECAlgorithm(ECAlgorithm.SHA256).sign(signed.encode(), issuer.keys["ES256"][1])
    token = f"{signed}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    async def verify() -> Vouched:
        known = load_settings(
            auth_provider="oidc",
            oidc_issuer=issuer.url,
            oidc_audience=AUDIENCE,
            oidc_role_claim="realm_access.roles",
        )
        async with aclosing(Issuer(known)) as one:
            return await one.verify(token)

    try:
        said = anyio.run(verify)
    except NotAuthenticated:
        return
    assert said.name
    assert said.name.isprintable()
    assert 0 < said.seconds_left < float("inf")
