"""The page at `/tasks`: how things stand, and where things are. Made on the server, no script."""

from html import escape
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from holdfast_core.errors import HoldfastError
from holdfast_core.schemas import ControlEvent, Snapshot
from holdfast_dashboard.context import Context

__all__ = ["page_routes"]

_STYLE: Final = Path(__file__).parent / "static" / "tasks.css"

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · Holdfast</title>
<link rel="stylesheet" href="/tasks.css">
</head>
<body>
<header class="{state}" role="status"><h1>{title}</h1>{subtitle}</header>
<main>
{main}
<h2>Where things are</h2>
<p>Holdfast is a job queue for AI-agent workers, with a pause that can be trusted: once it is answered, no job starts
anywhere until the resume.</p>
<ul>
<li>The pause: <a href="/api/system/worker-pause"><code>/api/system/worker-pause</code></a>
· the log: <a href="/api/system/control-events"><code>/api/system/control-events</code></a>
· the fleet: <a href="/api/system/workers"><code>/api/system/workers</code></a></li>
<li>Jobs: <a href="/api/queue/jobs"><code>/api/queue/jobs</code></a></li>
<li>All of the API: <a href="/openapi.json"><code>/openapi.json</code></a></li>
<li>MCP, for agents: <code>{base}mcp</code></li>
<li>From a terminal: <code>holdfast pause --mode drain --reason "…" --wait</code>, or:</li>
</ul>
<pre>curl -X POST {base}api/system/worker-pause -H "Content-Type: application/json" \
  -d '{{"action": "pause", "mode": "drain", "reason": "Rolling API migration"}}'</pre>
</main>
</body>
</html>
"""


def page_routes(context: Context) -> list[Route]:
    """`/tasks`, its style, and the way there from `/`."""

    async def tasks(request: Request) -> Response:
        base = escape(f"{(context.settings.public_url or str(request.base_url)).rstrip('/')}/")
        try:
            snapshot = await context.services.pause.status(context.caller(request))
        except HoldfastError as error:
            # The page stands though the store does not: unknown is said, never guessed.
            page = _PAGE.format(
                title="Workers: Unknown",
                state="unknown",
                subtitle=f"<p>{escape(error.detail)}</p>",
                main="",
                base=base,
            )
            again = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
            return HTMLResponse(page, status_code=error.status, headers=again)
        return HTMLResponse(_page(snapshot, base))

    async def style(_: Request) -> Response:
        return FileResponse(_STYLE, media_type="text/css")

    async def home(_: Request) -> Response:
        return RedirectResponse("/tasks")

    return [Route("/tasks", tasks), Route("/tasks.css", style), Route("/", home)]


def _page(snapshot: Snapshot, base: str) -> str:
    system, metrics = snapshot.system, snapshot.metrics
    if system.workers_paused:
        assert system.mode is not None
        title, state = f"Workers: Paused ({system.mode.capitalize()})", "paused"
        subtitle = (
            f"<p>{escape(_visible(system.reason or ''))}</p>"
            f"<p>by {escape(_visible(system.requested_by or 'nobody'))}"
            f" since {system.requested_at:%Y-%m-%d %H:%M:%S} UTC · version {system.version}</p>"
        )
        if metrics.safe_to_upgrade:
            subtitle += "<p><strong>Safe to upgrade</strong></p>"
        elif metrics.is_parked:
            subtitle += "<p><strong>All parked</strong></p>"
    else:
        title, state = "Workers: Running", "running"
        subtitle = f"<p>version {system.version}</p>"
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
    main = f"<dl>{cells}</dl>\n<h2>Latest changes</h2>\n{log}"
    return _PAGE.format(title=title, state=state, subtitle=subtitle, main=main, base=base)


def _row(event: ControlEvent) -> str:
    what = event.action if event.mode is None else f"{event.action} ({event.mode})"
    cells = (f"{event.created_at:%Y-%m-%d %H:%M:%S}", what, event.actor or "", event.reason or "")
    return "<tr>" + "".join(f"<td>{escape(_visible(cell))}</td>" for cell in cells) + "</tr>"


def _visible(text: str) -> str:
    """Control characters as escapes, so that nothing hides."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
