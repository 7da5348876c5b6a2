"""The command line as people and scripts meet it: a process of its own, against a real server."""

import threading
from collections import deque
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cli.harness import Bench, Cli, StandIn
from holdfast_worker.client import Client
from support.servers import Server, start_server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    path = tmp_path_factory.mktemp("cli") / "holdfast.db"
    # An expired lease stays as it is: what the tests want stale, the sweep must not put back.
    with start_server(f"sqlite:///{path}", HOLDFAST_LEASE_GRACE_SECONDS="86400") as server:
        yield server


@pytest.fixture
def bench(shared_server: Server) -> Generator[Bench]:
    """The server, empty and running; and again so afterwards."""
    with Client(shared_server.url, token="") as client:
        bench = Bench(client)
        bench.clear()
        yield bench
        bench.clear()


@pytest.fixture
def cli(shared_server: Server) -> Generator[Cli]:
    """The command line, speaking to the same server as `bench`."""
    cli = Cli(shared_server.url)
    yield cli
    for running in cli.started:
        running.stop()


@pytest.fixture
def cli_for() -> Generator[Callable[[str], Cli]]:
    """The command line, speaking to whatever is at a URL."""
    made: list[Cli] = []

    def make(url: str) -> Cli:
        made.append(Cli(url))
        return made[-1]

    yield make
    for cli in made:
        for running in cli.started:
            running.stop()


@pytest.fixture
def stand_in() -> Generator[StandIn]:
    says: list[tuple[int, bytes, dict[str, str]]] = []
    says_at: dict[str, tuple[int, bytes, dict[str, str]]] = {}
    says_next: deque[tuple[int, bytes, dict[str, str]]] = deque()
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()} | {":path": self.path})
            self.rfile.read(int(self.headers.get("content-length") or 0))
            at = [answer for part, answer in says_at.items() if part in self.path]
            status, body, headers = at[0] if at else says_next.popleft() if says_next else says[-1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    def answer(status: int, body: bytes, **headers: str) -> None:
        says.append((status, body, headers))

    def answer_at(part: str, status: int, body: bytes, **headers: str) -> None:
        says_at[part] = (status, body, headers)

    def answer_in_turn(*answers: tuple[int, bytes]) -> None:
        says_next.extend((status, body, {}) for status, body in answers)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            yield StandIn(url, answer, answer_at, answer_in_turn, seen)
        finally:
            server.shutdown()
            thread.join()
