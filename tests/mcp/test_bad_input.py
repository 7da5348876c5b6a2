"""Bad input on every tool: a tool error that names the field; nothing is written, and no internals are shown."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from mcp import Client

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.errors import InvalidRequest
from holdfast_core.schemas import EnqueueRequest, HistoryQuery, JobQuery
from holdfast_core.services import Services
from holdfast_core.settings import load_settings
from holdfast_server.compose import open_services
from holdfast_server.mcp import build_mcp_server
from holdfast_server.mcp.answers import MAX_ERROR_TEXT
from holdfast_server.mcp.arguments import read_arguments
from holdfast_server.mcp.catalog import listing
from holdfast_server.mcp.speaker import find_speaker

pytestmark = pytest.mark.anyio

#: Arguments that a tool accepts, with all of its fields; each case below spoils one of them.
GOOD: dict[str, Any] = {
    "jobId": "0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90",
    "workerId": "w",
    "leaseSeconds": 60,
    "leaseToken": "token",
    "type": "t",
    "payload": {},
    "priority": 0,
    "maxAttempts": 3,
    "requiredCapabilities": [],
    "runAt": "2026-02-20T01:55:00Z",
    "affinityKey": "k",
    "status": "queued",
    "claimedBy": "w",
    "q": "x",
    "limit": 5,
    "cursor": "c",
    "reason": "because",
    "allowedTypes": ["t"],
    "workerCapabilities": [],
    "waitSeconds": 0,
    "observedVersion": 1,
    "phase": "running",
    "checkpoint": "here",
    "progress": {},
    "compact": False,
    "resultSummary": "done",
    "errorMessage": "failed",
    "retryable": False,
    "message": "stopped",
    "autoEnabled": True,
    "types": ["t"],
    "slots": 1,
    "runtime": "python",
    "version": "1",
    "mode": "drain",
    "expectedVersion": 1,
    "forceResume": False,
    "for": "version",
    "sinceVersion": 1,
    "timeoutSeconds": 0,
    "before": "0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90",
    "outcome": "changed",
    "action": "pause",
    "idempotencyKey": "k",
    "requestId": "r",
    "resumeAfterSeconds": 60,
    "after": 0,
    "level": "info",
    "name": "a label",
    "contentType": "text/plain",
    "digest": "sha256:" + "0" * 64,
    "contentBase64": "AA==",
}
OF_ANOTHER_TYPE: dict[str, list[Any]] = {
    "string": [7, True, [], {}],
    "integer": ["5", 1.5, True, [], {}, 1e300],
    "number": ["5", True, [], {}],
    "boolean": ["yes", 1, [], {}],
    "array": ["a", 7, {}],
    "object": ["{}", 7, []],
}
TOOLS = pytest.mark.parametrize("tool", listing("dot"), ids=lambda tool: tool.name)


def spoiled(field: str, schema: dict[str, Any]) -> Iterator[Any]:
    """Values that a field does not take, as its schema tells."""
    yield from OF_ANOTHER_TYPE[schema["type"]]
    if "enum" in schema:
        yield from ("", "DRAIN", "bogus")
    if "minimum" in schema:
        yield schema["minimum"] - 1
    if "maximum" in schema:
        yield schema["maximum"] + 1
    if "pattern" in schema:
        texts = ("", "two words", "x" * 129, "line\nbreak", "nul\0", "ümlaut", "x\n")
        yield from (text for text in texts if not re.fullmatch(schema["pattern"].strip("^$"), text))
    if "maxLength" in schema:
        yield "x" * (schema["maxLength"] + 1)
    if schema.get("minLength"):
        yield ""
    if "format" in schema:
        yield from ("", "tomorrow", "2026-02-20T01:55:00" if schema["format"] == "date-time" else "1")
    if "items" in schema:
        yield from ([7], [""], ["two words"], ["a"] * 65)
    if field == "reason" and schema.get("minLength"):
        yield from ("   ", "\n\t ", "x" * 1_001)
    if field in {"payload", "progress"}:
        yield from ({"deep": {"nul": "\0"}}, {"\0": 1}, {"number": 10**400}, nested(65))
    if field == "progress":
        yield {"large": "x" * 65_536}


def nested(levels: int) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for _ in range(levels):
        whole = {"in": whole}
    return whole


def cases(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each field that has to be named, and arguments in which it alone is wrong."""
    good = {field: GOOD[field] for field in schema["properties"]}
    for field, described in schema["properties"].items():
        for value in spoiled(field, described):
            yield field, good | {field: value}
        for lookalike in {snake(field), field.upper(), field.replace("I", "i").capitalize()} - {field}:
            without = {name: value for name, value in good.items() if name != field}
            yield lookalike, without | {lookalike: good[field]}
            yield lookalike, good | {lookalike: good[field]}
    for field in schema["required"]:
        yield field, {name: value for name, value in good.items() if name != field}
        yield field, good | {field: None}
    for unknown in ("surprise", "action", "idempotency", "__class__", "constructor", "ключ"):
        yield unknown.encode("unicode_escape").decode(), good | {unknown: 1}


def snake(field: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in field)


async def everything(services: Services) -> Any:
    """What is stored, as far as clients can see it."""
    jobs = await services.jobs.list(LOCAL_OPERATOR, JobQuery())
    events = await services.pause.history(LOCAL_OPERATOR, HistoryQuery())
    status = await services.pause.status(LOCAL_OPERATOR)
    workers = await services.workers.list(LOCAL_OPERATOR)
    return jobs, events, status.system, [worker.id for worker in workers.items]


@TOOLS
async def test_bad_arguments_are_named_and_nothing_is_written(tool: Any, database_url: str) -> None:
    settings = load_settings(database_url=database_url)
    async with (
        open_services(settings) as services,
        Client(
            build_mcp_server(lambda: services, settings, who=await find_speaker(services, settings))
        ) as client,
    ):
        await client.call_tool("queue.enqueue", {"type": "t"})
        before = await everything(services)
        for field, arguments in cases(tool.input_schema):
            result = await client.call_tool(tool.name, arguments)
            (content,) = result.content
            text: str = getattr(content, "text", "")
            assert result.is_error, (field, arguments)
            assert result.structured_content is None
            assert text.startswith("[invalid_request] "), text
            assert field in text, (field, arguments, text)
            assert len(text) < MAX_ERROR_TEXT + 200
            assert not any(c < " " or "\x7f" <= c <= "\x9f" for c in text)
            assert not any(word in text for word in ("Traceback", "pydantic", "Exception", "://")), text
        assert await everything(services) == before


async def test_many_and_long_unknown_names_are_told_in_short(agents: Any, sqlite_url: str) -> None:
    async with agents.in_process(sqlite_url) as tools:
        for arguments in (
            {f"unknown{n}": n for n in range(5_000)},
            {"x" * 500_000: 1},
            {"\x1b[31mred": 1, "\u202e": 2, "\r\n": 3},
        ):
            text = await tools.refused("system.status", arguments)
            assert text.startswith("[invalid_request] ")
            assert len(text) < MAX_ERROR_TEXT + 200
            assert text.isprintable()


async def test_arguments_above_the_bound_are_refused(agents: Any, sqlite_url: str) -> None:
    async with agents.in_process(sqlite_url) as tools:
        text = await tools.refused("queue.enqueue", {"type": "t", "payload": {"text": "x" * 1_048_576}})
        assert text.startswith("[body_too_large] ")
        assert (await tools.ask("queue.list"))["items"] == []


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"text": "\ud83d"}, "surrogate"),
        ({"number": float("nan")}, "number"),
        ({"number": float("inf")}, "number"),
        (nested(3_000), "nested"),
        (nested(400), "payload|body"),
    ],
    ids=["half an emoji", "nan", "infinity", "nested too deep for Python", "nested too deep"],
)
async def test_arguments_that_json_cannot_carry_are_refused(payload: dict[str, Any], words: str) -> None:
    # Some transports read JSON with a reader that lets these pass.
    with pytest.raises(InvalidRequest, match=words) as error:
        read_arguments(EnqueueRequest, {"type": "t", "payload": payload})
    assert error.value.errors
    assert len(error.value.detail) < 200


ABOUT_ONE_JOB: dict[str, dict[str, Any]] = {
    "queue.get": {},
    "queue.cancel": {},
    "queue.retry": {},
    "queue.requeue": {"reason": "r"},
    "queue.heartbeat": {"workerId": "w", "leaseSeconds": 60},
    "queue.complete": {"workerId": "w"},
    "queue.fail": {"workerId": "w", "errorMessage": "e"},
    "queue.release": {"workerId": "w", "leaseToken": "t"},
    "queue.cancel_ack": {"workerId": "w"},
}
OF_ITS_HOLDER = [name for name in ABOUT_ONE_JOB if "workerId" in ABOUT_ONE_JOB[name]]


async def test_unknown_jobs_are_not_found(agents: Any, database_url: str) -> None:
    async with agents.in_process(database_url) as tools:
        for name, arguments in ABOUT_ONE_JOB.items():
            for job_id in ("0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90", "7", "../jobs", "\0", "' OR 1=1 --", "Ж"):
                text = await tools.refused(name, {**arguments, "jobId": job_id})
                assert text.startswith("[job_not_found] "), (name, job_id, text)
                assert "queue.list" in text


async def test_only_the_holder_may_speak_for_a_job(agents: Any, database_url: str) -> None:
    async with agents.in_process(database_url) as tools:
        job = await tools.ask("queue.enqueue", {"type": "t"})
        claim = await tools.ask("queue.claim", {"workerId": "holder", "leaseSeconds": 60})
        token = claim["job"]["leaseToken"]
        before = await tools.ask("queue.get", {"jobId": job["id"]})
        for name in OF_ITS_HOLDER:
            arguments = {**ABOUT_ONE_JOB[name], "jobId": job["id"]}
            text = await tools.refused(name, {**arguments, "workerId": "other", "leaseToken": token})
            assert text.startswith("[job_not_owned] "), (name, text)
            text = await tools.refused(name, {**arguments, "workerId": "holder", "leaseToken": "wrong"})
            assert text.startswith("[lease_lost] "), (name, text)
            assert "queue.claim" in text
            assert token not in text
        assert await tools.ask("queue.get", {"jobId": job["id"]}) == before


@pytest.mark.requirement("FR-004")
async def test_refusals_begin_with_their_code_and_say_what_to_do(agents: Any, database_url: str) -> None:
    async with agents.in_process(database_url, require_force_resume="true") as tools:
        assert await tools.refused("system.resume", {"reason": "r"}) == (
            "[not_paused] Workers are not paused, so there is nothing to resume."
        )
        await tools.ask("queue.enqueue", {"type": "t"})
        job = (await tools.ask("queue.claim", {"workerId": "w", "leaseSeconds": 60}))["job"]
        paused = await tools.ask(
            "system.pause", {"mode": "quiesce", "reason": "nul \0 inside", "expectedVersion": 1}
        )
        assert paused["system"]["reason"] == "nul ␀ inside"
        text = await tools.refused("system.pause", {"mode": "drain", "reason": "r", "expectedVersion": 1})
        assert text.startswith("[version_conflict] ")
        assert "system.status" in text
        text = await tools.refused("queue.requeue", {"jobId": job["id"], "reason": "r"})
        assert text.startswith("[job_state_conflict] ")
        await tools.ask("system.pause", {"mode": "drain", "reason": "r"})
        text = await tools.refused("system.resume", {"reason": "r"})
        assert text.startswith("[resume_not_drained] ")
        assert "system.wait" in text
        forced = await tools.ask("system.resume", {"reason": "r", "forceResume": True, "expectedVersion": 3})
        assert forced["warning"]
        assert forced["system"]["version"] == 4


async def test_a_bug_is_told_without_its_words_and_logged_with_them(sqlite_url: str) -> None:
    def broken() -> Services:
        raise RuntimeError("secret words")

    settings = load_settings(database_url=sqlite_url)
    nothing: Any = None  # authentication is disabled, so nobody is looked up
    server = build_mcp_server(broken, settings, who=await find_speaker(nothing, settings))
    async with Client(server) as client:
        with structlog.testing.capture_logs() as logged:
            result = await client.call_tool("queue.list", {})
    assert result.is_error
    (content,) = result.content
    text: str = getattr(content, "text", "")
    assert text.startswith("[internal_error] ")
    assert "secret" not in text
    assert "RuntimeError" not in text
    (event,) = logged
    assert (event["event"], event["tool"], event["exc_info"]) == ("mcp_tool_crashed", "queue.list", True)
