"""`holdfast worker`: run a worker, and control the ones that run on this host."""

from importlib import import_module
from typing import Final

import click

__all__ = ["worker"]

#: Loaded when they are chosen, in the order of the help.
_VERBS: Final = (
    "run",
    "status",
    "pause",
    "resume",
    "stop",
    "tray",
    "install-service",
    "uninstall-service",
)


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(import_module(f"{__name__}.{name}"), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Verbs)
def worker() -> None:
    """Run a worker, or control one that runs on this host.

    The pause of `holdfast worker pause` is one worker's own: in memory, gone with a restart, and not ended by
    `holdfast resume`. All workers everywhere are paused by `holdfast pause`.
    """
