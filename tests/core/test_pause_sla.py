"""A pause that lasts too long: operators are told, by one of all processes, and it is known who tells (OBS-01)."""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from holdfast_core.schemas import System
from holdfast_core.services import Services
from holdfast_core.services.sla import DAY_SECONDS, TELL_SECONDS
from holdfast_core.services.webhook import TRIES, Webhook, sign
from holdfast_core.settings import Settings, load_settings
from support.core import MovableClock, pause, resume, until
from support.listeners import Delivery, receiver
from support.stores import core

pytestmark = pytest.mark.anyio

SLA = 600.0
KEY = bytes(range(32))
SECRET = f"whsec_{b64encode(KEY).decode()}"


def exceeded(lines: list[Any]) -> list[Any]:
    return [line for line in lines if line["event"] == "pause_sla_exceeded"]


def is_signed(delivery: Delivery) -> bool:
    """As a receiver finds out."""
    signed = f"{delivery.headers['webhook-id']}.{delivery.headers['webhook-timestamp']}.".encode()
    version, _, signature = delivery.headers["webhook-signature"].partition(",")
    wanted = hmac.digest(KEY, signed + delivery.body, sha256)
    return version == "v1" and hmac.compare_digest(b64decode(signature), wanted)


async def look_at_it(services: Services) -> None:
    """The process looks, though it has done so just now."""
    services.alert._look_again_at = float("-inf")
    await services.alert.look()


async def test_one_of_all_processes_says_it_and_each_shows_it(sqlite_url: str) -> None:
    clock = MovableClock()
    settings = {"pause_sla_seconds": SLA, "clock": clock}
    with capture_logs() as lines:
        async with core(sqlite_url, **settings) as (one, _), core(sqlite_url, **settings) as (other, _):
            both = (one, other)
            await pause(one, reason="an upgrade")
            await other.watch.refresh()
            clock.ahead += SLA - 60
            for services in both:
                await look_at_it(services)
                assert not services.alert.exceeded
                assert SLA - 60 <= services.alert.seconds < SLA
            await pause(other, "quiesce", reason="another reason, the same pause")
            await one.watch.refresh()
            clock.ahead += 60
            for _round in range(3):
                for services in both:
                    await look_at_it(services)
            assert [services.alert.exceeded for services in both] == [True, True]
            (line,) = exceeded(lines)
            assert (line["log_level"], line["mode"], line["reason"], line["pause_version"]) == (
                "warning",
                "quiesce",
                "another reason, the same pause",
                3,
            )
            assert line["paused_seconds"] >= SLA
            await resume(one)
            await other.watch.refresh()
            assert [(s.alert.exceeded, s.alert.seconds) for s in both] == [(False, 0), (False, 0)]
            await pause(one, reason="the next one")
            await other.watch.refresh()
            for services in both:
                await look_at_it(services)
            assert len(exceeded(lines)) == 1
            clock.ahead += SLA
            for services in both:
                await look_at_it(services)
            assert len(exceeded(lines)) == 2


async def test_it_is_said_again_each_day(sqlite_url: str) -> None:
    clock = MovableClock()
    with capture_logs() as lines:
        async with core(sqlite_url, pause_sla_seconds=SLA, clock=clock) as (services, _):
            await pause(services)
            for days in range(3):
                clock.ahead = SLA + days * DAY_SECONDS
                for _round in range(2):
                    await services.alert.look()
                assert len(exceeded(lines)) == days + 1


async def test_without_a_limit_nothing_is_said(sqlite_url: str) -> None:
    clock = MovableClock()
    with capture_logs() as lines:
        async with core(sqlite_url, pause_sla_seconds=0, clock=clock) as (services, _):
            await pause(services)
            clock.ahead += 100 * DAY_SECONDS
            await look_at_it(services)
            assert not services.alert.exceeded
            assert services.alert.seconds >= 100 * DAY_SECONDS
    assert exceeded(lines) == []


async def test_by_the_databases_clock_it_is_said_without_being_asked(postgres_database_url: str) -> None:
    with capture_logs() as lines:
        async with core(postgres_database_url, pause_sla_seconds=0.05) as (services, _):
            await pause(services)

            async def said() -> bool:
                return bool(exceeded(lines))

            await until(said)
            assert services.alert.exceeded


async def test_a_process_that_ended_before_it_had_told_is_stood_in_for(sqlite_url: str) -> None:
    clock = MovableClock()
    sent: list[tuple[str, str]] = []

    def telling(who: str, fails: bool = False) -> Callable[[str, System, float], Awaitable[bool]]:
        async def send(message_id: str, paused: System, seconds: float) -> bool:
            sent.append((who, message_id))
            if fails:
                raise RuntimeError("the process ends here")
            return True

        return send

    settings = {"pause_sla_seconds": SLA, "clock": clock}
    async with core(sqlite_url, **settings) as (one, _), core(sqlite_url, **settings) as (other, _):
        one.alert._send, other.alert._send = telling("one", fails=True), telling("other")
        await pause(one)
        await other.watch.refresh()
        await other.alert.look()
        clock.ahead += SLA
        with pytest.raises(RuntimeError, match="ends here"):
            await look_at_it(one)
        await look_at_it(other)
        assert [who for who, _ in sent] == ["one"]
        clock.ahead += TELL_SECONDS
        await look_at_it(other)
        await look_at_it(other)
        assert [who for who, _ in sent] == ["one", "other"]
        assert len({message_id for _, message_id in sent}) == 1


def webhook_settings(url: str, **more: Any) -> Settings:
    return load_settings(database_url="sqlite:////nowhere", webhook_url=url, webhook_secret=SECRET, **more)


PAUSED = System.model_validate(
    {
        "workersPaused": True,
        "mode": "drain",
        "reason": "an upgrade",
        "version": 2,
        "requestedAt": "2026-02-20T01:55:00Z",
        "updatedAt": "2026-02-20T01:55:00Z",
    }
)


async def send(settings: Settings) -> bool:
    webhook = Webhook(settings, MovableClock())
    try:
        return await webhook.send("pause_sla_1", PAUSED, 3_700.04)
    finally:
        await webhook.aclose()


async def test_an_alert_is_signed_and_says_what_there_is_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # not for this very host
    with receiver() as found:
        assert await send(webhook_settings(found.url, public_url="https://holdfast.example.org"))
        (delivery,) = found.wait(1)
    assert is_signed(delivery)
    assert delivery.headers["webhook-id"] == "pause_sla_1"
    assert delivery.headers["content-type"] == "application/json"
    told = delivery.json
    assert told["type"] == "pause.sla_exceeded"
    assert told["data"].items() >= {"pausedSeconds": 3_700.0, "slaSeconds": 3_600.0}.items()
    assert told["data"]["server"] == "https://holdfast.example.org"
    assert told["data"]["system"] == PAUSED.model_dump(mode="json", by_alias=True)


async def test_what_does_not_arrive_is_sent_again_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_core.services.webhook.FIRST_REST_SECONDS", 0.001)
    with receiver(500, 307) as found, capture_logs() as lines:
        assert await send(webhook_settings(found.url))
        deliveries = found.wait(3)
        assert [delivery.headers[":path"] for delivery in deliveries] == ["/alerts"] * 3
        assert len({delivery.headers["webhook-id"] for delivery in deliveries}) == 1
        assert all(map(is_signed, deliveries))
        found.statuses = [503] * TRIES
        assert not await send(webhook_settings(found.url))
        assert len(found.deliveries) == 3 + TRIES
        url = found.url
    assert not await send(webhook_settings(url))  # nobody is there any more
    assert [line["event"] for line in lines].count("webhook_given_up") == 1
    assert SECRET not in repr(lines)
    assert url not in repr(lines)


def test_signatures_are_those_of_standard_webhooks() -> None:
    """The example of its specification."""
    key = b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert (
        sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body)
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"webhook_url": "http://alerts.example.org/", "webhook_secret": SECRET}, "https"),
        ({"webhook_url": "https://", "webhook_secret": SECRET}, "no address"),
        ({"webhook_url": "https://a:b@alerts.example.org/", "webhook_secret": SECRET}, "no address"),
        ({"webhook_url": "https://alerts.example.org/"}, "HOLDFAST_WEBHOOK_SECRET is not set"),
        ({"webhook_secret": SECRET}, "HOLDFAST_WEBHOOK_URL is not set"),
        ({"webhook_url": "https://alerts.example.org/", "webhook_secret": "secret-key"}, "whsec_"),
        ({"webhook_url": "https://alerts.example.org/", "webhook_secret": "whsec_c2hvcnQ="}, "24 to 64"),
        ({"statsd_url": "http://127.0.0.1:8125"}, "udp://"),
        ({"statsd_url": "udp://127.0.0.1"}, "udp://"),
    ],
    ids=["plain", "no host", "password", "no secret", "no url", "no whsec", "short", "http", "no port"],
)
def test_settings_that_would_tell_nobody_or_everybody_are_refused(
    settings: dict[str, str], said: str
) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        Settings(database_url="sqlite:////nowhere", **settings)  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)
