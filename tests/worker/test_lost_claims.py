"""A claim of a worker whose answer never arrives."""

import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from holdfast_core.states import JobStatus
from holdfast_worker.client import Client
from support.servers import Server
from support.workers import Ledger, start_worker, until


@pytest.fixture
def swallowing(server: Server) -> Generator[tuple[str, list[str]]]:
    """A way to the server on which the answer to the first claim that got a job is lost. And what was lost."""
    lost: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            answer = httpx2.post(
                server.url + self.path,
                content=body,
                headers={"content-type": self.headers["content-type"]},
                timeout=40,
            )
            if self.path.endswith("/claim") and not lost and answer.json()["job"]:
                lost.append(answer.json()["job"]["id"])
                self.close_connection = True
                return
            self.send_response(answer.status_code)
            self.send_header("content-type", answer.headers["content-type"])
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as way:
        way.daemon_threads = True
        thread = threading.Thread(target=way.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{way.server_address[1]}", lost
        finally:
            way.shutdown()
            thread.join()


def test_a_job_whose_claim_was_answered_into_nothing_is_run_under_that_claim(
    swallowing: tuple[str, list[str]], client: Client, tmp_path: Path, ledger: Ledger
) -> None:
    url, lost = swallowing
    jobs = [client.enqueue("t", ledger.payload(steps=1, seconds=0), max_attempts=1) for _ in range(2)]
    # A lease that is longer than the test: nothing but the same claim asked again can bring the job back.
    with start_worker(url, "w", tmp_path, "--transport", "http", "--lease", "600s") as worker:
        until(lambda: all(client.job(job.id).status is JobStatus.SUCCEEDED for job in jobs), "both jobs")
        assert worker.stop() == 0
    assert lost == [str(jobs[0].id)]
    assert [line.job for line in ledger.lines("begin")] == [str(job.id) for job in jobs]
