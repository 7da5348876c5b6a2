"""Names of fields: lookalikes are refused everywhere, unknown ones refused or ignored by who speaks."""

import json
from typing import Any

import pytest

from holdfast_core.errors import InvalidRequest
from holdfast_core.schemas import (
    ClaimRequest,
    EnqueueRequest,
    HistoryQuery,
    JobQuery,
    PersonRequest,
    Query,
    Request,
    TokenRequest,
    WaitQuery,
    WorkerRequest,
    parse_query,
    parse_request,
    sessions,
)
from support.requests import LEAST

MODELS = sorted(LEAST, key=lambda model: model.__name__)
WORKERS = [model for model in MODELS if issubclass(model, WorkerRequest)]
PERSONS = [model for model in MODELS if issubclass(model, PersonRequest)]


def fields(model: type[Request]) -> list[str]:
    return [str(field.alias) for field in model.model_fields.values()]


def refused(model: type[Request], raw: Any) -> dict[str, str]:
    """The fields that are refused, and why."""
    with pytest.raises(InvalidRequest) as caught:
        parse_request(model, raw)
    assert caught.value.errors
    for error in caught.value.errors:
        assert error.field in caught.value.detail
    return {error.field: error.message for error in caught.value.errors}


def test_every_request_is_a_persons_or_a_workers() -> None:
    assert set(WORKERS) | set(PERSONS) == set(MODELS)
    everything = {one for base in (WorkerRequest, PersonRequest) for one in base.__subclasses__()}
    ours = {one for one in everything if one.__module__.startswith("holdfast_core.")}
    frames = {one for one in ours if one.__module__ == sessions.__name__}
    assert ours - frames == set(MODELS), "a request is missing from these tests"


FRAMES: dict[str, dict[str, Any]] = {
    "hello": {"capabilities": {}, "leaseSeconds": 60},
    "heartbeat": {},
    "readyForMore": {"slots": 1},
    "fail": {"errorMessage": "it broke"},
    "log": {"message": "hello"},
}


@pytest.mark.parametrize("name", list(sessions.WORKER_FRAMES))
def test_a_frame_of_a_newer_worker_is_taken_and_a_misspelt_one_refused(name: str) -> None:
    model = sessions.WORKER_FRAMES[name]
    said = {"type": name, **FRAMES.get(name, {})}
    if "job_id" in model.model_fields:
        said |= {"jobId": "01890a5d-ac96-774b-bcce-b302099a8057", "leaseToken": "t"}
    frame, ignored = sessions.parse_worker_frame(json.dumps({**said, "mood": "good"}))
    assert (type(frame), ignored) == (model, ["mood"])
    with pytest.raises(InvalidRequest, match="REF: unknown field; did you mean ref"):
        sessions.parse_worker_frame(json.dumps({**said, "REF": "1"}))


@pytest.mark.parametrize("model", MODELS)
def test_the_least_is_enough_and_each_field_of_it_is_required_by_name(model: type[Request]) -> None:
    assert parse_request(model, LEAST[model])[1] == []
    if model is TokenRequest:
        return  # it takes one of two sets of fields: see test_request_bounds.py
    for name in LEAST[model]:
        assert refused(model, {key: value for key, value in LEAST[model].items() if key != name}) == {
            name: "is required"
        }


@pytest.mark.parametrize("model", MODELS)
def test_a_name_that_differs_only_in_case_or_underscores_is_refused_with_the_right_one(
    model: type[Request],
) -> None:
    for name in fields(model):
        snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
        for lookalike in {snake, name.lower(), name.upper(), name.capitalize(), f"_{name}", f"{name}_"} - {
            name
        }:
            found = refused(model, {**LEAST[model], lookalike: LEAST[model].get(name, 1)})
            assert found == {lookalike: f"unknown field; did you mean {name}?"}


@pytest.mark.parametrize("model", PERSONS)
def test_where_a_person_speaks_unknown_fields_are_refused_all_by_name(model: type[Request]) -> None:
    assert refused(model, {**LEAST[model], "surprise": 1, "another": None}) == {
        "surprise": "unknown field",
        "another": "unknown field",
    }


@pytest.mark.parametrize("model", WORKERS)
def test_where_a_worker_speaks_unknown_fields_are_ignored_and_named(model: type[Request]) -> None:
    plain, _ = parse_request(model, LEAST[model])
    request, ignored = parse_request(model, {**LEAST[model], "fromTheFuture": {"deep": [1]}, "x": None})
    assert request == plain
    assert ignored == ["fromTheFuture", "x"]


def test_names_from_outside_are_shown_short_and_without_control_characters() -> None:
    _, ignored = parse_request(
        ClaimRequest, {**LEAST[ClaimRequest], "a\r\nSet-Cookie: b\x1b[31mé": 1, "y" * 500: 1}
    )
    assert ignored == ["a\\r\\nSet-Cookie: b\\x1b[31m\\xe9", "y" * 64]
    assert all(name.isprintable() and name.isascii() for name in ignored)


def test_all_that_is_wrong_is_named_at_once() -> None:
    found = refused(ClaimRequest, {"workerId": "a b", "lease_seconds": 1, "waitSeconds": 31})
    assert set(found) == {"workerId", "lease_seconds", "leaseSeconds", "waitSeconds"}


def test_an_item_of_a_list_is_named_by_its_place() -> None:
    assert list(refused(EnqueueRequest, {"type": "t", "requiredCapabilities": ["a", "b c"]})) == [
        "requiredCapabilities[1]"
    ]


@pytest.mark.parametrize("model", MODELS)
def test_no_error_repeats_a_value(model: type[Request]) -> None:
    secret = "s3cret " * 1200
    wrong = {"Reason_": secret, "TYPE": secret, "workerid": secret}
    for name in fields(model):
        for value in (secret, [secret], {secret: secret}, [{"x": secret}]):
            with pytest.raises(InvalidRequest) as caught:
                parse_request(
                    model,
                    {**LEAST[model], name: value, **wrong},
                )
            assert "s3cret" not in f"{caught.value.detail} {caught.value.errors}"
    with pytest.raises(InvalidRequest) as caught:
        parse_request(model, f'{{"workerId": "{secret}')
    assert "s3cret" not in f"{caught.value.detail} {caught.value.errors}"


@pytest.mark.parametrize(
    ("model", "pairs"), [(JobQuery, []), (WaitQuery, [("for", "drained")]), (HistoryQuery, [])]
)
def test_a_query_refuses_unknown_names_lookalikes_and_repeats(
    model: type[Query], pairs: list[tuple[str, str]]
) -> None:
    parse_query(model, pairs)
    for more, message in (
        ([("surprise", "1")], "unknown field"),
        ([("Limit" if model is not WaitQuery else "timeout_seconds", "1")], "did you mean"),
        ([("limit" if model is not WaitQuery else "timeoutSeconds", "1")] * 2, "more than once"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            parse_query(model, pairs + more)
