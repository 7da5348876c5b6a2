"""The page of the fleet in a real browser, with real workers."""

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from dashboard.looking import WITHIN_SCREEN, opened
from holdfast_worker.client import Client
from support.servers import Server, start_server
from support.workers import PATIENCE_SECONDS, Ledger, WorkerProcess, start_worker

COLUMNS = ("Worker", "State", "Own switch", "Jobs", "Version seen", "Takes", "By", "Last seen", "Software")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with start_server(f"sqlite:///{tmp_path_factory.mktemp('workers')}/holdfast.db") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Generator[Client]:
    with Client(server.url, token="") as client:
        yield client


@pytest.fixture
def page(browser: Browser, server: Server) -> Generator[Page]:
    with opened(browser, server.url) as page:
        page.goto("/tasks/workers")
        yield page


@pytest.fixture
def worker(server: Server, tmp_path: Path) -> Generator[WorkerProcess]:
    with start_worker(server.url, "exec-1", tmp_path, "--types", "report", "--capability", "gpu") as worker:
        worker.said("worker_started")
        yield worker


def cell(page: Page, name: str, worker: str = "exec-1") -> Locator:
    row = page.locator("#workers tbody tr").filter(has_text=worker)
    return row.locator("td").nth(COLUMNS.index(name))


def switch(folder: Path, verb: str) -> None:
    """`holdfast worker pause` and the like, beside the worker."""
    subprocess.run(
        [sys.executable, "-m", "holdfast_worker.cli", "worker", verb],
        env=os.environ | {"XDG_RUNTIME_DIR": str(folder / "runtime")},
        check=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )


@pytest.mark.requirement("ST-04")
def test_a_worker_s_own_switch_is_shown_apart_and_a_resume_of_the_system_does_not_clear_it(
    page: Page, client: Client, worker: WorkerProcess, tmp_path: Path
) -> None:
    def seen_by_it(version: int) -> None:
        expect(cell(page, "Version seen")).to_have_text(f"{version} (current)")

    version = client.status().system.version
    expect(cell(page, "State")).to_have_text("idle")
    expect(cell(page, "Own switch")).to_have_text("takes work")
    expect(cell(page, "Takes")).to_have_text("report; has gpu")
    seen_by_it(version)
    client.pause("drain", "an upgrade")
    seen_by_it(version + 1)
    expect(cell(page, "Own switch")).to_have_text("takes work")
    client.resume("done")
    seen_by_it(version + 2)
    expect(cell(page, "State")).to_have_text("idle")
    switch(tmp_path, "pause")
    expect(cell(page, "Own switch")).to_have_text("locally paused")
    expect(cell(page, "State")).to_have_text("paused")
    expect(page.locator("#banner-title")).to_have_text("Workers: Running")
    client.pause("quiesce", "another upgrade")
    expect(page.locator("#banner-title")).to_have_text("Workers: Paused (Quiesce)")
    seen_by_it(version + 3)
    client.resume("done again")
    expect(page.locator("#banner-title")).to_have_text("Workers: Running")
    seen_by_it(version + 4)
    expect(cell(page, "Own switch")).to_have_text("locally paused")
    expect(cell(page, "State")).to_have_text("paused")
    switch(tmp_path, "resume")
    expect(cell(page, "Own switch")).to_have_text("takes work")
    expect(cell(page, "State")).to_have_text("idle")


def test_a_worker_is_shown_with_its_job_and_a_version_that_it_has_not_seen(
    page: Page, client: Client, tmp_path: Path, worker: WorkerProcess
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    job = client.enqueue("report", ledger.payload(steps=1_000, seconds=0.05))
    expect(cell(page, "State")).to_have_text("running")
    link = cell(page, "Jobs").get_by_role("link")
    expect(link).to_have_attribute("href", f"/tasks/jobs/{job.id}")
    version = client.status().system.version
    client.presence("old-one", observed_version=version)
    expect(cell(page, "Version seen", "old-one")).to_have_text(f"{version} (current)")
    try:
        client.pause("drain", "an upgrade")
        expect(cell(page, "Version seen", "old-one")).to_have_text(f"{version} (now {version + 1})")
        expect(cell(page, "Version seen")).to_have_text(f"{version + 1} (current)")
        link.click()
        expect(page.locator("h2").first).to_have_text(f"Job {job.id}")
    finally:
        client.resume("the test is over")
        client.cancel(job.id, "the test is over")


def test_no_worker_at_all_is_said_with_the_way_to_start_one(browser: Browser, sqlite_url: str) -> None:
    with start_server(sqlite_url) as server, opened(browser, server.url) as page:
        page.goto("/tasks/workers")
        expect(page.locator("#workers")).to_contain_text("holdfast worker run")


@pytest.mark.parametrize("width", [360, 1280])
def test_many_workers_with_long_names_do_not_widen_the_page(
    browser: Browser, server: Server, client: Client, width: int
) -> None:
    marker = f"many-{width}"
    for number in range(60):
        client.presence(f"{marker}-{'w' * 100}-{number}", auto_enabled=number % 2 == 0)
    with opened(browser, server.url, viewport={"width": width, "height": 800}) as page:
        page.goto("/tasks/workers")
        rows = page.locator("#workers tbody tr").filter(has_text=marker)
        expect(rows).to_have_count(60)
        expect(rows.locator(".local")).to_have_count(30)
        expect(rows.get_by_text("not yet", exact=True)).to_have_count(60)
        assert page.evaluate(WITHIN_SCREEN)
