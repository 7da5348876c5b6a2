"""Exit codes (CONTRACT section 8), and which failure ends in which."""

from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum
from typing import NoReturn

import click

from holdfast_worker.terminal.text import escaped

__all__ = ["Exit", "explained", "stop"]


class Exit(IntEnum):
    """What a script can tell from how a verb ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    TIMED_OUT = 4
    STALE = 5
    UNREACHABLE = 6
    NOT_ALLOWED = 7
    SUPERSEDED = 8


def stop(code: Exit, message: str) -> NoReturn:
    """End the verb with one line on stderr that names the cause and the way out."""
    click.echo(f"Error: {escaped(message)}", err=True)
    raise click.exceptions.Exit(code)


@contextmanager
def explained() -> Generator[None]:
    """Turn Holdfast's failures into one line and an exit code; let everything else pass."""
    try:
        yield
    except Exception as error:
        # Imported only once something has failed: start-up time.
        from holdfast_core.errors import ConfigurationError, HoldfastError

        if isinstance(error, ConfigurationError):
            stop(Exit.FAILED, str(error))
        if isinstance(error, HoldfastError):
            stop(_code_of(error), _with_way_out(error))
        raise


def _code_of(error: Exception) -> Exit:
    from holdfast_core.errors import (
        Conflict,
        ForeignOrigin,
        IdempotencyStale,
        InvalidRequest,
        NotAllowed,
        NotAuthenticated,
    )
    from holdfast_worker.failures import ServerUnreachable

    match error:
        case InvalidRequest():
            return Exit.USAGE
        case IdempotencyStale():
            return Exit.SUPERSEDED
        case Conflict():
            return Exit.REFUSED
        case ServerUnreachable():
            return Exit.UNREACHABLE
        case NotAuthenticated() | NotAllowed() | ForeignOrigin():
            return Exit.NOT_ALLOWED
        case _:
            return Exit.FAILED


def _with_way_out(error: Exception) -> str:
    """The server's words, and what a person at this command line can do about them."""
    from holdfast_core import errors
    from holdfast_worker.failures import ServerUnreachable, UntrustedServer

    text = str(error)
    match error:
        case UntrustedServer(unknown_ca=True):
            return f"{text} If a CA of your own signed it, name that CA's certificate: SSL_CERT_FILE=ca.pem."
        case UntrustedServer():
            return f"{text} Name the server in --url as its certificate does, or renew the certificate."
        case ServerUnreachable(sent=False):
            return f"{text} Start one with `holdfast serve`, or name another with --url or HOLDFAST_URL."
        case ServerUnreachable():
            return f"{text} It may have been carried out: see `holdfast status` before repeating it."
        case errors.NotAuthenticated():
            return f"{text} Log in with `holdfast login`, or give a token with --token or HOLDFAST_TOKEN."
        case errors.NotAllowed():
            return (
                f"{text} `holdfast login --status` says who you are; give another token with HOLDFAST_TOKEN."
            )
        case errors.VersionConflict() | errors.IdempotencyStale():
            return f"{text} `holdfast status` shows it."
        case errors.ResumeNotDrained():
            return f"{text} `holdfast resume --force` accepts the risk."
        case errors.PauseNotConfirmed():
            return f"{text} See `holdfast status`, then repeat."
        case errors.JobNotFound():
            return f"{text} `holdfast jobs` lists the ids."
        case errors.TokenNotFound():
            return f"{text} `holdfast token list --all` lists the ids."
        case _:
            return text
