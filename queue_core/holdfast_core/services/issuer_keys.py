"""What the OpenID provider says of itself: where it is asked what, and which keys it signs with.

Both are kept, and asked for again now and then, so that a key that the provider has withdrawn ends here, too; a token
that names a key which is not known makes it sooner, so that a new one counts at once. How often it may is bounded:
anybody can make up such tokens. While the provider is away its keys go on counting, for a day.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final, cast

import jwt
from anyio import CancelScope, Lock
from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast_core.clock import Clock
from holdfast_core.errors import NotAuthenticated, Unavailable
from holdfast_core.services.issuer_wire import RETRY_SECONDS, Wire

__all__ = ["KEPT_SECONDS", "Key", "Keys", "Metadata"]

#: How long metadata and keys are taken for current.
KEPT_SECONDS: Final = 600.0
#: How long the keys of a provider that is away count.
AWAY_SECONDS: Final = 86_400.0
#: How often a token may name an unknown key and thereby have the keys asked for.
UNKNOWN_SECONDS: Final = 10.0
#: Keys that are looked at; the others are as if they were not there.
MAX_KEYS: Final = 100
#: Shorter ones can be broken, and longer ones cost too much to check.
RSA_BITS: Final = range(2_048, 16_385)

_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
#: The algorithms of each type of key, by its curve. All are asymmetric: who can check a token cannot make one.
_FITTING: Final[dict[tuple[str, str | None], frozenset[str]]] = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}
#: What makes a key the one that it is (RFC 7638).
_MEMBERS: Final = ("kty", "crv", "n", "e", "x", "y")


class Metadata(BaseModel):
    """What is needed of the provider's metadata (OpenID Connect Discovery, RFC 8414)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    issuer: str
    jwks_uri: str
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    token_endpoint_auth_methods_supported: list[str] = ["client_secret_basic"]
    scopes_supported: list[str] = []
    authorization_response_iss_parameter_supported: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, and what it may have signed. `thumbprint` is of the key itself, whatever it is called."""

    kid: str | None
    algorithms: frozenset[str]
    thumbprint: str
    public: Any


class Keys:
    """The provider's metadata and keys."""

    def __init__(self, issuer: str, wire: Wire, clock: Clock) -> None:
        self._issuer = issuer
        self._wire = wire
        self._clock = clock
        self._metadata: Metadata | None = None
        self._keys: tuple[Key, ...] = ()
        self._thumbprints: frozenset[str] = frozenset()
        self._lock = Lock()
        self._renewed_at = float("-inf")
        self._failed_at = float("-inf")
        self._failure: Unavailable | None = None
        self._unknown_at = float("-inf")

    async def metadata(self) -> Metadata:
        """What the provider says of itself. Raises Unavailable."""
        if self._metadata is None:
            await self.renew()
        assert self._metadata is not None
        return self._metadata

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """The key that this token says it was signed with. Raises NotAuthenticated where the provider has none such,
        and Unavailable where that cannot be found out."""
        now = self._clock.monotonic()
        asked = now - self._renewed_at > AWAY_SECONDS
        if asked:
            await self.renew()
        found = self._known(kid, algorithm)
        if found is not None:
            return found
        # One request asks the provider; others that come meanwhile wait for what it hears.
        may_ask = now - self._unknown_at >= UNKNOWN_SECONDS
        if kid is not None and (may_ask or self._lock.statistics().locked):
            if may_ask:
                self._unknown_at = now
            if not asked:
                await self.renew()
            found = self._known(kid, algorithm)
        if found is not None:
            return found
        if self._failure is not None:
            raise self._failed()
        raise NotAuthenticated("The token was signed with a key that the OpenID provider does not have.")

    def trusts(self, thumbprint: str) -> bool:
        """Whether this key is still one of the provider's."""
        return thumbprint in self._thumbprints

    @property
    def are_wanted(self) -> bool:
        """Whether they were asked for at all, so that they should be kept current."""
        return self._metadata is not None

    async def renew(self) -> None:
        """Ask the provider. One asks at a time, and who waited takes what it got. Raises Unavailable."""
        asked_at = self._clock.monotonic()
        async with self._lock:
            if self._renewed_at >= asked_at:
                return
            if self._failure is not None and self._clock.monotonic() - self._failed_at < RETRY_SECONDS:
                raise self._failed()
            try:
                # Shielded: who hangs up does not make the next one begin anew. The wire bounds it.
                with CancelScope(shield=True):
                    await self._read()
            except Unavailable as error:
                self._failure, self._failed_at = error, self._clock.monotonic()
                raise
            self._failure, self._renewed_at = None, self._clock.monotonic()

    def _failed(self) -> Unavailable:
        assert self._failure is not None
        return Unavailable(self._failure.detail, retry_after=RETRY_SECONDS)

    async def _read(self) -> None:
        address = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            metadata = Metadata.model_validate(await self._wire.get(address))
        except ValidationError as error:
            named = ", ".join(str(item["loc"][0]) for item in error.errors() if item["loc"])
            raise self._wire.away(f"{address} has no usable {named}") from None
        if metadata.issuer != self._issuer:
            raise self._wire.away(f"{address} is of the issuer {metadata.issuer!r}")
        found = (await self._wire.get(metadata.jwks_uri)).get("keys")
        if not isinstance(found, list):
            raise self._wire.away(f"{metadata.jwks_uri} has no keys")
        some = cast("list[object]", found)[:MAX_KEYS]
        self._metadata = metadata
        self._keys = tuple(key for key in map(_key, some) if key is not None)
        self._thumbprints = frozenset(key.thumbprint for key in self._keys)

    def _known(self, kid: str | None, algorithm: str) -> Key | None:
        fitting = [key for key in self._keys if algorithm in key.algorithms]
        if kid is not None:
            return next((key for key in fitting if key.kid == kid), None)
        return fitting[0] if len(fitting) == 1 else None


def _key(described: object) -> Key | None:
    """The key, where it is one that may have signed tokens."""
    if not isinstance(described, dict):
        return None
    jwk = cast("dict[str, Any]", described)
    kty, crv, kid = jwk.get("kty"), jwk.get("crv"), jwk.get("kid")
    if not isinstance(kty, str) or not isinstance(crv, str | None) or not isinstance(kid, str | None):
        return None
    algorithms = _FITTING.get((kty, crv), frozenset[str]())
    if "alg" in jwk:
        algorithms = frozenset(algorithm for algorithm in algorithms if algorithm == jwk["alg"])
    if not algorithms or jwk.get("use", "sig") != "sig":
        return None
    members: dict[str, Any] = {name: jwk[name] for name in _MEMBERS if name in jwk}
    try:
        public = jwt.PyJWK(members, min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
        return None
    if kty == "RSA" and public.key_size not in RSA_BITS:
        return None
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return Key(kid, algorithms, hashlib.sha256(text.encode()).hexdigest(), public)
