"""`holdfast serve`: REST, MCP and the dashboard, in one process or in several on one port."""

import gc
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from holdfast_server.commands import database_url_option, failures_in_one_line, read_settings

if TYPE_CHECKING:
    from holdfast_core.settings import Settings

__all__ = ["serve"]

#: Connections that the system holds for us before we accept them.
BACKLOG: Final = 2_048
#: Open files that a server asks the system for, if it may have so many: each connection is one.
MOST_FILES: Final = 65_536

_PEM_FILE: Final = click.Path(path_type=Path)


@click.command()
@click.option("--host", metavar="ADDRESS", help="Where to listen; else HOLDFAST_HOST, 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65_535), help="0 takes a free one; else HOLDFAST_PORT, 8790.")
@click.option(
    "--workers", type=click.IntRange(1, 64), help="Processes that share the port; else HOLDFAST_WORKERS, 1."
)
@click.option(
    "--tls-cert", type=_PEM_FILE, metavar="FILE", help="Certificate, for HTTPS; else HOLDFAST_TLS_CERT."
)
@click.option("--tls-key", type=_PEM_FILE, metavar="FILE", help="Its private key; else HOLDFAST_TLS_KEY.")
@database_url_option
def serve(**given: Any) -> None:
    """Serve REST, MCP and the dashboard, until SIGTERM or Ctrl-C.

    Prints one line on stdout once it accepts connections. Logs go to stderr.
    """
    settings = read_settings(**given)
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, _end_now)  # until uvicorn takes over

    from holdfast_server.commands.tls import server_context

    with failures_in_one_line(exit_code=2):
        tls = server_context(settings)
    _allow_files()
    with failures_in_one_line():
        listener = _listen(settings)
        scheme = "http" if tls is None else "https"
        address = f"{scheme}://{_in_url(settings.host)}:{listener.getsockname()[1]}"

        def on_ready() -> None:
            _tell(f"Holdfast is ready at {address}")

        from holdfast_core.telemetry import configure_logs

        configure_logs(settings.log_format)
        if settings.workers > 1:
            from holdfast_server.commands.processes import run_processes

            run_processes(settings, given, listener, on_ready)
            return

        gc.disable()  # until it is ready: nothing that is made by then is garbage, and to look for some takes long
        from holdfast_server.commands.web import run_server
        from holdfast_server.compose import create_application

        run_server(create_application(settings), listener, on_ready, tls=tls)


def _end_now(signum: int, frame: object) -> NoReturn:
    del signum, frame
    raise SystemExit(0)


def _allow_files() -> None:
    """Take what the host allows of open files: where nobody asks it is 1,024, too few for a thousand push sessions.
    The processes of `--workers` inherit it."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # the kernel may have a limit below the one that it tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(settings: "Settings") -> socket.socket:
    """The socket, listening: before anything else is opened, so that a taken port costs nothing.

    Who connects while the database is being opened waits for the answer instead of being refused.
    """
    from holdfast_core.errors import ConfigurationError

    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {settings.host} port {settings.port}: {error.strerror or error}."
            " Choose another with --host and --port (0 takes a free port)."
        ) from None
    return listener


def _tell(line: str) -> None:
    """Print and flush; a stdout that is closed, now or later, is no reason to end."""
    try:
        click.echo(line)  # flushes
    except (OSError, ValueError):
        # What is left in the buffer must not fail again when the interpreter flushes it at its end.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
