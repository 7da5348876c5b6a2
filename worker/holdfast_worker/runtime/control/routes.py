"""What is answered at which address, and to whom."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Final

from pydantic import Field

from holdfast_core.errors import MethodNotAllowed, NotAuthenticated, NotFound
from holdfast_core.schemas import LogLevel, LongText, PersonRequest, WorkerRequest, parse_request
from holdfast_worker.runtime.control.controlled import Controlled
from holdfast_worker.runtime.control.exchange import Answer, Request
from holdfast_worker.runtime.control.guards import Guards
from holdfast_worker.runtime.status import CheckpointKind

__all__ = ["MAX_WAIT_SECONDS", "Route", "Routes"]

#: The longest that one question at a checkpoint waits.
MAX_WAIT_SECONDS: Final = 60.0

_PAGE: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class NothingRequest(PersonRequest):
    """A switch that needs no more said."""


class SessionRequest(PersonRequest):
    """A page that was opened by a code."""

    code: str


class CheckpointRequest(WorkerRequest):
    """A child process of a job at a checkpoint. `kind` null always counts as safe; a long label is cut."""

    label: str | None = None
    kind: CheckpointKind | None = None
    wait_seconds: Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS)] = 0.0


class WordsRequest(WorkerRequest):
    """A child process adds to the log of its job, which its token names."""

    level: LogLevel = "info"
    message: Annotated[LongText, Field(min_length=1)]


@dataclass(frozen=True)
class Route:
    """An address whose asker may ask there: what is done with the body, and whether that may take long."""

    run: Callable[[bytes], Awaitable[Answer]]
    waits: bool = False


class Routes:
    """The addresses of one worker."""

    def __init__(self, controlled: Controlled, guards: Guards, url: str) -> None:
        self._controlled = controlled
        self._guards = guards
        self._url = url
        self._switches: dict[str, Callable[[], None]] = {
            "/pause": controlled.pause,
            "/resume": controlled.resume,
            "/stop": controlled.stop,
        }

    def find(self, request: Request) -> Route:
        """Where the request leads. Raises NotFound, MethodNotAllowed or NotAuthenticated."""
        match request.path:
            case "/status" | "/pause" | "/resume" | "/stop" as path:
                _require(request, "GET" if path == "/status" else "POST")
                self._guards.require_token_or_page(request)
                return Route(self._switch(path))
            case "/open":
                _require(request, "POST")
                self._guards.require_token(request)
                return Route(self._open)
            case "/session":
                _require(request, "POST")
                return Route(self._session)
            case "/checkpoint":
                _require(request, "POST")
                return Route(self._checkpoint(self._guards.job_token(request)), waits=True)
            case "/log":
                _require(request, "POST")
                return Route(self._log(self._guards.job_token(request)))
            case path if path in _PAGE:
                _require(request, "GET")
                return Route(_static(path))
            case _:
                raise NotFound("There is nothing at this address of the worker's control port.")

    def _switch(self, path: str) -> Callable[[bytes], Awaitable[Answer]]:
        async def run(body: bytes) -> Answer:
            if body:
                parse_request(NothingRequest, body)
            if path in self._switches:
                self._switches[path]()
            return Answer.of(self._controlled.status())

        return run

    async def _open(self, body: bytes) -> Answer:
        if body:
            parse_request(NothingRequest, body)
        return Answer.of_object({"url": f"{self._url}/#{self._guards.new_code()}"})

    async def _session(self, body: bytes) -> Answer:
        asked, _ = parse_request(SessionRequest, body)
        return Answer.of_object({"token": self._guards.new_page(asked.code)})

    def _checkpoint(self, job_token: str) -> Callable[[bytes], Awaitable[Answer]]:
        async def run(body: bytes) -> Answer:
            asked, _ = parse_request(CheckpointRequest, body or b"{}")
            label = (asked.label or "").replace("\0", "␀") or None
            try:
                answer = await self._controlled.checkpoint(job_token, label, asked.kind, asked.wait_seconds)
            except KeyError:
                raise _no_such_job() from None
            return Answer.of(answer)

        return run

    def _log(self, job_token: str) -> Callable[[bytes], Awaitable[Answer]]:
        async def run(body: bytes) -> Answer:
            asked, _ = parse_request(WordsRequest, body)
            try:
                await self._controlled.log(job_token, asked.level, asked.message)
            except KeyError:
                raise _no_such_job() from None
            return Answer.of_object({})

        return run


def _require(request: Request, method: str) -> None:
    if request.method != method:
        raise MethodNotAllowed(f"This address of the control port takes {method}.")


def _static(path: str) -> Callable[[bytes], Awaitable[Answer]]:
    async def run(_: bytes) -> Answer:
        name, content_type = _PAGE[path]
        return Answer(_file(name), content_type)

    return run


@cache
def _file(name: str) -> bytes:
    return files("holdfast_worker.runtime.control").joinpath("page", name).read_bytes()


def _no_such_job() -> NotAuthenticated:
    return NotAuthenticated("This worker runs no job of this token (any more).")
