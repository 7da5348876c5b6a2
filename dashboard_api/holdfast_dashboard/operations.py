"""A table of operations: each says what it takes and answers, so that OpenAPI is made of what is so."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from holdfast_core import errors
from holdfast_core.callers import Caller
from holdfast_core.errors import HoldfastError
from holdfast_core.policy import ROUTES, Permission, admit
from holdfast_core.schemas import IdempotencyKey
from holdfast_core.schemas import Request as RequestModel
from holdfast_core.services import Begun
from holdfast_dashboard.authentication import caller_of
from holdfast_dashboard.problems import PROBLEM_JSON

__all__ = ["ALWAYS", "Begin", "Operations", "Under", "Wire", "ref"]

#: What any route may answer, whatever it does.
ALWAYS: tuple[type[HoldfastError], ...] = (
    errors.ForeignOrigin,
    errors.HeadersTooLarge,
    errors.MisdirectedRequest,
    errors.InternalError,
    errors.StoreUnavailable,
)
#: What a route with a body may answer besides.
_WITH_BODY = (errors.InvalidRequest, errors.BodyTooLarge, errors.UnsupportedMediaType)


def ref(model: type[BaseModel]) -> dict[str, str]:
    """A reference to a model's schema."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


_KEY_HEADER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": TypeAdapter[str](IdempotencyKey).json_schema(),
    "description": "A repeat with the same key and body changes nothing more.",
}


#: A good answer (200): its header fields as they go over the wire, and its body.
Wire = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Under:
    """A request that is under way without a task, and what its answer is made of."""

    begun: Begun[Any]
    write: Callable[[Any], Wire]
    respond: Callable[[Any], Response]

    def wire(self) -> Wire | None:
        """Once it is over: the answer. None: `finish` has it."""
        plain = self.begun.plain()
        return None if plain is None else self.write(plain)

    async def finish(self, _: Request) -> Response:
        """The same as a response, whatever it takes. Raises HoldfastError."""
        return self.respond(await self.begun.finish())


#: Begins what a caller's body asks for, of the job whose id stands in the path ("" where none does), if that takes no
#: task: the answer, or what to wait for. None: it has to be called as usual, as where it raises HoldfastError.
Begin = Callable[[Caller, bytes, str], Wire | Under | None]


class Operations:
    """Routes of one part of the API, and the models that they speak."""

    def __init__(self, tag: str) -> None:
        self.router = APIRouter(tags=[tag])
        self.requests: set[type[RequestModel]] = set()
        self.answers: set[type[BaseModel]] = set()
        #: The functions that are also answered in front of the framework, by their paths.
        self.hot: dict[str, Callable[..., Awaitable[Response]]] = {}
        #: What begins their requests without a task.
        self.begins: dict[str, Begin] = {}

    def add(
        self,
        method: str,
        path: str,
        *,
        summary: str,
        answers: type[BaseModel] | None,
        body: type[RequestModel] | None = None,
        form: type[RequestModel] | None = None,
        optional: bool = False,
        query: type[RequestModel] | None = None,
        status: int = 200,
        also: int | None = None,
        takes_key: bool = False,
        media_type: str = "application/json",
        refuses: tuple[type[HoldfastError], ...] = (),
        hot: bool = False,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the decorated function.

        `refuses`: the errors that are this operation's own. `form`: the fields of a form, which has a `file` besides.
        `also`: another status that it answers with. `takes_key`: whether it knows the Idempotency-Key header.
        `answers`: None where that is text, bytes, or nothing (204); of a stream, what its events hold.
        `hot`: a POST that busy workers send all the time (`holdfast_dashboard.hot_routes`).
        """
        found = [*ALWAYS, *refuses]
        extra: dict[str, Any] = {}
        if answers is not None:
            self.answers.add(answers)
        if body is not None:
            self.requests.add(body)
            found += _WITH_BODY
            content = {"application/json": {"schema": ref(body)}}
            extra["requestBody"] = {"required": not optional, "content": content}
        elif form is None and method != "GET":  # a body is not read, but looked at all the same
            found += [errors.BodyTooLarge, errors.UnsupportedMediaType]
        if form is not None:
            found += _WITH_BODY
            extra["requestBody"] = {
                "required": True,
                "content": {"multipart/form-data": {"schema": _form(form)}},
            }
        if query is not None:
            found.append(errors.InvalidRequest)
            extra["parameters"] = _parameters(query)
        if takes_key:
            extra["parameters"] = [*extra.get("parameters", []), _KEY_HEADER]
        schema: dict[str, str] = {"type": "string"} if answers is None else ref(answers)
        if media_type == "application/octet-stream":
            schema["format"] = "binary"
        good: dict[str, Any] = {
            "description": (answers.__doc__ if answers is not None else None) or "The answer."
        }
        if status != 204:
            good["content"] = {media_type: {"schema": schema}}

        permission = ROUTES[f"{method} {path}"]
        if permission is not Permission.OPEN:
            found += [errors.NotAuthenticated, errors.NotAllowed, errors.TooManyRequests]

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            function = _admitting(function, permission, summary)
            self.router.add_api_route(
                path,
                function,
                methods=[method],
                summary=summary,
                description=function.__doc__,
                operation_id=function.__name__,
                status_code=status,
                response_model=None,
                response_class=JSONResponse if media_type == "application/json" else Response,
                responses=_problems(found),
                openapi_extra={
                    **extra,
                    "responses": {str(code): good for code in (status, also) if code is not None},
                },
            )
            if hot:
                self.hot[path] = function
            if method == "GET":  # what answers GET answers HEAD (RFC 9110, 9.1)
                self.router.add_api_route(
                    path, function, methods=["HEAD"], response_model=None, include_in_schema=False
                )
            return function

        return register


def _admitting(function: Callable[..., Any], permission: Permission, summary: str) -> Callable[..., Any]:
    """The same, for those who may: who may not is told before anything is read. The services ask again, and they alone
    about toggles, since a refused one is in the audit log."""
    if permission in {Permission.OPEN, Permission.TOGGLE}:
        return function
    doing = f"do this ({summary[0].lower()}{summary[1:]})"

    @wraps(function)
    async def asking(request: Request, **path: Any) -> Response:
        admit(caller_of(request), permission, doing)
        answer: Response = await function(request, **path)
        return answer

    return asking


def _problems(found: list[type[HoldfastError]]) -> dict[int | str, dict[str, Any]]:
    codes: dict[int, list[str]] = {}
    for error in found:
        codes.setdefault(error.status, []).append(error.code)
    return {
        status: {
            "description": " or ".join(f"`{code}`" for code in sorted(set(names))),
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, names in sorted(codes.items())
    }


def _form(model: type[RequestModel]) -> dict[str, Any]:
    """A form of this model's fields, which are texts, and one file."""
    schema = model.model_json_schema(by_alias=True)
    fields = {
        name: _plain(field) | {key: field[key] for key in ("description",) if key in field}
        for name, field in schema["properties"].items()
    }
    fields["file"] = {"type": "string", "format": "binary"}
    return {"type": "object", "properties": fields, "required": [*schema.get("required", []), "file"]}


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    """The shape of a field in a query string or a form. There is no null there: a field is there or it is not."""
    shape = {key: value for key, value in field.items() if key not in {"title", "description", "default"}}
    options = [option for option in shape.pop("anyOf", []) if option.get("type") != "null"]
    return options[0] if options else shape


def _parameters(query: type[RequestModel]) -> list[dict[str, Any]]:
    schema = query.model_json_schema()
    definitions = schema.get("$defs", {})
    parameters: list[dict[str, Any]] = []
    for name, field in schema["properties"].items():
        shape = _plain(field)
        if "$ref" in shape:
            shape = definitions[shape["$ref"].rsplit("/", 1)[1]]
        parameters.append(
            {
                "name": name,
                "in": "query",
                "required": name in schema.get("required", []),
                "schema": shape,
                **({"description": field["description"]} if "description" in field else {}),
            }
        )
    return parameters
