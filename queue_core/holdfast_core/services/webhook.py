"""Sends alerts to an address of the operators', signed so that they can tell them from anybody else's.

The form is that of Standard Webhooks (https://www.standardwebhooks.com), for which receivers have libraries: three
headers, `webhook-id` (the same however often an alert is sent), `webhook-timestamp` and `webhook-signature`, which is
HMAC-SHA256 over these two and the body.
"""

import hmac
import json
import random
import ssl
from base64 import b64encode
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit

import httpx2
import structlog
from anyio import fail_after, sleep

from holdfast_core import __version__
from holdfast_core.clock import Clock
from holdfast_core.schemas import System
from holdfast_core.services.issuer_wire import trusted
from holdfast_core.settings import LOOPBACK_HOSTS, Settings

__all__ = ["Webhook", "sign"]

log = structlog.get_logger(__name__)

#: Tries of one alert, and the rest after the first; it doubles with each further one.
TRIES: Final = 6
FIRST_REST_SECONDS: Final = 1.0
EXCHANGE_SECONDS: Final = 5.0


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The signature of a message (Standard Webhooks, symmetric, version 1)."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + b64encode(hmac.digest(key, signed, sha256)).decode()


class Webhook:
    """The address, and how to speak to it. To be closed."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        assert settings.webhook_url is not None
        self._url = settings.webhook_url
        self._key = settings.webhook_key
        self._sla = settings.pause_sla_seconds
        self._public_url = settings.public_url
        self._clock = clock
        is_plain = self._url.startswith("http:")  # on this very host: the settings see to it
        self._http = httpx2.AsyncClient(
            headers={"user-agent": f"holdfast/{__version__}", "content-type": "application/json"},
            # A proxy from the environment is for the world outside, never for this very host.
            trust_env=urlsplit(self._url).hostname not in LOOPBACK_HOSTS,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else trusted(),
            timeout=EXCHANGE_SECONDS,
            follow_redirects=False,
        )

    async def aclose(self) -> None:
        """End all connections."""
        await self._http.aclose()

    async def send(self, message_id: str, paused: System, seconds: float) -> bool:
        """Tell of a pause that has lasted for so long. Tries again where it does not arrive, a bounded number of
        times. Returns whether it arrived: whether the answer was a 2xx."""
        now = self._clock.now()
        told = {
            "type": "pause.sla_exceeded",
            "timestamp": f"{now:%Y-%m-%dT%H:%M:%SZ}",
            "data": {
                "system": paused.model_dump(mode="json", by_alias=True),
                "pausedSeconds": round(seconds, 1),
                "slaSeconds": self._sla,
                "server": self._public_url,
            },
        }
        body = json.dumps(told).encode()
        rest = FIRST_REST_SECONDS
        for left in reversed(range(TRIES)):
            cause = await self._post(message_id, body)
            if cause is None:
                return True
            log.warning("webhook_failed", message_id=message_id, cause=cause, tries_left=left)
            if left:
                await sleep(rest * random.uniform(0.5, 1.0))  # noqa: S311 (no secret)
                rest *= 2
        log.error("webhook_given_up", message_id=message_id, tries=TRIES)
        return False

    async def _post(self, message_id: str, body: bytes) -> str | None:
        """Why it did not arrive; None where it did."""
        timestamp = int(self._clock.now().timestamp())
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self._key, message_id, timestamp, body),
        }
        try:
            with fail_after(EXCHANGE_SECONDS):
                # What is answered is not read: its status says it all.
                async with self._http.stream("POST", self._url, content=body, headers=headers) as response:
                    return None if response.is_success else f"status {response.status_code}"
        except (httpx2.HTTPError, TimeoutError, OSError) as error:
            return type(error).__name__  # the text may hold the address, and that a secret
