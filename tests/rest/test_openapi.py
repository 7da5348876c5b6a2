"""/openapi.json is true. That each answer has the shape that it tells of is checked in the harness, always."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from jsonschema import Draft202012Validator

from holdfast_core import errors
from holdfast_core.errors import HoldfastError
from rest.harness import build_app, openapi, operations

CONTRACT = Path(__file__).parents[2] / "docs" / "contract.md"
#: In the contract's table, and not a part of what /openapi.json tells of.
BESIDE = {("GET", "/openapi.json"), ("GET", "/tasks"), ("", "/mcp")}
#: For browsers and OAuth clients.
FOR_BROWSERS = {
    ("GET", "/tasks"),
    ("GET", "/tasks/jobs"),
    ("GET", "/tasks/jobs/{job_id}"),
    ("GET", "/tasks/workers"),
    ("GET", "/tasks/history"),
    ("GET", "/login"),
    ("GET", "/login/oidc"),
    ("GET", "/login/oidc/callback"),
    ("GET", "/.well-known/oauth-protected-resource"),
    ("GET", "/.well-known/oauth-protected-resource/mcp"),
    ("GET", "/"),
}


#: What is answered with something else.
NOT_JSON = {
    "get_metrics": "text/plain",
    "stream_system_events": "text/event-stream",
    "stream_job_events": "text/event-stream",
    "download_artifact": "application/octet-stream",
}


def of_the_contract() -> set[tuple[str, str]]:
    """Method and path of each row in the table of section 4."""
    section = CONTRACT.read_text(encoding="utf-8").split("## 4. REST")[1].split("\n\n")[0]
    found: set[tuple[str, str]] = set()
    for line in section.splitlines():
        if not line.startswith("|") or line.startswith(("|-", "| method")):
            continue
        method = ""
        for span in re.findall(r"`([^`]*)`", re.split(r"(?<!\\)\|", line)[1]):
            match = re.match(r"(?:([A-Z]+) )?([/…][^ ?{]*(?:\{\w+\}[^ ?{]*)*)", span)
            if match is None:
                continue  # a body
            method = match[1] or method
            found.add((method, match[2].replace("…", "/api/queue/jobs/{jobId}").removesuffix(" ")))
    return found


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_routes_are_those_of_the_contract() -> None:
    assert {(op.method, op.path) for op in operations()} | BESIDE == of_the_contract()


def served_routes() -> set[tuple[str, str]]:
    """Method and path of each route of the app; what answers GET answers HEAD."""
    return {
        (method, context.path)
        for context in iter_route_contexts(build_app().routes)
        for method in context.methods or ()
        if method != "HEAD"
    }


def test_every_route_of_the_app_is_described_and_every_description_has_a_route() -> None:
    served = served_routes()
    described = {(op.method, op.path) for op in operations()}
    assert served - described == {
        ("GET", "/openapi.json"),
        # A WebSocket, which OpenAPI cannot describe; docs/contract.md does.
        ("GET", "/api/queue/workers/{worker_id}/connect"),
        *FOR_BROWSERS,
    }
    assert described <= served


def test_it_is_an_openapi_document_as_far_as_its_form_goes() -> None:
    document = openapi()
    assert document["openapi"].startswith("3.1.")
    assert document.keys() <= {"openapi", "info", "paths", "components", "servers", "tags"}
    assert {"title", "version"} <= document["info"].keys()
    ids = [op.id for op in operations()]
    assert len(set(ids)) == len(ids)
    for operation in operations():
        described = operation.described
        assert described["summary"], operation.id
        assert described["tags"], operation.id
        in_path = re.findall(r"\{(\w+)\}", operation.path)
        parameters = described.get("parameters", [])
        assert [p["name"] for p in parameters if p["in"] == "path"] == in_path, operation.id
        assert all(p["required"] for p in parameters if p["in"] == "path")
        names = [(p["in"], p["name"]) for p in parameters]
        assert len(set(names)) == len(names)
        assert all(p["in"] in {"path", "query", "header"} and "schema" in p for p in parameters)
        assert any(status.startswith("2") for status in described["responses"])
        for status, response in described["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]
            if status == "204":
                assert "content" not in response
                continue
            (content_type,) = response["content"]
            good = NOT_JSON.get(operation.id, "application/json")
            assert content_type == (good if status[0] == "2" else "application/problem+json")
            assert response["content"][content_type]["schema"], (operation.id, status)


def test_every_reference_leads_somewhere_and_no_shape_is_left_over() -> None:
    document = openapi()
    shapes = document["components"]["schemas"]
    used: set[str] = set()
    for reference in references(document):
        assert reference.startswith("#/components/schemas/"), reference
        used.add(reference.rsplit("/", 1)[1])
    assert used == shapes.keys()


def test_every_schema_is_a_json_schema() -> None:
    for schema in openapi()["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for operation in operations():
        for parameter in operation.described.get("parameters", []):
            Draft202012Validator.check_schema(parameter["schema"])


def test_names_on_the_wire_are_camel_case() -> None:
    for name, schema in openapi()["components"]["schemas"].items():
        for field in schema.get("properties", {}):
            assert re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", field), (name, field)


def test_the_errors_of_an_operation_are_named_by_their_codes() -> None:
    known = {error.code: error.status for error in vars(errors).values() if is_error(error)}
    for operation in operations():
        for status, response in operation.described["responses"].items():
            if status[0] != "2":
                codes = re.findall(r"`(\w+)`", response["description"])
                assert codes, (operation.id, status)
                assert {known[code] for code in codes} == {int(status)}, (operation.id, codes)


def is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, HoldfastError)


def test_a_body_is_required_where_something_in_it_is() -> None:
    for operation in operations():
        if operation.has_body:
            required = bool(operation.body.get("required") or operation.body.get("oneOf"))
            assert operation.described["requestBody"]["required"] == required, operation.id


@pytest.mark.anyio
async def test_what_is_served_is_what_is_tested_here(sqlite_url: str) -> None:
    from rest.harness import open_api

    async with open_api(sqlite_url) as api:
        assert (await api.ask("GET", "/openapi.json")).json() == json.loads(json.dumps(openapi()))
