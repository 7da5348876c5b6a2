"""Tokens: making, listing and revoking them. Workers' tokens have an address of their own, too."""

from starlette.requests import Request
from starlette.responses import Response

from holdfast_core import errors
from holdfast_core.schemas import (
    CreatedToken,
    Token,
    TokenKind,
    TokenList,
    TokenQuery,
    TokenRequest,
    WorkerTokenRequest,
)
from holdfast_dashboard.context import Context
from holdfast_dashboard.operations import Operations
from holdfast_dashboard.requests import answer, read_body, read_query

__all__ = ["token_operations"]


def token_operations(context: Context) -> Operations:
    """`/api/tokens`, and `/api/queue/worker-tokens`, which is the workers' part of it."""
    operations = Operations("tokens")
    _add(operations, context, "/api/tokens", TokenRequest, ("api", "worker"), "token")
    _add(operations, context, "/api/queue/worker-tokens", WorkerTokenRequest, ("worker",), "worker_token")
    return operations


def _add(
    operations: Operations,
    context: Context,
    path: str,
    body: type[TokenRequest] | type[WorkerTokenRequest],
    kinds: tuple[TokenKind, ...],
    name: str,
) -> None:
    which = "token" if name == "token" else "worker's token"

    async def create(request: Request) -> Response:
        """Its value is in this answer and nowhere else: only a hash of it is kept."""
        asked, _ = await read_body(request, body)
        made = await context.services.access.create(context.caller(request), asked)
        return answer(made, status=201, location=f"{path}/{made.id}")

    async def listed(request: Request) -> Response:
        query = read_query(request, TokenQuery)
        return answer(await context.services.access.list(context.caller(request), query, kinds))

    async def revoke(request: Request, tokenId: str) -> Response:  # noqa: N803 (the contract's name)
        """Within five seconds it is refused by every process, and streams that it opened end. Repeating it changes
        nothing."""
        return answer(await context.services.access.revoke(context.caller(request), tokenId, kinds))

    create.__name__, listed.__name__, revoke.__name__ = f"create_{name}", f"list_{name}s", f"revoke_{name}"
    operations.add("POST", path, summary=f"Make a {which}", body=body, answers=CreatedToken, status=201)(
        create
    )
    operations.add("GET", path, summary=f"List {which}s, newest first", query=TokenQuery, answers=TokenList)(
        listed
    )
    operations.add(
        "DELETE",
        f"{path}/{{tokenId}}",
        summary=f"Revoke a {which}",
        answers=Token,
        refuses=(errors.TokenNotFound,),
    )(revoke)
