"""Query strings that are wrong, over every route that takes one: the list comes from /openapi.json."""

from typing import Any, Final

import pytest

from rest.harness import Api, Operation, dump, open_api, operations, valid

pytestmark = pytest.mark.anyio

JOB_ID: Final = "0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90"
WITH_QUERY: Final = [operation for operation in operations() if operation.query]
by_operation = pytest.mark.parametrize("operation", WITH_QUERY, ids=lambda operation: operation.id)
#: Texts of all kinds; those that a parameter's own schema does not admit are wrong there.
TEXTS: Final = (
    "",
    " ",
    "x y",
    "0",
    "-1",
    "1",
    "1.5",
    "1e3",
    "1e999",
    "nan",
    "NaN",
    "inf",
    "-Infinity",
    "201",
    "99999999999999999999999",
    "9" * 5_000,
    "\u0663",
    "0x10",
    "1_000",
    " 1",
    "+1",
    "true",
    "null",
    "None",
    "[]",
    "queued\0",
    "\0",
    "Queued",
    "\r\n",
    "é",
    "😀",
    "\u202e",
    "x" * 129,
    "x" * 257,
    "x" * 50_000,
    "../../etc/passwd",
    "' OR 1=1 --",
    "%",
    "%00",
    "<script>",
)


def required(operation: Operation) -> dict[str, str]:
    return {p["name"]: p["schema"]["enum"][0] for p in operation.query if p["required"]}


def as_read(schema: dict[str, Any], text: str) -> bool:
    """Whether the schema admits the text, read as its type asks; digits and a point, nothing else."""
    kind = schema.get("type")
    if kind == "integer":
        return (
            text.isascii()
            and text.removeprefix("-").isdigit()
            and len(text) < 30
            and valid(schema, int(text))
        )
    if kind == "number":
        try:
            return text.isascii() and valid(schema, float(text)) and text[:1].isdigit()
        except ValueError:
            return False
    if kind == "boolean":
        return text in {"true", "false"}
    if schema.get("format") == "uuid":
        return False  # none of the texts is one
    return valid(schema, text)


async def refused(api: Api, operation: Operation, query: Any, field: str) -> Any:
    problem = await api.refused(422, "invalid_request", operation.method, operation.at(JOB_ID), params=query)
    assert field in [error["field"] for error in problem["errors"]], (query, problem)
    return problem


@by_operation
async def test_a_parameter_that_is_wrong_is_refused_by_name(database_url: str, operation: Operation) -> None:
    async with open_api(database_url) as api:
        before = await dump(api.database)
        for parameter in operation.query:
            for text in TEXTS:
                query = {**required(operation), "timeoutSeconds": "0", parameter["name"]: text}
                if operation.id != "wait_for_worker_pause" and parameter["name"] != "timeoutSeconds":
                    del query["timeoutSeconds"]
                answer = await api.ask("GET", operation.at(JOB_ID), params=query)
                # Never an error of the server; and what the schema does not admit is refused by name.
                taken = as_read(parameter["schema"], text) and parameter["name"] != "cursor"  # none is ours
                good = 404 if "{jobId}" in operation.path else 200
                assert answer.status_code == (good if taken else 422), (query, answer.text)
                if not taken:
                    named = [error["field"] for error in answer.json()["errors"]]
                    assert named == [parameter["name"]], (query, answer.text)
        assert await dump(api.database) == before


@by_operation
async def test_a_parameter_that_is_unknown_or_a_lookalike_is_refused_by_name(
    sqlite_url: str, operation: Operation
) -> None:
    async with open_api(sqlite_url) as api:
        for name in ("future", "jobId", "", " ", "constructor", "a[]", "x" * 64):
            problem = await refused(api, operation, {**required(operation), name: "1"}, name)
            assert len(problem["errors"]) == 1
        problem = await refused(api, operation, {**required(operation), "x" * 10_000: "1"}, "x" * 64)
        problem = await refused(api, operation, {**required(operation), "a\0\n": "1"}, "a\\x00\\n")
        for parameter in operation.query:
            name = parameter["name"]
            snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
            for other in {snake, name.upper(), f"{name}_"} - {name}:
                problem = await refused(api, operation, {**required(operation), other: "1"}, other)
                assert f"did you mean {name}?" in problem["detail"]


@by_operation
async def test_a_parameter_that_is_given_twice_is_refused_by_name(
    sqlite_url: str, operation: Operation
) -> None:
    async with open_api(sqlite_url) as api:
        for parameter in operation.query:
            name = parameter["name"]
            good = required(operation).get(name, "1")
            query = [
                *((k, v) for k, v in required(operation).items() if k != name),
                (name, good),
                (name, good),
            ]
            problem = await refused(api, operation, query, name)
            assert "more than once" in problem["detail"]


async def test_a_parameter_that_is_missing_is_named(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        problem = await api.refused(422, "invalid_request", "GET", "/api/system/worker-pause/wait")
        assert problem["errors"] == [{"field": "for", "message": "is required"}]


async def test_query_strings_that_are_no_pairs_do_no_harm(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        for query in (
            "&&&",
            "=",
            "=&=",
            "a;b",
            "%",
            "%zz",
            "limit",
            "limit=",
            "%00=1",
            "limit=%ff",
            "é=1",
            "?",
        ):
            answer = await api.ask("GET", f"/api/queue/jobs?{query}")
            assert answer.status_code in {200, 422}, query
        for query in ("&&&", ""):
            assert (await api.ask("GET", f"/api/queue/jobs?{query}")).status_code == 200


@by_operation
async def test_a_query_string_of_very_many_names_is_answered_in_a_few_words(
    sqlite_url: str, operation: Operation
) -> None:
    """As long as a request's first line may be."""
    async with open_api(sqlite_url) as api:
        query = "&".join(f"{n:x}" for n in range(12_000))
        answer = await api.ask("GET", f"{operation.path}?{query}")
        assert answer.status_code == 422


async def test_cursors_and_ids_of_events_that_nobody_gave_out_are_refused_or_find_nothing(
    database_url: str,
) -> None:
    unknown = "0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90"
    async with open_api(database_url) as api:
        await api.enqueue()
        await api.pause()
        for cursor in ("", "x", "1", "\0", f"{unknown}\0", f"{unknown}0"):
            await api.refused(422, "invalid_request", "GET", "/api/queue/jobs", params={"cursor": cursor})
            await api.refused(
                422, "invalid_request", "GET", "/api/system/control-events", params={"before": cursor}
            )
        page = await api.get("/api/queue/jobs", cursor="00000000-0000-0000-0000-000000000000")
        assert (page["items"], page["nextCursor"]) == ([], None)
        for event in (
            unknown,
            "00000000-0000-0000-0000-000000000000",
            "f" * 8 + "-ffff-ffff-ffff-" + "f" * 12,
        ):
            answer = await api.ask("GET", "/api/system/control-events", params={"before": event})
            assert answer.status_code in {200, 422}


async def test_the_audit_log_is_filtered_by_outcome_and_action(database_url: str) -> None:
    async with open_api(database_url) as api:
        await api.pause()
        await api.pause()
        await api.resume()
        await api.refused(
            409, "not_paused", "POST", "/api/system/worker-pause", {"action": "resume", "reason": "r"}
        )
        path = "/api/system/control-events"
        for query, found in (
            ({"action": "pause"}, [("pause", "unchanged"), ("pause", "changed")]),
            ({"action": "resume"}, [("resume", "refused"), ("resume", "changed")]),
            ({"action": "resume", "outcome": "changed"}, [("resume", "changed")]),
            ({"action": "pause", "outcome": "refused"}, []),
        ):
            page = await api.get(path, **query)
            assert [(event["action"], event["outcome"]) for event in page["items"]] == found, query
        first = await api.get(path, action="resume", limit=1)
        rest = await api.get(path, action="resume", before=first["nextBefore"])
        assert [event["outcome"] for event in (*first["items"], *rest["items"])] == ["refused", "changed"]
        assert rest["nextBefore"] is None
        for wrong in ("Pause", "stop", ""):
            problem = await api.refused(422, "invalid_request", "GET", path, params={"action": wrong})
            assert [error["field"] for error in problem["errors"]] == ["action"]


async def test_what_is_looked_for_is_taken_as_it_stands(database_url: str) -> None:
    """No character in `q` means anything to the database."""
    async with open_api(database_url) as api:
        for name in ("a_b", "axb", "a/b", "a:b"):
            await api.enqueue(type=name)
        for q, found in (
            ("a_b", ["a_b"]),
            ("%", []),
            ("_", ["a_b"]),
            ("\\", []),
            ("\0", []),
            ("'", []),
            ("A/B", None),
        ):
            items = (await api.get("/api/queue/jobs", q=q))["items"]
            if found is not None:
                assert [job["type"] for job in items] == found, q
