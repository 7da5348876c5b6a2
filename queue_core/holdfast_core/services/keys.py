"""Idempotency keys as they are stored: hashed together with whom they belong to."""

import hashlib
import json

from holdfast_core.callers import Caller
from holdfast_core.errors import KeyReused
from holdfast_core.schemas import Request

__all__ = ["body_hash", "key_hash", "key_reused"]


def key_hash(caller: Caller, route: str, key: str) -> str:
    """SHA-256 of the principal, the route and the key. None of the three can hold a line break."""
    return hashlib.sha256(f"{caller.principal}\n{route}\n{key}".encode()).hexdigest()


def body_hash(request: Request) -> str:
    """SHA-256 of a request as it was understood: the order of its fields and blanks around it do not count."""
    plain = request.model_dump(mode="json", exclude={"idempotency_key"})
    return hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def key_reused() -> KeyReused:
    """The answer to a key that stands for another request."""
    return KeyReused(
        "This idempotency key was used for a different request. Take a new key, or send the first request again."
    )
