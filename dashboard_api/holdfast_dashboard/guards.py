"""What holds for every request, MCP's too, before anything reads it (CONTRACT section 9).

A local server is reachable from every web page that its user opens. So the Host must be one of ours (or a page
could rebind its own name to us), the Origin must be ours, and a body must be JSON (which a page cannot send
across sites without asking); uploads alone are forms, and who sends one has to know the id of a job and who holds
it. None of this needs a session to protect: it protects the machine.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from holdfast_core.errors import (
    BodyTooLarge,
    ForeignOrigin,
    HeadersTooLarge,
    HoldfastError,
    MisdirectedRequest,
    UnsupportedMediaType,
)
from holdfast_core.settings import Settings
from holdfast_dashboard.fields import Fields, fields_of
from holdfast_dashboard.oidc_routes import CALLBACK_PATH
from holdfast_dashboard.pages import ASSETS
from holdfast_dashboard.problems import problem, unexpected
from holdfast_dashboard.security_headers import secured
from holdfast_dashboard.uploads import MAX_FORM_BYTES

__all__ = ["MAX_BODY_BYTES", "Guards"]

MAX_BODY_BYTES: Final = 1_048_576
MAX_BATCH_BYTES: Final = 8 * 1_048_576
_UPLOAD: Final = re.compile(r"/api/queue/jobs/[^/]+/artifacts/upload")
_UPLOAD_ENDS: Final = "/artifacts/upload"
_BATCH: Final = "/api/queue/jobs/batch"
#: A name, an IPv4 address or an IPv6 address in brackets, and maybe a port. urlsplit alone lets more pass.
_HOST: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?")
#: A WebSocket close code (RFC 6455).
INTERNAL_ERROR: Final = 1011
#: More than any client of ours sends, in bytes and in lines.
MAX_HEADER_BYTES: Final = 32_768
MAX_HEADERS: Final = 100
MAX_TARGET_BYTES: Final = 131_072
#: Hosts and origins whose parts are kept in mind: clients name the same ones again and again.
REMEMBERED: Final = 128
#: Pages that links may lead to, beside those under /tasks.
VISITED: Final = frozenset({"/", "/tasks", "/login"})
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Guards:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = settings.known_hosts
        self._public_origin = _origin_of(settings.public_url)
        self._has_provider = settings.auth_provider == "oidc"
        self._max_upload = settings.artifact_max_bytes + MAX_FORM_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._guard_session(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        most = self._most(path)
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                is_asset = path.startswith(f"{ASSETS}/")
                message["headers"] = secured(message.get("headers", ()), asset=is_asset)
            await send(message)

        answer: Response | None = None
        try:
            fields = fields_of(scope)
            self._refuse(scope, fields, most)
            # A length that was promised is kept: the server reads no more than that.
            known = _length(fields)
            fits = known is not None and known <= most
            await self._app(scope, receive if fits else _bounded(receive, most), sending)
        except ClientDisconnect:
            return  # gone within its own body: nobody is left to answer, and it is no error of ours
        except HoldfastError as error:
            answer = problem(error)
        except Exception as error:
            answer = unexpected(error, path)
        if answer is not None and not started:
            # What of the body is still under way is not read: the connection is done with.
            answer.headers["Connection"] = "close"
            await answer(scope, receive, sending)

    async def _guard_session(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket is opened by a request like any other; what is refused is refused over HTTP."""
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "websocket.http.response.start":
                message["headers"] = secured(message.get("headers", ()))
            await send(message)

        answer: Response | None = None
        try:
            fields = fields_of(scope)
            _refuse_large(scope, fields)
            self._refuse_strangers(scope, fields)
            await self._app(scope, receive, sending)
        except HoldfastError as error:
            answer = problem(error)
        except Exception as error:
            answer = unexpected(error, scope["path"])
        if answer is None:
            return
        if begun:
            with suppress(Exception):  # it may be closed already
                await send({"type": "websocket.close", "code": INTERNAL_ERROR, "reason": "internal error"})
        else:
            await WebSocket(scope, receive, sending).send_denial_response(answer)

    def _refuse(self, scope: Scope, fields: Fields, most: int) -> None:
        _refuse_large(scope, fields)
        self._refuse_strangers(scope, fields)
        if scope["method"] in _WITH_BODY:
            _refuse_other_bodies(fields, _media_type(scope["path"]), most)

    def _refuse_strangers(self, scope: Scope, fields: Fields) -> None:
        host = fields.all(b"host")
        if len(host) != 1 or _name_of(host[0]) not in self._hosts:
            raise MisdirectedRequest(
                "This server does not answer for the host that the request names. Add it to"
                " HOLDFAST_ALLOWED_HOSTS if it should."
            )
        if b"origin" in fields or b"sec-fetch-site" in fields:
            self._refuse_other_pages(scope, fields, host[0])

    def _most(self, path: str) -> int:
        """How many bytes a body at this address may have."""
        if _is_upload(path):
            return self._max_upload
        return MAX_BATCH_BYTES if path == _BATCH else MAX_BODY_BYTES

    def _refuse_other_pages(self, scope: Scope, fields: Fields, host: str) -> None:
        own = {_normal(f"http://{host}"), _normal(f"https://{host}"), self._public_origin} - {None}
        if any(_normal(origin) not in own for origin in fields.all(b"origin")):
            raise ForeignOrigin("A web page of another site sent this request. Only our own pages may.")
        if "cross-site" in _values(fields.all(b"sec-fetch-site")) and not self._is_visit(scope, fields):
            raise ForeignOrigin("Another site sent this request through a browser. Only our own pages may.")

    def _is_visit(self, scope: Scope, fields: Fields) -> bool:
        """Whether somebody follows a link from elsewhere to one of our pages, or the OpenID provider sends a browser
        back: its whole window, which the other site can then neither read nor drive."""
        if scope["type"] != "http" or scope["method"] != "GET":
            return False
        path: str = scope["path"]
        wanted = (
            path in VISITED or path.startswith("/tasks/") or (path == CALLBACK_PATH and self._has_provider)
        )
        return (
            wanted
            and _values(fields.all(b"sec-fetch-mode")) == {"navigate"}
            and _values(fields.all(b"sec-fetch-dest")) == {"document"}
        )


def _refuse_large(scope: Scope, fields: Fields) -> None:
    if len(fields) > MAX_HEADERS or fields.size > MAX_HEADER_BYTES:
        raise HeadersTooLarge(
            f"The headers take more than {MAX_HEADER_BYTES:,} bytes, or {MAX_HEADERS} lines. Send fewer."
        )
    if len(scope["raw_path"] or b"") + len(scope["query_string"]) > MAX_TARGET_BYTES:
        raise HeadersTooLarge(f"The address takes more than {MAX_TARGET_BYTES:,} bytes. Send a shorter one.")


def _is_upload(path: str) -> bool:
    return path.endswith(_UPLOAD_ENDS) and _UPLOAD.fullmatch(path) is not None


def _media_type(path: str) -> str:
    return "multipart/form-data" if _is_upload(path) else "application/json"


def _length(fields: Fields) -> int | None:
    """What the request says its body has, if that counts."""
    length = fields.get(b"content-length")
    return int(length) if length.isdecimal() and b"transfer-encoding" not in fields else None


def _refuse_other_bodies(fields: Fields, wanted: str, most: int) -> None:
    length = fields.get(b"content-length", "0")
    has_body = b"transfer-encoding" in fields or length.strip() != "0"
    types = fields.all(b"content-type")
    if (has_body or types) and [t.split(";")[0].strip().casefold() for t in types] != [wanted]:
        how = "as JSON, with" if wanted == "application/json" else "as a form with a file, with"
        raise UnsupportedMediaType(f"Send the body {how} Content-Type: {wanted}.")
    if length.isdecimal() and int(length) > most:
        raise _too_large(most)


def _bounded(receive: Receive, most: int) -> Receive:
    """The same messages; a body that grows past the limit is refused while it is read."""
    taken = 0

    async def receiving() -> Message:
        nonlocal taken
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > most:
                raise _too_large(most)
        return message

    return receiving


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {most} bytes, which is all that is taken here.")


def _values(lines: Iterable[str]) -> set[str]:
    return {part.strip().casefold() for line in lines for part in line.split(",")}


@lru_cache(REMEMBERED)
def _name_of(host: str) -> str | None:
    """The name in a Host header, without its port; None where it is no host at all."""
    if not _HOST.fullmatch(host):
        return None
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    return parts.hostname


@lru_cache(REMEMBERED)
def _normal(origin: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an origin; None where it is none (`null`, say)."""
    try:
        parts = urlsplit(origin.casefold())
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path or parts.query:
            return None
        return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None


def _origin_of(url: str | None) -> tuple[str, str, int] | None:
    if not url:
        return None
    parts = urlsplit(url)
    return _normal(f"{parts.scheme}://{parts.netloc}")
