"""The provider's keys: new ones count, withdrawn ones end, and nobody can have them asked for all the time."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import jwt
import pytest

from holdfast_core.clock import SystemClock
from holdfast_core.errors import NotAuthenticated, Unavailable
from holdfast_core.services.issuer import Issuer
from holdfast_core.services.issuer_keys import AWAY_SECONDS, MAX_KEYS, UNKNOWN_SECONDS
from holdfast_core.services.issuer_wire import MAX_ANSWER_BYTES, RETRY_SECONDS
from holdfast_core.settings import load_settings
from support.stub_issuer import AUDIENCE, DISCOVERY, JWKS, StubIssuer, new_key, stub_issuer

pytestmark = pytest.mark.anyio

PATIENCE = 20.0


class MovedClock(SystemClock):
    """The host's clocks, of which one goes on when a test says so."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Known:
    """The provider as our side sees it."""

    def __init__(self, there: StubIssuer) -> None:
        self.there = there
        self.clock = MovedClock()
        settings = load_settings(auth_provider="oidc", oidc_issuer=there.url, oidc_audience=AUDIENCE)
        self.issuer = Issuer(settings, self.clock)

    async def takes(self, token: str) -> bool:
        try:
            await self.issuer.verify(token)
        except NotAuthenticated:
            return False
        return True


@asynccontextmanager
async def known() -> AsyncGenerator[Known]:
    with stub_issuer() as there:
        one = Known(there)
        async with aclosing(one.issuer):
            yield one


async def test_the_provider_is_asked_once_for_many_tokens() -> None:
    async with known() as one:
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one.issuer.verify, one.there.token(sub=f"user {number}"))
        assert one.there.asked == {DISCOVERY: 1, JWKS: 1}


async def test_a_new_key_counts_at_once() -> None:
    async with known() as one:
        assert await one.takes(one.there.token())
        one.there.add("two", "ES256")
        assert await one.takes(one.there.token(kid="two"))
        assert await one.takes(one.there.token())


async def test_a_flood_of_unknown_keys_asks_the_provider_once_in_ten_seconds() -> None:
    async with known() as one:
        assert await one.takes(one.there.token())
        before = one.there.asked[JWKS]
        for more in (1, 2, 3):
            async with anyio.create_task_group() as tasks:
                for number in range(200):
                    token = one.there.token(header={"kid": f"made up {more} {number}"})
                    tasks.start_soon(one.takes, token)
            assert one.there.asked[JWKS] - before == more
            one.clock.ahead += UNKNOWN_SECONDS


async def test_a_flood_at_the_start_is_one_question_too() -> None:
    async with known() as one:
        for number in range(50):
            assert not await one.takes(one.there.token(header={"kid": f"made up {number}"}))
        assert one.there.asked[JWKS] == 1


async def test_a_flood_holds_up_nobody_whose_key_is_known() -> None:
    async with known() as one:
        assert await one.takes(one.there.token())
        for number in range(50):
            assert not await one.takes(one.there.token(header={"kid": f"made up {number}"}))
            assert await one.takes(one.there.token())


async def test_a_withdrawn_key_ends_when_the_keys_are_asked_for_again() -> None:
    async with known() as one:
        old = one.there.token()
        vouched = await one.issuer.verify(old)
        assert vouched.key is not None
        assert one.issuer.trusts(vouched.key)
        del one.there.keys["one"]
        one.there.add("two", "RS256")
        assert await one.takes(old), "until somebody asks, the key is not known to be gone"
        assert await one.takes(one.there.token(kid="two"))
        assert not one.issuer.trusts(vouched.key)
        assert not await one.takes(old)


async def test_a_key_with_the_name_of_a_withdrawn_one_is_another_key() -> None:
    async with known() as one:
        old = one.there.token()
        vouched = await one.issuer.verify(old)
        assert vouched.key is not None
        one.there.add("one", "RS256")
        assert not await one.takes(one.there.token(header={"kid": "unknown"}))
        assert not one.issuer.trusts(vouched.key)
        assert not await one.takes(old)
        assert await one.takes(one.there.token())


async def test_a_key_is_withdrawn_though_nobody_names_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_core.services.issuer.KEPT_SECONDS", 0.02)
    async with known() as one, anyio.create_task_group() as tasks:
        tasks.start_soon(one.issuer.run)
        vouched = await one.issuer.verify(one.there.token())
        assert vouched.key is not None
        del one.there.keys["one"]
        with anyio.fail_after(PATIENCE):
            while one.issuer.trusts(vouched.key):
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()


async def test_nobody_is_asked_before_a_token_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_core.services.issuer.KEPT_SECONDS", 0.001)
    async with known() as one:
        with anyio.move_on_after(0.1):
            await one.issuer.run()
        assert not one.there.asked


async def test_known_keys_count_while_the_provider_is_away_and_unknown_ones_are_not_refused_for_good() -> (
    None
):
    async with known() as one:
        assert await one.takes(one.there.token())
        one.there.is_away = True
        one.there.add("two", "RS256")
        with pytest.raises(Unavailable) as refused:
            await one.issuer.verify(one.there.token(kid="two"))
        assert refused.value.retry_after == RETRY_SECONDS
        assert await one.takes(one.there.token())
        with pytest.raises(Unavailable):
            await one.issuer.verify(one.there.token(kid="two"))
        one.there.is_away = False
        one.clock.ahead += UNKNOWN_SECONDS
        assert await one.takes(one.there.token(kid="two"))


async def test_a_provider_that_stays_away_is_not_believed_for_ever() -> None:
    async with known() as one:
        assert await one.takes(one.there.token())
        one.there.is_away = True
        one.clock.ahead += AWAY_SECONDS + 1
        with pytest.raises(Unavailable):
            await one.issuer.verify(one.there.token())


async def test_a_provider_that_is_away_at_the_start_is_asked_again_after_a_moment() -> None:
    async with known() as one:
        one.there.is_away = True
        for _ in range(20):
            with pytest.raises(Unavailable):
                await one.issuer.verify(one.there.token())
        assert one.there.asked == {DISCOVERY: 1}
        one.there.is_away = False
        one.clock.ahead += RETRY_SECONDS
        assert await one.takes(one.there.token())


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "http://127.0.0.1:1"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": "http://keys.example.org/"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "http://127.0.0.1:1/keys"},
        {"jwks_uri": "no address at all"},
        {"more": "x" * MAX_ANSWER_BYTES},
    ],
    ids=[
        "another-issuer",
        "no-issuer",
        "no-keys",
        "over-the-net",
        "file",
        "nobody-there",
        "no-address",
        "huge",
    ],
)
async def test_a_provider_that_speaks_nonsense_is_as_if_it_were_away(metadata: dict[str, Any]) -> None:
    async with known() as one:
        one.there.metadata = metadata
        with pytest.raises(Unavailable) as refused:
            await one.issuer.verify(one.there.token())
        assert "127.0.0.1" not in refused.value.detail


@pytest.mark.parametrize(
    "keys",
    [
        None,
        {},
        ["x"],
        [{}],
        [{"kty": "oct", "k": "c2VjcmV0", "kid": "one"}],
        [{"kty": "RSA", "n": 1, "e": [], "kid": "one"}],
        [{"kty": ["RSA"], "kid": "one"}],
        [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "one"}],
    ],
    ids=["null", "object", "text", "empty", "symmetric", "numbers", "list", "off-the-curve"],
)
async def test_keys_that_cannot_be_read_are_none(keys: Any) -> None:
    async with known() as one:
        token = one.there.token()
        one.there.metadata = {"jwks_uri": f"{one.there.url}/others"}
        one.there.answers["/others"] = 200, {"keys": keys}
        with pytest.raises((Unavailable, NotAuthenticated)):
            await one.issuer.verify(token)


async def test_keys_for_encryption_short_keys_and_keys_beyond_the_hundredth_sign_nothing() -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    short = rsa.generate_private_key(65_537, 1_024)
    key = new_key("RS256")
    public = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    published = [
        {**public, "kid": "encryption", "use": "enc"},
        {**public, "kid": "other algorithm", "alg": "RSA-OAEP"},
        {**jwt.algorithms.RSAAlgorithm.to_jwk(short.public_key(), as_dict=True), "kid": "short"},
        *({**public, "kid": f"{number}"} for number in range(3, MAX_KEYS + 1)),
    ]
    async with known() as one:
        one.there.metadata = {"jwks_uri": f"{one.there.url}/others"}
        one.there.answers["/others"] = 200, {"keys": published}
        for kid in ("encryption", "other algorithm", str(MAX_KEYS)):
            assert not await one.takes(one.there.token(key=key, header={"kid": kid})), kid
        assert await one.takes(one.there.token(key=key, header={"kid": str(MAX_KEYS - 1)}))
        with pytest.warns(jwt.InsecureKeyLengthWarning):
            weak = one.there.token(key=short, header={"kid": "short"})
        assert not await one.takes(weak)


async def test_a_token_without_a_key_id_is_taken_where_only_one_key_can_be_meant() -> None:
    async with known() as one:
        token = jwt.encode(one.there.claims(), one.there.keys["one"][1], algorithm="RS256")
        assert await one.takes(token)
    async with known() as one:
        one.there.add("two", "RS256")
        token = jwt.encode(one.there.claims(), one.there.keys["one"][1], algorithm="RS256")
        assert not await one.takes(token)
