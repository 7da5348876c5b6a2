"""JSON objects as people and producers write them."""

import json
import math
from typing import Any, Final, NoReturn, cast

__all__ = ["as_sent", "read_object"]

_EXAMPLE: Final = '{"month": 2}'


def read_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError with words that go on behind `it`, as in `it is not JSON: …`."""
    try:
        value: object = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if isinstance(value, dict):
            as_sent(cast("dict[str, Any]", value))
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"is JSON, but not an object like {_EXAMPLE}")
    return cast("dict[str, Any]", value)


def as_sent(value: dict[str, Any]) -> bytes:
    """The object as the client sends it: with escapes, so that it may be longer than it came."""
    return json.dumps(value, allow_nan=False).encode()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:32]} is out of range")
    return number
