"""Child processes of the demo, each ended by its own id and by the closing of its stdin."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["Child", "environment"]

#: How long a child may take to end in order before it is killed. The server gives calls five seconds, twice.
_ORDERLY_SECONDS: Final = 12.0
_TAIL_BYTES: Final = 4_096


def environment(database: Path) -> dict[str, str]:
    """The children's environment: none of the user's own Holdfast settings, and a database of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_") and k != "AUTH_PROVIDER"}
    return kept | {
        "HOLDFAST_DATABASE_URL": f"sqlite:///{database}",
        # Should a worker die, the demo shows within seconds what else takes a minute.
        "HOLDFAST_LEASE_GRACE_SECONDS": "1",
        "HOLDFAST_LEASE_RETRY_DELAY_SECONDS": "0.5",
        # What lies in the user's folder must not be imported in place of ours.
        "PYTHONSAFEPATH": "1",
        "PYTHONIOENCODING": "utf-8",
    }


class Child:
    """A Python module that runs as a child process; its stdout goes to `on_line`, its stderr to a file."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        folder: Path,
        env: dict[str, str],
        on_line: Callable[[str], None],
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  (this very Python, and our own modules)
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                # A Ctrl-C is for the demo alone: it ends its children in order.
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, args=(on_line,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """The last line of its stderr."""
        with suppress(OSError):
            lines = self._log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""

    def ask_to_end(self) -> None:
        """Close its stdin, which it takes as a request to end. May be called twice."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def end(self) -> None:
        """Have it ended when this returns, in order if it will, else by force. May be called twice."""
        self.ask_to_end()
        try:
            self._process.wait(_ORDERLY_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=5)

    def _read(self, on_line: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                on_line(line.decode("utf-8", "replace").rstrip("\n"))
