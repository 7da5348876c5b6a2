"""Two conversations to begin with: do an upgrade, and find out what keeps the system from draining."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mcp import MCPError, types

from holdfast_core.callers import Caller
from holdfast_core.policy import PROMPTS, TOOLS, admit, may_prompt
from holdfast_core.schemas.base import MAX_REASON
from holdfast_core.services import Services
from holdfast_core.states import PauseMode, Role
from holdfast_server.mcp.catalog import MAX_LISTINGS, NameStyle, spelled
from holdfast_server.mcp.resources import told

__all__ = ["get_prompt", "list_prompts"]

#: How much of a name or value from outside goes into an error about it.
_MAX_SHOWN: Final = 64

_Texts = list[str]


@dataclass(frozen=True, slots=True)
class _Ask:
    """One request for a prompt."""

    services: Services
    caller: Caller
    arguments: Mapping[str, str]
    style: NameStyle


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One prompt: its words, its arguments with theirs, and the texts that it comes to."""

    title: str
    description: str
    arguments: Mapping[str, str]
    texts: Callable[[_Ask], Awaitable[_Texts]]


def list_prompts(style: NameStyle, roles: frozenset[Role]) -> types.ListPromptsResult:
    """The prompts that one of the roles can do something with."""
    return types.ListPromptsResult(prompts=list(_listing(style, roles)))


@lru_cache(maxsize=MAX_LISTINGS)
def _listing(style: NameStyle, roles: frozenset[Role]) -> tuple[types.Prompt, ...]:
    return tuple(
        types.Prompt(
            name=name,
            title=prompt.title,
            description=spelled(prompt.description, style),
            arguments=[
                types.PromptArgument(name=argument, description=words, required=False)
                for argument, words in prompt.arguments.items()
            ],
        )
        for name, prompt in _PROMPTS.items()
        if may_prompt(roles, name)
    )


async def get_prompt(
    services: Services, caller: Caller, params: types.GetPromptRequestParams, style: NameStyle
) -> types.GetPromptResult:
    """The prompt with its arguments put in. Raises NotAllowed, or MCPError: unknown, or its state not to be had now."""
    prompt = _PROMPTS.get(params.name)
    if prompt is None:
        raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name[:_MAX_SHOWN]!a}")
    admit(caller, TOOLS[PROMPTS[params.name]], f"use the prompt {params.name}")
    arguments = params.arguments or {}
    for name in arguments:
        if name not in prompt.arguments:
            raise _wrong(name, "is not an argument of this prompt")
    return types.GetPromptResult(
        description=spelled(prompt.description, style),
        messages=[
            types.PromptMessage(role="user", content=types.TextContent(type="text", text=text))
            for text in await prompt.texts(_Ask(services, caller, arguments, style))
        ],
    )


def _wrong(name: str, why: str) -> MCPError:
    return MCPError(types.INVALID_PARAMS, f"[invalid_request] {name[:_MAX_SHOWN]!a}: {why}.")


async def _upgrade(ask: _Ask) -> _Texts:
    reason = ask.arguments.get("reason", "").strip() or "Upgrade"
    if len(reason) > MAX_REASON:
        raise _wrong("reason", f"is longer than {MAX_REASON:,} characters")
    try:
        mode = PauseMode(ask.arguments.get("mode") or PauseMode.DRAIN)
    except ValueError:
        raise _wrong("mode", "is neither drain nor quiesce") from None
    goal = "drained" if mode is PauseMode.DRAIN else "parked"
    text = spelled(_UPGRADE, ask.style)
    return [text.format(mode=mode, goal=goal, reason=json.dumps(reason, ensure_ascii=False))]


async def _why_not_drained(ask: _Ask) -> _Texts:
    snapshot = await told(lambda: ask.services.pause.status(ask.caller))
    return [
        spelled(_WHY_NOT_DRAINED, ask.style),
        spelled("The answer of system.status a moment ago:\n\n", ask.style)
        + snapshot.model_dump_json(indent=2),
    ]


_UPGRADE: Final = """\
Do an upgrade that meets no running work: pause, drain, upgrade, resume. Go step by step, and stop and tell me \
whenever an answer is not what is written here.

1. Call system.status. If system.workersPaused is already true, somebody else is at work: tell me who and why, and \
change nothing.
2. Call system.pause with mode {mode} and reason {reason}. Keep system.version of its answer: it is the version of \
my pause. On pause_not_confirmed read system.status, then ask again.
3. Call system.wait with for {goal}, again and again until reached is true, and tell me now and then how many jobs \
still run. metrics.safeToUpgrade is the only go-ahead for replacing workers; jobs that are parked still run, so \
until it is true upgrade only what the waiting workers call. If system.version has changed, stop: somebody has \
changed the pause.
   If metrics.staleRunning stays above 0, a worker was lost and its job blocks the drain. Find it with queue.list \
(status running, leaseExpiresAt in the past), ask me whether the worker that claimedBy names is really gone, and \
only then call queue.requeue with its jobId and a reason.
4. Do the upgrade. If it fails, do not resume: stay paused and tell me.
5. Call system.status: it must still be my version. Then call system.resume with a reason and expectedVersion set \
to the version of my pause. On version_conflict somebody has changed the pause: ask me. On not_paused somebody has \
resumed already.
6. Tell me how long the pause lasted, and what system.history shows of it."""

_WHY_NOT_DRAINED: Final = """\
Find out what keeps the system from being drained, and tell me what to do about it. The status follows.

1. Call system.status for the newest numbers. If system.workersPaused is false, nothing drains: jobs start all the \
time, and only system.pause would end that. If metrics.safeToUpgrade is true, it is drained.
2. Call queue.list with status running: those jobs are the blockers. For each tell me its id, type and claimedBy, how \
long it has run (startedAt), its phase and checkpoint, its progress, and which of these it is:
   - progressing: leaseExpiresAt lies in the future, and updatedAt is recent. Wait for it, with system.wait.
   - slow: its lease is alive, but nothing has been heard of its progress for long. Ask whoever runs the worker; \
queue.cancel asks the job to stop.
   - parked: phase parked, under a quiesce. It waits for the resume and counts as running.
   - stale: leaseExpiresAt lies in the past. Its worker is dead, stopped or cut off, and nothing touches the job \
while paused.
3. For each stale job ask me whether its worker is really gone. If I say so, call queue.requeue with its jobId and a \
reason: it goes back to its place with one attempt used, and runs again after the resume.
4. Call system.wait with for drained, and tell me whether that was all.

Do not resume, cancel or requeue anything without my word."""

#: In the order of the listing.
_PROMPTS: Final[Mapping[str, _Prompt]] = {
    "upgrade": _Prompt(
        title="Upgrade without meeting running work",
        description="Pause, drain, upgrade, resume: from system.pause over system.wait to system.resume.",
        arguments={
            "reason": "Why workers are paused; everybody sees it. Default: Upgrade.",
            "mode": "drain (default): running jobs finish. quiesce: they wait at their next checkpoint.",
        },
        texts=_upgrade,
    ),
    "why-not-drained": _Prompt(
        title="What keeps the system from draining",
        description="Find the jobs that still run or are stale, and the way out for each. Shows the status.",
        arguments={},
        texts=_why_not_drained,
    ),
}
