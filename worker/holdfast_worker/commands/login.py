"""`holdfast login`: keep a token for a server, so that verbs need none."""

import os
import sys
from typing import TYPE_CHECKING, Final

import click

from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.options import as_json, connected
from holdfast_worker.terminal.output import say, write_facts, write_json
from holdfast_worker.terminal.text import escaped, moment

if TYPE_CHECKING:
    from holdfast_core.schemas import Identity
    from holdfast_worker.wire import Address

__all__ = ["login"]

#: No token is longer.
MAX_TOKEN: Final = 8_192


@click.command()
@click.option(
    "--url",
    envvar="HOLDFAST_URL",
    show_envvar=True,
    metavar="URL",
    help="The server; by default http://127.0.0.1:8790.",
)
@click.option("--token-stdin", is_flag=True, help="Read the token from stdin instead of asking for it.")
@click.option(
    "--insecure", is_flag=True, help="Keep one for http to another host, where it can be read on the way."
)
@click.option("--status", is_flag=True, help="Only say who one is for this server by now, by whatever token.")
@click.option(
    "--remove", is_flag=True, help="Forget the token of this server. It stays good: see `token revoke`."
)
@as_json
def login(
    url: str | None, token_stdin: bool, insecure: bool, status: bool, remove: bool, as_json: bool
) -> None:
    """Keep a token for a server, so that verbs need none.

    Asks for the token, and the server whether it is good. It is kept in a file of your own (0600), and sent to that
    server alone: --token and HOLDFAST_TOKEN come before it. Whoever runs the server makes tokens, with `holdfast token
    create`.
    """
    if status + remove + (token_stdin or insecure) > 1:
        raise click.UsageError("--status and --remove stand alone")
    address = _address(url)
    if remove:
        _remove(address)
    elif status:
        with connected(url, None) as client:
            identity = client.identity()
            _show(identity, address, client.last_answer, as_json=as_json)
    else:
        _log_in(address, url, _token(address, insecure=insecure, from_stdin=token_stdin), as_json=as_json)


def _address(url: str | None) -> "Address":
    from holdfast_worker.wire import Address

    try:
        return Address.of(url, "")
    except ValueError as error:
        raise click.UsageError(f"{error} (from --url or HOLDFAST_URL)") from None


def _token(address: "Address", *, insecure: bool, from_stdin: bool) -> str:
    """The token, from stdin or a person. Ends before it is typed where it would travel in the clear."""
    if not address.is_tls and not address.is_loopback and not insecure:
        stop(
            Exit.USAGE,
            f"{address.shown} is not https, so whoever is on the way to it could read the token. Name the server by"
            " https, or accept that with --insecure.",
        )
    from holdfast_worker.credentials import origin_of, stored_token

    stored_token(origin_of(address.shown))  # a file that cannot be used is told before anything is typed
    if from_stdin or not sys.stdin.isatty():
        token = sys.stdin.buffer.readline(MAX_TOKEN + 2).decode("utf-8", "replace")
    else:
        token = str(click.prompt(f"Token for {address.shown} (not shown)", hide_input=True, err=True))
    token = token.strip()
    if not token:
        raise click.UsageError("there is no token on stdin")
    if len(token) > MAX_TOKEN:
        raise click.UsageError("what came as a token is longer than any")
    return token


def _log_in(address: "Address", url: str | None, token: str, *, as_json: bool) -> None:
    from holdfast_core.errors import NotAuthenticated
    from holdfast_worker.credentials import origin_of, store_token

    with connected(url, token) as client:
        try:
            identity = client.identity()
        except NotAuthenticated as error:
            stop(Exit.NOT_ALLOWED, f"{error} Nothing was stored.")
        body = client.last_answer
    if identity.provider == "disabled":
        say(f"{address.shown} asks nobody who they are (authentication is disabled). Nothing was stored.")
    else:
        path = store_token(origin_of(address.shown), token)
        say(f"Logged in at {address.shown}. The token is kept in {path}.")
        if os.environ.get("HOLDFAST_TOKEN"):
            say("HOLDFAST_TOKEN is set, and comes before it.")
    _show(identity, address, body, as_json=as_json)


def _remove(address: "Address") -> None:
    from holdfast_worker.credentials import forget_token, origin_of

    if forget_token(origin_of(address.shown)):
        say(f"The token for {address.shown} is forgotten here. `holdfast token revoke` ends it for good.")
    else:
        say(f"No token is kept for {address.shown}.")


def _show(identity: "Identity", address: "Address", body: bytes, *, as_json: bool) -> None:
    if as_json:
        write_json(body)
        return
    facts = [
        ("Server", address.shown),
        ("Name", escaped(identity.name)),
        ("Role", _role(identity)),
        ("Worker", identity.worker_id or ""),
        ("Good until", moment(identity.expires_at)),
    ]
    write_facts([(name, value) for name, value in facts if value])


def _role(identity: "Identity") -> str:
    """The widest of the roles; while authentication is disabled everybody has all of them."""
    from holdfast_core.policy import INCLUDED

    if identity.provider == "disabled":
        return "all, since authentication is disabled"
    return str(max(identity.roles, key=lambda role: len(INCLUDED[role]), default="none"))
