"""Where `holdfast token` makes, lists and revokes tokens: at a server, or in its database, on its own host.

The second is how the first token is made: who may write to the database needs none. It is the server's part of
Holdfast, found through the entry-point group `holdfast.host`, since the command line does without a database.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, ParamSpec, Protocol, TypeVar, cast

import click

from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.missing import INSTALL_LINE, answer_missing
from holdfast_worker.terminal.options import connected

if TYPE_CHECKING:
    from holdfast_core.schemas import CreatedToken, Token, TokenList

__all__ = ["HostTokens", "Tokens", "at_server_or_host", "on_host", "where"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_GROUP: Final = "holdfast.host"
_WITH_URL: Final = "Or have a running server do it: --url."


class Tokens(Protocol):
    """A Client, or the database itself. Raises HoldfastErrors."""

    #: The latest answer as JSON, as the API gives it.
    last_answer: bytes

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
        """A new token."""
        ...

    def tokens(self, *, ended: bool = False) -> "TokenList":
        """The tokens that are good, newest first; `ended`: also those that were."""
        ...

    def revoke_token(self, token_id: str) -> "Token":
        """End a token. Raises TokenNotFound."""
        ...


class HostTokens(Tokens, Protocol):
    """The database itself."""

    @property
    def are_asked_for(self) -> bool:
        """Whether a server with these settings asks for tokens."""
        ...

    def revoke_user(self, user: str) -> int:
        """End all tokens and sessions of a user; returns how many. Raises TokenNotFound."""
        ...


def where(verb: Callable[_P, _R]) -> Callable[_P, _R]:
    """The options that say at which server, or in which database."""
    for option in (
        click.option(
            "--database-url",
            metavar="URL",
            help="On the server's host: sqlite:///PATH or postgresql://…; else HOLDFAST_DATABASE_URL, else SQLite in"
            " your data folder.",
        ),
        click.option(
            "--token",
            metavar="TOKEN",
            help="With --url, who is asking: an admin. Else HOLDFAST_TOKEN, else what `holdfast login` has stored.",
        ),
        click.option(
            "--url",
            metavar="URL",
            help="Have this server do it. Without it the database is written to: on the server's host.",
        ),
    ):
        verb = option(verb)
    return verb


@contextmanager
def at_server_or_host(url: str | None, token: str | None, database_url: str | None) -> "Generator[Tokens]":
    """The server at `url`, or the database of this host where that is None."""
    if url is None:
        if token is not None:
            raise click.UsageError("--token belongs to --url: on the server's host no token is asked for")
        with on_host(database_url) as host:
            yield host
        return
    if database_url is not None:
        raise click.UsageError("give --url or --database-url, not both: with --url no database is opened")
    with connected(url, token) as client:
        yield client


@contextmanager
def on_host(database_url: str | None) -> "Generator[HostTokens]":
    """The database of this host. Ends with the install line where the server is not installed."""
    try:
        yield _opened(database_url)
    except ModuleNotFoundError as error:
        answer_missing("token", error, _WITH_URL)


def _opened(database_url: str | None) -> HostTokens:
    from importlib.metadata import entry_points

    found = list(entry_points(group=_GROUP, name="tokens"))
    if not found:
        stop(
            Exit.FAILED,
            f"`holdfast token` needs the server, to write to its database. Install it: {INSTALL_LINE} {_WITH_URL}",
        )
    opened = cast("Callable[[str | None], HostTokens]", found[0].load())
    return opened(database_url)
