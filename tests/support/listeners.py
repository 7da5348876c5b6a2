"""Real ends of what a server sends by itself: a StatsD socket, and an HTTP server that takes webhooks."""

import json
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

from anyio.to_thread import run_sync

__all__ = ["Delivery", "Receiver", "Statsd", "receiver"]

PATIENCE = 20.0


class Statsd:
    """A StatsD server that keeps each line, where another was or at a port of its own; a context manager."""

    def __init__(self, url: str = "udp://127.0.0.1:0") -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", urlsplit(url).port))
        self._socket.settimeout(PATIENCE)
        self.url = f"udp://127.0.0.1:{self._socket.getsockname()[1]}"
        self.packets: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def lines(self) -> list[str]:
        return [line for packet in self.packets for line in packet.decode().split("\n")]

    def total(self, name: str) -> int:
        """What a counter has come to."""
        found = [line for line in self.lines if line.startswith(f"{name}:") and line.endswith("|c")]
        return sum(int(line.removeprefix(f"{name}:").removesuffix("|c")) for line in found)

    def last(self, name: str) -> float | None:
        """What a gauge shows; None before it was told."""
        found = [line for line in self.lines if line.startswith(f"{name}:") and line.endswith("|g")]
        return float(found[-1].removeprefix(f"{name}:").removesuffix("|g")) if found else None

    def hear(self, until: Callable[[Self], bool]) -> None:
        """Take in packets until this holds. Raises TimeoutError where nothing comes any more."""
        while not until(self):
            self.packets.append(self._socket.recv(65_536))

    async def heard(self, until: Callable[[Self], bool]) -> None:
        """The same beside the event loop."""
        await run_sync(self.hear, until)


@dataclass(frozen=True)
class Delivery:
    """One POST, as it came."""

    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """Takes webhooks at `url`, and answers the next ones with `statuses`, then with 204."""

    url: str
    statuses: list[int] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    came: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, count: int) -> list[Delivery]:
        """The deliveries, once there are so many."""
        with self.came:
            assert self.came.wait_for(lambda: len(self.deliveries) >= count, PATIENCE), self.deliveries
            return list(self.deliveries)


@contextmanager
def receiver(*statuses: int) -> Generator[Receiver]:
    """An HTTP server on the loopback address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with found.came:
                status = found.statuses.pop(0) if found.statuses else 204
                self.send_response(status)
                if status in {301, 302, 307, 308}:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                headers = {name.lower(): value for name, value in self.headers.items()}
                # Before the answer, behind which the sender may look at once.
                found.deliveries.append(Delivery(headers | {":path": self.path}, body))
                found.came.notify_all()
                self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Receiver(f"http://127.0.0.1:{server.server_port}/alerts", list(statuses))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
