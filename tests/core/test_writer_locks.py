"""Writers that share a SQLite file, in whichever process: one at a time, and a toggle before all who wait."""

import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from holdfast_core.db.locks import WriterLocks

MOST_SECONDS = 10.0


class Writers:
    """Writers with locks of their own, as those of other processes have, and the order in which they came."""

    def __init__(self, path: Path) -> None:
        self.came: list[str] = []
        self._path = path
        self._at_work = 0
        self._threads: list[threading.Thread] = []

    def come(self, name: str, *, toggles: bool = False) -> None:
        """Begin to wait for a turn."""
        begun = threading.Event()

        def run() -> None:
            locks = WriterLocks(self._path)
            begun.set()
            with locks.toggle() if toggles else locks.turn():
                self._at_work += 1
                assert self._at_work == 1
                self.came.append(name)
                time.sleep(0)  # let others in, were they let in
                self._at_work -= 1
            locks.close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._threads.append(thread)
        assert begun.wait(MOST_SECONDS)

    def all_came(self) -> None:
        """Wait for them."""
        for thread in self._threads:
            thread.join(MOST_SECONDS)
            assert not thread.is_alive()


def blocked_on(path: Path, count: int) -> None:
    """Wait until so many wait for a lock on this file, as the kernel tells."""
    inode = f":{path.stat().st_ino} "
    until = time.monotonic() + MOST_SECONDS
    while time.monotonic() < until:
        lines = Path("/proc/locks").read_text().splitlines()
        if sum(" -> " in line and inode in line for line in lines) >= count:
            return
    raise AssertionError(f"nobody waits for {path}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "holdfast.db"


@contextmanager
def held(path: Path) -> Generator[None]:
    """A writer is at work in the block."""
    with ExitStack() as stack:
        locks = WriterLocks(path)
        stack.callback(locks.close)
        stack.enter_context(locks.turn())
        yield


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="who waits is told by Linux only")
def test_a_toggle_comes_before_all_writers_but_the_one_that_is_next(path: Path) -> None:
    writers = Writers(path)
    with held(path):
        writers.come("next")
        blocked_on(path.with_name("holdfast.db.lock"), 1)
        for number in range(4):
            writers.come(f"late {number}")
        blocked_on(path.with_name("holdfast.db.seat.lock"), 4)
        writers.come("toggle", toggles=True)
        blocked_on(path.with_name("holdfast.db.lock"), 2)
    writers.all_came()
    assert writers.came.index("toggle") <= 1, writers.came
    assert sorted(writers.came) == ["late 0", "late 1", "late 2", "late 3", "next", "toggle"]


def test_toggles_keep_apart_too(path: Path) -> None:
    writers = Writers(path)
    with held(path):
        for number in range(3):
            writers.come(f"toggle {number}", toggles=True)
    writers.all_came()
    assert len(writers.came) == 3
