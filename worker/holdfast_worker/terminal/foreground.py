"""A command in the foreground: the terminal is its own, and the signals that come while it runs are handed on."""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, Final, Self

__all__ = ["Foreground"]

_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")


class Foreground:
    """Runs one command. As long as it has not begun, and once it has ended, SIGINT, SIGTERM and SIGHUP raise
    KeyboardInterrupt; what the caller ignores (nohup) stays ignored."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        #: Signals that came while the command was being started; None while none is being run.
        self._held: list[int] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @property
    def begun(self) -> bool:
        """Whether the command has been started, and so may have done something."""
        return self._process is not None

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run it to its end: its exit code; below 0, the signal that ended it. Raises OSError where it cannot begin."""
        self._held = []
        try:
            # The command is what the person asked for.
            self._process = subprocess.Popen(command, env=environment)  # noqa: S603
            for number in self._held:
                self._process.send_signal(number)
            return self._process.wait()
        finally:
            self._held = None

    def _signalled(self, number: int, _: FrameType | None) -> None:
        if self._held is None:
            raise KeyboardInterrupt
        if self._process is None:
            self._held.append(number)
        elif number != signal.SIGINT:  # Ctrl-C the terminal sends to the command, too
            self._process.send_signal(number)
