"""`holdfast token`: who may come in, and as what."""

import json
from typing import TYPE_CHECKING

import click

from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.options import DURATION, as_json
from holdfast_worker.terminal.output import say, write_json, write_table
from holdfast_worker.terminal.text import escaped, moment
from holdfast_worker.terminal.tokens import at_server_or_host, on_host, where

if TYPE_CHECKING:
    from holdfast_core.schemas import CreatedToken, Token
    from holdfast_worker.terminal.tokens import Tokens

__all__ = ["token"]


@click.group()
def token() -> None:
    """Make, list and revoke tokens.

    On the server's host this writes to its database, and needs no token: that is how the first one is made. With
    --url a server does it, for an admin.
    """


@token.command()
@click.option(
    "--role",
    type=click.Choice(["viewer", "producer", "operator", "admin"]),
    help="What it admits: looking; adding jobs, too; pausing, too; tokens, too.",
)
@click.option("--user", metavar="NAME", help="With --role: who stands behind it, as the audit log shows it.")
@click.option("--name", metavar="LABEL", help="What it is for; by default the user's or the worker's name.")
@click.option("--worker-id", metavar="ID", help="For this worker alone: it claims and reports, and no more.")
@click.option(
    "--types", metavar="TYPE,…", help="With --worker-id: only jobs of these types, with commas between."
)
@click.option(
    "--capability",
    "capabilities",
    multiple=True,
    metavar="NAME",
    help="With --worker-id: it claims with no other capabilities. Repeatable.",
)
@click.option(
    "--expires", type=DURATION, help="After this it is good no more, like 90d, 12h; by default never."
)
@where
@as_json
def create(
    role: str | None,
    user: str | None,
    name: str | None,
    worker_id: str | None,
    types: str | None,
    capabilities: tuple[str, ...],
    expires: float | None,
    url: str | None,
    token: str | None,
    database_url: str | None,
    as_json: bool,
) -> None:
    """Make a token, with a role or for a worker.

    It stands alone on stdout, and is shown this once: only a hash of it is kept. `TOKEN=$(holdfast token create --role
    operator --user alice)`.
    """
    _refuse_mixtures(role, user, worker_id, types, capabilities)
    if expires is not None and not expires.is_integer():
        raise click.BadParameter("takes whole seconds", param_hint="--expires")
    with at_server_or_host(url, token, database_url) as tokens:
        made = tokens.create_token(
            role=role,
            user=user,
            name=name,
            worker_id=worker_id,
            types=None if types is None else [part.strip() for part in types.split(",") if part.strip()],
            capabilities=capabilities or None,
            expires_in_seconds=None if expires is None else int(expires),
        )
        if as_json:
            write_json(tokens.last_answer)
        else:
            click.echo(escaped(made.token))
        say(f"{_made(made)} It is shown this once.")
        if not getattr(tokens, "are_asked_for", True):
            say(
                "By the settings here HOLDFAST_AUTH_PROVIDER is disabled: a server asks for tokens once it is set to"
                " token."
            )


@token.command(name="list")
@click.option("--all", "ended", is_flag=True, help="Also those that were revoked or have expired.")
@where
@as_json
def list_tokens(
    ended: bool, url: str | None, token: str | None, database_url: str | None, as_json: bool
) -> None:
    """List tokens, without their values; the newest first."""
    with at_server_or_host(url, token, database_url) as tokens:
        found = tokens.tokens(ended=ended)
        if as_json:
            write_json(tokens.last_answer)
            return
        from holdfast_worker.terminal.views import TOKEN_COLUMNS, token_row

        if found.items:
            write_table(TOKEN_COLUMNS, [token_row(item) for item in found.items])
        else:
            say("There is no token." if ended else "No token is good. --all shows those that were.")


@token.command()
@click.argument("token_ids", metavar="[ID]...", nargs=-1)
@click.option("--user", metavar="NAME", help="All tokens of this user, and the browser sessions, instead.")
@where
@as_json
def revoke(
    token_ids: tuple[str, ...],
    user: str | None,
    url: str | None,
    token: str | None,
    database_url: str | None,
    as_json: bool,
) -> None:
    """Revoke tokens: within five seconds every server process refuses them, and ends what they have opened.

    To repeat it changes nothing. IDs are those of `holdfast token list`. Ends with 1 where one is not known; the others
    are revoked.
    """
    if (user is None) == (not token_ids):
        raise click.UsageError("give the IDs of tokens, or --user NAME for all of a user's")
    if user is not None:
        if url is not None or token is not None:
            raise click.UsageError("--user is done on the server's host, without --url and --token")
        with on_host(database_url) as host:
            count = host.revoke_user(user)
        if as_json:
            write_json(json.dumps({"user": user, "revoked": count}).encode())
        say(f"Ended {count} of the tokens and sessions of {user}.")
        return
    with at_server_or_host(url, token, database_url) as tokens:
        done, bodies, unknown = _revoke(tokens, token_ids)
        if as_json:
            write_json(json.dumps({"items": bodies}).encode())
        elif done:
            from holdfast_worker.terminal.views import TOKEN_COLUMNS, token_row

            write_table(TOKEN_COLUMNS, [token_row(item) for item in done])
    if unknown:
        stop(
            Exit.FAILED,
            f"Not known, so not revoked: {', '.join(unknown)}. `holdfast token list --all` lists the ids.",
        )


def _revoke(tokens: "Tokens", token_ids: tuple[str, ...]) -> tuple[list["Token"], list[object], list[str]]:
    """Those that were revoked, the same as the API answers them, and the ids that are not known."""
    from holdfast_core.errors import TokenNotFound

    done: list[Token] = []
    bodies: list[object] = []
    unknown: list[str] = []
    for token_id in token_ids:
        try:
            done.append(tokens.revoke_token(token_id))
        except TokenNotFound:
            unknown.append(token_id)
        else:
            bodies.append(json.loads(tokens.last_answer))
    return done, bodies, unknown


def _refuse_mixtures(
    role: str | None,
    user: str | None,
    worker_id: str | None,
    types: str | None,
    capabilities: tuple[str, ...],
) -> None:
    if role is None and worker_id is None:
        raise click.UsageError(
            "say what it is for: --role ROLE --user NAME, or --worker-id ID for a worker's"
        )
    if role is not None and worker_id is not None:
        raise click.UsageError("--role and --worker-id exclude each other: no worker pauses or administers")
    if worker_id is None and (types is not None or capabilities):
        raise click.UsageError("--types and --capability belong to --worker-id")
    if worker_id is not None and user is not None:
        raise click.UsageError("--user belongs to --role: nobody stands behind a worker; --name labels it")
    if role is not None and user is None:
        raise click.UsageError(
            "--user is missing: who stands behind it, so that the audit log can name somebody"
        )


def _made(made: "CreatedToken") -> str:
    end = f", good until {moment(made.expires_at)}" if made.expires_at else ""
    if made.worker_id is None:
        return f"Made the token {made.id}: {made.role}, {made.user}{end}."
    bounds = [
        f"{what} {', '.join(names) or '(none)'}"
        for what, names in (("types", made.types), ("capabilities", made.capabilities))
        if names is not None
    ]
    return f"Made the token {made.id}: the worker {made.worker_id}{''.join(f', {b}' for b in bounds)}{end}."
