"""From what an OpenID provider says of a user to who that is here: a name, and roles."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from holdfast_core.policy import effective, scopes_to_roles
from holdfast_core.settings import Settings
from holdfast_core.states import Role

__all__ = ["has_roles", "name_of", "roles_of", "says_who", "widest_of"]

MAX_NAME_CHARACTERS: Final = 255
#: Values of the role claim that are looked at.
MAX_VALUES: Final = 1_000
_NAMES: Final = ("preferred_username", "name", "email")
_SCOPES: Final = ("scope", "scp")


def has_roles(claims: Mapping[str, Any], settings: Settings) -> bool:
    """Whether the claim that names roles is there."""
    return _at(claims, settings.oidc_role_claim) is not None


def says_who(claims: Mapping[str, Any]) -> bool:
    """Whether there is a name in it."""
    return any(_text(claims.get(claim)) for claim in _NAMES)


def widest_of(claims: Mapping[str, Any], settings: Settings) -> frozenset[Role]:
    """The roles of the user, those contained in others named, too. Never the worker's: workers have tokens of our own,
    which are bound to their ids."""
    meant: Mapping[str, Role] = settings.oidc_role_map or {role.value: role for role in Role}
    values = _values(_at(claims, settings.oidc_role_claim))
    return effective(meant[value] for value in values if value in meant) - {Role.WORKER}


def roles_of(claims: Mapping[str, Any], settings: Settings) -> frozenset[Role]:
    """The same; where the token has scopes of ours, no more than these leave."""
    roles = widest_of(claims, settings)
    left = scopes_to_roles(scope for claim in _SCOPES for scope in _values(claims.get(claim)))
    return roles if left is None else roles & left


def name_of(claims: Mapping[str, Any], subject: str) -> str:
    """What the audit log shows of the user."""
    return next((name for claim in _NAMES if (name := _text(claims.get(claim)))), subject)[
        :MAX_NAME_CHARACTERS
    ]


def _at(claims: Mapping[str, Any], path: str) -> object:
    """What the claims hold there. A claim of that very name comes first: there are such with dots in their names."""
    if path in claims:
        return claims[path]
    found: object = claims
    for name in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = cast("Mapping[str, object]", found).get(name)
    return found


def _values(found: object) -> Iterable[str]:
    """One value, several with blanks between, or a list of them."""
    if isinstance(found, str):
        return {found, *found.split()}
    if isinstance(found, list):
        return [value for value in cast("list[object]", found)[:MAX_VALUES] if isinstance(value, str)]
    return ()


def _text(value: object) -> str:
    """A name as it can be shown: what cannot be seen is escaped."""
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value.strip())
