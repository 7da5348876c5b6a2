"""How soon the last of many push sessions knows of a pause, counted from the pause's answer.

    python benchmarks/push.py [--quick]

One server with 1,000 sessions of worker processes that share them. At each change every session notes when it heard
of it, reports the new version by a heartbeat, and waits for its acknowledgement; the next change comes once all have.
One that heard before the pause was answered counts as 0.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from typing import Any, Final, Self

import httpx2
from common import (
    Databases,
    Options,
    Section,
    at_most,
    main,
    median,
    migrated,
    percentile,
    say,
    serving,
    worker_tokens,
)
from websockets.asyncio.client import connect

from support.push import SUBPROTOCOL, push_url
from support.tokens import bearer, create_token_now

#: The longest that anything at all is waited for.
PATIENCE: Final = 60.0
#: Processes that share the sessions.
PROCESSES: Final = 4
BAR_MS: Final = 500


async def session(url: str, name: str, token: str | None) -> None:
    """One worker: prints when it is welcome, when it heard of each version, and when that was acknowledged (on the
    clock that all processes share)."""
    async with connect(
        push_url(url, name),
        subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
        compression=None,
        open_timeout=PATIENCE,
        proxy=None,
        additional_headers=None if token is None else bearer(token),
    ) as connection:
        await connection.send(
            json.dumps({"type": "hello", "leaseSeconds": 60, "capabilities": {}, "observedVersion": 1})
        )
        async for raw in connection:
            at = time.monotonic()
            frame = json.loads(raw)
            if frame["type"] == "welcome":
                print(json.dumps({"welcome": name}), flush=True)
            elif frame["type"] == "heartbeatAck":
                print(json.dumps({"acknowledged": frame["system"]["version"], "at": at}), flush=True)
            elif frame["type"] == "system":
                version = frame["system"]["version"]
                print(json.dumps({"heard": version, "at": at}), flush=True)
                await connection.send(
                    json.dumps({"type": "heartbeat", "observedVersion": version, "jobs": []})
                )


async def child(url: str, sessions: list[tuple[str, str]]) -> None:
    """The sessions of one process, until it is ended. They open one after the other."""
    async with asyncio.TaskGroup() as tasks:
        for name, token in sessions:
            tasks.create_task(session(url, name, token))
            await asyncio.sleep(0.002)


class Sessions:
    """The worker processes, and what they say."""

    def __init__(self, url: str, tokens: dict[str, str]) -> None:
        self._lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._url = url
        self._all = list(tokens.items())
        self._processes: list[asyncio.subprocess.Process] = []
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for number in range(PROCESSES):
            process = await asyncio.create_subprocess_exec(
                sys.executable, __file__, "--child", stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._processes.append(process)
            self._readers.append(asyncio.create_task(self._read(process)))
            assert process.stdin is not None
            process.stdin.write(json.dumps([self._url, self._all[number::PROCESSES]]).encode())
            process.stdin.write_eof()
        for _ in self._all:
            assert "welcome" in await self.said()
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        for reader in self._readers:
            await reader

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self._lines.put_nowait(json.loads(line))
        self._lines.put_nowait({"ended": process.pid})

    async def said(self) -> dict[str, Any]:
        """The next thing that any of them says."""
        said = await asyncio.wait_for(self._lines.get(), PATIENCE)
        if "ended" in said:
            raise SystemExit("a session has ended")
        return said


def operate(url: str, token: str) -> None:
    """An operator, in a process with nothing else to do, so that it sees the answer when it comes: toggles at each line
    on stdin, and prints the version, and when it was asked for and answered."""
    with httpx2.Client(base_url=url, timeout=PATIENCE, headers=bearer(token)) as http:
        for line in sys.stdin:
            action = line.strip()
            asked = time.monotonic()
            mode = {"mode": "quiesce"} if action == "pause" else {}
            answer = http.post(
                "/api/system/worker-pause", json={"action": action, "reason": "benchmark", **mode}
            )
            answered = time.monotonic()
            version = answer.raise_for_status().json()["system"]["version"]
            print(json.dumps({"version": version, "asked": asked, "answered": answered}), flush=True)


async def measure(
    url: str, tokens: dict[str, str], operator: str, pauses: int
) -> list[tuple[float, float, float, float]]:
    """Milliseconds of each pause: from its answer until the last session knew, and until the last acknowledgement; from
    its request until the answer, and until the last session knew."""
    found: list[tuple[float, float, float, float]] = []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--operator", url, operator),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with Sessions(url, tokens) as sessions:
            for _ in range(pauses):
                for action in ("pause", "resume"):
                    await asyncio.sleep(random.uniform(0.1, 0.3))
                    process.stdin.write(f"{action}\n".encode())
                    told = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE))
                    times: dict[str, list[float]] = {"heard": [], "acknowledged": []}
                    while min(len(times["heard"]), len(times["acknowledged"])) < len(tokens):
                        said = await sessions.said()
                        kind = "heard" if "heard" in said else "acknowledged"
                        if said[kind] == told["version"]:
                            times[kind].append(said["at"])
                    if action == "pause":
                        asked, answered = told["asked"], told["answered"]
                        last, acknowledged = max(times["heard"]), max(times["acknowledged"])
                        spans = (last - answered, acknowledged - answered, answered - asked, last - asked)
                        found.append(tuple(max(0.0, span) * 1_000 for span in spans))  # type: ignore[arg-type]
    finally:
        process.kill()
        await process.wait()
    return found


def run(options: Options, databases: Databases) -> Section:
    """Measure on both databases."""
    count, pauses = options.of(1_000, 50), options.of(40, 3)
    section = Section(
        "From a pause's answer to the last push session",
        f"{count:,} sessions on one server process, {pauses} pauses, each told to all. The figure is the p99, over the"
        " pauses, of the time until the last session has heard, 0 where all had before; the"
        " acknowledgement is the server's, of the version that each session reports.",
        [
            "database",
            "acknowledged after the answer, p99 ms",
            "answered after the request, p50 ms",
            "all know after the request, p50 ms",
            "p99 ms",
        ],
    )
    with migrated(databases) as postgresql:
        for name, url in (("PostgreSQL", postgresql), ("SQLite", databases.sqlite())):
            with serving(url) as server:
                operator = create_token_now(url, role="operator", user="bench").token
                tokens = asyncio.run(worker_tokens(url, count))
                say(f"  {name}: {count} sessions")
                found = asyncio.run(measure(server.url, tokens, operator, pauses))
            last, acknowledged, answered, since = ([one[part] for one in found] for part in range(4))
            section.add(
                [
                    name,
                    f"{percentile(acknowledged, 0.99):.0f}",
                    f"{median(answered):.0f}",
                    f"{median(since):.0f}",
                    f"{percentile(since, 0.99):.0f}",
                ],
                percentile(last, 0.99),
                at_most(BAR_MS, "ms"),
            )
            say(
                f"  {name}: all know after the answer, p99 {percentile(last, 0.99):.0f} ms; after the request, p50"
                f" {median(since):.0f} ms"
            )
    return section


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        told = json.load(sys.stdin)
        asyncio.run(child(told[0], told[1]))
    elif sys.argv[1:2] == ["--operator"]:
        operate(*sys.argv[2:])
    else:
        main(run, __doc__)
