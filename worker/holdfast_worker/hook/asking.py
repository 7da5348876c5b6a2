"""One question at a worker's control port, with as few imports as can be: an agent waits for it before each tool."""

import http.client
import json
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

__all__ = ["Answer", "WorkerGone", "ask"]

#: How long an answer may take beyond the wait that was asked for.
ANSWER_SECONDS: Final = 15.0
_UNKNOWN_JOB: Final = frozenset({401, 403, 404, 410})
#: Too many ask at once: nothing has been said yet.
_BUSY: Final = frozenset({408, 429, 503})


class WorkerGone(Exception):
    """Nobody listens there any more, or the worker does not run this job."""


@dataclass(frozen=True)
class Answer:
    """What the worker says."""

    hold: bool
    reason: str | None


def ask(control_url: str, job_token: str, label: str, wait_seconds: float) -> Answer:
    """Be at a checkpoint for `wait_seconds`. Raises WorkerGone, TimeoutError where the worker has not said anything,
    OSError, or ValueError for another program's answer."""
    parts = urlsplit(control_url)
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port, timeout=ANSWER_SECONDS + wait_seconds
    )
    try:
        body = json.dumps({"label": label, "kind": "tool", "waitSeconds": wait_seconds})
        headers = {"Authorization": f"Bearer {job_token}", "Content-Type": "application/json"}
        connection.request("POST", "/checkpoint", body, headers)
        response = connection.getresponse()
        content = response.read()
    except (ConnectionError, http.client.HTTPException) as error:
        raise WorkerGone from error
    finally:
        connection.close()
    if response.status in _UNKNOWN_JOB:
        raise WorkerGone
    if response.status in _BUSY:
        raise TimeoutError(f"status {response.status}")
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    said = json.loads(content)
    return Answer(bool(said["hold"]), said.get("reason"))
