"""Signed tokens of the OpenID provider: whether one is genuine, for whom it was made, and whether it is good now.

What is refused is refused in our own words: neither the token nor what a library says about it goes into an answer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import jwt

from holdfast_core.clock import Clock
from holdfast_core.errors import NotAuthenticated
from holdfast_core.services.issuer_keys import Key, Keys

__all__ = ["Checked", "Tokens"]

#: How far the provider's clock may be ahead of this host's, in seconds. An end is an end: what is open by a token ends
#: with it, so none is given after that.
LEEWAY_SECONDS: Final = 30.0
#: Neither `none`, nor the symmetric ones, with which whoever knows a public key could make tokens.
ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
#: What access tokens and ID tokens are called (RFC 9068, RFC 7519); a logout token, say, is signed by the same keys.
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
MAX_SUBJECT_CHARACTERS: Final = 255

_NOT_READABLE: Final = "The token cannot be read. Get a new one from the OpenID provider."


@dataclass(frozen=True, slots=True)
class Checked:
    """What a token says, with the key that signed it. `kind` is the `typ` of its header."""

    claims: dict[str, Any]
    key: Key
    kind: str
    subject: str
    seconds_left: float


class Tokens:
    """Checks tokens of one issuer."""

    def __init__(self, issuer: str, keys: Keys, clock: Clock) -> None:
        self._issuer = issuer
        self._keys = keys
        self._clock = clock

    async def check(self, token: str, audiences: Iterable[str]) -> Checked:
        """What the token says. Raises NotAuthenticated where it is not genuine, not for one of `audiences`, or not good
        now, and Unavailable where its key cannot be had."""
        kid, algorithm, kind = _header(token)
        key = await self._keys.find(kid, algorithm)
        claims = self._claims(token, key, algorithm, list(audiences))
        subject = claims["sub"]
        if not 0 < len(subject) <= MAX_SUBJECT_CHARACTERS or not subject.isprintable():
            raise NotAuthenticated("The token's `sub` is empty, too long, or holds control characters.")
        left = _number(claims["exp"]) - self._clock.now().timestamp()
        if left <= 0:
            raise NotAuthenticated("The token has expired. Get a new one from the OpenID provider.")
        return Checked(claims, key, kind, subject, left)

    def _claims(self, token: str, key: Key, algorithm: str, audiences: list[str]) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key.public,
                algorithms=[algorithm],  # one of ours, and one that fits this very key
                issuer=self._issuer,
                audience=audiences,
                leeway=LEEWAY_SECONDS,
                # The library has one leeway for all times; an end has none.
                options={"require": ["exp", "iss", "aud", "sub"], "verify_exp": False},
            )
        except jwt.ImmatureSignatureError:
            raise NotAuthenticated(
                "The token is not good yet. Are the clocks of this server and of the OpenID provider right?"
            ) from None
        except jwt.InvalidAudienceError:
            raise NotAuthenticated(
                "The token was made for another service: its `aud` is not this one."
            ) from None
        except jwt.InvalidIssuerError:
            raise NotAuthenticated("The token is of another issuer than the one that counts here.") from None
        except jwt.MissingRequiredClaimError as error:
            raise NotAuthenticated(f"The token lacks `{error.claim}`.") from None
        except jwt.InvalidSignatureError:
            raise NotAuthenticated("The token's signature is wrong.") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise NotAuthenticated(_NOT_READABLE) from None


def _number(value: object) -> float:
    """A time in a token, in seconds since 1970. Raises NotAuthenticated."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise NotAuthenticated(_NOT_READABLE)


def _header(token: str) -> tuple[str | None, str, str]:
    """The key that a token says it was signed with, how, and what kind of token it is. Raises NotAuthenticated."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise NotAuthenticated(_NOT_READABLE) from None
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS or "crit" in header:
        raise NotAuthenticated("The token is signed in a way that is not accepted here.")
    if not isinstance(kind, str) or kind.casefold() not in _TYPES:
        raise NotAuthenticated("This is a token for something else than access.")
    return kid, algorithm, kind.casefold()
