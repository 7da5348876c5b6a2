"""What a worker costs that waits for work: start-up, memory, processor time, wake-ups.

    python benchmarks/worker.py [--python PATH] [--seconds 20] [--transport auto]

Starts a server on a fresh SQLite database and one worker, measures, and ends both. `--python`: the interpreter of an
installation with the base distribution alone, for the figures of a worker host.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

HANDLER = "async def handle(job):\n    return None\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--transport", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        measure(Path(folder), options.python, min(options.seconds, 120.0), options.transport)


def measure(folder: Path, python: str, seconds: float, transport: str) -> None:
    (folder / "own_handler.py").write_text(HANDLER)
    environment = os.environ | {
        "HOLDFAST_DATABASE_URL": f"sqlite:///{folder / 'q.db'}",
        "XDG_RUNTIME_DIR": str(folder),
    }
    folder.chmod(0o700)
    server = subprocess.Popen(
        [sys.executable, "-m", "holdfast_worker.cli", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found, "the server did not start"
        begun = time.monotonic()
        worker = subprocess.Popen(
            [
                python, "-m", "holdfast_worker.cli", "worker", "run", "--handler", "own_handler:handle",
                "--url", found[0], "--worker-id", "bench", "--transport", transport, "--log-format", "json",
            ],
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment,
        )  # fmt: skip
        try:
            assert worker.stderr is not None
            for line in worker.stderr:
                if '"worker_started"' in line:
                    break
            started = time.monotonic() - begun
            time.sleep(5)  # what is done once at the start
            report(worker.pid, started, seconds)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(20)
            assert worker.stderr is not None
            worker.stderr.close()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)
        assert server.stdout is not None
        server.stdout.close()


def report(pid: int, started: float, seconds: float) -> None:
    process = psutil.Process(pid)
    before, switches = process.cpu_times(), process.num_ctx_switches().voluntary
    time.sleep(seconds)
    after = process.cpu_times()
    taken = after.user + after.system - before.user - before.system
    memory = process.memory_full_info()
    print(f"start-up to the first claim: {started:.2f} s")
    print(f"memory: {memory.rss / 2**20:.1f} MiB resident, {memory.uss / 2**20:.1f} MiB of its own")
    wakes = (process.num_ctx_switches().voluntary - switches) / seconds
    print(f"idle: {taken / seconds:.2%} of a processor, {wakes:.1f} wake-ups a second")


if __name__ == "__main__":
    main()
