"""Who is asking: credentials become callers, and a credential that has ended is refused within seconds everywhere.

A credential is looked up once and then remembered: each process asks the store every `REFRESH_SECONDS`, in one
statement a kind, which of those in use are still good, so that a request costs no query. A memory older than
`FRESH_SECONDS` is asked for anew before it counts, so a process whose background work has stopped does not go on
with what was revoked: together they keep a revocation under five seconds.

While the store is away nothing can be changed, and claims are answered "paused" from memory: for these a credential
that was good when the store went is good still.
"""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol
from uuid import UUID

import structlog
from anyio import Event, move_on_after, sleep

from holdfast_core.callers import Caller, WorkerBounds
from holdfast_core.clock import Clock
from holdfast_core.db import Database, Lane
from holdfast_core.errors import HoldfastError, NotAllowed, NotAuthenticated, StoreUnavailable
from holdfast_core.policy import effective
from holdfast_core.services.credentials import digest, read
from holdfast_core.states import Role
from holdfast_core.store import access as store
from holdfast_core.store.users import disabled_among, user_of

__all__ = ["Login", "Logins", "Verifier", "Vouched"]

log = structlog.get_logger(__name__)

REFRESH_SECONDS: Final = 1.5
FRESH_SECONDS: Final = 4.0
#: How long who revokes its own credential has to read the answer.
ANSWER_SECONDS: Final = 0.2
#: What was good when the store went away counts for so long.
AWAY_SECONDS: Final = 3_600.0
#: A credential that is not used for so long is forgotten, and looked up again at its next use.
FORGET_SECONDS: Final = 120.0
REMEMBERED: Final = 20_000
#: How often it is written that a token was used.
TOUCH_SECONDS: Final = 60.0
#: Ids of one statement.
BATCH: Final = 1_000

_REFUSED: Final = "The token is not known here, or it has expired or was revoked. Ask an admin for a new one."


@dataclass(frozen=True, slots=True)
class Vouched:
    """For whom an OpenID provider vouches. `roles`: what its claims and scopes come to, together."""

    issuer: str
    subject: str
    name: str
    roles: frozenset[Role]
    seconds_left: float
    #: The roles of the user, whatever the token's scopes leave of them.
    widest: frozenset[Role] = frozenset()
    #: The thumbprint of the provider's key that signed the token.
    key: str | None = None


class Verifier(Protocol):
    """Looks whether a token is one of the OpenID provider's."""

    async def verify(self, token: str) -> Vouched:
        """For whom this access token vouches. Raises NotAuthenticated, or Unavailable while its keys cannot be had."""
        ...

    def trusts(self, key: str) -> bool:
        """Whether the provider still has the key with this thumbprint: a key that it has withdrawn ends its tokens."""
        ...


@dataclass(slots=True, eq=False)
class Login:
    """A credential in use, and whose it is."""

    caller: Caller
    kind: store.CredentialKind | None
    #: The row of a credential of ours; of an OpenID provider's token the user's.
    id: UUID
    #: When it ends by itself, by this host's monotonic clock.
    ends_at: float
    checked_at: float
    used_at: float
    touched_at: float = float("-inf")
    #: The roles that a token with wider scopes would have.
    widest: frozenset[Role] = frozenset()
    #: The thumbprint of the OpenID provider's key that signed the token.
    key: str | None = None
    is_over: bool = False
    _on_end: set[Callable[[], None]] = field(default_factory=set[Callable[[], None]])

    @contextmanager
    def while_good(self, end: Callable[[], None]) -> Generator[None]:
        """While the block runs, `end` is called if the credential ends."""
        self._on_end.add(end)
        try:
            if self.is_over:
                end()
            yield
        finally:
            self._on_end.discard(end)

    @property
    def is_held(self) -> bool:
        """Whether a request is under way by it."""
        return bool(self._on_end)

    def end(self) -> None:
        """It is good no more."""
        self.is_over = True
        for call in list(self._on_end):
            call()


class Logins:
    """The credentials that are in use in this process."""

    def __init__(self, database: Database, clock: Clock, verifier: Verifier | None) -> None:
        self._database = database
        self._clock = clock
        self._verifier = verifier
        self._known: dict[str, Login] = {}
        self._wanted = Event()

    def recall(self, text: str) -> Login | None:
        """The credential, where it is in use and was looked at just now: no query, and the usual case."""
        login = self._known.get(digest(text))
        return login if login is not None and self.is_good(login) else None

    def is_good(self, login: Login) -> bool:
        """Whether a credential that is in use was looked at just now, so that it counts without a query."""
        now = self._clock.monotonic()
        if login.is_over or login.ends_at <= now or now - login.checked_at > FRESH_SECONDS:
            return False
        login.used_at = now
        return True

    async def of_token(self, token: str) -> Login:
        """Who has this bearer token: one of ours, or of the OpenID provider's. Raises NotAuthenticated."""
        secret = read(token)
        if secret is not None and secret.kind == "session":
            raise NotAuthenticated("This is a browser's session, not a token.")
        if secret is None and (self._verifier is None or token.count(".") != 2):
            raise NotAuthenticated(_REFUSED)
        return await self._of(token)

    async def of_session(self, cookie: str) -> Login:
        """Whose browser has this cookie. Raises NotAuthenticated."""
        secret = read(cookie)
        if secret is None or secret.kind != "session":
            raise NotAuthenticated("The session has ended. Log in again.")
        return await self._of(cookie)

    async def _of(self, text: str) -> Login:
        if (login := self.recall(text)) is not None:
            return login
        key = digest(text)
        now = self._clock.monotonic()
        login = self._known.get(key)
        if login is not None and (login.is_over or login.ends_at <= now):
            self._forget(key)
            login = None
        login = await self._look_up(key, text, login)
        login.used_at = now
        return login

    async def _look_up(self, key: str, text: str, login: Login | None) -> Login:
        try:
            found = await self._found(text)
        except StoreUnavailable:
            if login is not None and self._clock.monotonic() - login.checked_at < AWAY_SECONDS:
                return login
            raise
        except NotAuthenticated:
            if login is not None:
                self._forget(key)
            raise
        if login is not None:
            login.checked_at = found.checked_at  # its requests go on under the same
            return login
        if (other := self._known.get(key)) is not None and not other.is_over:
            return other  # somebody else has looked it up meanwhile
        self._known[key] = found
        if len(self._known) > REMEMBERED:
            self._make_room()
        return found

    def _make_room(self) -> None:
        """Forget those that were not used for longest; a credential under which requests run stays."""
        idle = sorted((login.used_at, key) for key, login in self._known.items() if not login.is_held)
        for _, key in idle[: REMEMBERED // 10]:
            del self._known[key]

    async def _found(self, text: str) -> Login:
        now = self._clock.monotonic()
        secret = read(text)
        if secret is None:
            assert self._verifier is not None
            return await self._vouched(await self._verifier.verify(text), now)
        rows = await self._database.read(lambda c: store.find(c, secret.kind, [secret.id]))
        row = rows.get(secret.id)
        if row is None or not secret.matches(row.secret_hash):
            raise NotAuthenticated(
                "The session has ended. Log in again." if secret.kind == "session" else _REFUSED
            )
        bounds = None
        if row.worker_id is not None:
            bounds = WorkerBounds(row.worker_id, row.types, row.capabilities)
        caller = Caller(row.user_id, row.name, effective({row.role}), bounds)
        ends_at = now + row.seconds_left if row.seconds_left is not None else float("inf")
        return Login(caller, row.kind, row.id, ends_at, checked_at=now, used_at=now)

    async def _vouched(self, vouched: Vouched, now: float) -> Login:
        if not vouched.roles:
            raise NotAllowed(
                f"{vouched.name} is known, but has no role here. Whoever runs this server gives one, by"
                " HOLDFAST_OIDC_ROLE_CLAIM and HOLDFAST_OIDC_ROLE_MAP."
            )
        user_id = await self.user(vouched)
        caller = Caller(user_id, vouched.name, vouched.roles)
        ends_at = now + vouched.seconds_left
        return Login(
            caller,
            None,
            user_id,
            ends_at,
            checked_at=now,
            used_at=now,
            widest=vouched.widest,
            key=vouched.key,
        )

    async def user(self, vouched: Vouched) -> UUID:
        """The row of this user. Raises NotAuthenticated where it is disabled."""
        user_id = await self._database.write(
            lambda c: user_of(c, vouched.issuer, vouched.subject, vouched.name)
        )
        if await self._database.read(lambda c: disabled_among(c, [user_id])):
            raise NotAuthenticated(f"The user {vouched.name} is disabled here.")
        return user_id

    async def refresh(self) -> None:
        """Ask the store which of the credentials in use are still good, and end the others."""
        now = self._clock.monotonic()
        for key, login in list(self._known.items()):
            if login.is_over or login.ends_at <= now or not self._is_trusted(login):
                self._forget(key)
            elif not login.is_held and now - login.used_at > FORGET_SECONDS:
                del self._known[key]
        kinds: tuple[store.CredentialKind | None, ...] = ("api", "worker", "session", None)
        for kind in kinds:
            of_kind = {key: login for key, login in self._known.items() if login.kind == kind}
            keys = list(of_kind)
            for start in range(0, len(keys), BATCH):
                batch = {key: of_kind[key] for key in keys[start : start + BATCH]}
                asked_at = self._clock.monotonic()
                good = await self._good(kind, [login.id for login in batch.values()])
                for key, login in batch.items():
                    if login.id in good:
                        login.checked_at = asked_at
                    elif self._known.get(key) is login:
                        self._forget(key)
        await self._touch(now)

    def _is_trusted(self, login: Login) -> bool:
        return self._verifier is None or login.key is None or self._verifier.trusts(login.key)

    async def _good(self, kind: store.CredentialKind | None, ids: list[UUID]) -> Iterable[UUID]:
        if kind is None:
            return set(ids) - await self._database.read(lambda c: disabled_among(c, ids))
        return await self._database.read(lambda c: store.find(c, kind, ids))

    async def _touch(self, now: float) -> None:
        """Write which tokens were used since it was written last."""
        used = [
            login
            for login in self._known.values()
            if login.used_at > login.touched_at and now - login.touched_at >= TOUCH_SECONDS
        ]
        for kind in ("api", "worker"):
            due = [login for login in used if login.kind == kind][:BATCH]
            if due:
                ids = [login.id for login in due]
                await self._database.write(partial(store.touch, kind=kind, ids=ids), lane=Lane.SINGLE)
                for login in due:
                    login.touched_at = now

    def _forget(self, key: str) -> None:
        login = self._known.pop(key, None)
        if login is not None:
            login.end()

    def look_soon(self) -> None:
        """Something was revoked here: refresh in a moment, when the request that did it has been answered."""
        self._wanted.set()

    async def run(self) -> None:
        """Refresh now and then, until cancelled."""
        while True:
            with move_on_after(REFRESH_SECONDS):
                await self._wanted.wait()
            if self._wanted.is_set():
                self._wanted = Event()
                await sleep(ANSWER_SECONDS)
            try:
                await self.refresh()
            except HoldfastError as error:
                log.warning("credentials_not_looked_at", cause=error.detail)
