"""A client that goes away within its own body has asked for nothing, and that is no error of ours."""

import anyio
import pytest
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from rest.harness import PATIENCE, dump, open_socket
from support.core import until

pytestmark = pytest.mark.anyio

PATHS = ("/api/queue/jobs", "/api/system/worker-pause", "/api/queue/jobs/claim", "/mcp")


@pytest.mark.parametrize("is_small", [True, False])
async def test_a_client_that_goes_away_within_its_body_writes_nothing_and_is_no_error_of_ours(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, is_small: bool
) -> None:
    """A small body is waited for before the app is called: then nobody calls it at all."""
    ended = 0
    async with open_socket(sqlite_url) as api:
        await api.get("/healthz")  # the app builds itself at its first request
        whole = api.app.middleware_stack
        assert whole is not None

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal ended
            try:
                await whole(scope, receive, send)
            finally:
                ended += 1

        async def all_ended() -> bool:
            return ended == (1 if is_small else len(PATHS))

        monkeypatch.setattr(api.app, "middleware_stack", counted)
        before = await dump(api.database)
        with capture_logs() as logs, anyio.fail_after(PATIENCE):
            for path in PATHS:
                async with await anyio.connect_tcp("127.0.0.1", api.port) as stream:
                    await stream.send(
                        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                        f"Content-Length: {100 if is_small else 20_000}\r\n\r\n"
                        '{"action": "pause", "mode": "drain"'.encode()
                    )
            if is_small:
                await api.get("/healthz")
            await until(all_ended)
        assert [line for line in logs if line["log_level"] == "error"] == []
        assert await dump(api.database) == before
