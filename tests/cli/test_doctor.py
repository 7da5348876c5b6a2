"""`holdfast doctor`: what it finds in order, what it finds wrong, and that it leaves everything as it was."""

import http.server
import json
import os
import pty
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from anyio.to_thread import run_sync
from sqlalchemy import true

from holdfast_core.clock import SystemClock
from holdfast_core.db.locks import FileLock
from holdfast_core.db.migrations import head
from holdfast_core.db.postgres import plain_url
from holdfast_core.errors import StoreUnavailable
from holdfast_core.schemas import System
from holdfast_core.services.claims import ClaimService
from holdfast_core.settings import Settings, load_settings
from holdfast_core.store import claim_batches, claims, sqlite_claims
from holdfast_server.doctor import Check, announcements, examine, file_system, host, race, sqlite
from holdfast_server.doctor.file_system import file_system_of
from holdfast_server.doctor.gate import examine_gate
from holdfast_server.doctor.host import examine_host, misspelt
from holdfast_server.doctor.postgres import examine_postgres
from holdfast_server.doctor.sqlite import examine_sqlite, has_reset_race
from support.core import MovableClock, claimed, enqueue, pause
from support.postgres import Template, run_sql
from support.reaper import reaper
from support.servers import start_server
from support.stores import core

pytestmark = pytest.mark.anyio

PATIENCE = 60.0
#: As the entry point calls it.
PROGRAM = "from holdfast_server.commands.doctor import doctor; doctor(prog_name='holdfast doctor')"
#: What depends on the machine that the tests run on.
OF_THE_MACHINE = {"sqlite", "file system", "disk", "open files", "port"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *arguments]


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    # A port of its own, so that what listens on the default one does not matter.
    return subprocess.run(
        command(*arguments),
        env=os.environ | {"HOLDFAST_PORT": "0"} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


async def found(name: str, url: str, *, clock: SystemClock | None = None, **settings: Any) -> Check:
    """One check, without the race unless it is asked for: that takes seconds."""
    loaded = load_settings(**{"database_url": url, "port": 0, **settings})
    if name == "gate":
        return await examine_gate(loaded)
    checks = await run_sync(examine_host, loaded)
    if loaded.is_sqlite:
        checks += await run_sync(examine_sqlite, loaded)
    else:
        checks += await examine_postgres(loaded, clock or SystemClock())
    (check,) = [check for check in checks if check.name == name]
    return check


async def everything(url: str) -> dict[str, Any]:
    """All rows of the live tables as the database has them, and what is beside the database."""
    if url.startswith("sqlite"):
        path = load_settings(database_url=url).sqlite_path
        with closing(sqlite3.connect(path)) as connection:
            names = [
                name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            rows: dict[str, Any] = {
                name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names
            }
        kept = sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(("-wal", "-shm", ".lock")))
        return rows | {"beside": kept}
    connection = await asyncpg.connect(plain_url(url))
    try:
        names = [
            row[0]
            for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ]
        # xmin too, so that nothing can have been written and undone by another write.
        rows = {
            name: await connection.fetch(f'SELECT xmin::text, t.* FROM "{name}" t ORDER BY 1, 2')
            for name in names
        }
        return rows | {
            "beside": await connection.fetch(
                "SELECT datname FROM pg_database WHERE datname LIKE 'holdfast_doctor%'"
            )
        }
    finally:
        await connection.close()


@pytest.fixture
def empty_postgres_url(postgres_url: str) -> Generator[str]:
    """A PostgreSQL database of this test's own with nothing in it."""
    empty = Template(postgres_url)
    empty.create()
    try:
        yield empty.url
    finally:
        empty.drop()


@pytest.fixture(params=["sqlite", "postgresql"])
def unmade_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with nothing in it yet, of each kind."""
    if request.param == "sqlite":
        (tmp_path / "unmade.db").touch()
        return f"sqlite:///{tmp_path}/unmade.db"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


@asynccontextmanager
async def role(url: str, *grants: str) -> AsyncGenerator[str]:
    """The same database, as a role of this test's own."""
    name, password = f"doctor_{secrets.token_hex(4)}", secrets.token_hex(8)
    granted = [grant.format(role=name) for grant in grants]
    await run_sync(run_sql, url, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'", *granted)
    parts = urlsplit(url)
    try:
        yield parts._replace(netloc=f"{name}:{password}@{parts.hostname}:{parts.port}").geturl()
    finally:
        await run_sync(run_sql, url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


async def alter(url: str, setting: str) -> None:
    """A default of the whole database."""
    name = urlsplit(url).path[1:]
    await run_sync(run_sql, url, f'ALTER DATABASE "{name}" SET {setting}')


async def test_a_healthy_database_has_no_problem_and_stays_as_it_was(database_url: str) -> None:
    async with core(database_url) as (services, _):
        for _number in range(3):
            await enqueue(services)
        await claimed(services)
        await pause(services)
    before = await everything(database_url)
    done = run("--json", HOLDFAST_DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert {frozenset(check) for check in report["checks"]} == {
        frozenset({"name", "status", "found", "advice"})
    }
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    wanted = {"settings", "database", "schema", "clock", "gate", "port", "open files"}
    if database_url.startswith("sqlite"):
        wanted |= {"sqlite", "file system", "disk", "write-ahead log"}
    else:
        wanted |= {"postgresql", "isolation", "connections", "announcements"}
    assert set(statuses) == wanted
    assert {name: statuses[name] for name in wanted - OF_THE_MACHINE} == dict.fromkeys(
        wanted - OF_THE_MACHINE, "ok"
    )
    assert all((check["advice"] is None) == (check["status"] == "ok") for check in report["checks"])
    gate = next(check for check in report["checks"] if check["name"] == "gate")
    assert gate["found"].startswith("Holds: ")
    assert await everything(database_url) == before


def test_people_get_one_aligned_line_a_check_and_the_sum_on_stderr(sqlite_url: str) -> None:
    done = run("--database-url", sqlite_url)
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}
    (gate,) = [line for line in lines if "  gate  " in line]
    assert len({line.index(word) for line, word in ((gate, "Holds"), (lines[0], "Valid"))}) == 1
    assert "\x1b" not in done.stdout
    assert done.stderr.startswith("No problems, ")


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)], ids=["", "NO_COLOR"]
)
def test_colour_is_for_terminals_only(environment: dict[str, str], coloured: bool) -> None:
    ours, theirs = pty.openpty()
    # What the tests themselves run under must not decide.
    plain = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    environment = {**plain, "TERM": "xterm", "HOLDFAST_DATABASE_URL": "nonsense", **environment}
    with subprocess.Popen(command(), stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65_536):
                shown += part
        except OSError:  # Linux: the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 2
    assert b"problem" in shown
    assert (b"\x1b[" in shown) is coloured


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["", "json"])
def test_a_wrong_setting_ends_with_2_and_is_named(form: tuple[str, ...]) -> None:
    done = run(*form, HOLDFAST_PORT="many")
    assert done.returncode == 2
    assert "HOLDFAST_PORT" in done.stdout
    if form:
        report = json.loads(done.stdout)
        assert report["ok"] is False
        assert [check["status"] for check in report["checks"]] == ["problem"]


def test_a_slip_in_a_variables_name_is_told() -> None:
    slips = misspelt({"HOLDFAST_DATABSE_URL": "x", "HOLDFAST_URL": "x", "HOLDFAST_TOKEN": "x", "PATH": "x"})
    assert slips == {"HOLDFAST_DATABSE_URL": "HOLDFAST_DATABASE_URL"}
    assert misspelt({f"HOLDFAST_{name.upper()}": "x" for name in Settings.model_fields}) == {}


# The database


def test_a_postgresql_that_cannot_be_reached_is_one_problem() -> None:
    done = run("--json", "--database-url", "postgresql://nobody:secret@127.0.0.1:1/none")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert [check["name"] for check in report["checks"] if check["status"] == "problem"] == ["database"]
    assert "127.0.0.1:1/none" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    (gate,) = [check for check in report["checks"] if check["name"] == "gate"]
    assert gate["status"] == "warning"


async def test_a_postgresql_that_takes_no_writes_is_a_problem(postgres_database_url: str) -> None:
    await alter(postgres_database_url, "default_transaction_read_only = on")
    gate = await found("gate", postgres_database_url)
    assert gate.status == "warning"
    assert "read-only" in gate.found
    check = await found("database", postgres_database_url)
    assert check.status == "problem"
    assert "read-only" in check.found
    assert check.advice is not None
    assert "default_transaction_read_only" in check.advice


async def test_a_role_without_rights_to_the_tables_is_a_problem(postgres_database_url: str) -> None:
    async with role(postgres_database_url) as url:
        check = await found("database", url)
    assert check.status == "problem"
    assert "permission denied" in check.found


async def test_a_role_that_may_not_make_a_scratch_database_is_told_what_it_lacks(
    postgres_database_url: str,
) -> None:
    grant = "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"
    async with role(postgres_database_url, grant) as url:
        checks = await examine(load_settings(database_url=url, port=0))
    assert {check.name for check in checks if check.status != "ok"} - OF_THE_MACHINE == {"gate"}
    assert checks[-1].status == "warning"
    assert checks[-1].advice is not None
    assert "CREATEDB" in checks[-1].advice


async def test_a_folder_where_the_file_should_be_is_a_problem(tmp_path: Path) -> None:
    check = await found("database", f"sqlite:///{tmp_path}")
    assert check.status == "problem"
    assert str(tmp_path) in check.found


async def test_a_file_that_is_no_database_is_a_problem_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Not a database, but somebody's notes. " * 50)
    before = path.read_bytes()
    check = await found("database", f"sqlite:///{path}")
    assert check.status == "problem"
    assert "not a database" in check.found
    assert path.read_bytes() == before


async def test_a_place_where_no_file_can_be_made_is_a_problem() -> None:
    check = await found("database", "sqlite:////proc/holdfast/holdfast.db")
    assert check.status == "problem"
    assert "/proc" in check.found


async def test_a_database_that_is_not_there_yet_is_no_problem_and_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "holdfast.db"
    check = await found("database", f"sqlite:///{path}")
    assert check.status == "ok"
    assert not path.parent.exists()
    assert list(tmp_path.iterdir()) == []


async def test_a_lock_that_somebody_holds_is_a_problem_that_names_the_process(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOCK_SECONDS", 0.2)
    path = load_settings(database_url=sqlite_url).sqlite_path
    lock = FileLock(path.with_name(path.name + ".lock"))
    with lock:
        check = await found("database", sqlite_url)
    lock.close()
    assert check.status == "problem"
    assert str(os.getpid()) in check.found


# The schema


@pytest.mark.parametrize(("migrate_on_start", "status"), [(True, "warning"), (False, "problem")])
async def test_a_schema_that_is_not_made_is_told(
    unmade_url: str, migrate_on_start: bool, status: str
) -> None:
    before = await everything(unmade_url)
    check = await found("schema", unmade_url, migrate_on_start=migrate_on_start)
    assert check.status == status
    assert check.advice is not None
    assert "holdfast migrate" in check.advice
    assert await everything(unmade_url) == before


async def test_a_schema_that_is_behind_or_ahead_is_told(database_url: str) -> None:
    async with core(database_url) as (_, database):

        async def stamp(revision: str) -> None:
            statement = f"UPDATE alembic_version SET version_num = '{revision}'"
            await database.write(lambda c: c.exec_driver_sql(statement))

        await stamp("0000")
        behind = await found("schema", database_url)
        await stamp("9999")
        ahead = await found("schema", database_url)
        await stamp(head())
        assert (await found("schema", database_url)).status == "ok"
    assert (behind.status, ahead.status) == ("warning", "problem")
    assert ahead.advice is not None
    assert "Upgrade Holdfast" in ahead.advice


# The gate


def without_the_door(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """PostgreSQL: leave the plain sub-select on the pause row. SQLite: let claims read a pause that is over."""

    def running(system: System) -> System:
        earlier = {"workers_paused": False, "version": system.version - 1}
        return system.model_copy(update=earlier) if system.workers_paused else system

    def forget() -> None:
        claims.claim_statement.cache_clear()
        claim_batches.batch_statement.cache_clear()

    read_system, system_from = claims.read_system, sqlite_claims.system_from
    monkeypatch.setattr(claims, "door_is_open", true)
    monkeypatch.setattr(claims, "read_system", lambda connection: running(read_system(connection)))
    monkeypatch.setattr(sqlite_claims, "system_from", lambda row: running(system_from(row)))
    forget()
    return forget


async def test_a_gate_that_does_not_hold_is_a_problem(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await everything(database_url)
    restore = without_the_door(monkeypatch)
    try:
        check = await found("gate", database_url)
    finally:
        restore()
    assert check.status == "problem"
    assert "DOES NOT HOLD" in check.found
    assert await everything(database_url) == before


async def test_a_race_that_fails_is_a_problem_and_its_scratch_is_gone(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await everything(database_url)

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("The database does not answer.")

    monkeypatch.setattr(ClaimService, "claim", away)
    check = await found("gate", database_url)
    assert check.status == "problem"
    assert "does not answer" in check.found
    assert await everything(database_url) == before


async def test_a_race_that_met_no_claims_proves_nothing(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "JOBS", 0)
    check = await found("gate", sqlite_url)
    assert check.status == "warning"
    assert "too few" in check.found


async def test_a_doctor_that_is_ended_removes_its_scratch(database_url: str) -> None:
    before = await everything(database_url)
    with subprocess.Popen(
        command(), stdout=subprocess.DEVNULL, env=os.environ | {"HOLDFAST_DATABASE_URL": database_url}
    ) as process:
        reaper().watch_process(process.pid)
        until = time.monotonic() + PATIENCE
        while (await everything(database_url))["beside"] == before["beside"]:
            assert time.monotonic() < until
            assert process.poll() is None, "it ended before its scratch was seen"
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        reaper().forget(process.pid)
    assert process.returncode == 1
    assert await everything(database_url) == before


# What else the database is like


async def test_a_clock_that_is_off_is_a_warning(postgres_database_url: str) -> None:
    clock = MovableClock()
    assert (await found("clock", postgres_database_url, clock=clock)).status == "ok"
    for seconds, side in ((5.0, "ahead of"), (-5.0, "behind")):
        clock.ahead = seconds
        check = await found("clock", postgres_database_url, clock=clock)
        assert check.status == "warning"
        assert side in check.found


async def test_another_default_isolation_is_fine_and_is_told(postgres_database_url: str) -> None:
    await alter(postgres_database_url, "default_transaction_isolation = 'serializable'")
    check = await found("isolation", postgres_database_url)
    assert check.status == "ok"
    assert "serializable" in check.found


async def test_announcements_that_do_not_arrive_are_a_warning(
    postgres_database_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a pooler in between; here it listens on another database."""
    monkeypatch.setattr(announcements, "HEAR_SECONDS", 0.3)
    check = await found("announcements", postgres_database_url, database_listen_url=postgres_url)
    assert check.status == "warning"
    assert check.advice is not None
    assert "HOLDFAST_DATABASE_LISTEN_URL" in check.advice


async def test_more_connections_than_there_are_is_a_warning(postgres_database_url: str) -> None:
    check = await found("connections", postgres_database_url, workers=64, database_pool_size=100)
    assert check.status == "warning"
    assert "6464" in check.found


@pytest.mark.parametrize(
    ("version", "has_it"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
    ],
    ids=str,
)
def test_the_sqlites_that_have_the_wal_reset_race(version: tuple[int, int, int], has_it: bool) -> None:
    assert has_reset_race(version) is has_it


async def test_a_log_that_is_held_back_is_a_warning(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LARGE_WAL_BYTES", 0)
    path = load_settings(database_url=sqlite_url).sqlite_path
    with closing(sqlite3.connect(path)) as reading:
        reading.execute("PRAGMA wal_autocheckpoint=0")
        reading.execute("CREATE TABLE held (id)")
        assert (await found("write-ahead log", sqlite_url)).status == "warning"


MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
tmpfs /run tmpfs rw 0 0
server:/export /srv/shared\\040data nfs4 rw 0 0
/dev/vdb /srv/shared\\040data/local xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me", "ext4"),
        ("/run/holdfast", "tmpfs"),
        ("/running", "ext4"),
        ("/srv/shared data/queue", "nfs4"),
        ("/srv/shared data/local/queue", "xfs"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_nearest_mount(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind


async def test_a_network_file_system_is_a_problem(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("server:/export / nfs4 rw 0 0\n")
    monkeypatch.setattr(file_system, "_MOUNTS", mounts)
    check = await found("file system", sqlite_url)
    assert check.status == "problem"
    assert "nfs4" in check.found


@pytest.mark.parametrize(("name", "status"), [("LITTLE_BYTES", "warning"), ("TOO_LITTLE_BYTES", "problem")])
async def test_a_disk_that_fills_up_is_told(
    sqlite_url: str, name: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_system, name, 1 << 62)
    assert (await found("disk", sqlite_url)).status == status


# This host


async def test_a_server_that_answers_already_is_told(sqlite_url: str) -> None:
    async with start_server(sqlite_url) as server:
        check = await found("port", sqlite_url, port=urlsplit(server.url).port)
    assert check.status == "ok"
    assert "A Holdfast server answers" in check.found


async def test_another_program_on_the_port_is_a_problem(sqlite_url: str) -> None:
    handler = http.server.SimpleHTTPRequestHandler
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Quiet", (handler,), {"log_message": lambda *_: None})
    ) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.05,))
        thread.start()
        try:
            check = await found("port", sqlite_url, port=other.server_address[1])
        finally:
            other.shutdown()
            thread.join()
    assert check.status == "problem"
    assert "Another program" in check.found


async def test_a_free_port_is_told_as_free(sqlite_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    check = await found("port", sqlite_url, port=port)
    assert check.found == f"127.0.0.1 port {port} is free."


async def test_few_open_files_are_a_warning(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "ENOUGH_FILES", 1 << 62)
    assert (await found("open files", sqlite_url)).status == "warning"


async def test_a_certificate_that_does_not_fit_its_key_is_a_problem(sqlite_url: str, tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n")
    check = await found(
        "certificate", sqlite_url, tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem"
    )
    assert check.status == "problem"
