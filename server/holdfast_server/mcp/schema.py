"""JSON Schemas of tools, from the models, in the small dialect that every client understands.

No `$ref`, no `title`, no null branches in inputs: some clients drop a tool over them. One client drops
`minimum`, `maximum`, `pattern` and `default` before the model sees the schema, so the description
repeats them. Inputs forbid further properties; outputs allow them, so that an older client lives with
a newer server.
"""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

__all__ = ["input_schema", "output_schema"]

_Schema = dict[str, Any]


def input_schema(model: type[BaseModel], words: Mapping[str, str]) -> _Schema:
    """The schema of a tool's arguments. `words` has one description for each field, no more and no less."""
    whole = _inlined(model.model_json_schema(by_alias=True, mode="validation"))
    properties = cast("dict[str, _Schema]", whole.get("properties", {}))
    if properties.keys() != words.keys():
        raise ValueError(f"{model.__name__}: words for {sorted(words)}, fields {sorted(properties)}")
    return {
        "type": "object",
        "properties": {name: _argument(schema, words[name]) for name, schema in properties.items()},
        "required": whole.get("required", []),
        "additionalProperties": False,
    }


def output_schema(model: type[BaseModel]) -> _Schema:
    """The schema of a tool's structured answer."""
    # An answer comes whole; what a field would be if it were missing only makes the listing longer.
    whole = _inlined(model.model_json_schema(by_alias=True, mode="serialization"), without="default")
    whole.pop("description", None)
    return whole


def _inlined(schema: _Schema, *, without: str | None = None) -> _Schema:
    """`schema` without references, titles and the keyword that is named."""
    definitions = cast("dict[str, _Schema]", schema.pop("$defs", {}))
    dropped = {"title", without}

    def inline(node: object) -> object:
        if isinstance(node, list):
            return [inline(item) for item in cast("list[object]", node)]
        if not isinstance(node, dict):
            return node
        node = cast("_Schema", node)
        if "$ref" in node:
            target = definitions[str(node["$ref"]).removeprefix("#/$defs/")]
            # What stands beside the reference (a field's own description) replaces the model's docstring.
            own = {key: value for key, value in node.items() if key != "$ref"}
            return inline({key: value for key, value in target.items() if key != "description"} | own)
        inlined: _Schema = {}
        for key, value in node.items():
            if key == "properties":  # names of fields, not keywords
                fields = cast("dict[str, object]", value)
                inlined[key] = {name: inline(field) for name, field in fields.items()}
            elif key not in dropped:
                inlined[key] = inline(value)
        return inlined

    return cast("_Schema", inline(schema))


def _argument(schema: _Schema, words: str) -> _Schema:
    schema = dict(schema)
    if "anyOf" in schema:
        # Optional: leaving it out says the same as null, which the server accepts as well.
        branches = [b for b in cast("list[_Schema]", schema.pop("anyOf")) if b.get("type") != "null"]
        (branch,) = branches
        schema = {**branch, **schema}
    default = schema.pop("default", None)
    if default not in (None, [], {}):
        schema["default"] = default
    schema["description"] = " ".join([words, *_limits(schema)])
    return schema


def _limits(schema: _Schema) -> list[str]:
    told: list[str] = []
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        told.append(f"From {low:,} to {high:,}.")
    elif low is not None:
        told.append(f"At least {low:,}.")
    short, long = schema.get("minLength", 0), schema.get("maxLength")
    if long is not None:
        told.append(f"{short} to {long:,} characters." if short else f"At most {long:,} characters.")
    if "pattern" in schema:
        told.append(f"Must match {schema['pattern']}.")
    if "maxItems" in schema:
        told.append(f"At most {schema['maxItems']} items.")
    if "items" in schema:
        limits = _limits(cast("_Schema", schema["items"]))
        told += [f"Each: {limit[0].lower()}{limit[1:]}" for limit in limits]
    if "default" in schema:
        default = schema["default"]
        told.append(f"Default: {str(default).lower() if isinstance(default, bool) else default}.")
    return told
