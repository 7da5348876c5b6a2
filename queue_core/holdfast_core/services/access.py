"""Tokens and sessions: making them, listing them, ending them (CONTRACT section 4)."""

from typing import Any, Final, Literal
from uuid import UUID

import structlog
from sqlalchemy import Connection, Row

from holdfast_core.callers import Caller
from holdfast_core.clock import Clock
from holdfast_core.db import Database
from holdfast_core.errors import NotAllowed, TokenNotFound
from holdfast_core.ids import uuid7
from holdfast_core.policy import INCLUDED, PERMISSIONS, Permission, admit
from holdfast_core.schemas import (
    CreatedToken,
    Identity,
    Token,
    TokenKind,
    TokenList,
    TokenQuery,
    TokenRequest,
    WorkerTokenRequest,
)
from holdfast_core.services.credentials import digest, mint, read
from holdfast_core.services.logins import Login, Logins, Vouched
from holdfast_core.settings import Settings
from holdfast_core.states import Role
from holdfast_core.store import access as store
from holdfast_core.store.users import LOCAL_ISSUER, find_user, user_of

__all__ = ["SESSION_SECONDS", "AccessService"]

log = structlog.get_logger(__name__)

#: A browser's session ends after this at the latest.
SESSION_SECONDS: Final = 43_200.0


class AccessService:
    """Who may come in."""

    def __init__(self, database: Database, logins: Logins, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._logins = logins
        self._settings = settings
        self._clock = clock

    async def create(
        self, caller: Caller, request: TokenRequest | WorkerTokenRequest, *, by_host: bool = False
    ) -> CreatedToken:
        """A new token; its value is in this answer and nowhere else. `by_host`: made on the server's host, by who
        has the database anyway."""
        admit(caller, Permission.ADMINISTER, "make tokens")
        token_id = uuid7()
        kind: TokenKind = (
            "api" if isinstance(request, TokenRequest) and request.role is not None else "worker"
        )
        value = mint(kind, token_id)
        by = "the server's host" if by_host else caller.name

        def work(connection: Connection) -> Row[Any]:
            lifetime = None if request.expires_in_seconds is None else float(request.expires_in_seconds)
            by_user = None if by_host else caller.user_id
            if isinstance(request, TokenRequest) and request.role is not None:
                assert request.user is not None
                user = request.user
                new = store.NewApiToken(
                    id=token_id,
                    name=request.name or user,
                    token_hash=digest(value),
                    created_by=by,
                    created_by_user_id=by_user,
                    lifetime_seconds=lifetime,
                    user_id=user_of(connection, LOCAL_ISSUER, user, user),
                    role=request.role,
                )
                store.add_api_token(connection, new)
            else:
                assert request.worker_id is not None
                store.add_worker_token(
                    connection,
                    store.NewWorkerToken(
                        id=token_id,
                        name=request.name or request.worker_id,
                        token_hash=digest(value),
                        created_by=by,
                        created_by_user_id=by_user,
                        lifetime_seconds=lifetime,
                        worker_id=request.worker_id,
                        types=request.types,
                        capabilities=request.capabilities,
                    ),
                )
            (row,) = store.list_tokens(connection, [kind], ended=True, wanted=token_id)
            return row

        made = _token(await self._database.write(work))
        log.info("token_created", token_id=str(token_id), kind=kind, name=made.name, role=made.role, actor=by)
        return CreatedToken(**dict(made), token=value)

    async def list(
        self, caller: Caller, query: TokenQuery, kinds: tuple[TokenKind, ...] = ("api", "worker")
    ) -> TokenList:
        """The tokens that are good, newest first; with `all` also those that were."""
        admit(caller, Permission.ADMINISTER, "see tokens")
        rows = await self._database.read(lambda c: store.list_tokens(c, kinds, ended=query.all))
        return TokenList(items=[_token(row) for row in rows])

    async def revoke(
        self, caller: Caller, token_id: str, kinds: tuple[TokenKind, ...] = ("api", "worker")
    ) -> Token:
        """End a token, and the sessions that were opened with it: within five seconds in every process. Repeating
        it changes nothing. Raises TokenNotFound."""
        admit(caller, Permission.ADMINISTER, "revoke tokens")
        wanted = _token_uuid(token_id)

        def work(connection: Connection) -> Row[Any] | None:
            kind: TokenKind | None = next((k for k in kinds if store.revoke(connection, k, wanted)), None)
            if kind is None:
                return None
            return store.list_tokens(connection, [kind], ended=True, wanted=wanted)[0]

        row = await self._database.write(work)
        if row is None:
            raise TokenNotFound(f"No token has the id {wanted}.")
        self._logins.look_soon()
        log.info("token_revoked", token_id=token_id, name=row.name, actor=caller.name)
        return _token(row)

    async def revoke_user(self, caller: Caller, user: str) -> int:
        """End all tokens and sessions of a user of our tokens, or of the OpenID provider's. Returns how many.
        Raises TokenNotFound where no user is called so."""
        admit(caller, Permission.ADMINISTER, "revoke tokens")

        def work(connection: Connection) -> int | None:
            issuers = [LOCAL_ISSUER, self._settings.oidc_issuer]
            ids = [find_user(connection, issuer, user) for issuer in issuers if issuer is not None]
            found = [user_id for user_id in ids if user_id is not None]
            if not found:
                return None
            return sum(
                store.revoke_of_user(connection, user_id) + store.end_sessions_of(connection, user_id)
                for user_id in found
            )

        count = await self._database.write(work)
        if count is None:
            raise TokenNotFound(f"No user is called {user!r}.")
        self._logins.look_soon()
        log.info("user_tokens_revoked", user=user, count=count, actor=caller.name)
        return count

    async def begin_session(self, login: Login) -> tuple[str, float]:
        """A session for a browser whose user has this token: the cookie's value, and for how many seconds it is good.
        Raises NotAllowed for a worker's."""
        caller = login.caller
        if caller.user_id is None:
            raise NotAllowed(
                "This is a worker's token: the dashboard is for people. Use a token with a role."
            )
        left = min(SESSION_SECONDS, login.ends_at - self._clock.monotonic())
        token_id = login.id if login.kind == "api" else None
        return await self._session(caller.user_id, caller.roles, token_id, left)

    async def begin_vouched_session(self, vouched: Vouched) -> tuple[str, float]:
        """The same for whom the OpenID provider vouches: no token stands behind it."""
        if not vouched.roles - {Role.WORKER}:
            raise NotAllowed(
                f"{vouched.name} is known, but has no role here. Whoever runs this server gives one, by"
                " HOLDFAST_OIDC_ROLE_CLAIM and HOLDFAST_OIDC_ROLE_MAP."
            )
        user_id = await self._logins.user(vouched)
        return await self._session(user_id, vouched.roles, None, SESSION_SECONDS)

    async def _session(
        self, user_id: UUID, roles: frozenset[Role], token_id: UUID | None, seconds: float
    ) -> tuple[str, float]:
        session_id = uuid7()
        value = mint("session", session_id)
        new = store.NewSession(
            id=session_id,
            secret_hash=digest(value),
            user_id=user_id,
            role=_highest(roles),
            token_id=token_id,
            lifetime_seconds=seconds,
        )

        def work(connection: Connection) -> None:
            store.remove_old_sessions(connection)
            store.add_session(connection, new)

        await self._database.write(work)
        log.info("session_begun", session_id=str(session_id), user_id=str(user_id), role=new.role)
        return value, seconds

    async def end_session(self, cookie: str) -> None:
        """The browser's session is over, if it is one."""
        secret = read(cookie)
        if secret is None or secret.kind != "session":
            return
        found = await self._database.read(lambda c: store.find(c, "session", [secret.id]))
        if secret.id not in found or not secret.matches(found[secret.id].secret_hash):
            return
        await self._database.write(lambda c: store.end_session(c, secret.id))
        self._logins.look_soon()
        log.info("session_ended", session_id=str(secret.id))

    def identity(self, caller: Caller) -> Identity:
        """Who is asking, and what they may do."""
        return Identity(
            name=caller.name,
            user_id=caller.user_id,
            roles=sorted(caller.roles),
            worker_id=None if caller.bounds is None else caller.bounds.worker_id,
            permissions=sorted(
                str(permission) for permission, roles in PERMISSIONS.items() if roles & caller.roles
            ),
            provider=self._settings.auth_provider,
        )


def _highest(roles: frozenset[Role]) -> Role:
    return max(roles - {Role.WORKER}, key=lambda role: len(INCLUDED[role]))


def _token_uuid(token_id: str) -> UUID:
    try:
        return UUID(token_id)
    except ValueError:
        raise TokenNotFound("No token has this id: `GET /api/tokens` lists them.") from None


def _token(row: Row[Any]) -> Token:
    kind: Literal["api", "worker"] = row.kind
    is_api = kind == "api"
    return Token(
        id=row.id,
        kind=kind,
        name=row.name,
        role=Role(row.role) if is_api else Role.WORKER,
        user=row.user_name if is_api else None,
        user_id=row.user_id if is_api else None,
        worker_id=None if is_api else row.worker_id,
        types=None if is_api else row.types,
        capabilities=None if is_api else row.capabilities,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
