"""Liveness and readiness, for supervisors and load balancers."""

from starlette.requests import Request
from starlette.responses import Response

from holdfast_core.errors import StoreUnavailable
from holdfast_core.schemas import Answer
from holdfast_dashboard.context import Context
from holdfast_dashboard.operations import Operations
from holdfast_dashboard.requests import answer

__all__ = ["Alive", "Ready", "health_operations"]


class Alive(Answer):
    """The process answers."""

    ok: bool


class Ready(Answer):
    """The process can do its work. `degraded`: the database is away, paused claims are still answered."""

    ok: bool
    degraded: bool
    detail: str


def health_operations(context: Context) -> Operations:
    """`/healthz` and `/readyz`."""
    operations = Operations("health")

    @operations.add("GET", "/healthz", summary="Whether the process answers", answers=Alive)
    async def get_health(request: Request) -> Response:
        return answer(Alive(ok=True))

    @operations.add("GET", "/readyz", summary="Whether the database answers", answers=Ready)
    async def get_readiness(request: Request) -> Response:
        found = await context.services.health.ready()
        if not found.ok:
            raise StoreUnavailable(found.detail)
        return answer(Ready(ok=True, degraded=found.degraded, detail=found.detail))

    return operations
