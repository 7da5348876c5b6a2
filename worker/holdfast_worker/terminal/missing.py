"""What a verb answers where the server's part of Holdfast is not installed: the install line."""

from typing import Final, NoReturn

from holdfast_worker.terminal.exits import Exit, stop

__all__ = ["INSTALL_LINE", "answer_missing"]

INSTALL_LINE: Final = "pip install 'holdfast[server]'"


def answer_missing(verb: str | None, error: ModuleNotFoundError, otherwise: str = "") -> NoReturn:
    """End with the install line, unless what is missing is a part of Holdfast: that is a bug, not an extra.

    `otherwise`: a sentence with another way out.
    """
    module = (error.name or "").partition(".")[0]
    if module.startswith("holdfast") and module != "holdfast_server":
        raise error
    stop(
        Exit.FAILED,
        f"`holdfast {verb}` needs the server's libraries ({error.name} is missing). Install them: {INSTALL_LINE}"
        + (f" {otherwise}" if otherwise else ""),
    )
