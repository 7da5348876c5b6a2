"""The commands of docs/operations.md: a backup while workers work, and what a restored system knows."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest

from holdfast_core.settings import load_settings
from support.postgres import Template, postgres_binaries, run_sql
from support.servers import start_server
from support.tokens import bearer, create_token_now

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
PAUSE = "/api/system/worker-pause"
HISTORY = "/api/system/control-events"
JOBS = "/api/queue/jobs"
PATIENCE = 60.0
COUNT = 190


class Place:
    """Where a database is backed up from and restored to, with the commands as the page has them."""

    def __init__(self, folder: Path, url: str, make_empty: Callable[[], str]) -> None:
        self._folder = folder
        self._kind = "sqlite" if url.startswith("sqlite") else "postgresql"
        self._make_empty = make_empty
        self.url = url

    def back_up(self) -> None:
        """Anew: an earlier backup is gone."""
        for earlier in self._folder.iterdir():
            earlier.unlink()
        self._run("backup", self.url)

    def restore(self) -> None:
        """Into a new database on PostgreSQL, over the old file on SQLite; `url` names it then."""
        if self._kind == "postgresql":
            self.url = self._make_empty()
        self._run("restore", self.url)

    def _run(self, what: str, url: str) -> None:
        found = re.search(rf"<!-- {what}: {self._kind} -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
        assert found is not None
        where = url if self._kind == "postgresql" else str(load_settings(database_url=url).sqlite_path)
        pasted, named = re.subn(r"^(\w+)=\S+", rf"\1='{where}'", found[1], count=1, flags=re.MULTILINE)
        assert named == 1
        path = os.environ["PATH"]
        if not os.environ.get("HOLDFAST_TEST_DATABASE_URL"):
            wanted = os.environ.get("HOLDFAST_TEST_POSTGRES", "")
            path = f"{postgres_binaries(wanted)}:{path}"
        done = subprocess.run(
            ["bash", "-eu", "-c", pasted],
            cwd=self._folder,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture
def place(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Generator[Place]:
    assert shutil.which("sqlite3"), "the page's commands need sqlite3"
    made: list[Template] = []

    def make_empty() -> str:
        made.append(Template(request.getfixturevalue("postgres_url")))
        made[-1].create()
        return made[-1].url

    folder = tmp_path / "backup"
    folder.mkdir()
    try:
        yield Place(folder, database_url, make_empty)
    finally:
        for template in made:
            template.drop()


@dataclass(frozen=True)
class Caller:
    """Who calls a server."""

    client: httpx2.Client
    token: str
    worker_id: str = ""

    def ask(self, method: str, path: str, **body: Any) -> httpx2.Response:
        if self.worker_id:
            body["workerId"] = self.worker_id
        return self.client.request(method, path, json=body or None, headers=bearer(self.token))

    def get(self, path: str) -> Any:
        return self._answer(self.ask("GET", path))

    def post(self, path: str, **body: Any) -> Any:
        return self._answer(self.ask("POST", path, **body))

    def _answer(self, answer: httpx2.Response) -> Any:
        assert answer.is_success, answer.text
        return answer.json()

    def pause(self) -> Any:
        return self.post(PAUSE, action="pause", mode="drain", reason="an upgrade")

    def claim(self) -> Any:
        return self.post(f"{JOBS}/claim", leaseSeconds=600)["job"]

    def statuses(self) -> dict[str, str]:
        """Of all jobs."""
        return {job["id"]: job["status"] for job in self.get(f"{JOBS}?limit=200")["items"]}


@contextmanager
def serving(url: str) -> Generator[httpx2.Client]:
    with (
        start_server(url, HOLDFAST_AUTH_PROVIDER="token") as server,
        httpx2.Client(base_url=server.url, timeout=PATIENCE) as client,
    ):
        yield client


@contextmanager
def working(workers: list[Caller]) -> Generator[set[str]]:
    """Claim and complete, until the block ends; the ids of what has been completed."""
    done: set[str] = set()
    ending = threading.Event()

    def work(worker: Caller) -> None:
        while not ending.is_set() and (job := worker.claim()) is not None:
            worker.post(f"{JOBS}/{job['id']}/complete", leaseToken=job["leaseToken"])
            done.add(job["id"])

    with ThreadPoolExecutor() as threads:
        at_work = [threads.submit(work, worker) for worker in workers]
        try:
            yield done
        finally:
            ending.set()
    for ended in at_work:
        ended.result()


def examine(url: str) -> None:
    """The doctor finds nothing wrong with the database at `url`."""
    done = subprocess.run(
        [sys.executable, "-c", "from holdfast_server.commands.doctor import doctor; doctor()"],
        env=os.environ | {"HOLDFAST_PORT": "0", "HOLDFAST_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_what_is_backed_up_while_workers_work_is_restored_and_goes_on(place: Place) -> None:
    admin = create_token_now(place.url, role="admin", user="ana").token
    tokens = {f"w-{n}": create_token_now(place.url, workerId=f"w-{n}").token for n in range(4)}
    with serving(place.url) as client:
        person = Caller(client, admin)
        holder, *workers = [Caller(client, token, name) for name, token in tokens.items()]
        person.post(f"{JOBS}/batch", jobs=[{"type": "t"}] * COUNT)
        held = holder.claim()
        with working(workers) as done:
            while len(done) < 5:
                threading.Event().wait(0.01)
            meanwhile: set[str] = set()
            while not meanwhile:
                assert len(done) < COUNT - 1, "no work is left that could meet a backup"
                before = set(done)
                place.back_up()
                meanwhile = set(done) - before
        at_the_end = person.statuses()
    place.restore()
    examine(place.url)
    with serving(place.url) as client:
        person, holder = Caller(client, admin), Caller(client, tokens["w-0"], "w-0")
        restored = person.statuses()
        assert restored.keys() == at_the_end.keys()
        succeeded = {job for job, status in restored.items() if status == "succeeded"}
        assert before <= succeeded, "what had been answered before it is in the backup"
        assert succeeded <= {job for job, status in at_the_end.items() if status == "succeeded"}
        # Who held a job then goes on with it, by the token of then alone.
        beat = f"{JOBS}/{held['id']}/heartbeat"
        other = holder.ask("POST", beat, leaseSeconds=600, leaseToken="another")
        assert (other.status_code, other.json()["code"]) == (409, "lease_lost")
        assert holder.post(beat, leaseSeconds=600, leaseToken=held["leaseToken"])["status"] == "running"
        assert holder.claim()["status"] == "running"
        # The gate is whole: what ran when the dump was taken breaks no promise of a pause on another server.
        person.pause()
        assert holder.claim() is None
        assert "holdfast_worker_pause_violations 0.0" in person.ask("GET", "/metrics").text


def test_a_system_that_was_paused_comes_back_paused_with_its_history_and_its_leases(place: Place) -> None:
    admin = create_token_now(place.url, role="admin", user="ana").token
    token = create_token_now(place.url, workerId="w").token
    with serving(place.url) as client:
        person, worker = Caller(client, admin), Caller(client, token, "w")
        for _ in range(2):
            person.post(JOBS, type="t")
        held = worker.claim()
        made = person.post("/api/tokens", role="viewer", user="bob")
        assert person.ask("DELETE", f"/api/tokens/{made['id']}").is_success
        system = person.pause()["system"]
        history = person.get(HISTORY)["items"]
        place.back_up()
        worker.post(f"{JOBS}/{held['id']}/complete", leaseToken=held["leaseToken"])
        person.post(PAUSE, action="resume", reason="it is done")
    place.restore()
    with serving(place.url) as client:
        person, worker = Caller(client, admin), Caller(client, token, "w")
        assert person.get(PAUSE)["system"] == system
        assert person.get(HISTORY)["items"] == history
        assert worker.claim() is None
        assert Caller(client, made["token"]).ask("GET", PAUSE).status_code == 401, "revoked it stays revoked"
        ended = worker.post(f"{JOBS}/{held['id']}/complete", leaseToken=held["leaseToken"])
        assert ended["status"] == "succeeded"
        assert person.get(PAUSE)["metrics"]["safeToUpgrade"] is True
        resumed = person.post(PAUSE, action="resume", reason="it is done")
        assert resumed["system"]["version"] == system["version"] + 1
        assert worker.claim()["attempt"] == 1
    with pytest.raises((sqlite3.IntegrityError, asyncpg.PostgresError), match="append-only"):
        erase_history(place.url)


def erase_history(url: str) -> None:
    statement = "DELETE FROM system_control_events"
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(load_settings(database_url=url).sqlite_path)) as connection:
            connection.execute(statement)
    else:
        run_sql(url, statement)
