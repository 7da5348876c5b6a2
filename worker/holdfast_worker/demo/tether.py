"""`holdfast`, tied to the process that started it: when its stdin closes it ends, as by SIGTERM.

    python -m holdfast_worker.demo.tether serve --port 0

So no server is left behind, however the demo itself ends: a pipe is closed even by `kill -9`.
"""

import os
import signal
import sys
import threading
from typing import Final

__all__: list[str] = []

_ORDERLY_SECONDS: Final = 15.0


def end_with_stdin() -> None:
    """Wait until stdin closes, then ask this process to end, and make sure that it does."""
    # Not through sys.stdin: its lock, held by this thread, would abort the interpreter's own end.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_ORDERLY_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()

    from holdfast_worker.cli import main

    main(sys.argv[1:], prog_name="holdfast")
