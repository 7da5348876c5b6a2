"""What all models share: camelCase on the wire, bounds with names, and one way to read a request.

Requests are read strictly from JSON (a string is not a number). Where a person or a producer speaks,
unknown fields are refused by name; where a worker speaks they are ignored and named, so that a newer
worker can finish its job on an older server. A name that differs from a known one only in case or
underscores is refused everywhere (CONTRACT, first paragraph).
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, ClassVar, Final, TypeVar, cast, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, from_json

from holdfast_core.errors import FieldError, InvalidRequest

__all__ = [
    "MAX_CAPABILITIES",
    "MAX_CHECKPOINT",
    "MAX_EVENT_PAYLOAD_BYTES",
    "MAX_JSON_DEPTH",
    "MAX_LEASE_SECONDS",
    "MAX_PAGE",
    "MAX_PROGRESS_BYTES",
    "MAX_REASON",
    "MAX_TEXT",
    "MAX_WAIT_SECONDS",
    "Answer",
    "Capabilities",
    "IdempotencyKey",
    "JsonObject",
    "LongText",
    "Name",
    "Part",
    "PersonRequest",
    "Query",
    "Reason",
    "Request",
    "RequestId",
    "ShortText",
    "Time",
    "Version",
    "WorkerRequest",
    "at_most_bytes",
    "broken_rule",
    "parse_query",
    "parse_request",
]

MAX_REASON: Final = 1_000
MAX_TEXT: Final = 8_000
MAX_CHECKPOINT: Final = 200
MAX_CAPABILITIES: Final = 64
MAX_LEASE_SECONDS: Final = 86_400
MAX_WAIT_SECONDS: Final = 30
MAX_PAGE: Final = 200
MAX_PROGRESS_BYTES: Final = 65_536
MAX_EVENT_PAYLOAD_BYTES: Final = 65_536
MAX_JSON_DEPTH: Final = 64
#: Digits of a whole number in a payload. Above it Python and the databases part ways.
MAX_JSON_DIGITS: Final = 300


class Answer(BaseModel):
    """Base of what the server says: camelCase on the wire, snake_case in code, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        frozen=True,
        extra="ignore",
    )


class Request(BaseModel):
    """Base of what a client says: camelCase only, read strictly."""

    model_config = ConfigDict(
        alias_generator=to_camel, serialize_by_alias=True, strict=True, frozen=True, extra="ignore"
    )
    #: Whether unknown fields are refused (True) or ignored and named to the caller (False).
    refuses_unknown: ClassVar[bool] = True


class PersonRequest(Request):
    """A person or a producer speaks: unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid")


class WorkerRequest(Request):
    """A worker speaks: unknown fields are ignored and named in `Holdfast-Ignored-Fields`."""

    refuses_unknown: ClassVar[bool] = False


class Query(Request):
    """The query string of a read; every value arrives as text."""

    model_config = ConfigDict(extra="forbid")


def _without_nul(text: str) -> str:
    # PostgreSQL's text cannot hold NUL. A worker's outcome must not be lost for it, so it is shown
    # as the symbol for it instead of being refused.
    return text.replace("\0", "␀")


def _strip(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _check_json(value: object) -> None:
    """Refuse what one of the databases or Python's JSON could not give back as it came."""
    stack: list[tuple[object, int]] = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"is nested more than {MAX_JSON_DEPTH} levels deep")
        if isinstance(item, str):
            if "\0" in item:
                raise ValueError("holds a NUL character (\\u0000), which cannot be stored")
        elif isinstance(item, bool) or item is None:
            continue
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise ValueError("holds a number that is not finite")
        elif isinstance(item, int):
            if abs(item) >= 10**MAX_JSON_DIGITS:
                raise ValueError(f"holds a whole number of more than {MAX_JSON_DIGITS} digits")
        elif isinstance(item, dict):
            for key, inner in cast("dict[str, object]", item).items():
                stack.append((key, depth))
                stack.append((inner, depth + 1))
        elif isinstance(item, list):
            stack.extend((inner, depth + 1) for inner in cast("list[object]", item))


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    _check_json(value)
    return value


def at_most_bytes(limit: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A validator: the object as JSON takes no more bytes than this."""

    def small(value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) > limit:
            raise ValueError(f"is larger than {limit} bytes")
        return value

    return small


def _written_as_time(value: object) -> object:
    # pydantic reads "1700000000" as seconds since 1970: more likely a mistake than a wish.
    if not isinstance(value, str) or not re.match(r"\d{4}-\d{2}-\d{2}[Tt ]", value):
        raise ValueError("should be a time as in RFC 3339: 2026-02-20T01:55:00Z")
    return value


def broken_rule(field: str, message: str) -> PydanticCustomError:
    """The error for a rule between fields, to be raised by a model's validator; it names one field."""
    return PydanticCustomError("rule", "{field}: {message}", {"field": field, "message": message})


def _unique(names: list[str]) -> list[str]:
    # Sorted and without repeats, so that equal sets compare equal wherever they are stored.
    return sorted(set(names))


_R = TypeVar("_R", bound=Request)

LongText = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_without_nul)]
ShortText = Annotated[str, Field(max_length=MAX_CHECKPOINT), AfterValidator(_without_nul)]
Part = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_without_nul)]
Reason = Annotated[
    str,
    Field(min_length=1, max_length=MAX_REASON, description="Why; 1 to 1,000 characters."),
    BeforeValidator(_strip),
    AfterValidator(_without_nul),
]
#: A version as a client names it; what a database's bigint holds.
Version = Annotated[int, Field(ge=1, le=2**63 - 1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/@-]{1,128}$")]
Capabilities = Annotated[list[Name], Field(max_length=MAX_CAPABILITIES), AfterValidator(_unique)]
#: Years that every clock and database involved can hold in any zone.
Time = Annotated[
    AwareDatetime,
    Field(strict=False),
    BeforeValidator(_written_as_time),
    Field(ge=datetime(1970, 1, 1, tzinfo=UTC), le=datetime(9999, 1, 1, tzinfo=UTC)),
]
IdempotencyKey = Annotated[
    str, Field(pattern=r"^[\x20-\x7e]{1,255}$", description="1 to 255 printable ASCII characters.")
]
RequestId = Annotated[
    str, Field(pattern=r"^[\x20-\x7e]{1,128}$", description="1 to 128 printable ASCII characters.")
]
JsonObject = Annotated[dict[str, Any], AfterValidator(_storable)]


def _fold(name: str) -> str:
    return name.replace("_", "").casefold()


@cache
def _known_names(model: type[Request]) -> frozenset[str]:
    return frozenset(field.alias or name for name, field in model.model_fields.items())


def _refused_names(model: type[Request], names: Collection[str]) -> tuple[list[FieldError], list[str]]:
    """Errors for the names that cannot be let pass, and the unknown names that can."""
    known = _known_names(model)
    if known.issuperset(names):
        return [], []
    folded = {_fold(alias): alias for alias in known}
    refused: list[FieldError] = []
    ignored: list[str] = []
    for name in names:
        if name in known:
            continue
        meant = folded.get(_fold(name))
        if meant is not None:
            refused.append(FieldError(_shown(name), f"unknown field; did you mean {meant}?"))
        elif model.model_config.get("extra") == "forbid":
            refused.append(FieldError(_shown(name), "unknown field"))
        else:
            ignored.append(_shown(name))
    return refused, ignored


def _shown(name: str) -> str:
    """A field name from outside, fit for an error and a header: short and without control characters."""
    return name[:64].encode("unicode_escape").decode("ascii")


def _field_errors(error: ValidationError, *, whole: str) -> list[FieldError]:
    found: list[FieldError] = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        field = ""
        for part in item["loc"]:
            shown = f"[{part}]" if isinstance(part, int) else _shown(part)
            field += f".{shown}" if field and isinstance(part, str) else shown
        message = item["msg"].removeprefix("Value error, ")
        match item["type"]:
            case "missing":
                message = "is required"
            case "extra_forbidden":
                message = "unknown field"
            case "json_invalid":
                message = message.replace("Invalid JSON", "is not valid JSON", 1)
            case "too_short" | "string_too_short":
                message = "must not be blank"
            case "rule":
                field, message = message.split(": ", 1)
            case _:
                message = message[:1].lower() + message[1:]
        found.append(FieldError(field or whole, message))
    return found


def parse_request(model: type[_R], raw: bytes | str | Mapping[str, Any]) -> tuple[_R, list[str]]:
    """Read one request.

    `raw` is a JSON text, or an object that came out of one (an MCP tool's arguments). Returns the
    request and the names of fields that were ignored. Raises InvalidRequest, which names every field
    that is wrong and never repeats a value.
    """
    if not isinstance(raw, bytes | str):
        try:
            raw = json.dumps(raw, ensure_ascii=False, allow_nan=False)
        except (ValueError, RecursionError):
            raise InvalidRequest.of(
                FieldError(
                    "arguments", "cannot be written as JSON: a number is out of range, or it nests too deep"
                )
            ) from None
    refused: list[FieldError] = []
    ignored: list[str] = []
    try:
        plain = from_json(raw)
    except (ValueError, TypeError):  # the second: lone surrogates
        plain = None  # the model's own reading says what is wrong, and where
    if isinstance(plain, dict):
        refused, ignored = _refused_names(model, cast("dict[str, Any]", plain).keys())
    try:
        request = model.model_validate_json(raw)
    except ValidationError as error:
        named = {e.field for e in refused}
        refused += [e for e in _field_errors(error, whole="body") if e.field not in named]
        raise InvalidRequest.of(*refused) from None
    if refused:
        raise InvalidRequest.of(*refused)
    return request, ignored


_PLAIN: Final = {int: re.compile(r"-?[0-9]{1,30}"), float: re.compile(r"[0-9]{1,30}(\.[0-9]{1,30})?")}


def _kinds_of(annotation: Any) -> list[Any]:
    """The types in an annotation, whatever they are wrapped in."""
    inner = get_args(annotation)
    return [kind for one in inner for kind in _kinds_of(one)] if inner else [annotation]


def _not_plain_numbers(model: type[Request], pairs: list[tuple[str, str]]) -> list[FieldError]:
    """Errors for numbers that pydantic would read, but that nobody means: `1_000`, `+5`, `5.0`, ` 5`."""
    kinds = {field.alias or name: _kinds_of(field.annotation) for name, field in model.model_fields.items()}
    wrong: list[FieldError] = []
    for name, text in pairs:
        for kind, plain in _PLAIN.items():
            if any(one is kind for one in kinds.get(name, ())) and not plain.fullmatch(text):
                wrong.append(FieldError(_shown(name), f"should be a plain {'whole ' * (kind is int)}number"))
    return wrong


def parse_query(model: type[_R], pairs: list[tuple[str, str]]) -> _R:
    """Read a query string's pairs. Raises InvalidRequest naming each parameter that is wrong."""
    names = [name for name, _ in pairs]
    refused, _ = _refused_names(model, names)
    doubled = [name for name, count in Counter(names).items() if count > 1]
    refused += [FieldError(_shown(name), "is given more than once") for name in doubled]
    refused += _not_plain_numbers(model, pairs)
    if refused:
        raise InvalidRequest.of(*refused)
    try:
        return model.model_validate_strings(dict(pairs))
    except ValidationError as error:
        raise InvalidRequest.of(*_field_errors(error, whole="query")) from None
