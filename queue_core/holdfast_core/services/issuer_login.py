"""Logins of browsers by the OpenID provider: the authorisation code flow with PKCE (OpenID Connect Core, RFC 7636).

Between its two halves the browser keeps what must be remembered, in a cookie that only it has: so a code that was
meant for another browser, or that somebody has sent about, is of no use.
"""

import hmac
import secrets
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, cast
from urllib.parse import quote_plus, urlencode, urlsplit

import structlog

from holdfast_core.errors import HoldfastError, NotAllowed, NotAuthenticated, Unavailable
from holdfast_core.services.issuer_claims import has_roles, name_of, roles_of, says_who
from holdfast_core.services.issuer_keys import Keys, Metadata
from holdfast_core.services.issuer_tokens import Tokens
from holdfast_core.services.issuer_wire import Wire
from holdfast_core.services.logins import Vouched
from holdfast_core.settings import Settings

__all__ = ["IssuerLogin", "Pending"]

log = structlog.get_logger(__name__)

#: State, nonce and verifier: 256 random bits each.
RANDOM_BYTES: Final = 32
#: What a provider says where the user would not, or may not.
_DECLINED: Final = frozenset(
    {
        "access_denied",
        "login_required",
        "consent_required",
        "interaction_required",
        "account_selection_required",
    }
)
_AWAY: Final = frozenset({"server_error", "temporarily_unavailable"})


@dataclass(frozen=True, slots=True)
class Pending:
    """A login that was begun: what its second half is compared with."""

    state: str
    nonce: str
    verifier: str

    @classmethod
    def new(cls) -> "Pending":
        """One of random values."""
        state, nonce, verifier = (secrets.token_urlsafe(RANDOM_BYTES) for _ in range(3))
        return cls(state, nonce, verifier)


class IssuerLogin:
    """Logins by one client of the provider: the dashboard."""

    def __init__(self, settings: Settings, client_id: str, wire: Wire, keys: Keys, tokens: Tokens) -> None:
        self._settings = settings
        self._client_id = client_id
        self._wire = wire
        self._keys = keys
        self._tokens = tokens

    async def begin(self, redirect_uri: str) -> tuple[str, Pending]:
        """Where the browser has to go, and what has to be remembered until it is back. Raises Unavailable."""
        metadata = await self._keys.metadata()
        pending = Pending.new()
        challenge = urlsafe_b64encode(sha256(pending.verifier.encode()).digest()).rstrip(b"=").decode()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._client_id,
                "redirect_uri": redirect_uri,
                "scope": " ".join(self._scopes(metadata)),
                "state": pending.state,
                "nonce": pending.nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        parts = urlsplit(self._endpoint(metadata, "authorization_endpoint"))
        return parts._replace(
            query="&".join(filter(None, (parts.query, query))), fragment=""
        ).geturl(), pending

    async def finish(self, pending: Pending, answer: Mapping[str, str], redirect_uri: str) -> Vouched:
        """Who has logged in. `answer`: the query of the address to which the provider has sent the browser back.
        Raises NotAuthenticated, NotAllowed where the login was declined, or Unavailable."""
        if not _is(answer.get("state"), pending.state):
            raise NotAuthenticated(
                "This is the end of another login than the one that this browser began last. Log in again."
            )
        metadata = await self._keys.metadata()
        names_itself = metadata.authorization_response_iss_parameter_supported  # RFC 9207
        if answer.get("iss", None if names_itself else metadata.issuer) != metadata.issuer:
            raise NotAuthenticated("The login was answered by another provider than the one that was asked.")
        if "error" in answer:
            raise _declined(answer["error"])
        if not answer.get("code"):
            raise NotAuthenticated("The OpenID provider has sent no code. Log in again.")
        granted = await self._redeem(metadata, answer["code"], pending.verifier, redirect_uri)
        id_token, access_token = granted.get("id_token"), granted.get("access_token")
        if not isinstance(id_token, str):
            raise self._wire.away("the token endpoint grants no ID token")
        checked = await self._tokens.check(id_token, {self._client_id})
        claims = checked.claims
        self._refuse_others(claims, pending)
        if isinstance(access_token, str) and not (has_roles(claims, self._settings) and says_who(claims)):
            claims = {**await self._more(metadata, access_token, checked.subject), **claims}
        return Vouched(
            issuer=metadata.issuer,
            subject=checked.subject,
            name=name_of(claims, checked.subject),
            roles=roles_of(claims, self._settings),
            seconds_left=checked.seconds_left,
        )

    def _scopes(self, metadata: Metadata) -> list[str]:
        """What to ask for: who it is, and what leads to the roles where the provider has a scope for it."""
        wanted = ("profile", "email", "roles", self._settings.oidc_role_claim.split(".")[0])
        return ["openid", *dict.fromkeys(scope for scope in wanted if scope in metadata.scopes_supported)]

    def _endpoint(self, metadata: Metadata, name: str) -> str:
        url: str | None = getattr(metadata, name)
        if url is None or not self._wire.is_believed(url):
            raise self._wire.away(f"the provider has no usable {name}")
        return url

    async def _redeem(
        self, metadata: Metadata, code: str, verifier: str, redirect_uri: str
    ) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers: dict[str, str] = {}
        secret = self._settings.oidc_client_secret
        methods = metadata.token_endpoint_auth_methods_supported
        if not secret:
            form["client_id"] = self._client_id
        elif "client_secret_basic" in methods or "client_secret_post" not in methods:
            both = f"{quote_plus(self._client_id)}:{quote_plus(secret.get_secret_value())}"  # RFC 6749, 2.3.1
            headers["authorization"] = f"Basic {b64encode(both.encode()).decode()}"
        else:
            form |= {"client_id": self._client_id, "client_secret": secret.get_secret_value()}
        status, answer = await self._wire.post(self._endpoint(metadata, "token_endpoint"), form, headers)
        if status == 200:
            return answer
        error = answer.get("error")
        if status >= 500 or not isinstance(error, str):
            raise self._wire.away(f"the token endpoint answers with status {status}")
        if error == "invalid_grant":
            raise NotAuthenticated("The login took too long, or its code was used before. Log in again.")
        log.error("openid_client_refused", error=error[:100])
        raise Unavailable(
            "The OpenID provider does not accept this server as its client. Whoever runs this server finds more in its"
            " log.",
            retry_after=60,
        )

    def _refuse_others(self, claims: Mapping[str, Any], pending: Pending) -> None:
        """An ID token that was made for another login, or for other clients, too (OpenID Connect Core, 3.1.3.7)."""
        audience, party = claims["aud"], claims.get("azp")
        if not _is(claims.get("nonce"), pending.nonce):
            raise NotAuthenticated(
                "The OpenID provider has answered another login than this one. Log in again."
            )
        is_shared = isinstance(audience, list) and len(cast("list[object]", audience)) > 1
        if party != self._client_id and (party is not None or is_shared):
            raise NotAuthenticated(
                "The OpenID provider has vouched for this user to another client than this one."
            )

    async def _more(self, metadata: Metadata, access_token: str, subject: str) -> dict[str, Any]:
        """What the provider says of the user where it is asked."""
        if metadata.userinfo_endpoint is None:
            return {}
        said = await self._wire.get(self._endpoint(metadata, "userinfo_endpoint"), token=access_token)
        if said.get("sub") != subject:
            raise NotAuthenticated("The OpenID provider speaks of another user than the one who logged in.")
        return said


def _is(given: object, wanted: str) -> bool:
    """Whether it is this secret, in constant time."""
    return isinstance(given, str) and given.isascii() and hmac.compare_digest(given, wanted)


def _declined(error: str) -> HoldfastError:
    if error in _DECLINED:
        return NotAllowed("The OpenID provider says that the login was declined.")
    log.warning("openid_login_refused", error=error[:100])
    if error in _AWAY:
        return Unavailable("The OpenID provider cannot log anybody in at the moment.", retry_after=10)
    return NotAuthenticated(
        "The OpenID provider did not take the login as it was asked for. Whoever runs this server finds more in its"
        " log."
    )
