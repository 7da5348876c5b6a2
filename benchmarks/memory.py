"""The memory of a server: 1,000 connected workers, and 100 thousand jobs done.

    python benchmarks/memory.py [--quick]

One server process on PostgreSQL with 1,000 push sessions of workers that are ready for nothing, each of which reports
itself now and then, while 64 connections claim and complete jobs over REST. The resident memory is
read after each fifth of the jobs.
"""

import asyncio
import json
import subprocess
import sys
from contextlib import ExitStack

import psutil
from common import (
    HERE,
    Databases,
    Options,
    Section,
    at_most,
    fill,
    main,
    migrated,
    say,
    serving,
    worker_tokens,
)
from push import Sessions

from support.tokens import create_token_now

CONNECTIONS = 64
PARTS = 5
MEGABYTE = 1_000_000


async def work(url: str, token: str, jobs: int) -> None:
    """So many jobs, claimed and completed by a second process."""
    orders = {
        "url": url,
        "kind": "whole",
        "connections": CONNECTIONS,
        "seconds": 300,
        "token": token,
        "answers": 2 * jobs,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "load.py"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, errors = await process.communicate(json.dumps(orders).encode())
    if process.returncode != 0:
        raise SystemExit(f"the load went wrong:\n{errors.decode()[-2_000:]}")
    assert json.loads(out)["count"] >= 2 * jobs, "it took too long"


async def measure(url: str, pid: int, tokens: dict[str, str], bench: str, jobs: int) -> tuple[int, list[int]]:
    """Bytes of resident memory: once all are connected, and after each part of the jobs."""
    found: list[int] = []
    server = psutil.Process(pid)
    async with Sessions(url, tokens):
        connected = server.memory_info().rss
        say(f"  {len(tokens):,} connected: {connected / MEGABYTE:.0f} MB")
        for part in range(PARTS):
            await work(url, bench, jobs // PARTS)
            found.append(server.memory_info().rss)
            say(f"  {jobs // PARTS * (part + 1):,} jobs done: {found[-1] / MEGABYTE:.0f} MB")
    return connected, found


def run(options: Options, databases: Databases) -> Section:
    """Measure."""
    count, jobs = options.of(1_000, 50), options.of(100_000, 1_000)
    section = Section(
        "Memory of a server",
        f"One process on PostgreSQL, {count:,} push sessions, {jobs:,} jobs claimed and completed over REST"
        " beside them: its resident memory.",
        ["when"],
    )
    with ExitStack() as stack:
        url = stack.enter_context(migrated(databases))
        server = stack.enter_context(serving(url))
        tokens = asyncio.run(worker_tokens(url, count))
        bench = create_token_now(url, workerId="bench").token
        asyncio.run(fill(url, "noop", jobs + 1_000))
        connected, found = asyncio.run(measure(server.url, server.process.pid, tokens, bench, jobs))
    section.add([f"{count:,} connected, nothing done yet"], connected / MEGABYTE, at_most(250, "MB"))
    section.add([f"after {jobs // PARTS:,} jobs"], found[0] / MEGABYTE, at_most(250, "MB"))
    section.add([f"after {jobs:,} jobs"], found[-1] / MEGABYTE, at_most(250, "MB"))
    section.add([f"flat: after all over after {jobs // PARTS:,}"], found[-1] / found[0], at_most(1.1))
    return section


if __name__ == "__main__":
    main(run, __doc__)
