"""The load: a process of its own that keeps N connections busy for a while and times each answer.

Run as `python load.py`, with its orders as one JSON object on stdin:
`{url, kind, connections, seconds, token?, jobs?: [[id, token], ...], answers?}`, where `answers` are how many are
enough. Prints one JSON object: `count` answers in `seconds`, `p50` and `p99` in milliseconds, and `jobs`, those that a
`hold` has taken. An answer that is not what its kind must get ends the run with an error. The client is written by
hand, since a library would cost more than the server that is measured; an answer that is the same as the one before it
on its connection is not looked at again.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast
from urllib.parse import urlsplit

#: Answers that one slice may collect, so that a run is bounded in count as well as in time.
MAX_ANSWERS = 200_000

#: What `hold` has taken.
HELD: list[tuple[str, str]] = []

CLAIM = {"workerId": "bench", "leaseSeconds": 3600}
_META = "io.modelcontextprotocol"


class WrongAnswer(Exception):
    """The server said something that this kind of request must not get."""


@dataclass
class Request:
    """One request, and what its answer must fulfil."""

    path: str
    body: dict[str, Any]
    holds: Callable[[dict[str, Any]], bool]
    headers: dict[str, str] = field(default_factory=dict)

    @cached_property
    def raw(self) -> bytes:
        """The body's bytes on the wire."""
        return json.dumps(self.body).encode()

    def encoded(self, host: str, token: str | None) -> bytes:
        """All of its bytes on the wire. `token`: the worker's."""
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"Host: {host}",
            "Content-Type: application/json",
            f"Content-Length: {len(self.raw)}",
            *([] if token is None else [f"Authorization: Bearer {token}"]),
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.raw


def _got_job(answer: dict[str, Any]) -> bool:
    return answer["job"] is not None and not answer["system"]["workersPaused"]


def _got_pause(answer: dict[str, Any]) -> bool:
    return answer["job"] is None and answer["system"]["workersPaused"]


#: A script yields requests, gets each one's answer, and says with its end that there is nothing left to do.
Script = Generator[Request, dict[str, Any], None]


def noop(_: list[Any]) -> Script:
    """A claim as it would be, its body and its token, sent to a route that does nothing."""
    request = Request("/noop", CLAIM, lambda answer: answer == {"ok": True})
    while True:
        yield request


def claim(_: list[Any]) -> Script:
    """Claims that each get a job."""
    request = Request("/api/queue/jobs/claim", CLAIM, _got_job)
    while True:
        yield request


def paused(_: list[Any]) -> Script:
    """Claims that are each answered with the pause."""
    request = Request("/api/queue/jobs/claim", CLAIM, _got_pause)
    while True:
        yield request


def either(_: list[Any]) -> Script:
    """Jobs while pauses come and go: claims get one exactly where the system is not paused, and never find the queue
    empty; what one got is completed, or the running jobs would become more and more."""
    claim = Request("/api/queue/jobs/claim", CLAIM, lambda answer: _got_job(answer) or _got_pause(answer))
    while True:
        if (job := (yield claim)["job"]) is not None:
            yield _completing(job)


def hold(_: list[Any]) -> Script:
    """Claims whose jobs stay running: they are part of the answer."""
    request = Request("/api/queue/jobs/claim", CLAIM, _got_job)
    while True:
        job = (yield request)["job"]
        HELD.append((job["id"], job["leaseToken"]))


def heartbeat(jobs: list[Any]) -> Script:
    """Heartbeats of running jobs, one after the other."""
    while True:
        for job_id, token in jobs:
            body = {**CLAIM, "leaseToken": token, "compact": True}
            path = f"/api/queue/jobs/{job_id}/heartbeat"
            yield Request(path, body, lambda answer: answer["status"] == "running")


def whole(_: list[Any]) -> Script:
    """Whole jobs: a claim, then its complete."""
    while True:
        yield _completing((yield Request("/api/queue/jobs/claim", CLAIM, _got_job))["job"])


def _completing(job: dict[str, Any]) -> Request:
    body = {"workerId": "bench", "leaseToken": job["leaseToken"]}
    path = f"/api/queue/jobs/{job['id']}/complete"
    return Request(path, body, lambda answer: answer["status"] == "succeeded")


def _mcp(holds: Callable[[dict[str, Any]], bool]) -> Script:
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "queue.claim",
    }
    meta = {f"{_META}/protocolVersion": "2026-07-28", f"{_META}/clientCapabilities": {}}
    params = {"name": "queue.claim", "arguments": CLAIM, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    request = Request("/mcp", body, lambda answer: holds(answer["result"]["structuredContent"]), headers)
    while True:
        yield request


def mcp_noop(_: list[Any]) -> Script:
    """The same calls, sent to a tool that does nothing."""
    return _mcp(lambda answer: answer == {"ok": True})


def mcp_claim(_: list[Any]) -> Script:
    """The same claims as tool calls over streamable HTTP (protocol 2026-07-28)."""
    return _mcp(_got_job)


def mcp_paused(_: list[Any]) -> Script:
    """The same paused claims as tool calls."""
    return _mcp(_got_pause)


KINDS: dict[str, Callable[[list[Any]], Script]] = {
    script.__name__: script
    for script in (noop, claim, paused, either, hold, heartbeat, whole, mcp_noop, mcp_claim, mcp_paused)
}


class Connection(asyncio.Protocol):
    """One connection: send, wait for the answer, check it, again. `done` tells of its end, or of what was wrong."""

    def __init__(
        self, host: str, token: str | None, script: Script, until: float, times: list[float], most: int
    ) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._host = host
        self._token = token
        self._script = script
        self._until = until
        self._times = times
        self._most = most
        self._transport: asyncio.Transport
        self._request: Request | None = None
        self._sent = b""
        self._begun = 0.0
        self._data = b""
        self._seen: tuple[Request | None, bytes, dict[str, Any]] = (None, b"", {})

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own
        self._send(next(self._script))

    def _send(self, request: Request) -> None:
        if request is not self._request:
            self._request, self._sent = request, request.encoded(self._host, self._token)
        self._begun = time.perf_counter()
        self._transport.write(self._sent)

    def data_received(self, data: bytes) -> None:
        data = self._data = self._data + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = data[:end].lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(data) < end + 4 + length:
            return
        now = time.perf_counter()
        self._times.append(now - self._begun)
        self._data = b""
        try:
            answer = self._checked(head, data[end + 4 :])
            if now < self._until and len(self._times) < self._most:
                self._send(self._script.send(answer))
            else:
                self._end(None)
        except StopIteration:
            self._end(None)
        except Exception as error:
            self._end(error)

    def _checked(self, head: bytes, raw: bytes) -> dict[str, Any]:
        request = self._request
        assert request is not None
        known, seen, answer = self._seen
        right = head.startswith(b"http/1.1 200 ")
        if right and (known is not request or seen != raw):
            answer = json.loads(raw)
            right = request.holds(answer)
        if not right:
            raise WrongAnswer(f"{request.path}: {head.splitlines()[0].decode()} {raw[:300].decode()}")
        self._seen = (request, raw, answer)
        return answer

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or WrongAnswer("the server has closed the connection"))

    def _end(self, error: Exception | None) -> None:
        self._transport.close()
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


async def main(orders: dict[str, Any]) -> dict[str, Any]:
    """Keep the connections busy; what came of it."""
    times: list[float] = []
    size: int = orders["connections"]
    jobs: list[Any] = orders.get("jobs", [])
    most: int = min(orders.get("answers", MAX_ANSWERS), MAX_ANSWERS)
    begun = time.perf_counter()
    until = begun + orders["seconds"]
    url = urlsplit(orders["url"])
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []
    for number in range(size):
        script = KINDS[orders["kind"]](jobs[number::size])
        one = Connection(url.netloc, orders.get("token"), script, until, times, most)
        connections.append(one)
        await loop.create_connection(lambda one=one: one, url.hostname, url.port)
    await asyncio.gather(*(one.done for one in connections))
    took = time.perf_counter() - begun
    times.sort()
    return {
        "count": len(times),
        "seconds": took,
        "p50": statistics.median(times) * 1000,
        "p99": times[int(len(times) * 0.99)] * 1000,
        "jobs": HELD,
    }


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(main(json.load(sys.stdin)))))
