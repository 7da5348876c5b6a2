"""Options that several verbs share: the server's address, the token, durations."""

import re
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Generator

    from holdfast_worker.client import Client

__all__ = ["DURATION", "as_json", "connected", "server"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,6})?[smhd])+")
_PART: Final = re.compile(r"([0-9.]+)([smhd])")
_LONGEST_SECONDS: Final = 366 * 86_400.0


class _Duration(click.ParamType[float]):
    """Seconds, from text like 90s, 30m, 2h or 1h30m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        text = str(value).strip().lower()
        if not _DURATION.fullmatch(text):
            self.fail(f"{value!r} is not a duration like 90s, 30m, 2h or 1h30m.", param, ctx)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        if not 0 < seconds <= _LONGEST_SECONDS:
            self.fail(f"{value!r} is not between a moment and a year.", param, ctx)
        return seconds


DURATION: Final = _Duration()

as_json = click.option("--json", "as_json", is_flag=True, help="JSON to stdout, as the API answered it.")


def server(verb: Callable[_P, _R]) -> Callable[_P, _R]:
    """The options `--url` and `--token` of every verb that speaks to a server."""
    verb = click.option(
        "--token",
        envvar="HOLDFAST_TOKEN",
        show_envvar=True,
        metavar="TOKEN",
        help="Who is asking; else what `holdfast login` has kept.",
    )(verb)
    return click.option(
        "--url",
        envvar="HOLDFAST_URL",
        show_envvar=True,
        metavar="URL",
        help="The server; by default http://127.0.0.1:8790.",
    )(verb)


@contextmanager
def connected(url: str | None, token: str | None) -> "Generator[Client]":
    """A client for one verb."""
    from holdfast_worker.client import Client  # here, so that --help needs no HTTP library

    try:
        client = Client(url, token=token)
    except ValueError as error:
        raise click.UsageError(f"{error} (from --url, --token or the environment)") from None
    with client:
        yield client
