"""`holdfast watch` on a terminal: kept up to date in place, and never showing what the server does not say."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from cli.harness import Bench, Cli
from holdfast_core.schemas import Answer
from holdfast_worker.client import Client
from holdfast_worker.events import ServerEvent
from holdfast_worker.terminal import live
from support.reaper import reaper
from support.servers import start_server

PATIENCE_SECONDS = 30
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """What a terminal was sent, without colours and cursor movements; `raw` with them."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._text = ""
        self.raw = ""
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def mark(self) -> int:
        """Where what comes from now on begins."""
        with self._more:
            return len(self._text)

    def shows(self, text: str, after: int = 0) -> str:
        """Wait until this has been shown behind a mark; what was shown from there on."""
        with self._more:
            found = self._more.wait_for(lambda: text in self._text[after:], PATIENCE_SECONDS)
            assert found, f"{text!r} has not come: {self._text[after:][-2_000:]!r}"
            return self._text[after:]

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._file, 65_536)
            except OSError:  # Linux: the other end is closed
                return
            with self._more:
                self.raw += part.decode(errors="replace")
                self._text = _CONTROLS.sub("", self._text + part.decode(errors="replace"))
                self._more.notify_all()


@contextmanager
def watching(url: str, *options: str, **more: str) -> Generator[tuple[Terminal, subprocess.Popen[bytes]]]:
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
    size = {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast_worker.cli", "watch", *options],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"HOLDFAST_URL": url} | size | more,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(ours), process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reaper().forget(process.pid)
        os.close(ours)


def test_a_pause_its_drain_and_its_end_are_shown_in_place(cli: Cli, bench: Bench) -> None:
    job = bench.run_job()
    with watching(cli.url) as (terminal, process):
        terminal.shows("Workers: Running")
        assert "Safe to upgrade" not in terminal.shows("1 running (0 parked)")
        at = terminal.mark()
        bench.client.pause("drain", "a \x1b]0;title\x07 reason")
        terminal.shows("Workers: Paused (Drain)", at)
        assert "Safe to upgrade" not in terminal.shows("1 running (0 parked)", at)
        assert "\\x1b]0;title\\x07 reason" in terminal.shows("reason", at)
        bench.finish(job)
        terminal.shows("Safe to upgrade", at)
        at = terminal.mark()
        bench.client.resume("done")
        terminal.shows("Workers: Running", at)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0


def test_in_quiesce_it_says_when_all_is_parked(cli: Cli, bench: Bench) -> None:
    job = bench.run_job()
    bench.client.pause("quiesce", "a short one")
    with watching(cli.url) as (terminal, _):
        terminal.shows("Workers: Paused (Quiesce)")
        assert "All parked" not in terminal.shows("1 running (0 parked)")
        bench.park(job)
        terminal.shows("All parked")
    bench.finish(job)


def test_a_server_that_goes_away_is_unknown_and_is_back_by_itself(sqlite_url: str) -> None:
    with start_server(sqlite_url) as server, Client(server.url, token="") as client:
        client.pause("drain", "the reason")
        with watching(server.url) as (terminal, _):
            terminal.shows("Safe to upgrade")
            at = terminal.mark()
            server.kill()
            terminal.shows("Workers: Unknown", at)
            # What is drawn from now on says nothing of a state that nobody has told.
            at = terminal.mark()
            shown = terminal.shows("Workers: Unknown", at)
            assert "Safe to upgrade" not in shown
            assert "Workers: Paused" not in shown
            at = terminal.mark()
            with start_server(sqlite_url, "--port", str(urlsplit(server.url).port)):
                terminal.shows("Safe to upgrade", at)


def test_lines_are_lines_on_a_terminal_too(cli: Cli, bench: Bench) -> None:
    with watching(cli.url, "--lines") as (terminal, _):
        terminal.shows("0 running (0 parked), 0 stale")
        at = terminal.mark()
        bench.client.pause("drain", "lines")
        terminal.shows("paused (drain)", at)
        assert "Workers: " not in terminal.shows("lines", at)


def test_the_bar_begins_with_what_ran_when_this_pause_began(cli: Cli, bench: Bench) -> None:
    jobs = [bench.run_job() for _ in range(5)]
    bench.client.pause("drain", "an earlier one, with more")
    bench.client.resume("not that one")
    for job in jobs[2:]:
        bench.finish(job)
    bench.client.pause("drain", "this one")
    bench.finish(jobs[0])
    bench.client.pause("drain", "this one, in other words")
    with watching(cli.url) as (terminal, _):
        terminal.shows("1 of 2 ended")
        at = terminal.mark()
        bench.finish(jobs[1])
        terminal.shows("2 of 2 ended", at)
        terminal.shows("Safe to upgrade", at)


def test_no_color_is_honoured(cli: Cli, bench: Bench) -> None:
    bench.client.pause("drain", "no colour")
    with watching(cli.url, NO_COLOR="1") as (terminal, _):
        terminal.shows("Safe to upgrade")
    assert not re.search(r"\x1b\[[\d;]*m", terminal.raw)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(cli: Cli, bench: Bench) -> None:
    with watching(cli.url, TERM="dumb") as (terminal, _):
        terminal.shows("0 running (0 parked), 0 stale")
        at = terminal.mark()
        bench.client.pause("drain", "lines")
        terminal.shows("paused (drain)", at)


class Paper:
    """A view that is drawn on paper: what it shows now, as text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = io.StringIO()
        console = Console(file=self._file, force_terminal=False, width=120)
        monkeypatch.setattr(live, "terminal", lambda: console)
        self.view = live.LiveView()

    def tell(self, name: str, data: Answer) -> None:
        self.view.tell(ServerEvent(name, data.model_dump_json(), None))

    @property
    def text(self) -> str:
        """What is shown now."""
        self._file.seek(0)
        self._file.truncate()
        with self.view:
            pass
        return self._file.getvalue()


def test_a_server_that_says_nothing_any_more_is_unknown_though_it_hung_up_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = Paper(monkeypatch)
    paused = bench.client.pause("drain", "the reason")
    paper.tell("snapshot", paused)
    assert "Safe to upgrade" in paper.text
    monkeypatch.setattr(live, "SILENT_SECONDS", -1.0)
    text = paper.text
    assert re.search(r"Workers: Unknown since \d\d:\d\d:\d\d UTC\. The server does not answer\.", text)
    assert "Safe to upgrade" not in text
    assert "Workers: Paused" not in text
    monkeypatch.setattr(live, "SILENT_SECONDS", 20.0)
    paper.tell("metrics", paused.metrics)
    assert "Safe to upgrade" in paper.text, "it is heard again"


def test_what_was_counted_under_an_earlier_version_says_nothing_of_the_new_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = Paper(monkeypatch)
    first = bench.client.pause("drain", "first")
    second = bench.client.pause("drain", "second")
    paper.tell("snapshot", first)
    assert "workers have seen this version" in paper.text
    paper.tell("system", second.system)
    text = paper.text
    assert "Workers: Paused (Drain)" in text
    assert "Safe to upgrade" not in text
    assert "workers have seen this version" not in text
    assert "running (" not in text
    paper.tell("metrics", second.metrics)
    paper.tell("workers", second.workers)
    text = paper.text
    assert "Safe to upgrade" in text
    assert "workers have seen this version" in text
