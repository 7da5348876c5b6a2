"""Speaks to the OpenID provider over HTTP: small answers, soon, and only from where it may be believed."""

import json
import os
import ssl
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httpx2
import structlog
from anyio import fail_after

from holdfast_core import __version__
from holdfast_core.errors import ConfigurationError, Unavailable
from holdfast_core.settings import LOOPBACK_HOSTS

__all__ = ["RETRY_SECONDS", "Wire", "trusted"]

log = structlog.get_logger(__name__)

CONNECT_SECONDS: Final = 3.0
#: An exchange takes no longer, whatever the provider does.
EXCHANGE_SECONDS: Final = 5.0
#: The largest answer that is taken in.
MAX_ANSWER_BYTES: Final = 262_144
MAX_CONNECTIONS: Final = 10
#: When whoever met a provider that is away may ask again.
RETRY_SECONDS: Final = 3
_KEEPALIVE_SECONDS: Final = 10.0


class Wire:
    """The connections to one provider. To be closed."""

    def __init__(self, issuer: str) -> None:
        host = urlsplit(issuer).hostname
        self._issuer = issuer
        self._plain = issuer.startswith("http:")  # on this very host: the settings see to it
        self._http = httpx2.AsyncClient(
            headers={"accept": "application/json", "user-agent": f"holdfast/{__version__}"},
            # A proxy from the environment is for the world outside, never for this very host.
            trust_env=host not in LOOPBACK_HOSTS,
            # Reading the system's certificates takes long; without TLS none are needed.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if self._plain else trusted(),
            timeout=httpx2.Timeout(EXCHANGE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=_KEEPALIVE_SECONDS),
        )

    async def aclose(self) -> None:
        """End all connections."""
        await self._http.aclose()

    async def get(self, url: str, *, token: str | None = None) -> dict[str, Any]:
        """The JSON object at this address. Raises Unavailable where there is none."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        status, answer = await self._exchange("GET", url, headers=headers)
        if status != 200:
            raise self.away(f"GET {url} answers with status {status}")
        return answer

    async def post(
        self, url: str, form: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[int, dict[str, Any]]:
        """Send a form; the status of the answer, and the JSON object that it is. Raises Unavailable."""
        return await self._exchange("POST", url, data=dict(form), headers=dict(headers))

    def away(self, cause: str) -> Unavailable:
        """What is told of a provider that does not answer as it should; the log has the cause."""
        log.warning("openid_provider_away", issuer=self._issuer, cause=cause)
        return Unavailable(
            "The OpenID provider does not answer as it should, so nobody new can be recognised by it. Tokens of this"
            " server's own work as ever. Try again in a moment.",
            retry_after=RETRY_SECONDS,
        )

    def is_believed(self, url: str) -> bool:
        """Whether what comes from this address comes from who it says."""
        parts = urlsplit(url)
        if parts.scheme == "https":
            return bool(parts.hostname)
        return self._plain and parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS

    async def _exchange(self, method: str, url: str, **request: Any) -> tuple[int, dict[str, Any]]:
        if not self.is_believed(url):
            raise self.away(f"{url} is no https address")
        try:
            with fail_after(EXCHANGE_SECONDS):
                async with self._http.stream(method, url, **request) as response:
                    body = bytearray()
                    async for part in response.aiter_bytes():
                        body += part
                        if len(body) > MAX_ANSWER_BYTES:
                            raise self.away(f"{method} {url} answers with more than {MAX_ANSWER_BYTES} bytes")
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, OSError) as error:
            raise self.away(f"{method} {url}: {str(error) or type(error).__name__}") from None
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self.away(f"{method} {url} answers with status {response.status_code} and no JSON object")
        return response.status_code, cast("dict[str, Any]", answer)


def trusted() -> ssl.SSLContext:
    """The system's CAs, or the ones that SSL_CERT_FILE or SSL_CERT_DIR names. Raises ConfigurationError."""
    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        named = next(
            (name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), "this system"
        )
        raise ConfigurationError(f"The certificates of {named} cannot be read: {error}.") from None
