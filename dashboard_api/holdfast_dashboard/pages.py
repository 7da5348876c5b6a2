"""The pages under `/tasks`: one shell with the banner, made on the server, which scripts then keep up to date.

The shell says how things stand before any script has run, and where none does.
"""

import os
from collections.abc import Awaitable, Callable
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

from holdfast_core import __version__
from holdfast_core.callers import Caller
from holdfast_core.errors import HoldfastError
from holdfast_core.policy import Permission, admit
from holdfast_core.schemas import ControlEvent, Snapshot
from holdfast_dashboard.context import Context
from holdfast_dashboard.login_page import FIRST_PAGE, login_page
from holdfast_dashboard.markup import PAGE_POLICY, STATIC, template, text

__all__ = ["ASSETS", "page_routes"]

#: Where the scripts and styles are; browsers ask each time whether they have changed, so none is of an older server.
ASSETS: Final = "/tasks/assets"

_SHELL: Final = template("tasks.html")
_PAGES: Final = {
    "overview": "/tasks",
    "jobs": "/tasks/jobs",
    "workers": "/tasks/workers",
    "history": "/tasks/history",
}


def page_routes(context: Context) -> list[BaseRoute]:
    """`/tasks` and its pages, their files, the way there from `/`, and the way in."""

    def page(name: str) -> Callable[[Request], Awaitable[Response]]:
        async def shown(request: Request) -> Response:
            return await _shell(context, request, name)

        return shown

    async def home(_: Request) -> Response:
        return RedirectResponse(FIRST_PAGE)

    async def login(request: Request) -> Response:
        return await login_page(context, request)

    return [
        *(Route(path, page(name)) for name, path in _PAGES.items()),
        Route("/tasks/jobs/{job_id}", page("job")),
        Mount(ASSETS, _Assets(directory=STATIC)),
        Route("/login", login),
        Route("/", home),
    ]


class _Assets(StaticFiles):
    """The files as they are; the shell is no file."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        if path.endswith(".html"):
            raise HTTPException(404)
        return super().lookup_path(path)

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """The file, or 304. Its tag is of its content: an upgrade may keep the time and the size of a file."""
        tag = sha256(Path(full_path).read_bytes()).hexdigest()[:32]
        answer = FileResponse(
            full_path, status_code=status_code, stat_result=stat_result, headers={"ETag": f'"{tag}"'}
        )
        modified = not self.is_not_modified(answer.headers, Headers(scope=scope))
        return answer if modified else NotModifiedResponse(answer.headers)


async def _shell(context: Context, request: Request, name: str) -> Response:
    caller = context.caller(request)
    words = {
        **_who(context, caller),
        "base": escape(f"{(context.settings.public_url or str(request.base_url)).rstrip('/')}/"),
        "version": __version__,
        "page": name,
        "job": escape(request.path_params.get("job_id", "")),
        "links": _links(name),
        "sla": f"{context.settings.pause_sla_seconds:g}",
    }
    headers = {"Content-Security-Policy": PAGE_POLICY}
    try:
        admit(caller, Permission.LOOK, "see the dashboard")
        snapshot = await context.services.pause.status(caller)
    except HoldfastError as error:
        # The page stands though the store does not: unknown is said, never guessed.
        if error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        told = {
            "title": "Workers: Unknown",
            "state": "unknown",
            "facts": f"<p>{text(error.detail)}</p>",
            "late": "",
            "summary": "",
        }
        return HTMLResponse(_SHELL.substitute(words, **told), status_code=error.status, headers=headers)
    late = "This pause has lasted longer than it should." if context.services.alert.exceeded else ""
    return HTMLResponse(_SHELL.substitute(words, **_told(snapshot), late=late), headers=headers)


def _who(context: Context, caller: Caller) -> dict[str, str]:
    """Who is asking, and what they may do. While authentication is disabled nobody has a name."""
    identity = context.services.access.identity(caller)
    asked = identity.provider != "disabled"
    return {
        "user": text(identity.name) if asked else "",
        "roles": " ".join(identity.roles),
        "permissions": " ".join(identity.permissions),
        "credential": ' -H "Authorization: Bearer …"' if asked else "",
    }


def _links(current: str) -> str:
    here = {"job": "jobs"}.get(current, current)
    return "".join(
        f'<a href="{path}"{" aria-current=page" if name == here else ""}>{name.capitalize()}</a>'
        for name, path in _PAGES.items()
    )


def _told(snapshot: Snapshot) -> dict[str, str]:
    """What of a snapshot stands in the shell."""
    system, metrics = snapshot.system, snapshot.metrics
    if system.workers_paused:
        assert system.mode is not None
        title, state = f"Workers: Paused ({system.mode.capitalize()})", "paused"
        facts = (
            f'<p class="reason">{text(system.reason or "")}</p>'
            f"<p>paused by {text(system.requested_by or 'nobody')}"
            f" since {system.requested_at:%Y-%m-%d %H:%M:%S} UTC · version {system.version}</p>"
        )
        if metrics.safe_to_upgrade:
            facts += '<p><strong class="mark">Safe to upgrade</strong></p>'
        elif metrics.is_parked:
            facts += '<p><strong class="mark">All parked</strong></p>'
    else:
        title, state = "Workers: Running", "running"
        facts = f"<p>version {system.version}</p>"
    counts = (
        ("Running", metrics.running),
        ("Parked", metrics.parked),
        ("Stale", metrics.stale_running),
        ("Queued", metrics.queued),
        ("Scheduled", metrics.scheduled),
        ("Workers connected", snapshot.workers.connected),
    )
    cells = "".join(f"<div><dt>{name}</dt><dd>{count}</dd></div>" for name, count in counts)
    rows = "".join(_row(event) for event in snapshot.audit.latest)
    log = (
        "<table><thead><tr><th>When (UTC)</th><th>What</th><th>Who</th><th>Why</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
        if rows
        else "<p>Nobody has paused anything yet.</p>"
    )
    summary = f'<dl class="tiles">{cells}</dl>\n<h2>Latest changes</h2>\n{log}'
    return {"title": title, "state": state, "facts": facts, "summary": summary}


def _row(event: ControlEvent) -> str:
    what = event.action if event.mode is None else f"{event.action} ({event.mode})"
    cells = (f"{event.created_at:%Y-%m-%d %H:%M:%S}", what, event.actor or "", event.reason or "")
    return "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in cells) + "</tr>"
