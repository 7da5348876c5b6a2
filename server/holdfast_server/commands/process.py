"""One of several server processes on one port; `holdfast_server.commands.processes` starts it as a program.

It takes over a listening socket. Its stdin is a pipe from the parent: one line of JSON says what to serve, and its
end says that the parent is gone. On its stdout it answers with one line of JSON: that it accepts connections, or why
it cannot. Both are the parent's, so nothing else is written there.
"""

import gc
import json
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from holdfast_core.services.counters import Counters

__all__ = ["main"]

#: How long an orderly end may take once the parent is gone.
END_SECONDS: Final = 15.0


def main() -> None:
    """Serve until a signal, or until the parent is gone."""
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, _end_now)  # until uvicorn takes over
    told = _told()
    threading.Thread(target=_end_with_the_parent, name="holdfast-parent", daemon=True).start()
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints belongs to the log

    def answer(**said: str) -> None:
        with suppress(OSError):  # nobody listens any more
            os.write(answers, json.dumps(said).encode() + b"\n")

    gc.disable()  # until it is ready: nothing that is made by then is garbage, and to look for some takes long
    from holdfast_core.settings import load_settings
    from holdfast_core.telemetry import configure_logs
    from holdfast_server.commands import cause_of
    from holdfast_server.commands.tls import server_context
    from holdfast_server.commands.web import run_server
    from holdfast_server.compose import create_application

    try:
        settings = load_settings(**told["options"])
        configure_logs(settings.log_format)
        run_server(
            create_application(settings, _counters(told)),
            socket.socket(fileno=told["socket"]),
            lambda: answer(ready="yes"),
            tls=server_context(settings),
        )
    except Exception as error:
        cause = cause_of(error)
        if cause is None:
            raise
        answer(failed=cause)
        raise SystemExit(1) from None


def _told() -> dict[str, Any]:
    # Not through sys.stdin: a thread that waits in its buffer would be in the way of the interpreter's end.
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 65_536)
        if not part:
            raise SystemExit(1)
        line += part
    told: dict[str, Any] = json.loads(line)
    return told


def _counters(told: dict[str, Any]) -> "Counters | None":
    from holdfast_core.services.counters import LAYOUT, Counters, map_pages

    shared = told["counters"]
    if shared["layout"] != LAYOUT:  # this process is of another release than its parent
        return None
    return Counters(map_pages(shared["file"], shared["processes"]), told["number"])


def _end_with_the_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_SECONDS)
    os._exit(1)


def _end_now(signum: int, frame: object) -> NoReturn:
    del signum, frame
    raise SystemExit(0)


if __name__ == "__main__":
    main()
