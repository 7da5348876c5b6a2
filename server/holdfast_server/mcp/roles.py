"""What each role may call: the table behind HOLDFAST_MCP_ROLE.

By the canonical names of tools; both spellings are understood. Resources need no table: each role may call
system.status and queue.get, and the resources show no more than those.
"""

from collections.abc import Mapping
from typing import Final, Literal

__all__ = ["PROMPT_TOOLS", "ROLE_TOOLS", "Role", "may_call", "may_prompt", "refusal"]

#: viewer is a part of producer, producer of operator, operator of admin; worker stands apart.
Role = Literal["viewer", "producer", "worker", "operator", "admin"]

_VIEWER: Final = frozenset(
    {"queue.get", "queue.list", "queue.events", "system.status", "system.wait", "system.history"}
)
_PRODUCER: Final = _VIEWER | {"queue.enqueue", "queue.cancel", "queue.retry"}
_OPERATOR: Final = _PRODUCER | {"queue.requeue", "system.pause", "system.resume"}
_WORKER: Final = frozenset(
    {
        "queue.claim",
        "queue.heartbeat",
        "queue.complete",
        "queue.fail",
        "queue.release",
        "queue.log",
        "queue.upload_artifact",
        "queue.cancel_ack",
        "queue.presence",
        "queue.get",
        "system.status",
        "system.wait",
    }
)

#: The tools of each role but admin, which may call all.
ROLE_TOOLS: Final[Mapping[Role, frozenset[str]]] = {
    "viewer": _VIEWER,
    "producer": _PRODUCER,
    "worker": _WORKER,
    "operator": _OPERATOR,
}
#: The tool without which a prompt leads nowhere.
PROMPT_TOOLS: Final[Mapping[str, str]] = {"upgrade": "system.pause", "why-not-drained": "queue.list"}


def may_call(role: Role | None, tool: str) -> bool:
    """Whether `role` (None: no limit) admits the tool of this name, in either spelling."""
    if role is None or role == "admin":
        return True
    canonical = tool if "." in tool else tool.replace("_", ".", 1)
    return canonical in ROLE_TOOLS[role]


def may_prompt(role: Role | None, prompt: str) -> bool:
    """Whether `role` admits the prompt of this name; one that is not known is left to the server."""
    return prompt not in PROMPT_TOOLS or may_call(role, PROMPT_TOOLS[prompt])


def refusal(role: Role | None, name: str) -> str:
    """What to say of a tool or a prompt that the role does not admit."""
    return f"The role {role} (HOLDFAST_MCP_ROLE) does not admit {name}. Leave it to somebody who may."
