"""Takes the pictures of the README: the real pages, before a real server with real workers. `make screenshots`."""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, expect

from dashboard.people import open_door
from holdfast_worker.client import Client
from support.browser import chromium
from support.servers import start_server
from support.workers import start_worker, until

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
WIDE: Final = {"width": 1100, "height": 760}
PHONE: Final = {"width": 390, "height": 760}
SMALL: Final = {"width": 640, "height": 480}


def main() -> None:
    expect.set_options(timeout=30_000)
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        server = stack.enter_context(start_server(f"sqlite:///{folder}/holdfast.db"))
        client = stack.enter_context(Client(server.url, token=""))
        for worker, seconds in (("exec-1", 4), ("exec-2", 9), ("exec-3", 60)):
            stack.enter_context(
                start_worker(
                    server.url, worker, folder, "--lease", "6s", "--exec", f"echo begun; sleep {seconds}"
                )
            )
        until(lambda: client.status().workers.connected == 3, "the workers")
        for number in range(17, 60):
            client.enqueue("review" if number % 3 else "build", {"pr": number})
        until(lambda: client.status().metrics.running == 3, "three running jobs")
        browser = stack.enter_context(chromium())
        take(browser, server.url, client)
        door = stack.enter_context(open_door(f"sqlite:///{folder}/another.db"))
        take_login(browser, door.url, door.token_of("viewer", "Vera"))


def take(browser: Browser, url: str, client: Client) -> None:
    wide = opened(browser, url, WIDE, "light")
    expect(wide.locator("#banner-title")).to_have_text("Workers: Running")
    wide.locator("#pause").click()
    wide.get_by_label("Reason").fill("Rolling API migration")
    shot(wide, "pause-form")
    wide.get_by_role("button", name="Pause workers").click()
    expect(wide.locator("[data-count=running] dd")).to_have_text("1")
    expect(wide.locator("#blockers li")).to_have_count(1)
    wide.get_by_role("button", name="Dismiss").click()
    shot(wide, "drain")
    (job,) = client.jobs(status="running").items
    client.cancel(job.id, "cut short for the picture")
    night = opened(browser, url, PHONE, "dark")
    expect(night.locator("#drain-state")).to_have_text("Safe to upgrade")
    shot(night, "safe-to-upgrade")
    wide.goto(f"{url}/tasks/jobs")
    expect(wide.locator("#jobs tbody tr")).not_to_have_count(0)
    shot(wide, "jobs")


def take_login(browser: Browser, url: str, viewer: str) -> None:
    page = opened(browser, url, SMALL, "light", "/tasks/jobs")
    expect(page.get_by_label("Token")).to_be_focused()
    page.get_by_label("Token").fill(viewer)
    shot(page, "login")


def opened(browser: Browser, url: str, size: dict[str, int], scheme: str, path: str = "/tasks") -> Page:
    context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{url}{path}")
    return page


def shot(page: Page, name: str) -> None:
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    print(f"{path.name}: {path.stat().st_size // 1024} KiB", file=sys.stderr)


if __name__ == "__main__":
    main()
