"""The server's commands, found by the command line through the entry-point group `holdfast.commands`.

Here is what they share: how they read settings, and how they fail: in one line that names cause and way
out, with exit code 2 for a wrong setting and 1 for surroundings that do not allow it. Imports that cost
time stand inside the functions, since the command line loads these modules only to know their options.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from holdfast_core.settings import Settings

__all__ = [
    "cause_of",
    "database_url_option",
    "failures_in_one_line",
    "one_line",
    "read_settings",
]

_C = TypeVar("_C", bound=Callable[..., Any])


def database_url_option(command: _C) -> _C:
    """`--database-url`, the same for all."""
    option = click.option(
        "--database-url",
        metavar="URL",
        help="sqlite:///PATH or postgresql://…; else HOLDFAST_DATABASE_URL, else SQLite in your data folder.",
    )
    return option(command)


def read_settings(**options: object) -> "Settings":
    """Settings from the environment, options that were given first. A wrong one ends with exit code 2."""
    from holdfast_core.errors import ConfigurationError
    from holdfast_core.settings import load_settings

    try:
        return load_settings(**{name: value for name, value in options.items() if value is not None})
    except ConfigurationError as error:
        raise _failure(str(error), exit_code=2) from None


@contextmanager
def failures_in_one_line(*, exit_code: int = 1) -> Generator[None]:
    """Turn a start that cannot be into one line and an exit code. Anything else is a bug and stays."""
    try:
        yield
    except Exception as error:
        cause = cause_of(error)
        if cause is None:
            raise
        raise _failure(cause, exit_code=exit_code) from None


def cause_of(error: Exception) -> str | None:
    """What to tell of a failure that is not ours: cause and way out. None where it is a bug."""
    from holdfast_core.errors import ConfigurationError, HoldfastError

    match _innermost(error):
        case ConfigurationError() as cause:
            return str(cause)
        case HoldfastError() as cause:
            return cause.detail
        case _:
            return None


def one_line(text: str) -> str:
    """`text` fit for one line of a terminal: those of operating systems and databases have line breaks, and may
    carry what came from outside."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


def _innermost(error: BaseException) -> BaseException:
    """What a task group wrapped, where it wrapped one error only."""
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return _innermost(inner[0]) if len(inner) == 1 else error


class _Failure(click.ClickException):
    """click prints it as one line on stderr and ends the process with its code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def _failure(text: str, *, exit_code: int) -> click.ClickException:
    return _Failure(one_line(text), exit_code)
