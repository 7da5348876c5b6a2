"""The stream of the system: what a snapshot tells ahead of the events, and what it leaves out."""

from contextlib import aclosing
from typing import Any

import pytest
from anyio import fail_after

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.errors import VersionConflict
from holdfast_core.schemas import ControlEvent, Snapshot, WorkerPauseRequest, parse_request
from support.core import pause, resume
from support.stores import core

pytestmark = pytest.mark.anyio


async def test_the_counts_of_a_version_follow_it_though_they_were_told_ahead_of_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with core(database_url) as (services, _):
        snapshots = services.feed._snapshots
        recent = snapshots.recent
        asked: list[float] = []

        async def pause_meanwhile(seconds: float) -> Snapshot:
            """Between the look at the events and that at the counts somebody pauses."""
            asked.append(seconds)
            if len(asked) == 1:
                body = {"action": "pause", "mode": "drain", "reason": "r"}
                await services.pause.control(LOCAL_OPERATOR, parse_request(WorkerPauseRequest, body)[0])
                return await recent(0)
            return await recent(seconds)

        monkeypatch.setattr(snapshots, "recent", pause_meanwhile)
        told: list[tuple[str, Any]] = []
        async with aclosing(services.feed.follow(LOCAL_OPERATOR)) as events:
            with fail_after(5):  # they are told every ten seconds anyway
                async for event in events:
                    told.append((event.kind, event.data))
                    kinds = [kind for kind, _ in told]
                    if (
                        "system" in kinds
                        and kinds[-1] == "metrics"
                        and kinds.index("system") < len(kinds) - 1
                    ):
                        break
        assert told[-1][1].safe_to_upgrade


async def test_who_begins_to_follow_is_not_told_what_was_refused_before(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await pause(services)
        with pytest.raises(VersionConflict):
            await resume(services, reason="refused before", expectedVersion=99)
        audit: list[str | None] = []
        async with aclosing(services.feed.follow(LOCAL_OPERATOR)) as events:
            with fail_after(5):
                async for event in events:
                    if event.kind == "snapshot":
                        await resume(services, reason="after")
                    if isinstance(event.data, ControlEvent):
                        audit.append(event.data.reason)
                    if event.kind == "system":
                        break
        assert audit == ["after"]
