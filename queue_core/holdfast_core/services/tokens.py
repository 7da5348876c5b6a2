"""Lease tokens: minted at each claim, kept only as a hash, and what fences a call."""

import hashlib
import secrets

from holdfast_core.errors import FieldError, InvalidRequest
from holdfast_core.settings import Settings

__all__ = ["fence", "hash_token", "mint_token"]


def mint_token() -> str:
    """A new lease token: 24 random bytes."""
    return secrets.token_urlsafe(24)


def hash_token(token: str) -> str:
    """What is stored of a token. Plain SHA-256: it is random, so there is nothing to guess."""
    return hashlib.sha256(token.encode()).hexdigest()


def fence(settings: Settings, token: str | None) -> str | None:
    """The hash that a holder's call must match, or None to go by the worker's id alone.

    Raises InvalidRequest where the settings ask for a token and there is none.
    """
    if token is None:
        if settings.require_lease_token:
            raise InvalidRequest.of(
                FieldError("leaseToken", "is required here: send the one that the claim answered")
            )
        return None
    return hash_token(token)
