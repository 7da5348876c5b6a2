"""`holdfast`: the command line.

The client's verbs are here, the server's (`serve`, `mcp`, `migrate`) are found through the entry-point
group `holdfast.commands`, which the server registers. Nothing is imported before a verb is chosen, so
that `holdfast --help` answers at once.
"""

import sys
from importlib import import_module
from typing import Final

import click

from holdfast_core import __version__
from holdfast_worker.terminal.exits import Exit, explained, stop
from holdfast_worker.terminal.missing import INSTALL_LINE, answer_missing

__all__ = ["main"]

_PACKAGE: Final = "holdfast_worker.commands"
#: The client's verbs, in the order of the help.
_CLIENT_VERBS: Final = (
    "status",
    "pause",
    "resume",
    "wait",
    "maintain",
    "history",
    "enqueue",
    "jobs",
    "job",
    "cancel",
    "requeue",
    "retry",
    "blockers",
    "workers",
    "watch",
    "worker",
    "checkpoint",
    "hook",
    "login",
    "token",
    "demo",
    "completion",
)
_SERVER_GROUP: Final = "holdfast.commands"
#: The server's verbs with their lines in the help: that must not load a server.
_SERVER_VERBS: Final = {
    "serve": "Run the server: REST, the dashboard and MCP.",
    "mcp": "Speak MCP over stdin and stdout.",
    "mcp-config": "Print how an agent's client is told of Holdfast.",
    "doctor": "Examine settings, host and database, and prove the gate.",
    "migrate": "Bring the database up to date.",
}


class _ServerVerb(click.Command):
    """Stands for a server's verb in help and completion; running it loads the real one."""

    def load(self) -> click.Command:
        """The real verb. Ends with the install line where the server is not installed."""
        try:
            command = self._load()
        except ModuleNotFoundError as error:
            answer_missing(self.name, error)
        if command is None:
            stop(Exit.FAILED, f"`holdfast {self.name}` needs the server. Install it: {INSTALL_LINE}")
        return command

    def find(self) -> click.Command | None:
        """The real verb; None where it cannot be had."""
        try:
            return self._load()
        except ModuleNotFoundError:
            return None

    def _load(self) -> click.Command | None:
        from importlib.metadata import entry_points

        for found in entry_points(group=_SERVER_GROUP, name=self.name or ""):
            command = found.load()
            assert isinstance(command, click.Command)
            return command
        return None


class _Verbs(click.Group):
    """All verbs, loaded when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_CLIENT_VERBS, *_SERVER_VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _CLIENT_VERBS:
            command = getattr(import_module(f"{_PACKAGE}.{cmd_name}"), cmd_name)
            assert isinstance(command, click.Command)
            return command
        if cmd_name in _SERVER_VERBS:
            return _ServerVerb(cmd_name, short_help=_SERVER_VERBS[cmd_name])
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if ctx.resilient_parsing:  # a shell completes: what is wrong is told when the line is run
            return self._resolve_silently(ctx, args)
        if args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=self.list_commands(ctx), ctx=ctx)
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, _ServerVerb):
            command = command.load()
        return name, command, rest

    def _resolve_silently(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, _ServerVerb):
            command = command.find() or command
        return name, command, rest

    def invoke(self, ctx: click.Context) -> object:
        with explained():
            try:
                return super().invoke(ctx)
            except ModuleNotFoundError as error:
                # A server's verb may import its libraries only when it runs.
                if ctx.invoked_subcommand in _SERVER_VERBS:
                    answer_missing(ctx.invoked_subcommand, error)
                raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in (("Commands", _CLIENT_VERBS), ("Server", tuple(_SERVER_VERBS))):
            with formatter.section(title):
                formatter.write_dl([(name, self._summary(ctx, name)) for name in verbs])

    def _summary(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return command.get_short_help_str(limit=100) if command else ""


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 timed out, 5 only stale jobs remain,"
    " 6 server unreachable, 7 not allowed, 8 superseded.",
)
@click.version_option(__version__, prog_name="holdfast")
def main() -> None:
    """Holdfast: a job queue for AI-agent workers with a pause that can be trusted."""
    # What cannot be written in the terminal's encoding is written as an escape, never a traceback.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main(prog_name="holdfast")
