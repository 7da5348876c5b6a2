"""Who may do what: the one table that REST, MCP, push sessions, streams, pages and the command line ask.

    viewer ⊂ producer ⊂ operator ⊂ admin        worker stands apart

A worker's token may do what holds a job, and nothing that a person does: no worker pauses or resumes (SEC-01), and an
admin claims nothing. What depends on a request's content (a worker's id, its types, its own jobs) is decided by the
services, with the bounds of the caller (`holdfast_core.callers`).

`ROUTES` and `TOOLS` name every way in; a route or tool that is not in here cannot be built, and tests compare both.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from holdfast_core.callers import Caller
from holdfast_core.errors import NotAllowed
from holdfast_core.states import Role

__all__ = [
    "INCLUDED",
    "PERMISSIONS",
    "PROMPTS",
    "RESOURCES",
    "ROUTES",
    "SCOPE_PREFIX",
    "TOOLS",
    "Permission",
    "admit",
    "admit_worker",
    "canonical_tool",
    "effective",
    "is_open",
    "may",
    "may_call",
    "may_prompt",
    "role_for",
    "scope_of",
    "scopes_to_roles",
]

#: What each role is: itself, and the roles that it contains.
INCLUDED: Final[Mapping[Role, frozenset[Role]]] = {
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.PRODUCER: frozenset({Role.VIEWER, Role.PRODUCER}),
    Role.OPERATOR: frozenset({Role.VIEWER, Role.PRODUCER, Role.OPERATOR}),
    Role.ADMIN: frozenset({Role.VIEWER, Role.PRODUCER, Role.OPERATOR, Role.ADMIN}),
    Role.WORKER: frozenset({Role.WORKER}),
}


class Permission(StrEnum):
    """What can be asked for, by what it means."""

    #: Answered to anybody: whether the process lives, the shape of the API, the way in.
    OPEN = "open"
    #: Who am I, and the way out.
    IDENTITY = "identity"
    #: The snapshot, and waiting for it to change.
    STATUS = "status"
    #: One job, or a list of them: all of them for people, its own for a worker.
    JOBS = "jobs"
    #: All else that only shows: the audit log, the fleet, logs, artifacts, metrics, pages.
    LOOK = "look"
    #: Adding jobs, cancelling them, and running them again.
    PRODUCE = "produce"
    #: Putting a stale job back.
    REQUEUE = "requeue"
    #: Pause and resume.
    TOGGLE = "toggle"
    #: Tokens.
    ADMINISTER = "administer"
    #: Claims, heartbeats, outcomes, logs and uploads of one's own jobs, presence, push sessions.
    WORK = "work"


_EVERYBODY: Final = frozenset(Role)
_PEOPLE: Final = _EVERYBODY - {Role.WORKER}

#: The roles that admit it, `INCLUDED` applied.
PERMISSIONS: Final[Mapping[Permission, frozenset[Role]]] = {
    Permission.OPEN: _EVERYBODY,
    Permission.IDENTITY: _EVERYBODY,
    Permission.STATUS: _EVERYBODY,
    Permission.JOBS: _EVERYBODY,
    Permission.LOOK: _PEOPLE,
    Permission.PRODUCE: frozenset({Role.PRODUCER, Role.OPERATOR, Role.ADMIN}),
    Permission.REQUEUE: frozenset({Role.OPERATOR, Role.ADMIN}),
    Permission.TOGGLE: frozenset({Role.OPERATOR, Role.ADMIN}),
    Permission.ADMINISTER: frozenset({Role.ADMIN}),
    Permission.WORK: frozenset({Role.WORKER}),
}

#: Every address of the server: its method (WS: a push session) and its path.
ROUTES: Final[Mapping[str, Permission]] = {
    "GET /healthz": Permission.OPEN,
    "GET /readyz": Permission.OPEN,
    "GET /openapi.json": Permission.OPEN,
    "GET /": Permission.OPEN,
    "GET /login": Permission.OPEN,
    "POST /login": Permission.OPEN,
    "GET /login/oidc": Permission.OPEN,
    "GET /login/oidc/callback": Permission.OPEN,
    "POST /logout": Permission.OPEN,
    "GET /tasks/assets": Permission.OPEN,
    "GET /.well-known/oauth-protected-resource": Permission.OPEN,
    "GET /.well-known/oauth-protected-resource/mcp": Permission.OPEN,
    "GET /api/session": Permission.IDENTITY,
    "GET /metrics": Permission.LOOK,
    "GET /tasks": Permission.LOOK,
    "GET /tasks/jobs": Permission.LOOK,
    "GET /tasks/jobs/{job_id}": Permission.LOOK,
    "GET /tasks/workers": Permission.LOOK,
    "GET /tasks/history": Permission.LOOK,
    "GET /api/system/worker-pause": Permission.STATUS,
    "POST /api/system/worker-pause": Permission.TOGGLE,
    "GET /api/system/worker-pause/wait": Permission.STATUS,
    "GET /api/system/control-events": Permission.LOOK,
    "GET /api/system/events": Permission.LOOK,
    "GET /api/system/workers": Permission.LOOK,
    "GET /api/system/blockers": Permission.LOOK,
    "GET /api/system/metrics/history": Permission.LOOK,
    "POST /api/queue/jobs": Permission.PRODUCE,
    "POST /api/queue/jobs/batch": Permission.PRODUCE,
    "POST /api/queue/jobs/retry": Permission.PRODUCE,
    "GET /api/queue/jobs": Permission.JOBS,
    "GET /api/queue/jobs/{jobId}": Permission.JOBS,
    "POST /api/queue/jobs/{jobId}/cancel": Permission.PRODUCE,
    "POST /api/queue/jobs/{jobId}/retry": Permission.PRODUCE,
    "POST /api/queue/jobs/{jobId}/requeue": Permission.REQUEUE,
    "POST /api/queue/jobs/claim": Permission.WORK,
    "POST /api/queue/jobs/{jobId}/heartbeat": Permission.WORK,
    "POST /api/queue/jobs/{jobId}/complete": Permission.WORK,
    "POST /api/queue/jobs/{jobId}/fail": Permission.WORK,
    "POST /api/queue/jobs/{jobId}/release": Permission.WORK,
    "POST /api/queue/jobs/{jobId}/cancel/ack": Permission.WORK,
    "POST /api/queue/jobs/{jobId}/events": Permission.WORK,
    "GET /api/queue/jobs/{jobId}/events": Permission.LOOK,
    "GET /api/queue/jobs/{jobId}/events/stream": Permission.LOOK,
    "POST /api/queue/jobs/{jobId}/artifacts/upload": Permission.WORK,
    "GET /api/queue/jobs/{jobId}/artifacts": Permission.LOOK,
    "GET /api/queue/jobs/{jobId}/artifacts/{artifactId}/download": Permission.LOOK,
    "POST /api/queue/workers/heartbeat": Permission.WORK,
    "WS /api/queue/workers/{worker_id}/connect": Permission.WORK,
    "GET /api/queue/workers/{worker_id}/connect": Permission.WORK,
    "POST /api/tokens": Permission.ADMINISTER,
    "GET /api/tokens": Permission.ADMINISTER,
    "DELETE /api/tokens/{tokenId}": Permission.ADMINISTER,
    "POST /api/queue/worker-tokens": Permission.ADMINISTER,
    "GET /api/queue/worker-tokens": Permission.ADMINISTER,
    "DELETE /api/queue/worker-tokens/{tokenId}": Permission.ADMINISTER,
    # Each tool, resource and prompt asks for itself.
    "* /mcp": Permission.IDENTITY,
}

#: Every MCP tool.
TOOLS: Final[Mapping[str, Permission]] = {
    "queue.enqueue": Permission.PRODUCE,
    "queue.get": Permission.JOBS,
    "queue.list": Permission.LOOK,
    "queue.cancel": Permission.PRODUCE,
    "queue.retry": Permission.PRODUCE,
    "queue.requeue": Permission.REQUEUE,
    "queue.events": Permission.LOOK,
    "queue.claim": Permission.WORK,
    "queue.heartbeat": Permission.WORK,
    "queue.complete": Permission.WORK,
    "queue.fail": Permission.WORK,
    "queue.release": Permission.WORK,
    "queue.cancel_ack": Permission.WORK,
    "queue.presence": Permission.WORK,
    "queue.log": Permission.WORK,
    "queue.upload_artifact": Permission.WORK,
    "system.status": Permission.STATUS,
    "system.pause": Permission.TOGGLE,
    "system.resume": Permission.TOGGLE,
    "system.wait": Permission.STATUS,
    "system.history": Permission.LOOK,
}
#: Every MCP resource: no more is shown than by the tool that shows the same.
RESOURCES: Final[Mapping[str, Permission]] = {
    "holdfast://system": Permission.STATUS,
    "holdfast://jobs/{jobId}": Permission.JOBS,
    "holdfast://playbook": Permission.IDENTITY,
}
#: The tool without which a prompt leads nowhere.
PROMPTS: Final[Mapping[str, str]] = {"upgrade": "system.pause", "why-not-drained": "queue.list"}

#: OAuth scopes are this and the name of a role.
SCOPE_PREFIX: Final = "holdfast:"


def effective(roles: Iterable[Role]) -> frozenset[Role]:
    """The roles, and those that they contain."""
    return frozenset(contained for role in roles for contained in INCLUDED[role])


def may(roles: Iterable[Role], permission: Permission) -> bool:
    """Whether one of the roles admits it."""
    return not PERMISSIONS[permission].isdisjoint(roles)


def admit(caller: Caller, permission: Permission, doing: str) -> None:
    """Raises NotAllowed where the caller may not. `doing` completes "NAME may not …"."""
    if not may(caller.roles, permission):
        raise NotAllowed(
            f"{caller.name} may not {doing}: that takes the role {role_for(permission)}.",
            scope=scope_of(permission),
        )


def admit_worker(
    caller: Caller,
    worker_id: str,
    doing: str,
    *,
    types: list[str] | None = None,
    capabilities: list[str] | None = None,
) -> None:
    """Raises NotAllowed where the caller may not act as this worker, or goes beyond what its token is bound to."""
    admit(caller, Permission.WORK, doing)
    caller.bind(worker_id, types=types, capabilities=capabilities)


def role_for(permission: Permission) -> Role:
    """The least role that admits it."""
    return min(PERMISSIONS[permission], key=lambda role: (role is Role.WORKER, len(INCLUDED[role])))


def scope_of(permission: Permission) -> str:
    """The OAuth scope that it takes."""
    return f"{SCOPE_PREFIX}{role_for(permission)}"


def scopes_to_roles(scopes: Iterable[str]) -> frozenset[Role] | None:
    """The roles that these OAuth scopes leave of what a caller has; None where none of them is ours: then the roles
    alone decide."""
    ours = {scope.removeprefix(SCOPE_PREFIX) for scope in scopes if scope.startswith(SCOPE_PREFIX)}
    return effective(role for role in Role if role.value in ours) if ours else None


def canonical_tool(name: str) -> str:
    """A tool's name with dots, from either spelling."""
    return name if "." in name else name.replace("_", ".", 1)


def may_call(roles: Iterable[Role] | None, tool: str) -> bool:
    """Whether the roles (None: no limit) admit the tool of this name, in either spelling. What is no tool of ours is
    admitted only where there is no limit."""
    if roles is None:
        return True
    permission = TOOLS.get(canonical_tool(tool))
    return permission is not None and may(roles, permission)


def may_prompt(roles: Iterable[Role] | None, prompt: str) -> bool:
    """Whether the roles admit the prompt of this name; one that is not known is left to the server."""
    return prompt not in PROMPTS or may_call(roles, PROMPTS[prompt])


def is_open(method: str, path: str) -> bool:
    """Whether this address answers anybody."""
    method = "GET" if method == "HEAD" else method
    return path.startswith("/tasks/assets/") or ROUTES.get(f"{method} {path}") is Permission.OPEN
