"""The other side of the control port: one question of the command line or the tray icon, with few imports."""

import http.client
import json
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from holdfast_worker.runtime.discovery import Found
    from holdfast_worker.runtime.status import WorkerStatus

__all__ = ["WorkerGone", "open_page", "parsed", "read_status", "switch"]

#: A worker answers at once; one that is stopped (SIGSTOP) or stuck does not at all.
ANSWER_SECONDS: Final = 5.0


class WorkerGone(Exception):
    """The worker does not answer (any more); the text says how."""


def read_status(found: "Found") -> bytes:
    """The WorkerStatus, as JSON. Raises WorkerGone."""
    return _ask(found, "GET", "/status")


def switch(found: "Found", what: str) -> bytes:
    """`pause`, `resume` or `stop` the worker; the WorkerStatus after it, as JSON. Raises WorkerGone."""
    return _ask(found, "POST", f"/{what}")


def open_page(found: "Found") -> str:
    """The address of the status page with a code that opens it once, within a minute. Raises WorkerGone."""
    said = cast("dict[str, Any]", json.loads(_ask(found, "POST", "/open")))
    return str(said["url"])


def parsed(body: bytes) -> "WorkerStatus":
    """A WorkerStatus of its JSON. Raises WorkerGone where it is none."""
    from holdfast_worker.runtime.status import WorkerStatus

    try:
        return WorkerStatus.model_validate_json(body)
    except ValueError as error:
        raise WorkerGone(f"its answer cannot be read: {error}") from None


def _ask(found: "Found", method: str, path: str) -> bytes:
    parts = urlsplit(found.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {found.token}"})
        response = connection.getresponse()
        body = response.read()
    except TimeoutError:
        raise WorkerGone(f"it has not answered within {ANSWER_SECONDS:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise WorkerGone(str(error) or type(error).__name__) from error
    finally:
        connection.close()
    if response.status != 200:
        raise WorkerGone(f"its port answers with status {response.status}")
    return body
