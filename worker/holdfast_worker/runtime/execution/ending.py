"""What the end of a command means for its job."""

import os
import signal
from typing import Final

from holdfast_worker.runtime.errors import JobFailed

__all__ = ["MOST_LAST_WORDS", "CommandFailed", "failure", "not_started"]

#: Characters of a command's last output that go into the job's error.
MOST_LAST_WORDS: Final = 2_000
#: sysexits.h: the input data was incorrect. To try again would not help.
EX_DATAERR: Final = 65
#: What a shell says of a command that was ended by a signal: this, and the signal's number.
SHELL_SIGNAL: Final = 128


class CommandFailed(Exception):
    """The command has failed; it is tried again while attempts are left."""


def failure(code: int, last_words: str) -> JobFailed | CommandFailed | None:
    """What its exit code (below 0: the signal that ended it) means; None where the command has succeeded."""
    if code == 0:
        return None
    text = _how(code)
    if last_words:
        text = f"{text}; its last words:\n{last_words}"
    return JobFailed(text) if code == EX_DATAERR else CommandFailed(text)


def not_started(command: str, error: OSError) -> CommandFailed:
    """There is no such program, say, or this host has no room for another process."""
    why = error.strerror or str(error)
    where = f": {error.filename}" if error.filename not in (None, command) else ""
    return CommandFailed(f"The command {command!r} cannot be started: {why}{where}.")


def _how(code: int) -> str:
    if os.name == "nt":
        return f"exit code {code & 0xFFFFFFFF}"
    if code < 0:
        return f"killed by {_signal_name(-code)}"
    if SHELL_SIGNAL < code <= SHELL_SIGNAL + 64:
        return f"exit code {code} (what a shell says of {_signal_name(code - SHELL_SIGNAL)})"
    return f"exit code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
