"""Tokens on the server's host, past a running server: that is how the first one is made.

`holdfast token` is a verb of the command line, since with `--url` it needs no server's libraries; without, it finds
this through the entry-point group `holdfast.host`.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from holdfast_server.commands import read_settings

if TYPE_CHECKING:
    from holdfast_core.schemas import Answer, CreatedToken, Token, TokenList
    from holdfast_core.services import AccessService
    from holdfast_core.settings import Settings

__all__ = ["HostTokens", "tokens_of_host"]

_A = TypeVar("_A", bound="Answer")
_T = TypeVar("_T")


def tokens_of_host(database_url: str | None) -> "HostTokens":
    """The tokens in this database, else in the one that the settings name. A wrong setting ends with exit code 2."""
    import logging

    from holdfast_core.telemetry import configure_logs

    settings = read_settings(database_url=database_url)
    configure_logs(settings.log_format)
    logging.getLogger().setLevel(logging.WARNING)  # what was done is the verb's to say
    return HostTokens(settings)


class HostTokens:
    """Each call opens the database and closes it. Raises ConfigurationError where it cannot be used."""

    #: The latest answer as JSON, as the API gives it.
    last_answer: bytes = b""

    def __init__(self, settings: "Settings") -> None:
        from holdfast_core.callers import local_operator

        self._settings = settings
        self._caller = local_operator(settings.default_user_id)

    @property
    def are_asked_for(self) -> bool:
        """Whether a server with these settings asks for tokens."""
        return self._settings.auth_provider != "disabled"

    def create_token(
        self,
        *,
        role: str | None = None,
        user: str | None = None,
        name: str | None = None,
        worker_id: str | None = None,
        types: Sequence[str] | None = None,
        capabilities: Sequence[str] | None = None,
        expires_in_seconds: int | None = None,
    ) -> "CreatedToken":
        """A new token. Raises InvalidRequest."""
        from holdfast_core.schemas import TokenRequest, parse_request

        body = {
            "role": role,
            "user": user,
            "name": name,
            "workerId": worker_id,
            "types": types,
            "capabilities": capabilities,
            "expiresInSeconds": expires_in_seconds,
        }
        request, _ = parse_request(
            TokenRequest, {key: value for key, value in body.items() if value is not None}
        )
        return self._answered(lambda access: access.create(self._caller, request, by_host=True))

    def tokens(self, *, ended: bool = False) -> "TokenList":
        """The tokens that are good, newest first; `ended`: also those that were."""
        from holdfast_core.schemas import TokenQuery

        return self._answered(lambda access: access.list(self._caller, TokenQuery(all=ended)))

    def revoke_token(self, token_id: str) -> "Token":
        """End a token: within five seconds every process refuses it. Raises TokenNotFound."""
        return self._answered(lambda access: access.revoke(self._caller, token_id))

    def revoke_user(self, user: str) -> int:
        """End all tokens and sessions of a user; returns how many. Raises TokenNotFound."""
        return self._run(lambda access: access.revoke_user(self._caller, user))

    def _answered(self, call: "Callable[[AccessService], Awaitable[_A]]") -> _A:
        answer = self._run(call)
        self.last_answer = answer.model_dump_json().encode()
        return answer

    def _run(self, call: "Callable[[AccessService], Awaitable[_T]]") -> _T:
        import anyio

        from holdfast_server.compose import open_access

        async def work() -> _T:
            async with open_access(self._settings) as access:
                return await call(access)

        return anyio.run(work)
