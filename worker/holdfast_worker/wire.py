"""What all clients of a server share: its address, whom they trust, and what a failure on the wire is called."""

import os
import re
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlsplit

import httpx2

from holdfast_core import __version__
from holdfast_worker.failures import ServerUnreachable, UnexpectedAnswer, UntrustedServer

__all__ = [
    "ANSWER_SECONDS",
    "CONNECT_SECONDS",
    "DEFAULT_URL",
    "KEEPALIVE_SECONDS",
    "Address",
    "cause",
    "failures_told",
    "untrusted",
]

DEFAULT_URL: Final = "http://127.0.0.1:8790"
#: How long a connection may take to come about.
CONNECT_SECONDS: Final = 5.0
#: How long an answer may take, beyond what the request itself asks to wait. The server gives a toggle
#: five seconds at the door before it answers 503, so this must stay above that.
ANSWER_SECONDS: Final = 15.0
#: Idle connections are dropped before the server (after 30 s) drops them under a request of ours.
KEEPALIVE_SECONDS: Final = 10.0
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
#: OpenSSL's codes for a certificate whose signer is not among those that are trusted.
_UNKNOWN_CA: Final = frozenset({18, 19, 20, 21})


@dataclass(frozen=True)
class Address:
    """Where a server is, and who asks. `shown` is the address without a password."""

    base: str
    shown: str
    host: str
    token: str = field(repr=False)

    @classmethod
    def of(cls, url: str | None = None, token: str | None = None) -> Self:
        """`url` falls back to HOLDFAST_URL and then to http://127.0.0.1:8790, `token` to HOLDFAST_TOKEN and then to
        what `holdfast login` has stored for this very server ("" is none). Raises ValueError where one of them cannot
        be used, and ConfigurationError where the file of stored tokens cannot be trusted."""
        base = (url or os.environ.get("HOLDFAST_URL") or DEFAULT_URL).strip().rstrip("/")
        host, shown = _checked(base)
        if token is None:
            token = os.environ.get("HOLDFAST_TOKEN", "").strip() or _stored(shown)
        token = token.strip()
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("the token holds characters that no token has")
        return cls(base, shown, host, token)

    @property
    def is_loopback(self) -> bool:
        """Whether it is this very host."""
        return self.host in _LOOPBACK

    @property
    def is_tls(self) -> bool:
        """Whether it begins with https."""
        return self.shown.startswith("https:")

    @property
    def through_proxies(self) -> bool:
        """Whether a proxy from the environment counts: it is for the world outside, never for this very host."""
        return not self.is_loopback

    @property
    def headers(self) -> dict[str, str]:
        """What every request says."""
        headers = {"Accept": "application/json", "User-Agent": f"holdfast/{__version__}"}
        return headers | ({"Authorization": f"Bearer {self.token}"} if self.token else {})

    def trusted(self) -> ssl.SSLContext:
        """The system's CAs, or the ones of the environment; unlike a proxy those count for this very host, too.

        Reading the system's certificates takes longer than all else here, so without TLS none are read. Raises
        ValueError where they cannot be.
        """
        if not self.is_tls and self.is_loopback:
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            return httpx2.create_ssl_context()
        except OSError as error:
            named = next(
                (name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), "this system"
            )
            raise ValueError(f"the certificates of {named} cannot be read: {cause(error)}") from None


@contextmanager
def failures_told(url: str, patience: float) -> Generator[None]:
    """What goes wrong on the wire, as our own failures. `patience`: how long an answer is waited for."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
        if (failure := untrusted(url, error)) is not None:
            raise failure from error
        raise ServerUnreachable(
            f"No Holdfast server answers at {url} ({cause(error)}).", sent=False
        ) from error
    except httpx2.TimeoutException as error:
        raise ServerUnreachable(
            f"{url} took the request but has not answered within {patience:g} s.",
            sent=True,
        ) from error
    except httpx2.TransportError as error:
        raise ServerUnreachable(
            f"The connection to {url} broke before the answer came ({cause(error)}).", sent=True
        ) from error
    except (httpx2.DecodingError, httpx2.InvalidURL) as error:
        raise UnexpectedAnswer(f"{url} answers with what cannot be read: {error}") from error


def untrusted(url: str, error: BaseException) -> UntrustedServer | None:
    """The failure, where the server's certificate is what went wrong."""
    doubt = _doubt_of(error)
    if doubt is None:
        return None
    return UntrustedServer(
        f"The certificate of {url} is not trusted ({doubt.verify_message.rstrip('.')}).",
        unknown_ca=doubt.verify_code in _UNKNOWN_CA,
    )


def cause(error: BaseException) -> str:
    """What the operating system or OpenSSL said, without its number and its place in the source."""
    text = str(error) or type(error).__name__
    return re.sub(r"^\[[^\]]*\] | \(_ssl\.c:\d+\)$", "", text).rstrip(".").lower()


def _stored(shown: str) -> str:
    """What `holdfast login` has stored for this server, or nothing."""
    from holdfast_worker.credentials import origin_of, stored_token  # only where it is wanted: start-up time

    return stored_token(origin_of(shown)) or ""


def _checked(base: str) -> tuple[str, str]:
    """The host of an address, and the address as it may be shown: without a password."""
    try:
        if not base.isprintable() or " " in base:
            raise ValueError("it holds blanks or control characters")
        parts = urlsplit(base)
        host, port = parts.hostname, parts.port
        httpx2.URL(base)
    except (ValueError, httpx2.InvalidURL) as error:
        raise ValueError(f"{base!r} is not an address: {error}") from None
    if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment:
        raise ValueError(f"{base!r} is not an address like {DEFAULT_URL} or https://holdfast.example.com")
    shown = f"[{host}]" if ":" in host else host
    return host, f"{parts.scheme}://{shown}{'' if port is None else f':{port}'}{parts.path}"


def _doubt_of(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Why the server's certificate was not accepted, if that is what went wrong."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error
