"""Saving an artifact: whole or not at all, and never over a file that somebody else has made."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import click

from holdfast_worker.terminal.text import escaped

if TYPE_CHECKING:
    from holdfast_core.schemas import Artifact
    from holdfast_worker.client import Client

__all__ = ["save"]


def save(client: "Client", artifact: "Artifact", output: Path | None, *, over: bool) -> Path:
    """Download into `output`, into the folder that it is, or into the artifact's name here. Returns where.

    The bytes go into a file of their own beside it, which takes the name once their digest is found right. Raises
    UsageError where something has that name already, unless `over`; UnexpectedAnswer for another digest.
    """
    target = Path() if output is None else output
    if target.is_dir():
        target /= _file_name(artifact)
    if not over and _taken(target):
        raise _in_the_way(target)
    unfinished = target.with_name(f".holdfast-{uuid4().hex}.part")
    try:
        with unfinished.open("xb") as file:
            client.download(artifact, file)
        if over:
            unfinished.replace(target)
        else:
            _give_name(unfinished, target)
    except FileExistsError:
        raise _in_the_way(target) from None
    except OSError as error:
        raise click.ClickException(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # it has its name now, or was never made
            unfinished.unlink(missing_ok=True)
    return target


def _give_name(unfinished: Path, target: Path) -> None:
    """Raises FileExistsError where the name has been taken meanwhile."""
    try:
        target.hardlink_to(unfinished)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if _taken(target):
            raise FileExistsError from None
        unfinished.replace(target)


def _taken(target: Path) -> bool:
    # A link that leads nowhere is something, too.
    return target.exists() or target.is_symlink()


def _in_the_way(target: Path) -> click.UsageError:
    return click.UsageError(f"{target} is there already; --force writes over it, --output names another")


def _file_name(artifact: "Artifact") -> str:
    # A label is never a path: of one that looks like one, only its last part is used. Nor does the name of a file
    # hold what would show it as another's, like a mark that turns the direction of writing.
    last = artifact.name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return escaped(last).replace("\\", "_").strip(". ") or str(artifact.id)
