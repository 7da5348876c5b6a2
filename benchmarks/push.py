"""How fast push sessions hear of a pause, and say so: from the pause's answer to each session's acknowledgement.

    python benchmarks/push.py [--sessions 100] [--processes 4] [--servers 1] [--pauses 20] [--store sqlite|postgresql]

Starts a server (with `--servers` processes on one port) and worker processes that share the sessions. At each change
every session reports the new version by a heartbeat and waits for its acknowledgement. Prints p50, p99 and the worst
of all acknowledgements, in milliseconds, counted from the pause's answer (one that was there before counts as 0; the
bar is 250 for p99) and from its request.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx2
from websockets.asyncio.client import connect

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from support.postgres import Template, open_cluster  # noqa: E402 (the tests' own cluster)
from support.push import SUBPROTOCOL, push_url  # noqa: E402
from support.servers import start_server  # noqa: E402

#: The longest that anything at all is waited for.
PATIENCE: Final = 30.0


async def session(url: str, name: str) -> None:
    """One worker: prints when it is welcome, and when each version was acknowledged (on the clock that all share)."""
    async with connect(
        push_url(url, name),
        subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
        compression=None,
        proxy=None,
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
                print(json.dumps({"version": frame["system"]["version"], "at": at}), flush=True)
            elif frame["type"] == "system":
                version = frame["system"]["version"]
                await connection.send(
                    json.dumps({"type": "heartbeat", "observedVersion": version, "jobs": []})
                )


async def child(url: str, names: list[str]) -> None:
    """The sessions of one process, until it is ended."""
    await asyncio.gather(*(session(url, name) for name in names))


class Children:
    """The worker processes, and what they say."""

    def __init__(self, url: str, sessions: int, processes: int) -> None:
        self._lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._url = url
        self._shares = [[f"w-{n}" for n in range(sessions) if n % processes == p] for p in range(processes)]
        self._processes: list[asyncio.subprocess.Process] = []
        self._readers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        for names in self._shares:
            process = await asyncio.create_subprocess_exec(
                sys.executable, __file__, "--child", self._url, *names, stdout=subprocess.PIPE
            )
            self._processes.append(process)
            self._readers.append(asyncio.create_task(self._read(process)))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self._lines.put_nowait(json.loads(line))

    async def said(self) -> dict[str, Any]:
        """The next thing that any of them says."""
        return await asyncio.wait_for(self._lines.get(), PATIENCE)

    async def stop(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.terminate()
            await process.wait()
        for reader in self._readers:
            await reader


async def measure(url: str, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds to each acknowledgement: from each pause's answer, and from its request."""
    children = Children(url, options.sessions, options.processes)
    since_answer: list[float] = []
    since_request: list[float] = []
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE) as http:

        async def toggle(action: str) -> tuple[float, float, int]:
            mode = {"mode": "quiesce"} if action == "pause" else {}
            body = {"action": action, "reason": "a benchmark", **mode}
            asked = time.monotonic()
            answer = await http.post("/api/system/worker-pause", json=body)
            answered = time.monotonic()
            answer.raise_for_status()
            return asked, answered, answer.json()["system"]["version"]

        try:
            await children.start()
            for _welcome in range(options.sessions):
                assert "welcome" in await children.said()
            for _pause in range(options.pauses):
                for action in ("pause", "resume"):
                    await asyncio.sleep(0.1)
                    asked, answered, version = await toggle(action)
                    for _session in range(options.sessions):
                        said = await children.said()
                        assert said["version"] == version, said
                        if action == "pause":
                            since_answer.append(max(0.0, said["at"] - answered))
                            since_request.append(said["at"] - asked)
        finally:
            await children.stop()
    return since_answer, since_request


def report(store: str, found: tuple[list[float], list[float]], options: argparse.Namespace) -> None:
    print(
        f"{store}: {options.sessions} sessions in {options.processes} processes, {options.servers} server"
        f" process{'es' * (options.servers > 1)}, {options.pauses} pauses"
    )
    for since, took in zip(("the answer", "the request"), found, strict=True):
        took = sorted(took)  # noqa: PLW2901
        p50, p99 = (took[min(len(took) - 1, int(len(took) * share))] * 1_000 for share in (0.5, 0.99))
        print(
            f"  acknowledged since {since}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {took[-1] * 1_000:.1f} ms"
        )


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        try:
            asyncio.run(child(sys.argv[2], sys.argv[3:]))
        except KeyboardInterrupt:
            raise SystemExit(0) from None
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--pauses", type=int, default=20)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), action="append")
    options = parser.parse_args()
    options.sessions = max(1, min(options.sessions, 2_000))
    options.processes = max(1, min(options.processes, options.sessions, 8))
    options.pauses = max(1, min(options.pauses, 200))
    for store in options.store or ["sqlite", "postgresql"]:
        with ExitStack() as stack:
            if store == "postgresql":
                template = Template(stack.enter_context(open_cluster()))
                template.create()
                stack.callback(template.drop)
                url = stack.enter_context(template.clone())
            else:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-bench-"))
                url = f"sqlite:///{folder}/holdfast.db"
            server = stack.enter_context(start_server(url, "--workers", str(options.servers)))
            report(store, asyncio.run(measure(server.url, options)), options)


if __name__ == "__main__":
    main()
