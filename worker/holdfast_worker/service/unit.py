"""What the unit of a worker says, and the file of variables beside it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["MARK", "Unit", "variables"]

#: The first line of each unit that we write: no other is replaced or removed.
MARK: Final = "# Written by `holdfast worker install-service`, which replaces it when it is run again."

#: Usage, and a server that does not let the worker in: to start again mends neither.
_FINAL_CODES: Final = "2 7"
#: For what a worker says to the server at its end.
_MARGIN_SECONDS: Final = 10

_PLAIN: Final = re.compile(r"[A-Za-z0-9_@:,./=+-]+")


@dataclass(frozen=True)
class Unit:
    """A worker's service."""

    worker: str
    #: The program and its arguments.
    command: Sequence[str]
    folder: Path
    search_path: str
    #: Read at the start, where it is there: the token and other variables.
    variables_file: Path
    #: What its jobs get to end, from SIGTERM to SIGKILL.
    end_seconds: float
    auto_start: bool
    #: The user that it runs as; None: a unit of the user's own manager.
    run_as: str | None

    def text(self) -> str:
        """The unit's file."""
        lines = [
            MARK,
            "[Unit]",
            f"Description=Holdfast worker {_plain(self.worker)}",
        ]
        if self.run_as is not None:
            lines += ["Wants=network-online.target", "After=network-online.target"]
        lines += ["", "[Service]", "Type=exec"]
        if self.run_as is not None:
            lines.append(f"User={_plain(self.run_as)}")
        lines += [
            f"ExecStart={' '.join(_word(word) for word in self.command)}",
            f"WorkingDirectory={_plain(str(self.folder))}",
            f"Environment={_quoted('PATH=' + self.search_path)}",
            f"EnvironmentFile=-{_plain(str(self.variables_file))}",
            "# Jobs are the worker's to end: it alone gets SIGTERM.",
            "KillMode=mixed",
            f"TimeoutStopSec={round(self.end_seconds) + _MARGIN_SECONDS}",
        ]
        if self.auto_start:
            lines += ["Restart=on-failure", "RestartSec=5", f"RestartPreventExitStatus={_FINAL_CODES}"]
        else:
            lines += [
                "# Without auto-start: what has ended, however it did, stays so until somebody starts it."
            ]
            lines += ["Restart=no"]
        target = "default.target" if self.run_as is None else "multi-user.target"
        return "\n".join([*lines, "", "[Install]", f"WantedBy={target}", ""])


def variables(given: Mapping[str, str]) -> str:
    """A file of variables as systemd reads it."""
    lines = ["# Read at each start of the worker. Only its owner may read it: it can hold a token."]
    lines += [f'{name}="{_escaped_in_file(value)}"' for name, value in given.items()]
    return "\n".join([*lines, ""])


def _plain(text: str) -> str:
    """A value that is taken as it is, but for specifiers."""
    return text.replace("%", "%%")


def _word(text: str) -> str:
    """One word of a command line (systemd.service(5), "Command lines")."""
    return text if _PLAIN.fullmatch(text) else _quoted(text.replace("$", "$$"))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{_plain(escaped)}"'


def _escaped_in_file(text: str) -> str:
    return re.sub(r'(["\\`$])', r"\\\1", text)
