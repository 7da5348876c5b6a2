"""Bounds and types of every field: accepted at the limit, refused beyond it (CONTRACT section 4, Bounds)."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_core.errors import InvalidRequest
from holdfast_core.schemas import (
    BulkRetryRequest,
    CancelAckRequest,
    CancelRequest,
    ClaimRequest,
    CompleteRequest,
    EnqueueBatchRequest,
    EnqueueRequest,
    FailRequest,
    HeartbeatRequest,
    HistoryQuery,
    JobEventQuery,
    JobQuery,
    LoginRequest,
    LogRequest,
    MetricsHistoryQuery,
    PresenceRequest,
    Query,
    ReleaseRequest,
    Request,
    RequeueRequest,
    RetryRequest,
    TokenRequest,
    UploadRequest,
    WaitQuery,
    WorkerPauseRequest,
    WorkerTokenRequest,
    parse_query,
    parse_request,
)
from support.requests import LEAST

NAMES = (
    ["a", "A" * 128, "Az09._:/@-", "../.."],
    ["", "a" * 129, "a b", " a", "a\n", "é", "a\0", "a*", "%", None, 1, ["a"]],
)
OPTIONAL_NAMES = (NAMES[0] + [None], [one for one in NAMES[1] if one is not None])
LISTS = (
    [[], ["a"] * 64, [f"c{n}" for n in range(64)], ["A" * 128]],
    [["a"] * 65, ["a", ""], ["a" * 129], ["a", None], [1], "a", {"a": 1}, [["a"]], None],
)
LEASES = ([1, 86_400], [0, 86_401, -1, 1.0, 60.5, "60", True, None, 10**30])
VERSIONS = ([1, 2**63 - 1, None], [0, -1, 2**63, 1.0, "1", True])
LONG = (["", "x" * 8_000, "😀" * 8_000, "\0" * 8_000], ["x" * 8_001, 1, ["x"], {}, True])
TOKENS = (["x", "x" * 128], ["", "x" * 129, 1])
REASONS = (
    ["r", "r" * 1_000, "😀" * 1_000, f"  \n{'r' * 1_000}\t ", "a\0b"],
    ["", "   ", "\t\n\r\u00a0\u2003", "r" * 1_001, 1, ["r"], True],
)
BOOLEANS = ([True, False], [0, 1, "true", "", [], {}])


def refused_fields(model: type[Request], said: Any) -> set[str]:
    """The fields that are refused, without the places in their lists; none where the request is taken."""
    try:
        if issubclass(model, Query):
            parse_query(model, said)
        else:
            parse_request(model, said)
    except InvalidRequest as error:
        return {one.field.partition("[")[0].partition(".")[0] for one in error.errors}
    return set()


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


JSON = (
    [{}, {"": None}, nested(64), {"n": 10**300 - 1, "m": -(10**300) + 1, "f": 1.7976931348623157e308}],
    [
        nested(65),
        {"a": [[]] * 2 + [nested(64)]},
        {"n": 10**300},
        {"a": "\0"},
        {"\0": 1},
        {"a": ["x\0y"]},
        [],
        "x",
        1,
    ],
)

BOUNDS: list[tuple[type[Request], str, list[Any], list[Any]]] = [
    (EnqueueRequest, "type", *NAMES),
    (EnqueueRequest, "payload", JSON[0], [*JSON[1], None]),
    (EnqueueRequest, "priority", [-1_000, 0, 1_000], [-1_001, 1_001, 1.0, "1", True, None]),
    (EnqueueRequest, "maxAttempts", [1, 100], [0, 101, -1, 1.0, "3", None]),
    (EnqueueRequest, "requiredCapabilities", *LISTS),
    (
        EnqueueRequest,
        "runAt",
        [None, "1970-01-01T00:00:00Z", "9999-01-01T00:00:00Z", "2026-02-20T02:00:00.123456+05:30"],
        [
            "1969-12-31T23:59:59Z",
            "9999-01-01T00:00:01Z",
            "2026-02-20T02:00:00",
            "2026-02-20",
            "tomorrow",
            "",
            1771545600,
            1771545600.5,
            True,
        ],
    ),
    (EnqueueRequest, "affinityKey", *OPTIONAL_NAMES),
    (ClaimRequest, "workerId", *NAMES),
    (ClaimRequest, "leaseSeconds", *LEASES),
    (ClaimRequest, "allowedTypes", [*LISTS[0], None], [one for one in LISTS[1] if one is not None]),
    (ClaimRequest, "workerCapabilities", *LISTS),
    (ClaimRequest, "waitSeconds", [0, 0.5, 30, 30.0], [-0.001, 30.001, 31, "5", True, None]),
    (ClaimRequest, "observedVersion", *VERSIONS),
    (HeartbeatRequest, "workerId", *NAMES),
    (HeartbeatRequest, "leaseSeconds", *LEASES),
    (HeartbeatRequest, "leaseToken", [*TOKENS[0], None], TOKENS[1]),
    (HeartbeatRequest, "observedVersion", *VERSIONS),
    (HeartbeatRequest, "phase", ["running", "parking", "parked", None], ["Running", "idle", "", 1, True]),
    (HeartbeatRequest, "checkpoint", ["", "x" * 200, "😀" * 200, None], ["x" * 201, 1, [], {}]),
    (HeartbeatRequest, "progress", [*JSON[0], None], JSON[1]),
    (HeartbeatRequest, "compact", BOOLEANS[0], [*BOOLEANS[1], None]),
    (CompleteRequest, "workerId", *NAMES),
    (CompleteRequest, "resultSummary", [*LONG[0], None], LONG[1]),
    (CompleteRequest, "leaseToken", [*TOKENS[0], None], TOKENS[1]),
    (FailRequest, "workerId", *NAMES),
    (FailRequest, "errorMessage", LONG[0], [*LONG[1], None]),
    (FailRequest, "retryable", BOOLEANS[0], [*BOOLEANS[1], None]),
    (FailRequest, "leaseToken", [*TOKENS[0], None], TOKENS[1]),
    (ReleaseRequest, "workerId", *NAMES),
    (ReleaseRequest, "leaseToken", TOKENS[0], [*TOKENS[1], None]),
    (ReleaseRequest, "reason", [*LONG[0], None], LONG[1]),
    (CancelAckRequest, "workerId", *NAMES),
    (CancelAckRequest, "message", [*LONG[0], None], LONG[1]),
    (CancelAckRequest, "leaseToken", [*TOKENS[0], None], TOKENS[1]),
    (CancelRequest, "reason", [*REASONS[0], None], REASONS[1]),
    (RequeueRequest, "reason", REASONS[0], [*REASONS[1], None]),
    (RetryRequest, "reason", [*REASONS[0], None], REASONS[1]),
    (PresenceRequest, "workerId", *NAMES),
    (PresenceRequest, "autoEnabled", BOOLEANS[0], [*BOOLEANS[1], None]),
    (PresenceRequest, "workerCapabilities", [*LISTS[0], None], [one for one in LISTS[1] if one is not None]),
    (PresenceRequest, "observedVersion", *VERSIONS),
    (PresenceRequest, "types", [*LISTS[0], None], [one for one in LISTS[1] if one is not None]),
    (PresenceRequest, "slots", [1, 1_024, None], [0, 1_025, 1.0, "1", True]),
    (PresenceRequest, "runtime", ["", "x" * 200, None], ["x" * 201, 1, []]),
    (PresenceRequest, "version", ["", "x" * 200, None], ["x" * 201, 1, []]),
    (WorkerPauseRequest, "action", ["resume"], ["Pause", "stop", "", 1, None]),
    (WorkerPauseRequest, "mode", ["drain", "quiesce", None], ["Drain", "", "halt", 1]),
    (WorkerPauseRequest, "reason", REASONS[0], [*REASONS[1], None]),
    (WorkerPauseRequest, "forceResume", [*BOOLEANS[0], None], BOOLEANS[1]),
    (WorkerPauseRequest, "expectedVersion", *VERSIONS),
    # On a resume, which is the least, a time limit has no place; those of a pause have a test of their own.
    (WorkerPauseRequest, "resumeAfterSeconds", [None], [60, 604_800, 59, 604_801, "60", 60.0]),
    (WorkerPauseRequest, "resumeAt", [None], ["2026-02-20T02:00:00Z", "soon", 1771545600]),
    (EnqueueRequest, "idempotencyKey", [None, " ", "~" * 255], ["", "k" * 256, "é", "a\nb", "\0", 1]),
    (ClaimRequest, "requestId", [None, " ", "~" * 128], ["", "r" * 129, "é", "a\n", 1]),
    (
        EnqueueBatchRequest,
        "jobs",
        [[{"type": "t"}], [{"type": "t"}] * 1_000],
        [[], [{"type": "t"}] * 1_001, [{}], [{"type": "t", "x": 1}], [{"Type": "t"}], {"type": "t"}, None],
    ),
    (BulkRetryRequest, "status", ["failed", "dead_letter", "cancelled"], ["queued", "succeeded", "", None]),
    (BulkRetryRequest, "type", *OPTIONAL_NAMES),
    (BulkRetryRequest, "reason", REASONS[0], [*REASONS[1], None]),
    (LogRequest, "workerId", *NAMES),
    (LogRequest, "level", ["info", "warn", "error"], ["debug", "", "INFO", 1, None]),
    (LogRequest, "message", LONG[0][1:], ["", *LONG[1], None]),
    (LogRequest, "payload", [*JSON[0], {"p": "x" * 65_528}, None], [*JSON[1], {"p": "x" * 65_529}]),
    (LogRequest, "leaseToken", [*TOKENS[0], None], TOKENS[1]),
    (UploadRequest, "workerId", *NAMES),
    (
        UploadRequest,
        "name",
        ["a", "x" * 255, "../../etc/passwd", "é 👩‍💻.txt"],
        ["", "x" * 256, "a\r\nb", "\0", 1],
    ),
    (
        UploadRequest,
        "contentType",
        ["text/plain", "text/plain; charset=utf-8", "application/vnd.api+json"],
        ["text", "text/", "text/plain\r\nX: y", "text/plain; charset", "a/b/c", "", 1, None],
    ),
    (
        UploadRequest,
        "digest",
        [None, "sha256:" + "0" * 64, "sha256:" + "aF" * 32],
        ["", "0" * 64, "sha256:" + "0" * 63, "md5:" + "0" * 64, "sha256:" + "g" * 64, 1],
    ),
    (UploadRequest, "leaseToken", [*TOKENS[0], None], TOKENS[1]),
    (LoginRequest, "token", ["t", "x" * 8_192], ["", "x" * 8_193, 1, None]),
    # Of a worker, which is the least. A role and a user have no place there; those of people are looked at below.
    (TokenRequest, "workerId", NAMES[0], OPTIONAL_NAMES[1]),
    (TokenRequest, "role", [None], ["viewer", "root", 1]),
    (TokenRequest, "user", [None], ["ana", "", 1]),
    *(
        (model, field, accepted, refused)
        for model in (TokenRequest, WorkerTokenRequest)
        for field, accepted, refused in (
            ("name", ["n", "x" * 200, None], ["", "x" * 201, 1]),
            ("types", [*LISTS[0], None], [one for one in LISTS[1] if one is not None]),
            ("capabilities", [*LISTS[0], None], [one for one in LISTS[1] if one is not None]),
            ("expiresInSeconds", [1, 315_360_000, None], [0, -1, 315_360_001, 1.0, "1", True]),
        )
    ),
    (WorkerTokenRequest, "workerId", *NAMES),
]


def test_every_field_of_every_request_has_its_bounds_here() -> None:
    there = {(model, str(field.alias)) for model in LEAST for field in model.model_fields.values()}
    assert {(model, name) for model, name, _, _ in BOUNDS} == there


def test_a_token_of_a_person_has_a_role_and_a_user_and_nothing_of_a_worker() -> None:
    good = {"role": "viewer", "user": "ana"}
    for role in ("viewer", "producer", "operator", "admin"):
        parse_request(TokenRequest, {**good, "role": role})
    assert refused_fields(TokenRequest, {**good, "role": "worker"}) == {"role"}
    assert refused_fields(TokenRequest, {**good, "user": ""}) == {"user"}
    assert refused_fields(TokenRequest, {"role": "viewer"}) == {"user"}
    assert refused_fields(TokenRequest, {"user": "ana"}) == {"role"}
    assert refused_fields(TokenRequest, {**good, "workerId": "w"}) == {"role"}
    assert refused_fields(TokenRequest, {**good, "types": []}) == {"types"}
    assert refused_fields(TokenRequest, {**good, "capabilities": ["gpu"]}) == {"capabilities"}


@pytest.mark.parametrize(("model", "field", "accepted", "refused"), BOUNDS)
def test_a_field_is_accepted_up_to_its_limits_and_refused_beyond_them_by_name(
    model: type[Request], field: str, accepted: list[Any], refused: list[Any]
) -> None:
    for value in accepted:
        parse_request(model, {**LEAST[model], field: value})
    for value in refused:
        assert refused_fields(model, {**LEAST[model], field: value}) == {field}, f"{value!r:.100}"


@pytest.mark.parametrize(
    ("model", "name", "accepted", "refused"),
    [
        (JobQuery, "limit", ["1", "200"], ["0", "201", "-1", "x", "", "1e2"]),
        (JobQuery, "q", ["a", "x" * 128, "%_\\"], ["", "x" * 129]),
        (JobQuery, "status", ["queued", "dead_letter"], ["Queued", "stale", ""]),
        (JobQuery, "type", ["a", "a" * 128], ["", "a b", "a" * 129]),
        (JobQuery, "claimedBy", ["a", "a" * 128], ["", "a b", "a" * 129]),
        (JobQuery, "cursor", ["x" * 256], ["x" * 257]),
        (WaitQuery, "timeoutSeconds", ["0", "60", "0.5"], ["-0.1", "60.1", "nan", "inf", "x"]),
        (WaitQuery, "sinceVersion", ["1", str(2**63 - 1)], ["0", str(2**63), "x"]),
        (HistoryQuery, "limit", ["1", "200"], ["0", "201"]),
        (HistoryQuery, "before", ["0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90"], ["x", ""]),
        (JobEventQuery, "after", ["0", str(2**31 - 1)], ["-1", str(2**31), "x"]),
        (JobEventQuery, "limit", ["1", "200"], ["0", "201"]),
        (MetricsHistoryQuery, "minutes", ["1", "1440"], ["0", "1441", "x"]),
        (HistoryQuery, "outcome", ["changed", "unchanged", "refused"], ["Changed", ""]),
        (HistoryQuery, "action", ["pause", "resume"], ["Pause", "stop", ""]),
    ],
)
def test_a_parameter_is_accepted_up_to_its_limits_and_refused_beyond_them_by_name(
    model: type[Query], name: str, accepted: list[str], refused: list[str]
) -> None:
    least = [("for", "running")] if model is WaitQuery else []
    for value in accepted:
        parse_query(model, [*least, (name, value)])
    for value in refused:
        assert refused_fields(model, [*least, (name, value)]) == {name}, value


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_number_that_is_not_finite_is_refused(number: str) -> None:
    for model, body in (
        (EnqueueRequest, f'{{"type": "t", "payload": {{"a": [{number}]}}}}'),
        (HeartbeatRequest, f'{{"workerId": "w", "leaseSeconds": 1, "progress": {{"a": {number}}}}}'),
        (ClaimRequest, f'{{"workerId": "w", "leaseSeconds": 1, "waitSeconds": {number}}}'),
    ):
        with pytest.raises(InvalidRequest):
            parse_request(model, body)
    with pytest.raises(InvalidRequest):
        parse_request(EnqueueRequest, {"type": "t", "payload": {"a": float(number)}})


def test_progress_may_have_64_kib_as_the_client_wrote_it() -> None:
    """The bound is on what is sent: spaces that only our own rewriting would put in do not count."""
    least = LEAST[HeartbeatRequest]
    for progress in ({"p": "x" * 65_528}, {"p": "é" * 32_764}, {"p": [0] * 25_000}):
        text = json.dumps({**least, "progress": progress}, separators=(",", ":"), ensure_ascii=False)
        assert len(json.dumps(progress, separators=(",", ":"), ensure_ascii=False).encode()) <= 65_536
        assert parse_request(HeartbeatRequest, text)[0].progress == progress
    for progress in ({"p": "x" * 65_529}, {"p": "é" * 32_765}, {"p": [0] * 40_000}):
        with pytest.raises(InvalidRequest, match="progress: is larger than 65536 bytes"):
            parse_request(HeartbeatRequest, {**least, "progress": progress})


def test_a_time_is_rfc_3339_and_not_a_number_in_quotes() -> None:
    for text in ("1771545600", "1771545600.5"):
        assert refused_fields(EnqueueRequest, {"type": "t", "runAt": text}) == {"runAt"}


def test_what_was_read_is_trimmed_sorted_and_in_utc() -> None:
    request, _ = parse_request(RequeueRequest, {"reason": " \n a  reason \t"})
    assert request.reason == "a  reason"
    enqueue, _ = parse_request(
        EnqueueRequest,
        {"type": "t", "requiredCapabilities": ["b", "a", "b"], "runAt": "2026-02-20T02:00:00+02:00"},
    )
    assert enqueue.required_capabilities == ["a", "b"]
    assert enqueue.run_at == datetime(2026, 2, 20, tzinfo=UTC)
    assert (enqueue.payload, enqueue.priority, enqueue.max_attempts) == ({}, 0, 3)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"1",
        b"{",
        b'{"type": "t"',
        b'{"type": "t"} x',
        b"{'type': 't'}",
        b'{"type": "\xff"}',
        b'\xef\xbb\xbf{"type": "t"}',
        '{"type": "t"}'.encode("utf-16"),
        b'{"type": "t", "payload": {"a": "\\ud800"}}',
        b'{"type": "t", "payload": {"a": ' + b"9" * 5_000 + b"}}",
        b'{"type": "t", "payload": {"a": ' + b"[" * 100_000 + b"}}",
        b'{"type": "t", "payload": {"a": ' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}}",
    ],
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(EnqueueRequest, raw)
    assert len(caught.value.detail) < 500


@pytest.mark.parametrize("value", ["\ud800", float("nan"), float("-inf")])
def test_arguments_that_cannot_be_json_are_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse_request(EnqueueRequest, {"type": "t", "payload": {"a": value}})


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(sorted(LEAST, key=lambda model: model.__name__)), st.data())
def test_whatever_is_sent_is_read_or_refused_by_name(model: type[Request], data: st.DataObject) -> None:
    names = st.sampled_from([str(field.alias) for field in model.model_fields.values()]) | st.text(max_size=5)
    body = {**LEAST[model], **data.draw(st.dictionaries(names, ANY_JSON, max_size=3))}
    if not refused_fields(model, json.dumps(body)):
        request, ignored = parse_request(model, json.dumps(body))
        known = {str(field.alias) for field in model.model_fields.values()}
        assert len(ignored) == len(set(body) - known)
        again = {
            name: value for name, value in json.loads(request.model_dump_json()).items() if value is not None
        }
        assert parse_request(model, again)[0] == request


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=40))
def test_whatever_bytes_come_are_read_or_refused_by_name(raw: bytes) -> None:
    for model in (ClaimRequest, EnqueueRequest, CancelRequest):
        for text in (raw, b'{"type":' + raw + b"}", b'{"' + raw + b'":1}'):
            if not refused_fields(model, text):
                parse_request(model, text)
