"""The hook of an agent that a worker runs: the worker says whether to wait, and keeps the lease meanwhile."""

import time
from typing import Final

from holdfast_worker.hook.answers import GONE, SILENT, Passed, Verdict, paused
from holdfast_worker.hook.asking import WorkerGone, ask
from holdfast_worker.hook.call import ToolCall

__all__ = ["hold_in_job"]

#: How long one question waits at the worker.
WAIT_SECONDS: Final = 30.0
#: ... and what lies between it and the next one where the worker had no answer.
AGAIN_SECONDS: Final = 0.5


def hold_in_job(call: ToolCall, control_url: str, job_token: str, *, limit: float) -> Verdict:
    """Wait while the worker says so, for `limit` seconds at most. One that is there and does not answer has not said
    that the tool may run.

    Raises OSError or ValueError where something else than a worker answers.
    """
    give_up = time.monotonic() + limit
    while True:
        left = max(0.0, give_up - time.monotonic())
        try:
            answer = ask(control_url, job_token, call.checkpoint, min(WAIT_SECONDS, left))
        except WorkerGone:
            return GONE
        except TimeoutError:
            answer = None
            time.sleep(min(AGAIN_SECONDS, left))
        if answer is not None and not answer.hold:
            return Passed()
        if time.monotonic() >= give_up:
            return SILENT if answer is None else paused(answer.reason)
