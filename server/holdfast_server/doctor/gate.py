"""Whether the gate holds here: proven by a short race on a scratch database, never on the live one."""

from collections.abc import Iterator
from typing import Final

from anyio import fail_after

from holdfast_core.errors import ConfigurationError, HoldfastError
from holdfast_core.settings import Settings
from holdfast_server.compose import open_services
from holdfast_server.doctor.checks import Check, ok, problem, warning
from holdfast_server.doctor.race import Outcome, run_race
from holdfast_server.doctor.scratch import NoScratch, open_scratch

__all__ = ["examine_gate"]

#: For all of it: the scratch database, its schema, two sets of services, and the race.
SECONDS: Final = 60.0

_NAME: Final = "gate"


async def examine_gate(settings: Settings) -> Check:
    """Takes about five seconds. The scratch database is gone afterwards."""
    try:
        with fail_after(SECONDS):
            async with (
                open_scratch(settings) as scratch,
                open_services(scratch) as one,
                open_services(scratch) as other,
            ):
                return _judged(await run_race(one, other))
    except Exception as error:
        causes = list(_causes_of(error))
        # Several claimers fail together, and of what fails without being expected the traceback is wanted.
        if any(_untried(cause) is None for cause in causes):
            raise
        return next(check for cause in causes if (check := _untried(cause)) is not None)


def _causes_of(error: Exception) -> Iterator[Exception]:
    """What a task group wrapped, or else the error itself."""
    inner: tuple[Exception, ...] = getattr(error, "exceptions", ())
    for wrapped in inner:
        yield from _causes_of(wrapped)
    if not inner:
        yield error


def _untried(error: Exception) -> Check | None:
    """What to say where the race could not be run to its end; None where that is a bug."""
    match error:
        case NoScratch():
            return warning(_NAME, f"Could not be tried. {error.found}", error.advice)
        case ConfigurationError():
            return warning(_NAME, f"Could not be tried. {error}", "Mend that, and run the doctor again.")
        case HoldfastError() | TimeoutError():
            cause = error.detail if isinstance(error, HoldfastError) else "a claimer never learnt of a pause."
            return problem(
                _NAME,
                f"The race on a scratch database came to no end: {cause}",
                "Look at the other checks, and at how busy the database is; then run the doctor again.",
            )
        case _:
            return None


def _judged(outcome: Outcome) -> Check:
    met = f"{outcome.pauses} pauses met {outcome.claims} claims on a scratch database"
    if outcome.late:
        return problem(
            _NAME,
            f"DOES NOT HOLD: {met}, and after {outcome.late} of the answers a claim still committed.",
            "Do not rely on a pause here, and tell the maintainers: what is between Holdfast and its database?",
        )
    if outcome.busy < outcome.pauses / 2 or not outcome.pauses:
        return warning(
            _NAME,
            f"{met}, and none committed after the answer; but too few were in flight to prove anything.",
            "Run the doctor again when this host is less busy.",
        )
    return ok(_NAME, f"Holds: {met}, and none committed after the answer.")
