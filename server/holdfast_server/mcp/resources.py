"""What can be read without a tool: the snapshot, one job, and the playbook."""

from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from typing import Final, TypeVar

from mcp import MCPError, types

from holdfast_core.callers import Caller
from holdfast_core.errors import HoldfastError, JobNotFound
from holdfast_core.policy import RESOURCES, admit, may
from holdfast_core.services import Services
from holdfast_core.states import Role
from holdfast_server.mcp.answers import error_text
from holdfast_server.mcp.catalog import NameStyle, spelled

__all__ = [
    "JOB_TEMPLATE",
    "PLAYBOOK_URI",
    "SYSTEM_URI",
    "list_resources",
    "list_templates",
    "read_resource",
    "told",
]

SYSTEM_URI: Final = "holdfast://system"
PLAYBOOK_URI: Final = "holdfast://playbook"
JOB_TEMPLATE: Final = "holdfast://jobs/{jobId}"

_JOBS: Final = JOB_TEMPLATE.removesuffix("{jobId}")
_JSON: Final = "application/json"
_MARKDOWN: Final = "text/markdown"

_T = TypeVar("_T")


def list_resources(style: NameStyle, roles: frozenset[Role]) -> types.ListResourcesResult:
    """The resources that have an address of their own, as far as one of the roles admits them."""
    return types.ListResourcesResult(
        resources=[one for one in _resources(style) if may(roles, RESOURCES[str(one.uri)])]
    )


def list_templates(style: NameStyle, roles: frozenset[Role]) -> types.ListResourceTemplatesResult:
    """The resources that are told apart by an id, likewise."""
    return types.ListResourceTemplatesResult(
        resource_templates=[one for one in _templates(style) if may(roles, RESOURCES[one.uri_template])]
    )


@cache
def _resources(style: NameStyle) -> tuple[types.Resource, ...]:
    return (
        types.Resource(
            uri=SYSTEM_URI,
            name="system",
            title="The pause and the queue",
            description=spelled(
                "The answer of system.status. Subscribe to it to be told of each new version of the pause.",
                style,
            ),
            mime_type=_JSON,
        ),
        types.Resource(
            uri=PLAYBOOK_URI,
            name="playbook",
            title="Pause, drain, upgrade, resume",
            description="How to do an upgrade that meets no running work, step by step in terms of the tools.",
            mime_type=_MARKDOWN,
        ),
    )


@cache
def _templates(style: NameStyle) -> tuple[types.ResourceTemplate, ...]:
    return (
        types.ResourceTemplate(
            uri_template=JOB_TEMPLATE,
            name="job",
            title="A job",
            description=spelled("One job, as queue.get answers it.", style),
            mime_type=_JSON,
        ),
    )


async def read_resource(
    services: Services, caller: Caller, uri: str, style: NameStyle
) -> types.ReadResourceResult:
    """The resource at `uri`. Raises MCPError: unknown (INVALID_PARAMS, as the SDK has it), or not to be had now."""
    match uri:
        case _ if uri == SYSTEM_URI:
            snapshot = await told(lambda: services.pause.status(caller))
            return _one(uri, _JSON, snapshot.model_dump_json())
        case _ if uri == PLAYBOOK_URI:
            admit(caller, RESOURCES[uri], "read the playbook")
            return _one(uri, _MARKDOWN, spelled(_playbook(), style))
        case _ if uri.startswith(_JOBS):
            try:
                job = await told(lambda: services.jobs.get(caller, uri.removeprefix(_JOBS)))
            except JobNotFound:
                raise _unknown(uri) from None
            return _one(uri, _JSON, job.model_dump_json(exclude={"lease_token"}))
        case _:
            raise _unknown(uri)


async def told(service: Callable[[], Awaitable[_T]]) -> _T:
    """What a service answers; its failures as errors of the protocol, which is all that a resource or prompt has."""
    try:
        return await service()
    except JobNotFound:
        raise
    except HoldfastError as error:
        raise MCPError(types.INTERNAL_ERROR, error_text(error)) from None


def _one(uri: str, mime_type: str, text: str) -> types.ReadResourceResult:
    return types.ReadResourceResult(
        contents=[types.TextResourceContents(uri=uri, mime_type=mime_type, text=text)]
    )


def _unknown(uri: str) -> MCPError:
    return MCPError(types.INVALID_PARAMS, f"Unknown resource: {uri[:200]!a}", {"uri": uri})


@cache
def _playbook() -> str:
    return files("holdfast_server.mcp").joinpath("playbook.md").read_text(encoding="utf-8")
