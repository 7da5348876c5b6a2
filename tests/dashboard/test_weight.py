"""What the pages weigh, and that no browser keeps a script of an older server."""

import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, Response, expect

import holdfast_dashboard
from dashboard.looking import opened
from holdfast_worker.client import Client
from support.ports import lasting_port
from support.servers import Server, start_server

MOST_BYTES: Final = 100_000
PAGES: Final = ("/tasks", "/tasks/jobs", "/tasks/workers", "/tasks/history")
ASSETS: Final = "/tasks/assets/"
#: What a page that loses its server complains of.
CUT: Final = r"Failed to load resource: (net::ERR_.*|the server responded with a status of 503 .*)"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with start_server(f"sqlite:///{tmp_path_factory.mktemp('weight')}/holdfast.db") as server:
        with Client(server.url, token="") as client:
            for number in range(6):
                client.pause("drain", f"upgrade {number}")
                client.resume(f"done {number}")
            client.enqueue_batch([{"type": "report", "payload": {"n": n}} for n in range(100)])
        yield server


def loaded(page: Page) -> list[Request]:
    """All that the page asks for from now on, and has got; the stream of events has no end."""
    found: list[Request] = []

    def keep(request: Request) -> None:
        found.append(request)

    page.on("requestfinished", keep)
    return found


def ready(page: Page, path: str) -> None:
    """The page is there, with its own part."""
    expect(page.locator("main h2").first).to_be_visible()
    expect(page.locator("#banner-actions button").first).to_be_visible()
    if path == "/tasks":
        expect(page.locator("#latest tbody tr")).not_to_have_count(0)
        expect(page.locator("#charts > *")).not_to_have_count(0)
    elif path != "/tasks/workers":
        expect(page.locator("main tbody tr")).not_to_have_count(0)


@pytest.mark.parametrize("path", PAGES)
def test_the_first_view_of_a_page_is_light_and_all_of_it_comes_from_us(
    browser: Browser, server: Server, path: str
) -> None:
    with opened(browser, server.url) as page:
        found = loaded(page)
        page.goto(path)
        ready(page, path)
        sizes = [request.sizes() for request in found]
        assert len(sizes) >= 8
        weight = sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes)
        assert min(size["responseHeadersSize"] for size in sizes) > 0
        assert 20_000 < weight < MOST_BYTES, f"{weight} bytes"
        assert {urlsplit(request.url).netloc for request in found} == {urlsplit(server.url).netloc}


def test_on_a_second_view_no_script_or_style_is_sent_again(browser: Browser, server: Server) -> None:
    with opened(browser, server.url) as page:
        first: dict[str, Response] = {}
        again: dict[str, Response] = {}
        seen = first

        def keep(response: Response) -> None:
            if ASSETS in response.url and not response.url.endswith(
                ".svg"
            ):  # an icon the browser keeps for itself
                seen[response.url] = response

        page.on("response", keep)
        page.goto("/tasks")
        ready(page, "/tasks")
        assert {name.rsplit("/", 1)[1] for name in first} >= {"app.js", "overview.js", "api.js", "tasks.css"}
        for response in first.values():
            assert response.status == 200
            assert response.headers["cache-control"] == "no-cache"
            assert response.headers["etag"]
        seen = again
        page.goto("/tasks")
        ready(page, "/tasks")
        assert again.keys() == first.keys()
        for url, response in again.items():
            assert response.status == 304, url
            asked = response.request.all_headers()
            assert asked["if-none-match"] == first[url].headers["etag"]
            assert response.request.sizes()["responseBodySize"] == 0


def test_after_an_upgrade_of_the_server_no_script_of_the_old_one_runs(
    browser: Browser, sqlite_url: str, tmp_path: Path
) -> None:
    port = str(lasting_port())
    package = tmp_path / "newer" / "holdfast_dashboard"
    shutil.copytree(Path(holdfast_dashboard.__file__).parent, package)
    script = package / "static" / "drain.js"
    text = script.read_text("utf-8")
    assert text.count('"What runs"') == 1
    times = script.stat()
    script.write_text(text.replace('"What runs"', '"What goes"'), "utf-8")
    os.utime(script, ns=(times.st_atime_ns, times.st_mtime_ns))  # neither time nor size tells them apart
    assert script.stat().st_size == times.st_size
    with start_server(sqlite_url, "--port", port) as older, opened(browser, older.url, expected=CUT) as page:
        page.goto("/tasks")
        expect(page.locator("#drain h2")).to_have_text("What runs")
        assert older.stop() == 0
        expect(page.locator("#banner-title")).to_have_text("Workers: Unknown")
        with start_server(sqlite_url, "--port", port, PYTHONPATH=str(package.parent)) as newer:
            assert newer.url == older.url
            expect(page.locator("#banner-title")).to_have_text("Workers: Running")
            page.goto("/tasks/history")
            page.goto("/tasks")
            expect(page.locator("#drain h2")).to_have_text("What goes")
            page.goto("about:blank")
