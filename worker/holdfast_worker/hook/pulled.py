"""The hook of an agent that pulls its jobs by itself: the server says whether workers are quiesced."""

import time
from datetime import UTC, datetime
from typing import Final

from holdfast_core.errors import HoldfastError
from holdfast_core.schemas import System
from holdfast_core.states import PauseMode
from holdfast_worker.client import Client
from holdfast_worker.hook.answers import Passed, Verdict, paused
from holdfast_worker.hook.call import ToolCall
from holdfast_worker.hook.leases import Leases

__all__ = ["hold_for_server"]

#: How long one question waits at the server.
WAIT_SECONDS: Final = 25.0
#: After a question that was not answered.
ASK_AGAIN_SECONDS: Final = 1.0


def hold_for_server(
    client: Client, call: ToolCall, *, limit: float, worker_id: str | None, lease_seconds: int
) -> Verdict:
    """Wait while workers are quiesced, for `limit` seconds at most, and keep the leases of `worker_id` meanwhile.

    A server that cannot be asked does not hold a tool: the fence is its lease token. One that goes away during a
    quiesce has said nothing of its end, so the wait goes on.
    """
    give_up = time.monotonic() + limit
    try:
        snapshot = client.status()
    except HoldfastError as error:
        return Passed(f"Holdfast cannot say whether workers are paused, so the tool runs. {error}")
    system = snapshot.system
    if not _quiesced(system):
        return Passed()
    leases = Leases(client, worker_id, lease_seconds, ahead=snapshot.metrics.measured_at - datetime.now(UTC))
    while _quiesced(system) and (left := give_up - time.monotonic()) > 0:
        next_beat = leases.park(call.checkpoint)
        if leases.verdict is not None:
            return leases.verdict
        waits = max(0.0, min(WAIT_SECONDS, left, next_beat - time.monotonic()))
        try:
            system = client.wait("version", since_version=system.version, timeout_seconds=waits).system
        except HoldfastError:
            time.sleep(min(ASK_AGAIN_SECONDS, left))
    leases.go_on(call.checkpoint)
    if leases.verdict is not None:
        return leases.verdict
    return paused(system.reason) if _quiesced(system) else Passed(leases.trouble)


def _quiesced(system: System) -> bool:
    return system.mode is PauseMode.QUIESCE
