"""The OpenID provider that vouches for callers: its access tokens, and logins of browsers by it (`issuer_login`)."""

from typing import Any, Final

import structlog
from anyio import sleep

from holdfast_core.clock import Clock, SystemClock
from holdfast_core.errors import NotAuthenticated, Unavailable
from holdfast_core.services.issuer_claims import name_of, roles_of, widest_of
from holdfast_core.services.issuer_keys import KEPT_SECONDS, Keys
from holdfast_core.services.issuer_login import IssuerLogin
from holdfast_core.services.issuer_tokens import Checked, Tokens
from holdfast_core.services.issuer_wire import Wire
from holdfast_core.services.logins import Vouched
from holdfast_core.settings import Settings

__all__ = ["Issuer"]

log = structlog.get_logger(__name__)

#: How soon keys that could not be had are asked for again.
AGAIN_SECONDS: Final = 60.0
#: What Keycloak calls its other tokens. No set: the claim may be anything, of which not all can be looked up in one.
_OTHERS: Final = ("ID", "Refresh", "Offline", "Logout")


class Issuer:
    """Implements `logins.Verifier`. `login` is None where the dashboard is no client of the provider. To be closed."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        assert settings.oidc_issuer is not None
        clock = clock or SystemClock()
        self._settings = settings
        self._wire = Wire(settings.oidc_issuer)
        self._keys = Keys(settings.oidc_issuer, self._wire, clock)
        self._tokens = Tokens(settings.oidc_issuer, self._keys, clock)
        self.login = (
            None
            if settings.oidc_client_id is None
            else IssuerLogin(settings, settings.oidc_client_id, self._wire, self._keys, self._tokens)
        )

    async def verify(self, token: str) -> Vouched:
        """For whom this access token vouches. Raises NotAuthenticated, or Unavailable while its keys cannot be had."""
        checked = await self._tokens.check(token, self._settings.audiences)
        _refuse_others(checked)
        claims = checked.claims
        return Vouched(
            issuer=claims["iss"],
            subject=checked.subject,
            name=name_of(claims, checked.subject),
            roles=roles_of(claims, self._settings),
            seconds_left=checked.seconds_left,
            widest=widest_of(claims, self._settings),
            key=checked.key.thumbprint,
        )

    def trusts(self, key: str) -> bool:
        """Whether the provider still has the key that signed a token."""
        return self._keys.trusts(key)

    async def run(self) -> None:
        """Keep the keys current, once somebody has needed them, until cancelled."""
        rest = KEPT_SECONDS
        while True:
            await sleep(rest)
            rest = KEPT_SECONDS
            if self._keys.are_wanted:
                try:
                    await self._keys.renew()
                except Unavailable:  # the wire has said so in the log
                    rest = AGAIN_SECONDS

    async def aclose(self) -> None:
        """End the connections to the provider."""
        await self._wire.aclose()


def _refuse_others(checked: Checked) -> None:
    """Tokens that are signed by the same keys, but are no access tokens that may be sent as they are."""
    claims: dict[str, Any] = checked.claims
    if "cnf" in claims:
        raise NotAuthenticated(
            "The token is bound to a key of its client (DPoP or mTLS), which this server cannot check."
        )
    says_access = checked.kind != "jwt" or claims.get("typ") == "Bearer"
    is_id_token = "at_hash" in claims or "c_hash" in claims or ("nonce" in claims and not says_access)
    if is_id_token or "events" in claims or claims.get("typ") in _OTHERS:
        raise NotAuthenticated("This is no access token. Send the access token of the OpenID provider.")
