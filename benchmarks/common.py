"""What the parts of the benchmark share: the machine, the servers, the filled tables, and how a result is written."""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from support.postgres import Template, open_cluster  # noqa: E402 (the tests' own cluster)
from support.servers import Server, start_server  # noqa: E402

__all__ = [
    "HERE",
    "SERVER",
    "Bar",
    "Databases",
    "Options",
    "Section",
    "at_least",
    "at_most",
    "child",
    "cpu_seconds",
    "fill",
    "logs_to_stderr",
    "main",
    "median",
    "migrated",
    "open_databases",
    "percentile",
    "say",
    "start_server",
]

#: Every request's token is checked. All come from one worker, so that what one may ask for is not bounded.
SERVER: Final = {
    "HOLDFAST_AUTH_PROVIDER": "token",
    "HOLDFAST_RATE_LIMIT_PER_SECOND": "0",
    "HOLDFAST_MAX_CONNECTIONS_PER_CALLER": "0",
}
#: The environment of the peers, made by `make .bench/.peers`.
PEERS: Final = HERE.parent / ".bench" / "venv" / "bin" / "python"

median = statistics.median


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` of them do not exceed; of a few, their largest for high shares."""
    found = sorted(values)
    return found[min(len(found) - 1, int(len(found) * share))]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; nan where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- results -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """What a figure has to reach."""

    limit: float
    is_least: bool
    unit: str

    def __str__(self) -> str:
        return f"{'≥' if self.is_least else '≤'} {self.shown(self.limit)}"

    def shown(self, value: float) -> str:
        """A value in this bar's unit."""
        return (
            f"{value:,.2f}x"
            if self.unit == "x"
            else f"{value:,.2f} s"
            if self.unit == "s"
            else self._whole(value)
        )

    def _whole(self, value: float) -> str:
        return f"{value:,.1f} {self.unit}" if value < 1_000 else f"{value:,.0f} {self.unit}"

    def verdict(self, value: float) -> str:
        """Whether it is reached."""
        return "met" if (value >= self.limit if self.is_least else value <= self.limit) else "missed"


def at_least(limit: float, unit: str = "x") -> Bar:
    """A bar that is reached from below."""
    return Bar(limit, True, unit)


def at_most(limit: float, unit: str = "x") -> Bar:
    """A bar that is not to be passed."""
    return Bar(limit, False, unit)


@dataclass
class Section:
    """One part's results: a table whose last three columns are the figure, its bar, and whether that is met."""

    title: str
    text: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, cells: Sequence[str], value: float, bar: Bar | None, unit: str = "x") -> None:
        """One row. Without a bar the figure is only reported, in `unit`."""
        assert len(cells) == len(self.columns)
        shown = (bar or at_least(0, unit)).shown(value)
        self.rows.append(
            [*cells, shown, "" if bar is None else str(bar), "" if bar is None else bar.verdict(value)]
        )

    def __str__(self) -> str:
        header = [*self.columns, "figure", "bar", ""]
        lines = [f"## {self.title}", "", self.text, "", _line(header), "|---" * len(header) + "|"]
        lines += [_line(row) for row in self.rows]
        for note in self.notes:
            lines += ["", note]
        return "\n".join([*lines, ""])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# --- one part ----------------------------------------------------------------------------------------------------


@dataclass
class Databases:
    """A PostgreSQL server that all parts of a run share, and a folder for files of SQLite."""

    cluster: str
    folder: Path
    _made: int = 0

    @contextmanager
    def postgresql(self) -> Generator[str]:
        """An empty database of its own, as a URL."""
        template = Template(self.cluster)
        template.create()
        try:
            yield template.url
        finally:
            template.drop()

    def sqlite(self) -> str:
        """A file that is not there yet, as a URL."""
        self._made += 1
        return f"sqlite:///{self.folder}/holdfast-{self._made}.db"


@contextmanager
def open_databases() -> Generator[Databases]:
    """Both kinds, until the block ends."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-bench-"))
        yield Databases(stack.enter_context(open_cluster()), Path(folder))


@contextmanager
def migrated(databases: Databases) -> Generator[str]:
    """A database on PostgreSQL with Holdfast's tables."""
    from holdfast_core.db.migrations import migrate
    from holdfast_core.settings import load_settings

    with databases.postgresql() as url:
        migrate(load_settings(database_url=url))
        yield url


@dataclass(frozen=True)
class Options:
    """How much is measured. `quick`: only whether it all runs."""

    quick: bool
    rounds: int
    seconds: float

    def of(self, usual: int, quick: int) -> int:
        """A count, by the size of the run."""
        return quick if self.quick else usual


def main(run: Callable[[Options, Databases], Section], about: str | None) -> None:
    """A part run alone: its results on stdout."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest size: does it run?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a slice of load")
    given = parser.parse_args()
    options = Options(given.quick, 1 if given.quick else given.rounds, 1.0 if given.quick else given.seconds)
    logs_to_stderr()
    with open_databases() as databases:
        print(run(options, databases))


def logs_to_stderr() -> None:
    """What our own packages log in this process is not among the results."""
    import logging

    from holdfast_core.telemetry import configure_logs

    configure_logs("console")
    logging.disable(logging.INFO)


def child(
    program: str, orders: dict[str, Any], *, python: Path | None = None, timeout: float = 300
) -> dict[str, Any]:
    """What one of our programs says of its orders: it is a process of its own, told by one JSON object on stdin, and
    answers with one on stdout. `python`: another interpreter than ours. Ends the run where the program fails."""
    done = subprocess.run(
        [python or sys.executable, str(HERE / program)],
        input=json.dumps(orders),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{program} failed on {orders}:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def load(orders: dict[str, Any]) -> dict[str, Any]:
    """One slice of load from a second process. Raises where an answer was wrong."""
    return child("load.py", orders, timeout=orders["seconds"] * 5 + 60)


@contextmanager
def serving(url: str, *options: str, **environment: str) -> Generator[Server]:
    """A server on this database, which checks tokens."""
    with start_server(url, *options, **SERVER, **environment) as server:
        yield server


async def worker_tokens(url: str, count: int) -> dict[str, str]:
    """A token for each of so many workers, by their ids."""
    from holdfast_core.callers import LOCAL_OPERATOR
    from holdfast_core.schemas import TokenRequest, parse_request
    from holdfast_core.settings import load_settings
    from holdfast_server.compose import open_access

    found: dict[str, str] = {}
    async with open_access(load_settings(database_url=url)) as access:
        for name in (f"w-{number}" for number in range(count)):
            request, _ = parse_request(TokenRequest, {"workerId": name})
            found[name] = (await access.create(LOCAL_OPERATOR, request, by_host=True)).token
    return found


# --- filled tables -----------------------------------------------------------------------------------------------

#: UUIDv7 by SQL: milliseconds, rising with n, then what md5 makes of n.
_ID: Final = (
    "overlay(overlay(overlay(md5(n::text) placing lpad(to_hex({start} + n / 1000), 12, '0') from 1)"
    " placing '7' from 13) placing '8' from 17)::uuid"
)
_COMMON: Final = (
    "id, type, status, priority, payload, required_capabilities, attempt, max_attempts, created_at, updated_at,"
    " lane"
)
_FINISHED: Final = (
    "claimed_by, claim_worker, claim_token_hash, claim_outcome, claim_number, started_at, finished_at"
)


async def fill(url: str, job_type: str, count: int, *, kind: str = "queued", age_days: int = 1) -> None:
    """Put jobs into a migrated PostgreSQL database behind everybody's back, over two connections at once, and leave
    the statistics and the visibility map as autovacuum would in its time. `kind`: queued, future (not due for a
    day), or finished."""
    extra, values = {
        "queued": ("", ""),
        "future": (", ready, next_attempt_at", ", false, now() + interval '1 day'"),
        "finished": (
            f", {_FINISHED}",
            ", 'bench', 'bench', md5(n::text) || md5(n::text), 'complete', 1, now(), now() - interval '1 hour'",
        ),
    }[kind]
    status = "succeeded" if kind == "finished" else "queued"
    setting: Any = await asyncpg.connect(url)
    try:
        lane = await _lane(setting, job_type)
        now = await setting.fetchval("SELECT (extract(epoch FROM now()) * 1000)::bigint")
        # Each day and kind of filling has ids of its own.
        start = now - 1_000 * (86_400 * age_days + ["queued", "future", "finished"].index(kind) * 20_000)

        async def part(first: int, last: int) -> None:
            connection: Any = await asyncpg.connect(url)
            try:
                await connection.execute(
                    f"INSERT INTO agent_jobs ({_COMMON}{extra}) SELECT {_ID.format(start=start)}, $1, '{status}', 0,"
                    " '{\"n\": 1}', '[]', 1, 3,"
                    f" now() - interval '{age_days} day' + n * interval '1 microsecond', now(), {lane}{values}"
                    f" FROM generate_series({first}, {last}) n",
                    job_type,
                )
            finally:
                await connection.close()

        half = count // 2
        await asyncio.gather(part(1, half), part(half + 1, count))
        await setting.execute("VACUUM (ANALYZE) agent_jobs")
    finally:
        await setting.close()


async def _lane(connection: Any, job_type: str) -> int:
    from holdfast_core.store.lanes import lane_key

    key = lane_key(job_type, [])
    await connection.execute(
        "INSERT INTO agent_job_lanes (key, type, required_capabilities) VALUES ($1, $2, '[]')"
        " ON CONFLICT DO NOTHING",
        key,
        job_type,
    )
    lane: int = await connection.fetchval("SELECT id FROM agent_job_lanes WHERE key = $1", key)
    return lane
