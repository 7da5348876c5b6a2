"""What tests of logging in share: a server that asks who one is, and people with tokens."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from playwright.sync_api import Page, expect

from support.servers import Server, start_server
from support.tokens import bearer, create_token_now

__all__ = ["Door", "log_in", "open_door"]


@dataclass(frozen=True)
class Door:
    """The server, and an admin of it."""

    server: Server
    admin: httpx2.Client

    @property
    def url(self) -> str:
        return self.server.url

    def token(self, **body: Any) -> dict[str, Any]:
        """A new token, as `POST /api/tokens` answers it."""
        answer = self.admin.post("/api/tokens", json=body)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def token_of(self, role: str, user: str) -> str:
        return str(self.token(role=role, user=user)["token"])

    def revoke(self, made: dict[str, Any]) -> None:
        self.admin.delete(f"/api/tokens/{made['id']}").raise_for_status()


@contextmanager
def open_door(database_url: str, **environment: str) -> Generator[Door]:
    """A server that takes tokens of ours."""
    settings = {"HOLDFAST_AUTH_PROVIDER": "token", **environment}
    with start_server(database_url, **settings) as server:
        # The browser's driver has an event loop in this thread.
        with ThreadPoolExecutor(1) as thread:
            made = thread.submit(create_token_now, database_url, role="admin", user="Ada").result()
        with httpx2.Client(base_url=server.url, headers=bearer(made), timeout=30) as admin:
            yield Door(server, admin)


def log_in(page: Page, token: str) -> None:
    """On the page that asks for a token."""
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#banner-title")).to_be_visible()
