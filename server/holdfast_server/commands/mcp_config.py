"""`holdfast mcp-config`: the configuration with which a client finds the MCP server."""

import re
from typing import Final

import click

from holdfast_server.commands import failures_in_one_line

__all__ = ["mcp_config"]

_CLIENTS: Final = ("claude-code", "vscode", "cursor", "codex", "registry")
#: What all of them take as a name; the registry's has a namespace before it.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REGISTRY_NAME: Final = re.compile(r"(?:[A-Za-z0-9.-]{1,100}/)?[A-Za-z0-9._-]{1,99}")


@click.command(name="mcp-config")
@click.option("--client", type=click.Choice(_CLIENTS), required=True, help="For whom.")
@click.option(
    "--url",
    metavar="URL",
    help="The address of a Holdfast server; without it the client starts `holdfast mcp`.",
)
@click.option("--name", default="holdfast", show_default=True, help="What the client is to call it.")
@click.option("--no-token", is_flag=True, help="With --url: the server asks for no token.")
def mcp_config(client: str, url: str | None, name: str, no_token: bool) -> None:
    """Print the configuration with which an agent's client finds Holdfast's MCP server.

    With --url the token stays out of it: the client takes it from HOLDFAST_TOKEN, or asks for it.
    """
    from holdfast_server.mcp.clients import CLIENTS, ServerEntry

    allowed = _REGISTRY_NAME if client == "registry" else _NAME
    if not allowed.fullmatch(name):
        raise click.BadParameter(f"{name!r} holds more than letters, digits, - and _.", param_hint="--name")
    if no_token and url is None:
        raise click.UsageError("--no-token belongs to --url: over stdio no token is asked for.")
    endpoint = None
    if url is not None:
        from holdfast_server.mcp.address import endpoint_of

        with failures_in_one_line(exit_code=2):
            endpoint = endpoint_of(url, "underscore")
    chosen = CLIENTS[client]
    click.echo(chosen.render(ServerEntry(name, endpoint, token=not no_token)), nl=False)
    click.echo(f"Put this into {chosen.path}.", err=True)
    if chosen.hint:
        click.echo(chosen.hint, err=True)
