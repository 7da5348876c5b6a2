"""systemd's managers, the host's and a user's: where their units lie, and how they are told."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Manager", "Refused", "is_here", "lingers"]

_SYSTEM_UNITS: Final = Path("/etc/systemd/system")
_SYSTEM_SETTINGS: Final = Path("/etc/holdfast")
_LINGERING: Final = Path("/var/lib/systemd/linger")
_SECONDS: Final = 120


class Refused(Exception):
    """systemctl did not do what it was asked for. Says what it said."""


def is_here() -> bool:
    """Whether this host has systemd."""
    return shutil.which("systemctl") is not None


@dataclass(frozen=True)
class Manager:
    """The host's, or this user's own."""

    is_system: bool

    @property
    def units(self) -> Path:
        """The folder of units that people put there."""
        return _SYSTEM_UNITS if self.is_system else _configuration() / "systemd" / "user"

    @property
    def settings(self) -> Path:
        """The folder of the files with variables."""
        return _SYSTEM_SETTINGS if self.is_system else _configuration() / "holdfast"

    @property
    def command(self) -> str:
        """How it is spoken to."""
        return "systemctl" if self.is_system else "systemctl --user"

    def is_running(self, unit: str) -> bool:
        """Whether the unit runs."""
        return self._ask("is-active", unit).stdout.strip() == "active"

    def tell(self, *words: str) -> None:
        """Have it do something. Raises Refused."""
        told = self._ask(*words)
        if told.returncode:
            raise Refused(
                told.stderr.strip() or f"`{self.command} {' '.join(words)}` ended with {told.returncode}"
            )

    def _ask(self, *words: str) -> "subprocess.CompletedProcess[str]":
        try:
            return subprocess.run(  # noqa: S603 (systemd's own program, without a shell)
                [*self.command.split(), *words], capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Refused(str(error)) from None


def lingers(user: str) -> bool:
    """Whether the user's manager starts with the host, and not only with a login."""
    return (_LINGERING / user).exists()


def _configuration() -> Path:
    given = os.environ.get("XDG_CONFIG_HOME")
    return Path(given) if given and Path(given).is_absolute() else Path.home() / ".config"
