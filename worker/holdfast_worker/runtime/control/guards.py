"""Who may ask at the control port.

Every web page that the worker's user opens, and every user of this host, can reach it. So the Host must be its own (or
a page could rebind its own name to it), the Origin must be its own, a body must be JSON (which a page cannot send
across sites without asking), and whoever sees or changes anything brings a token.
"""

import secrets
import time
from collections.abc import Iterable
from typing import Final

from holdfast_core.errors import (
    ForeignOrigin,
    MisdirectedRequest,
    NotAuthenticated,
    UnsupportedMediaType,
)
from holdfast_worker.runtime.control.exchange import Request

__all__ = ["CODE_SECONDS", "Guards"]

TOKEN_BYTES: Final = 32
#: How long a code that opens the status page may wait for its page.
CODE_SECONDS: Final = 60.0
#: Codes that wait, and pages that are open; the oldest gives way.
MOST_CODES: Final = 16
MOST_PAGES: Final = 64


class Guards:
    """The secrets of one control port. `token` admits to all but what is a job's."""

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(TOKEN_BYTES)
        self._hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})
        self._origins = frozenset(f"http://{host}" for host in self._hosts)
        #: By code, until when it is good on time.monotonic().
        self._codes: dict[str, float] = {}
        self._pages: list[str] = []

    def admit(self, request: Request) -> None:
        """What holds for every request. Raises MisdirectedRequest, ForeignOrigin or UnsupportedMediaType."""
        hosts = request.all("host")
        if len(hosts) != 1 or hosts[0].casefold() not in self._hosts:
            raise MisdirectedRequest(
                "This port answers for 127.0.0.1 and localhost only, with its own number."
            )
        if any(origin.casefold() not in self._origins for origin in request.all("origin")):
            raise ForeignOrigin(
                "A web page of another site sent this request. Only the worker's own page may."
            )
        if "cross-site" in {value.casefold() for value in request.all("sec-fetch-site")}:
            raise ForeignOrigin(
                "Another site sent this request through a browser. Only the worker's own page may."
            )
        types = request.all("content-type")
        if (types or request.has_body) and [t.split(";")[0].strip().casefold() for t in types] != [
            "application/json"
        ]:
            raise UnsupportedMediaType("Send the body as JSON, with Content-Type: application/json.")

    def require_token(self, request: Request) -> None:
        """Who asks holds the control token. Raises NotAuthenticated."""
        if not _is(_bearer(request), [self.token]):
            raise NotAuthenticated("This takes the worker's control token. `holdfast worker …` has it.")

    def require_token_or_page(self, request: Request) -> None:
        """Who asks holds the control token, or is a status page that was opened with it. Raises NotAuthenticated."""
        if not _is(_bearer(request), [self.token, *self._pages]):
            raise NotAuthenticated(
                "This takes the worker's control token. `holdfast worker …` has it; `holdfast worker status --open`"
                " opens the page."
            )

    def job_token(self, request: Request) -> str:
        """What is given as a job's token; the worker knows whether it is one. Raises NotAuthenticated."""
        token = _bearer(request)
        if not token:
            raise NotAuthenticated(
                "This takes the token of a job, which its command finds in HOLDFAST_JOB_TOKEN."
            )
        return token

    def new_code(self) -> str:
        """A code that opens one page."""
        now = time.monotonic()
        good = [(code, until) for code, until in self._codes.items() if until > now]
        self._codes = dict(good[-(MOST_CODES - 1) :])
        code = secrets.token_urlsafe(TOKEN_BYTES)
        self._codes[code] = now + CODE_SECONDS
        return code

    def new_page(self, code: str) -> str:
        """The token of a page, for a code that was not used before. Raises NotAuthenticated."""
        known = next((one for one in self._codes if _is(code, [one])), None)
        if known is None or self._codes.pop(known) <= time.monotonic():
            raise NotAuthenticated(
                "This code has been used, or is too old. `holdfast worker status --open` makes another."
            )
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self._pages = [*self._pages[-(MOST_PAGES - 1) :], token]
        return token


def _bearer(request: Request) -> str:
    given = request.all("authorization")
    if len(given) != 1:
        return ""
    scheme, _, token = given[0].partition(" ")
    return token.strip() if scheme.casefold() == "bearer" else ""


def _is(given: str, known: Iterable[str]) -> bool:
    """Compared in constant time, and with all of them."""
    compared = [secrets.compare_digest(given.encode(), one.encode()) for one in known]
    return any(compared)
