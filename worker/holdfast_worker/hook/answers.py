"""What the hook answers, in the shape that Claude Code and Codex share. To say nothing lets the tool run.

Always with exit code 0: both take 2 for a refusal, and anything else for a hook that is broken, which they pass over.
"""

import json
from dataclasses import dataclass

from holdfast_worker.hook.call import EVENT
from holdfast_worker.terminal.text import escaped

__all__ = ["CUT_SHORT", "GONE", "SILENT", "Denied", "Passed", "Verdict", "paused"]


@dataclass(frozen=True)
class Denied:
    """The tool does not run, and the model is told why."""

    reason: str

    @property
    def text(self) -> str:
        """What goes to stdout."""
        decision = {
            "hookEventName": EVENT,
            "permissionDecision": "deny",
            "permissionDecisionReason": escaped(self.reason),
        }
        return json.dumps({"hookSpecificOutput": decision}) + "\n"


@dataclass(frozen=True)
class Passed:
    """The tool runs. `word`: what the person at the CLI should know."""

    word: str | None = None

    @property
    def text(self) -> str:
        """What goes to stdout."""
        return "" if self.word is None else json.dumps({"systemMessage": escaped(self.word)}) + "\n"


Verdict = Denied | Passed

GONE = Denied("The worker that ran this job is gone; stop working on it.")
SILENT = Denied(
    "The worker that runs this job does not answer, so it is not known whether this tool may run."
    " Stop here and wait; call the tool again later."
)
#: Whoever ends the hook while it waits does not say that the tool may run. A refused call costs the agent a repeat, one
#: that passes breaks the pause.
CUT_SHORT = Denied(
    "The wait for Holdfast's pause was cut short, so it is not known whether this tool may run."
    " Stop here and wait; call the tool again later."
)


def paused(reason: str | None) -> Denied:
    """The pause has outlasted the hook."""
    why = f": {reason}" if reason else ""
    return Denied(
        f"Workers are paused (quiesce){why.rstrip('.')}. Stop here and wait; call the tool again later."
    )
