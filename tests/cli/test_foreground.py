"""A command in the foreground, and the signals that come before, in between and while it runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from holdfast_worker.terminal.foreground import Foreground


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@contextmanager
def handled(number: int, handler: Any) -> Generator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda sign: sign.name)
def test_before_and_after_the_command_a_signal_interrupts(number: signal.Signals) -> None:
    with handled(number, signal.SIG_DFL):
        with Foreground() as foreground:
            with pytest.raises(KeyboardInterrupt):
                send(number)
            assert not foreground.begun
            assert foreground.run([sys.executable, "-c", "raise SystemExit(7)"], os.environ) == 7
            assert foreground.begun
            with pytest.raises(KeyboardInterrupt):
                send(number)
        assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda sign: sign.name)
@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_signal_that_comes_while_the_command_is_started_reaches_it(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, when: str
) -> None:
    """Had it raised here, the command would run on under a pause that is being undone."""
    start = subprocess.Popen

    def started(*arguments: Any, **more: Any) -> subprocess.Popen[bytes]:
        if when == "before":
            send(number)
        process = start(*arguments, **more)
        if when == "behind":
            send(number)
        return process

    monkeypatch.setattr(subprocess, "Popen", started)
    with handled(number, signal.SIG_DFL), Foreground() as foreground:
        code = foreground.run(["sleep", "60"], os.environ)
    assert code == -number


def test_what_the_caller_ignores_stays_ignored() -> None:
    with handled(signal.SIGHUP, signal.SIG_IGN), Foreground():
        send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_command_that_cannot_begin_has_not_begun() -> None:
    with Foreground() as foreground:
        with pytest.raises(FileNotFoundError):
            foreground.run(["/no/such/program"], os.environ)
        assert not foreground.begun
