"""Having Codex trust the hook, through its own app server: what to trust, and where that is noted, is its to say."""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, cast

from holdfast_core import __version__
from holdfast_worker.hook.settings import ours

__all__ = ["CodexFails", "trust_in_codex"]

#: The longest that Codex may take for all of it.
PATIENCE_SECONDS: Final = 30.0
#: How long it may take to end.
SECONDS_TO_END: Final = 5.0
_TRUSTED: Final = frozenset({"trusted", "managed"})


class CodexFails(Exception):
    """Codex cannot be asked, or does not do what was asked. Says what."""


def trust_in_codex(codex: str, file: Path) -> bool:
    """Have the program `codex` trust our hook in `file`. Returns whether that is a change. Raises CodexFails."""
    with _app_server(codex) as server:
        found = _found(server, file)
        if found["trustStatus"] in _TRUSTED:
            return False
        noted = {found["key"]: {"trusted_hash": found["currentHash"]}}
        edit = {"keyPath": "hooks.state", "value": noted, "mergeStrategy": "upsert"}
        server.request("config/batchWrite", edits=[edit])
        status = _found(server, file)["trustStatus"]
        if status not in _TRUSTED:
            raise CodexFails(f"Codex was told to trust the hook, and calls it {status!r} nevertheless")
    return True


def _found(server: "_AppServer", file: Path) -> dict[str, Any]:
    """Our hook as Codex lists it."""
    listed = server.request("hooks/list", cwds=[str(Path.cwd())])
    try:
        entries = listed["data"]
        said = [str(word) for entry in entries for word in entry["warnings"]]
        for hook in (hook for entry in entries for hook in entry["hooks"]):
            if ours(hook.get("command")) and Path(hook["sourcePath"]).resolve() == file.resolve():
                found: dict[str, Any] = hook
                return found
    except (KeyError, TypeError, AttributeError):
        raise CodexFails("this Codex lists hooks in another way than is known here") from None
    why = f"it says: {'; '.join(said)}" if said else "it reads those of a project once it trusts the project"
    raise CodexFails(f"Codex does not see the hook in {file} ({why})")


class _AppServer:
    """A conversation: JSON-RPC, one message a line. It tells of itself, too; that is passed over."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input = process.stdin
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._give_up = time.monotonic() + PATIENCE_SECONDS
        self._requests = 0
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    def request(self, method: str, **params: Any) -> Any:
        self._requests += 1
        self.say({"id": self._requests, "method": method, "params": params})
        while True:
            message = self._next(method)
            if message.get("id") != self._requests or "method" in message:
                continue
            if "result" not in message:
                raise CodexFails(f"Codex refuses {method}: {message.get('error')}")
            return message["result"]

    def say(self, message: dict[str, Any]) -> None:
        try:
            self._input.write(json.dumps(message) + "\n")
            self._input.flush()
        except OSError:
            raise CodexFails("Codex has ended") from None

    def _next(self, method: str) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=max(0.0, self._give_up - time.monotonic()))
            if not line:
                raise CodexFails(f"Codex has ended without an answer to {method}")
            message = json.loads(line)
        except queue.Empty:
            raise CodexFails(f"Codex does not answer {method} within {PATIENCE_SECONDS:g} s") from None
        except ValueError:
            message = None
        return cast("dict[str, Any]", message) if isinstance(message, dict) else {}

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            self._lines.put(line)
        self._lines.put("")


@contextmanager
def _app_server(codex: str) -> Generator[_AppServer]:
    try:
        process = subprocess.Popen(  # noqa: S603 (what the person named)
            [codex, "app-server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
    except OSError as error:
        raise CodexFails(f"{codex} cannot be started: {error.strerror}") from None
    try:
        server = _AppServer(process)
        server.request(
            "initialize", clientInfo={"name": "holdfast", "title": "Holdfast", "version": __version__}
        )
        server.say({"method": "initialized"})
        yield server
    finally:
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    """It ends by itself when nobody speaks to it any more, and so do those that it has started."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
