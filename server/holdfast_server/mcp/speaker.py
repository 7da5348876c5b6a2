"""Whom a server on stdio speaks for: one credential, from its environment."""

from holdfast_core.callers import local_operator
from holdfast_core.errors import HoldfastError, NotAllowed, NotAuthenticated
from holdfast_core.policy import INCLUDED
from holdfast_core.services import Login, Services
from holdfast_core.settings import Settings
from holdfast_server.mcp.asking import Who
from holdfast_server.mcp.settings import load_forwarder_settings

__all__ = ["find_speaker"]

_MAKE_ONE = "`holdfast token create` on the server's host makes one."


async def find_speaker(services: Services, settings: Settings) -> Who:
    """Who has the token in HOLDFAST_TOKEN; while authentication is disabled the local operator, and no token is
    looked at. Each call of what is returned looks whether it is still good.

    Raises NotAuthenticated where there is no token, or one that is not good; NotAllowed where HOLDFAST_MCP_ROLE leaves
    nothing of what it may do; ConfigurationError where it is no token at all.
    """
    if settings.auth_provider == "disabled":
        user_id = settings.default_user_id
        local = Login(local_operator(user_id), None, user_id, float("inf"), checked_at=0.0, used_at=0.0)

        async def operator() -> Login:
            return local

        return operator
    token = load_forwarder_settings().token
    if not token:
        raise NotAuthenticated(
            f"HOLDFAST_AUTH_PROVIDER is {settings.auth_provider}, so HOLDFAST_TOKEN has to say who is asking, and it is"
            f" not set. {_MAKE_ONE}"
        )

    async def holder() -> Login:
        return await services.logins.of_token(token)

    try:
        login = await holder()
    except (NotAuthenticated, NotAllowed) as error:
        raise _with_the_setting(error) from None
    role = settings.mcp_role
    if role is not None and login.caller.roles.isdisjoint(INCLUDED[role]):
        raise NotAllowed(
            f"HOLDFAST_MCP_ROLE={role} leaves nothing of what {login.caller.name} may do. Unset it, or set"
            " HOLDFAST_TOKEN to the token of another."
        )
    return holder


def _with_the_setting(error: HoldfastError) -> HoldfastError:
    return type(error)(f"HOLDFAST_TOKEN is not accepted: {error.detail} {_MAKE_ONE}")
