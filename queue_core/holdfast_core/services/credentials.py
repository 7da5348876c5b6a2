"""The form of credentials: a kind, an id, and a secret of which only a hash is kept.

    hfa_0199f0c28a3e7c419f523b1d6a7e8c90_Jx3…43 characters…    a person's or a program's token (hfw: a worker's,
                                                               hfs: a browser's session)

The prefix lets scanners of leaked secrets know them; the id finds the row, so that what is compared is one hash, in
constant time.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from holdfast_core.store.access import CredentialKind

__all__ = ["Secret", "digest", "mint", "read"]

_PREFIXES: Final[Mapping[CredentialKind, str]] = {"api": "hfa", "worker": "hfw", "session": "hfs"}
_KINDS: Final[Mapping[str, CredentialKind]] = {prefix: kind for kind, prefix in _PREFIXES.items()}
_FORM: Final = re.compile(r"(hf[aws])_([0-9a-f]{32})_([A-Za-z0-9_-]{43})")
SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Secret:
    """A credential as it came."""

    kind: CredentialKind
    id: UUID
    digest: str

    def matches(self, kept: str) -> bool:
        """Whether it is the one whose hash was kept."""
        return hmac.compare_digest(self.digest, kept)


def mint(kind: CredentialKind, credential_id: UUID) -> str:
    """A new credential of this kind: 256 random bits."""
    return f"{_PREFIXES[kind]}_{credential_id.hex}_{secrets.token_urlsafe(SECRET_BYTES)}"


def read(text: str) -> Secret | None:
    """The credential that this is; None where it is none of ours."""
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    return Secret(_KINDS[found[1]], UUID(found[2]), digest(text))


def digest(text: str) -> str:
    """What is kept of a credential."""
    return hashlib.sha256(text.encode()).hexdigest()
