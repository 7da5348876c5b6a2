"""The agent CLIs that the hook can be installed for: where their settings are, and how they come to trust a hook."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["CLIS", "Cli"]


@dataclass(frozen=True)
class Cli:
    """One agent CLI."""

    title: str
    #: The variable that moves a user's settings, and where they are else, below the home folder.
    home_variable: str
    home: str
    #: The settings' name there, and in a project's folder.
    file: str
    project_file: str
    #: What the person has to do for the CLI to run the hook.
    trust: str

    def path(self, *, project: bool) -> Path:
        """The file that holds the hook: of this user, or of the project in this folder."""
        if project:
            return Path.cwd() / self.project_file
        moved = os.environ.get(self.home_variable)
        return (Path(moved).expanduser() if moved else Path.home() / self.home) / self.file


CLIS: Final = {
    "claude-code": Cli(
        title="Claude Code",
        home_variable="CLAUDE_CONFIG_DIR",
        home=".claude",
        file="settings.json",
        project_file=".claude/settings.json",
        trust="Sessions that run already take it up when they are started again; /hooks lists it. In a folder that is"
        " new to it Claude Code asks whether to trust the folder, and runs hooks only then (`claude -p` does not ask).",
    ),
    "codex": Cli(
        title="Codex",
        home_variable="CODEX_HOME",
        home=".codex",
        file="hooks.json",
        project_file=".codex/hooks.json",
        trust="Codex passes over hooks that it was not told to trust, without a word. Start `codex`, type /hooks,"
        " choose PreToolUse and press t on this hook; or run this command with --write --trust, which has Codex itself"
        " note that you trust it. A change of the hook needs this anew.",
    ),
}
