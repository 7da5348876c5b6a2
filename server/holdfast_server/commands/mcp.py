"""`holdfast mcp`: an MCP server for one agent, on stdin and stdout, over its own services or a server elsewhere."""

from typing import Final

import click

from holdfast_server.commands import database_url_option, failures_in_one_line, read_settings

__all__ = ["mcp"]

_INSTALL_LINE: Final = "pip install 'holdfast[mcp]'"
#: The exit code of what the caller may not (CONTRACT section 8).
_NOT_ALLOWED: Final = 7


@click.command()
@click.option(
    "--url",
    metavar="URL",
    help="Forward to the Holdfast server at this address, with HOLDFAST_TOKEN, instead of opening a database.",
)
@database_url_option
def mcp(url: str | None, database_url: str | None) -> None:
    """Serve the queue's tools to one agent over stdio (MCP).

    Ends when stdin closes. Any number may run beside each other and beside `holdfast serve`, on one database. Unless
    authentication is disabled, it speaks for whoever HOLDFAST_TOKEN names.
    HOLDFAST_MCP_ROLE narrows what is offered: viewer, producer, worker, operator.
    """
    if url is None:
        _serve(database_url)
    elif database_url is None:
        _forward(url)
    else:
        raise click.UsageError("Give --url or --database-url, not both: with --url no database is opened.")


def _serve(database_url: str | None) -> None:
    settings = read_settings(database_url=database_url)

    import anyio

    from holdfast_core.errors import HoldfastError, NotAllowed, NotAuthenticated
    from holdfast_core.telemetry import configure_logs
    from holdfast_server.compose import open_services
    from holdfast_server.mcp import build_mcp_server, serve_stdio
    from holdfast_server.mcp.speaker import find_speaker

    configure_logs(settings.log_format)

    async def serve() -> HoldfastError | None:
        async with open_services(settings) as services:
            try:
                who = await find_speaker(services, settings)
            except (NotAuthenticated, NotAllowed) as error:
                return error
            await serve_stdio(build_mcp_server(lambda: services, settings, who=who, role=settings.mcp_role))
        return None

    with failures_in_one_line():
        refusal = anyio.run(serve)
    if refusal is not None:
        with failures_in_one_line(exit_code=_NOT_ALLOWED):
            raise refusal


def _forward(url: str) -> None:
    try:
        import anyio

        from holdfast_server.mcp.address import endpoint_of
        from holdfast_server.mcp.forward import build_forwarder
        from holdfast_server.mcp.settings import load_forwarder_settings
        from holdfast_server.mcp.stdio import serve_stdio
        from holdfast_server.mcp.upstream import Upstream
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("holdfast"):
            raise
        raise click.ClickException(f"`holdfast mcp --url` needs {error.name}: {_INSTALL_LINE}") from None
    from holdfast_core.telemetry import configure_logs

    with failures_in_one_line(exit_code=2):
        settings = load_forwarder_settings()
        upstream = Upstream(endpoint_of(url, settings.tool_name_style), settings.token)
    configure_logs(settings.log_format)
    anyio.run(serve_stdio, build_forwarder(upstream, settings.mcp_role))
