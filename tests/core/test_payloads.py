"""What is accepted comes back equal, from both databases."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.schemas import EnqueueRequest, JobQuery, parse_query, parse_request
from holdfast_core.services import Services
from support.core import claimed, complete, fail, get, heartbeat, retry
from support.stores import core

# What PostgreSQL or JSON cannot hold is refused (NUL) or cannot come through JSON (lone surrogates).
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
WHOLE = st.integers() | st.integers(-(10**300) + 1, 10**300 - 1)
VALUES = st.recursive(
    st.none() | st.booleans() | WHOLE | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=5)

STRANGE: dict[str, Any] = {
    "": {"": []},
    "quotes": "' \" \\ \\u0041 \\\\u0000 %s :name $1 ? {}",
    "controls": "\x01\x1b[31m\r\n\t\x7f\u2028\u202e\ufeff",
    "far": "😀\U0010ffff\ufffe",
    "numbers": [0, -0.0, 1e-320, 5e-324, 1.7976931348623157e308, 2**53 + 1, 2**64, -(2**63), 0.1, 1.0, 100],
    "order": {"z": 1, "a": 2, "Z": 3},
    "__proto__": None,
}


def test_every_json_object_that_is_accepted_comes_back_equal(database_url: str, anyio_backend: Any) -> None:
    backend, options = anyio_backend

    async def there_and_back(services: Services, value: dict[str, Any]) -> None:
        request, _ = parse_request(EnqueueRequest, json.dumps({"type": "t", "payload": value}))
        made = (await services.jobs.enqueue(LOCAL_OPERATOR, request)).job
        job = await claimed(services)
        beat = await heartbeat(services, job, progress=value)
        listed = (await services.jobs.list(LOCAL_OPERATOR, parse_query(JobQuery, [("limit", "1")]))).items[0]
        done = await complete(services, job)
        for answer in (made, job, beat, listed, done, await get(services, job)):
            assert same(answer.payload, value)
            assert same(json.loads(answer.model_dump_json())["payload"], value)
            if answer not in (made, job):
                assert same(answer.progress, value)

    with (
        start_blocking_portal(backend, options) as portal,
        portal.wrap_async_context_manager(core(database_url)) as (services, _),
    ):
        call: Callable[..., Any] = portal.call

        @settings(max_examples=40, deadline=None, derandomize=True, database=None)
        @given(OBJECTS)
        @example(STRANGE)
        def check(value: dict[str, Any]) -> None:
            call(there_and_back, services, value)

        check()


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types: 1 is not 1.0 and not true; names keep their order."""
    return json.dumps(one) == json.dumps(other)


@pytest.mark.anyio
async def test_every_text_comes_back_equal_but_for_nul(database_url: str) -> None:
    text = "".join(chr(code) for code in (*range(1, 256), 0x2028, 0x202E, 0xFEFF, 0xFFFE, 0x1F600, 0x10FFFF))
    async with core(database_url) as (services, _):
        request, _ignored = parse_request(EnqueueRequest, {"type": "t"})
        await services.jobs.enqueue(LOCAL_OPERATOR, request)
        job = await claimed(services)
        beat = await heartbeat(services, job, checkpoint=text[100:260] + "\0")
        assert beat.checkpoint == text[100:260] + "␀"
        assert (await fail(services, job, errorMessage=f"a\0b{text}")).error_message == f"a␀b{text}"
        await retry(services, job)
        done = await complete(services, await claimed(services), resultSummary=text)
        assert done.result_summary == text
        assert (await get(services, job)).result_summary == text
