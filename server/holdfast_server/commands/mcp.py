"""`holdfast mcp`: an MCP server for one agent, on stdin and stdout, over its own services."""

import click

from holdfast_server.commands import database_url_option, failures_in_one_line, read_settings

__all__ = ["mcp"]


@click.command()
@database_url_option
def mcp(database_url: str | None) -> None:
    """Serve the queue's tools to one agent over stdio (MCP).

    Ends when stdin closes. Any number may run beside each other and beside `holdfast serve`, on one database.
    """
    settings = read_settings(database_url=database_url)

    import anyio

    from holdfast_server.compose import open_services
    from holdfast_server.logs import configure_logs
    from holdfast_server.mcp import build_mcp_server, serve_stdio

    configure_logs(settings)

    async def serve() -> None:
        async with open_services(settings) as services:
            await serve_stdio(build_mcp_server(lambda: services, settings))

    with failures_in_one_line():
        anyio.run(serve)
