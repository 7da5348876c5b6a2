"""The schema's revision against the one that this code works with."""

from holdfast_core.db.migrations import head
from holdfast_core.settings import Settings
from holdfast_server.doctor.checks import Check, ok, problem, warning

__all__ = ["examine_schema"]


def examine_schema(revision: str | None, settings: Settings) -> Check:
    """What to say of a database at this revision (None: nothing has been made yet)."""
    wanted = head()
    if revision == wanted:
        return ok("schema", f"Up to date, at revision {wanted}.")
    # Revisions are numbers with leading zeros, so they sort.
    if revision is not None and revision > wanted:
        return problem(
            "schema",
            f"At revision {revision}, which is newer than this Holdfast knows ({wanted}).",
            "Upgrade Holdfast; an older one must not write to it.",
        )
    found = "Not made yet." if revision is None else f"At revision {revision}, behind {wanted}."
    if settings.migrate_on_start:
        return warning(
            "schema", found, "`holdfast migrate` brings it up to date, and so does a server's start."
        )
    return problem("schema", found, "Run `holdfast migrate`: a server will not start before.")
