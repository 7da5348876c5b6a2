"""A child process of a job asks its worker at a checkpoint. Few imports: somebody waits for it at every checkpoint."""

import http.client
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from holdfast_worker.runtime.status import CheckpointKind

__all__ = ["Held", "NotInAJob", "WorkerGone", "ask_checkpoint"]

#: How long one question waits. The job stays parked for 15 s after it, for the next one to come.
WAIT_SECONDS: Final = 20.0
#: How long an answer may take beyond that.
ANSWER_SECONDS: Final = 10.0
AGAIN_SECONDS: Final = 0.5
#: So often in a row may a connection break before its other end counts as gone.
MOST_BREAKS: Final = 3
#: What the worker says to whom it does not know (any more).
_UNKNOWN_JOB: Final = frozenset({401, 403})
#: ... and when too many ask at once.
_BUSY: Final = frozenset({408, 429, 503})


class NotInAJob(Exception):
    """This process belongs to no job of a worker."""


class WorkerGone(Exception):
    """The worker is gone, or does not run this job any more: what works on the job should stop. The text says how."""


@dataclass(frozen=True)
class Held:
    """The job is still to wait. `silent`: the worker has not answered, so that nothing is known."""

    mode: str | None = None
    reason: str | None = None
    version: int | None = None
    silent: bool = False


def ask_checkpoint(
    label: str | None = None,
    kind: "CheckpointKind | None" = None,
    limit_seconds: float | None = None,
) -> Held | None:
    """Be at a checkpoint of the job that this process belongs to, by its environment.

    Returns None once the job may go on, which is at once while running; a Held where it is still to wait after
    `limit_seconds` (None: it waits for as long as it takes). A worker that does not answer has not let it go on.
    `kind` None always counts as a safe boundary. Raises NotInAJob and WorkerGone.
    """
    url, token = os.environ.get("HOLDFAST_CONTROL_URL"), os.environ.get("HOLDFAST_JOB_TOKEN")
    if not url or not token:
        raise NotInAJob("HOLDFAST_CONTROL_URL and HOLDFAST_JOB_TOKEN are not set")
    question: dict[str, Any] = {"kind": kind}
    if label:
        question["label"] = label.encode(errors="replace").decode()
    give_up = None if limit_seconds is None else time.monotonic() + limit_seconds
    breaks = 0
    while True:
        left = WAIT_SECONDS if give_up is None else max(0.0, give_up - time.monotonic())
        try:
            held = _ask(url, token, question, min(WAIT_SECONDS, left))
        except (ConnectionError, http.client.HTTPException) as error:
            breaks += 1  # a worker that ends breaks it off; the next question finds nobody
            if breaks >= MOST_BREAKS:
                raise WorkerGone(f"it breaks off ({str(error) or type(error).__name__})") from None
            continue
        breaks = 0
        if held is None:
            return None
        if give_up is not None and time.monotonic() >= give_up:
            return held
        if held.silent:
            time.sleep(min(AGAIN_SECONDS, left))


def _ask(url: str, token: str, question: dict[str, Any], wait_seconds: float) -> Held | None:
    connection = _connection(url, wait_seconds + min(ANSWER_SECONDS, wait_seconds + 1))
    try:
        connection.request(
            "POST",
            "/checkpoint",
            json.dumps({**question, "waitSeconds": wait_seconds}),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        response = connection.getresponse()
        content = response.read()
    except TimeoutError:
        return Held(silent=True)
    except ConnectionRefusedError:
        raise WorkerGone("nobody answers in its place") from None
    except ConnectionError:
        raise
    except OSError as error:
        raise WorkerGone(error.strerror or str(error)) from None
    finally:
        connection.close()
    if response.status in _UNKNOWN_JOB:
        raise WorkerGone("it does not run this job any more")
    if response.status in _BUSY:
        return Held(silent=True)
    return _read(response.status, content)


def _connection(url: str, timeout: float) -> http.client.HTTPConnection:
    try:
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError(url)
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    except (ValueError, http.client.InvalidURL):
        raise NotInAJob(f"HOLDFAST_CONTROL_URL is no address: {url!r}") from None


def _read(status: int, content: bytes) -> Held | None:
    try:
        if status != http.client.OK:
            raise ValueError(status)
        said = cast("dict[str, Any]", json.loads(content))
        return Held(said["mode"], said["reason"], said["version"]) if said["hold"] else None
    except (ValueError, KeyError, TypeError):
        raise WorkerGone(f"what answers in its place is no worker's word (status {status})") from None
