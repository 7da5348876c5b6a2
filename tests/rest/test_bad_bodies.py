"""Bodies that are wrong, over every route that has one: the list of routes and fields comes from /openapi.json."""

import json
import re
import shutil
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from rest.harness import (
    PROBLEM_JSON,
    Api,
    Operation,
    Socket,
    dump,
    holder,
    open_api,
    open_socket,
    operations,
    valid,
    with_body,
)

pytestmark = pytest.mark.anyio

#: Where a worker speaks, as the contract has it; everywhere else a person or a producer does.
WORKERS: Final = {
    "claim_job",
    "heartbeat_job",
    "heartbeat_worker",
    "complete_job",
    "fail_job",
    "release_job",
    "acknowledge_cancel",
    "log_job_event",
}
#: A good value for each field that some route requires.
GOOD: Final[dict[str, Any]] = {
    "action": "pause",
    "mode": "drain",
    "reason": "a test",
    "type": "t",
    "workerId": "w-1",
    "leaseSeconds": 60,
    "leaseToken": "not-the-token",
    "autoEnabled": True,
    "errorMessage": "it broke",
    "jobs": [{"type": "t"}],
    "status": "failed",
    "message": "a line",
    "token": "not-a-token",
    "role": "viewer",
    "user": "vic",
}
#: A value of each kind; those that a field's own schema does not admit are wrong there.
KINDS: Final[tuple[Any, ...]] = (
    None,
    True,
    1,
    -1,
    0,
    1.5,
    10**30,
    "",
    "x y",
    "1",
    [],
    [1],
    ["a b"],
    {},
    {"a": 1},
)
#: Neither is JSON that can be read, wherever it stands.
NOT_JSON: Final = (
    b"",
    b" ",
    b"{",
    b'{"a": 1,}',
    b"{'a': 1}",
    b'{"workerId": "w-1" "leaseSeconds": 60}',
    b'{"reason": "a"} {"reason": "b"}',
    b'{"reason": "\xff\xfe"}',
    b'{"reason": "\xed\xa0\x80"}',  # a surrogate, in bytes
    b"\xff\xfe{\x00}\x00",  # UTF-16
    '{"reason": "a"}'.encode("utf-16"),
    b"\xef\xbb\xbf{}",  # a byte order mark
    b"\x00",
    b'{"reason": "a\x00b"}',  # a control character that JSON has escaped only
    b'{"reason": "\\ud800"}',
    b'{"reason": "\\udc00\\ud800"}',
    b'{"\\ud800": 1}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 500 + b"]" * 500,
    b'{"reason": nan}',
    b'{"reason": +1}',
    b"-",
)
NOT_AN_OBJECT: Final = (
    b"null",
    b"true",
    b"1",
    b"1e999",
    b"NaN",
    b"-Infinity",
    b'"text"',
    b"[]",
    b'[{"reason": "a"}]',
)
JOB_ID: Final = "0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90"


def good_body(operation: Operation) -> dict[str, Any]:
    """All that the route requires, and the mode that a pause needs."""
    needed = [
        *operation.body.get("required", []),
        *next((one["required"] for one in operation.body.get("oneOf", [])), []),
        *(["mode"] if "action" in operation.body["properties"] else []),
    ]
    return {name: GOOD[name] for name in needed}


def good_request(operation: Operation) -> dict[str, Any]:
    """What goes with a request that is fine: a body as JSON, a form with a file, or nothing."""
    if operation.id == "upload_artifact":
        return {"data": {"workerId": "w", "name": "n"}, "files": {"file": ("f", b"x")}}
    return {"body": good_body(operation)} if operation.has_body else {}


class Bench:
    """One route, a job that a worker holds, and a store in which nothing may change."""

    def __init__(self, api: Api, operation: Operation, job: Any) -> None:
        self.api = api
        self.operation = operation
        self.path = operation.at(job["id"])

    async def send(self, content: bytes, **headers: str) -> Any:
        return await self.api.ask(
            "POST", self.path, content=content, headers={"content-type": "application/json", **headers}
        )

    async def refused(self, body: Any, *fields: str) -> Any:
        """422 that names each of these fields; which others, is told."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.send(content)
        said = f"{self.operation.id} {content[:120]!r}: {answer.status_code} {answer.text[:300]}"
        assert answer.status_code == 422, said
        problem = answer.json()
        assert problem["code"] == "invalid_request", said
        named = [error["field"] for error in problem["errors"]]
        for field in fields:
            assert any(name == field or name.startswith((f"{field}[", f"{field}.")) for name in named), said
            assert field in problem["detail"], said
        return problem


@pytest.fixture(scope="module")
async def shared(
    _sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[tuple[Api, Any]]:
    """The app, with a job that a worker holds. Nothing here changes it, so one is enough."""
    path = shutil.copy(_sqlite_template, tmp_path_factory.mktemp("rest") / "holdfast.db")
    async with open_api(f"sqlite:///{path}") as api:
        await api.enqueue()
        job = await api.claimed("w-1", leaseSeconds=86_400)
        await api.services.presence.flush()
        yield api, job


@pytest.fixture(params=with_body(), ids=lambda operation: operation.id)
async def bench(shared: tuple[Api, Any], request: pytest.FixtureRequest) -> AsyncGenerator[Bench]:
    """Each route that has a body in turn; what the tables hold is the same after the test as before."""
    api, job = shared
    before = await dump(api.database)
    yield Bench(api, request.param, job)
    await api.services.presence.flush()
    assert await dump(api.database) == before


#: Only the routes where a person or a producer speaks; a worker's unknown fields are in test_worker_fields.py.
where_persons_speak = pytest.mark.parametrize(
    "bench",
    [operation for operation in with_body() if operation.id not in WORKERS],
    ids=lambda operation: operation.id,
    indirect=True,
)


def test_who_speaks_is_as_the_contract_says() -> None:
    strict = {op.id for op in with_body() if op.body.get("additionalProperties") is False}
    assert {op.id for op in with_body()} - strict == WORKERS


async def test_a_value_of_the_wrong_kind_is_refused_with_the_fields_name(bench: Bench) -> None:
    tried = 0
    for name, schema in bench.operation.body["properties"].items():
        for value in KINDS:
            if not valid(schema, value):
                await bench.refused({**good_body(bench.operation), name: value}, name)
                tried += 1
    assert tried >= 5


def beyond(schema: dict[str, Any]) -> Iterator[Any]:
    """Values just outside the bounds that a field's schema tells of."""
    for option in [schema, *schema.get("anyOf", [])]:
        if "maximum" in option:
            yield from (option["maximum"] + 1, 2**63, 2**64, 10**400, 1e308, 1.0)
        if "minimum" in option:
            yield from (option["minimum"] - 1, -(2**63) - 1)
        if "maxLength" in option:
            yield from ("x" * (option["maxLength"] + 1), "é" * (option["maxLength"] + 1), "x" * 900_000)
        if option.get("minLength"):
            yield ""
        if "pattern" in option:
            texts = (
                "x" * 129,
                "x" * 900_000,
                "a\0b",
                "a\n",
                "é",
                "\uff57",
                "a b",
                " a",
                "<b>",
                "\u202ex",
                "😀",
            )
            yield from (text for text in texts if not re.fullmatch(option["pattern"].strip("^$"), text))
        if "maxItems" in option:
            yield from (
                [f"c{n}" for n in range(option["maxItems"] + 1)],
                ["a\n"],
                ["é"],
                [None],
                [["a"]],
                ["x" * 129],
            )
        if option.get("format") == "date-time":
            yield from (
                "soon",
                "2026-01-01",
                "2026-01-01T00:00:00",
                "2026-13-01T00:00:00Z",
                "0001-01-01T00:00:00Z",
            )
            yield from ("9999-12-31T23:59:59-14:00", 1_700_000_000, "2026-01-01T00:00:00Z\0")
        if option.get("additionalProperties") is True:
            yield from ({"a": "x\0y"}, {"x\0y": 1}, {"a": 10**300}, _nested(65))


def _nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


async def test_a_value_beyond_a_bound_is_refused_with_the_fields_name(bench: Bench) -> None:
    for name, schema in bench.operation.body["properties"].items():
        for value in beyond(schema):
            # A float that is whole is no whole number, except where any number is taken.
            if valid(schema, value) and isinstance(value, float) and "number" in json.dumps(schema):
                continue
            await bench.refused({**good_body(bench.operation), name: value}, name)
        if name == "reason" and bench.operation.id not in WORKERS:
            for blank in ("", "   ", "\n\t", "\u2003"):
                await bench.refused({**good_body(bench.operation), name: blank}, name)
        if name == "progress":
            await bench.refused({**good_body(bench.operation), name: {"a": "é" * 33_000}}, name)


async def test_numbers_that_are_none_are_refused_with_the_fields_name(bench: Bench) -> None:
    for name in bench.operation.body["properties"]:
        schema = json.dumps(bench.operation.body["properties"][name])
        if any(kind in schema for kind in ("integer", "number", "boolean")):
            values = ["1e999", "-1e999", "NaN", "Infinity", "-Infinity", '"NaN"', '"1"']
        elif '"type": "object"' in schema:
            values = ['{"a": 1e999}', '{"a": [NaN]}', '{"a": {"b": -Infinity}}', '{"a": %s}' % ("9" * 400)]
        else:
            values = ["1e999", "NaN", "9" * 400]
        for value in values:
            rest = {k: v for k, v in good_body(bench.operation).items() if k != name}
            text = json.dumps({**rest, name: "HERE"}).replace('"HERE"', value)
            await bench.refused(text.encode(), name)
        # More digits than Python reads: no JSON at all, as far as we are concerned.
        await bench.refused(b'{"%s": %s}' % (name.encode(), b"9" * 5_000), "body")


async def test_a_field_that_is_missing_is_named(bench: Bench) -> None:
    required = bench.operation.body.get("required", [])
    for name in required:
        body = {k: v for k, v in good_body(bench.operation).items() if k != name}
        problem = await bench.refused(body, name)
        assert any(e["message"] == "is required" for e in problem["errors"] if e["field"] == name)
    if required:
        await bench.refused({}, *required)


@where_persons_speak
async def test_a_field_that_is_unknown_is_refused_by_name_where_a_person_speaks(bench: Bench) -> None:
    good = good_body(bench.operation)
    for name in ("future", "", " ", "constructor", "__proto__", "extra.field", "jobId"):
        problem = await bench.refused({**good, name: 1})
        assert {"field": name or "body", "message": "unknown field"} in problem["errors"] or name == ""
    # Names are shown so that they harm nobody: short, and without control characters.
    for name in ("x" * 500_000, "a\0b", "a\r\nb", "\u202e", "é" * 300, "😀"):
        problem = await bench.refused({**good, name: 1})
        assert len(problem["errors"]) == 1, problem
        assert len(problem["errors"][0]["field"]) <= 640
        assert problem["errors"][0]["field"].isprintable()


@where_persons_speak
async def test_many_unknown_fields_are_answered_in_a_few_words(bench: Bench) -> None:
    await bench.refused({**good_body(bench.operation), **{f"f{n}": 1 for n in range(20_000)}})


async def test_a_lookalike_of_a_field_is_refused_everywhere_and_the_field_is_named(bench: Bench) -> None:
    good = good_body(bench.operation)
    for name in bench.operation.body["properties"]:
        snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
        for other in {snake, name.upper(), name.capitalize(), f"_{name}", f"{name}_", name.lower()} - {name}:
            for body in (
                {**good, other: 1},
                {**{k: v for k, v in good.items() if k != name}, other: GOOD.get(name)},
            ):
                problem = await bench.refused(body, other)
                messages = {e["field"]: e["message"] for e in problem["errors"]}
                assert f"did you mean {name}?" in messages[other], problem


async def test_a_lookalike_is_refused_whatever_stands_beside_it(bench: Bench) -> None:
    name = next(iter(bench.operation.body["properties"]))
    good = json.dumps(good_body(bench.operation))[1:-1]
    deep = "[" * 150 + "]" * 150
    for beside in ('"future": NaN', f'"future": {deep}', '"future": -1e999', f'"{name}": 1, "{name}": 2'):
        parts = [part for part in (good, beside, f'"{name.upper()}": 1') if part]
        problem = await bench.refused(f"{{{', '.join(parts)}}}".encode())
        assert any(e["field"] == name.upper() for e in problem["errors"]), problem


async def test_what_is_no_json_object_is_refused_as_a_whole(bench: Bench) -> None:
    optional = not bench.operation.described["requestBody"]["required"]
    for content in NOT_JSON:
        if content or not optional:
            problem = await bench.refused(content, "body")
            assert "is not valid JSON" in problem["detail"], (content[:40], problem)
    for content in NOT_AN_OBJECT:
        await bench.refused(content, "body")


async def test_a_body_that_does_not_say_that_it_is_json_is_refused(bench: Bench) -> None:
    content = json.dumps(good_body(bench.operation)).encode()
    for content_type in (
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json-patch+json",
        "application/problem+json",
        "application/jsonx",
        "application/json, text/plain",
        "text/plain; application/json",
        "*/*",
        "\xa0application/json\xa0\xff",
    ):
        for headers in (
            [("content-type", content_type.encode("latin-1"))],
            [("Content-Type", content_type.encode("latin-1"))] * 2,
        ):
            await bench.api.refused(
                415, "unsupported_media_type", "POST", bench.path, content=content, headers=headers
            )
    twice = [("content-type", "application/json"), ("content-type", "text/plain")]
    await bench.api.refused(415, "unsupported_media_type", "POST", bench.path, content=content, headers=twice)
    await bench.api.refused(415, "unsupported_media_type", "POST", bench.path, content=content)
    # An empty body that claims to be a form is a form, too.
    await bench.api.refused(
        415, "unsupported_media_type", "POST", bench.path, headers={"content-type": "text/plain"}
    )


async def test_json_is_json_in_any_case_and_with_parameters(bench: Bench) -> None:
    for content_type in ("APPLICATION/JSON", "application/json; charset=utf-8", " application/json ;x=y"):
        problem = await bench.api.refused(
            422, "invalid_request", "POST", bench.path, content=b"[]", headers={"content-type": content_type}
        )
        assert problem["errors"][0]["field"] == "body"


async def test_a_body_above_a_mebibyte_is_refused(bench: Bench) -> None:
    most = 8_388_608 if bench.operation.id == "enqueue_jobs" else 1_048_576
    whole = json.dumps(good_body(bench.operation)).encode()
    content = whole + b" " * (most + 1 - len(whole))
    answer = await bench.send(content)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")

    async def pieces() -> AsyncGenerator[bytes]:
        for start in range(0, len(content), 65_536):
            yield content[start : start + 65_536]

    await bench.api.refused(
        413,
        "body_too_large",
        "POST",
        bench.path,
        content=pieces(),
        headers={"content-type": "application/json"},
    )


async def test_a_body_of_exactly_a_mebibyte_is_taken(database_url: str) -> None:
    async with open_api(database_url) as api:
        start = b'{"type": "t", "payload": {"a": "'
        content = start + b"x" * (1_048_576 - len(start) - 3) + b'"}}'
        assert len(content) == 1_048_576
        answer = await api.ask(
            "POST", "/api/queue/jobs", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 201, answer.text[:300]


async def test_on_a_socket_a_body_above_a_mebibyte_is_refused_and_the_connection_ends(
    sqlite_url: str,
) -> None:
    async with open_socket(sqlite_url) as api:
        before = await dump(api.database)
        for way in (b"Content-Length: 1048577\r\n", b"Transfer-Encoding: chunked\r\n"):
            await _too_much(api, way)
        assert await dump(api.database) == before


async def _too_much(api: Socket, way: bytes) -> None:
    path = "/api/queue/jobs"
    head = (
        b"POST /api/queue/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        + way
        + b"\r\n"
    )
    if b"chunked" in way:
        piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        head += piece * 17  # and no end to it
    answer = await api.exchange(head, "POST", path)
    assert answer.status_code == 413
    assert answer.json()["code"] == "body_too_large"
    assert answer.headers["content-type"] == PROBLEM_JSON
    assert answer.headers["connection"] == "close", way


@pytest.mark.parametrize("verb", ["heartbeat", "complete", "fail", "release", "cancel/ack"])
async def test_another_worker_and_another_token_are_refused_and_nothing_is_written(
    database_url: str, verb: str
) -> None:
    async with open_api(database_url) as api:
        await api.enqueue()
        job = await api.claimed("w-1")
        path = f"/api/queue/jobs/{job['id']}/{verb}"
        more = {"leaseSeconds": 60, "errorMessage": "it broke"}
        before = await dump(api.database, "workers")
        problem = await api.refused(
            409, "job_not_owned", "POST", path, holder(job, **more, workerId="w-2"), timeout=5
        )
        assert "w-1" in problem["detail"]
        assert job["leaseToken"] not in json.dumps(problem)
        body = holder(job, **more, leaseToken="x" * 128)
        problem = await api.refused(409, "lease_lost", "POST", path, body)
        assert "x" * 20 not in json.dumps(problem)
        assert await dump(api.database, "workers") == before


async def test_a_rule_between_two_fields_names_the_one_to_mend(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        before = await dump(api.database)
        for body, field in (
            ({"action": "pause", "reason": "a"}, "mode"),
            ({"action": "pause", "reason": "a", "mode": None}, "mode"),
            ({"action": "pause", "reason": "a", "mode": "drain", "forceResume": True}, "forceResume"),
            ({"action": "pause", "reason": "a", "mode": "drain", "forceResume": False}, "forceResume"),
            ({"action": "Pause", "reason": "a", "mode": "drain"}, "action"),
            ({"action": "resume", "reason": "a", "expectedVersion": 0}, "expectedVersion"),
        ):
            problem = await api.refused(422, "invalid_request", "POST", "/api/system/worker-pause", body)
            assert [error["field"] for error in problem["errors"]] == [field], problem
        assert await dump(api.database) == before


#: Ids that no job has, and ids that nothing can have.
IDS: Final = (
    JOB_ID,
    JOB_ID.upper(),
    "claim",
    "1",
    "-1",
    "null",
    "%00",
    f"{JOB_ID}%00",
    "%0a",
    f"{JOB_ID}%0A",
    "%ff%fe",
    "%ed%a0%80",
    "%F0%9F%98%80",
    "é",
    "%7B" + JOB_ID + "%7D",
    "urn:uuid:" + JOB_ID,
    JOB_ID.replace("-", ""),
    "x" * 60_000,
    "%3Cscript%3E",
    "'%20OR%201=1--",
    "%25s",
    "\u0660" * 36,
    "..%5c..",
)


async def test_ids_that_no_job_has_are_not_found_on_every_route(database_url: str) -> None:
    async with open_api(database_url) as api:
        before = await dump(api.database, "workers")
        for operation in operations():
            if "{jobId}" not in operation.path:
                continue
            sent = good_request(operation)
            for job_id in IDS:
                problem = await api.refused(
                    404, "job_not_found", operation.method, operation.at(job_id), **sent
                )
                assert len(problem["detail"]) < 200
                if len(job_id) > 1 and "0199" not in job_id:
                    assert job_id not in problem["detail"]
        assert await dump(api.database, "workers") == before


async def test_what_stands_just_within_the_bounds_is_taken_stored_and_given_back(database_url: str) -> None:
    widest = {
        "type": "a" * 128,
        "payload": {
            "": _nested(63),
            "k\u0001": ["😀\u202e\u0001\ufffe", -(10**299), 10**299, 1.5e308, 5e-324, True, None, ""],
            "x" * 10_000: "</script>\\\"'%s{0}\n",
        },
        "priority": -1_000,
        "maxAttempts": 100,
        "requiredCapabilities": [f"c{n:0127}" for n in range(64)],
        "runAt": "1970-01-01T00:00:00Z",
        "affinityKey": "a.:/@-_Z9",
    }
    async with open_api(database_url) as api:
        job = await api.enqueue(**widest)
        for name in ("type", "payload", "priority", "maxAttempts", "requiredCapabilities", "affinityKey"):
            assert job[name] == widest[name], name
        assert await api.get(f"/api/queue/jobs/{job['id']}") == job
        late = await api.enqueue(runAt="9999-01-01T00:00:00+00:00", priority=1_000)
        assert late["nextAttemptAt"].startswith("9999-01-01")
        worker = "w" * 128
        held = await api.claimed(
            worker,
            leaseSeconds=86_400,
            workerCapabilities=widest["requiredCapabilities"],
            allowedTypes=[widest["type"], *(f"t{n}" for n in range(63))],
            observedVersion=2**63 - 1,
        )
        path = f"/api/queue/jobs/{job['id']}"
        text = "😀\u202e\u0001\n\ufffe<&" + "é" * 100
        beat = holder(
            held,
            leaseSeconds=1,
            checkpoint=(text * 2)[:200],
            progress={"a": "x" * 65_000, "n": 10**299},
            observedVersion=2**63 - 1,
        )
        assert (await api.post(f"{path}/heartbeat", beat))["progress"] == beat["progress"]
        # NUL cannot be stored; an outcome must not be lost for it.
        failed = await api.post(f"{path}/fail", holder(held, errorMessage=text + "\0" + "x" * 7_800))
        assert failed["errorMessage"] == text + "␀" + "x" * 7_800
        retried = await api.post(f"{path}/retry", {"reason": "r\0" + "é" * 998})
        assert retried["status"] == "queued"
        cancelled = await api.post(f"{path}/cancel", {"reason": "😀" * 1_000})
        assert cancelled["cancelReason"] == "😀" * 1_000
        paused = await api.pause(reason="\0\u202e" + "é" * 998)
        assert paused["system"]["reason"] == "␀\u202e" + "é" * 998
        await api.refused(
            409,
            "version_conflict",
            "POST",
            "/api/system/worker-pause",
            {"action": "resume", "reason": "a", "expectedVersion": 2**63 - 1},
        )


async def test_a_time_is_written_as_a_time_and_not_as_a_number(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        for value in ("1700000000", "1e9", "-1", "12:00Z", "2026-01-01T00:00:00+25:00"):
            answer = await api.ask("POST", "/api/queue/jobs", {"type": "t", "runAt": value})
            assert answer.status_code == 422, f"{value}: {answer.text}"


async def test_a_person_who_waits_for_no_number_of_seconds_is_not_kept_waiting(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        with anyio.fail_after(5):
            answer = await api.ask(
                "POST",
                "/api/queue/jobs/claim",
                content=b'{"workerId": "w", "leaseSeconds": 60, "waitSeconds": NaN}',
                headers={"content-type": "application/json"},
            )
        assert answer.status_code == 422, answer.text
