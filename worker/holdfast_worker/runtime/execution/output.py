"""What a command writes, on its way into its job's log.

It is read as fast as it comes, so that no command waits for the server. The log takes less: 800 KB at once and 32 KB
a second after that, as events of whole lines that have gathered for half a second. Of what comes faster the newest is
kept and the rest counted, so that a log has the beginning, the end, and a line that says what is not there.
"""

import codecs
import math
import os
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Literal, Protocol

from anyio import CancelScope, Event, create_task_group, sleep, wait_readable

from holdfast_core.schemas import MAX_TEXT, LogLevel
from holdfast_worker.runtime.execution.ending import MOST_LAST_WORDS

__all__ = ["Output"]

GATHER_SECONDS: Final = 0.5
#: Half a line waits so long for the rest of it.
HALF_LINE_SECONDS: Final = 5.0
#: What waits to be sent of one stream, in characters.
MOST_WAITING: Final = 16 * MAX_TEXT
#: Events at once: no more than what can be sent while the end of a job waits for its log.
MOST_AT_ONCE: Final = 100
#: What two streams that trickle make.
EVENTS_A_SECOND: Final = 2 / GATHER_SECONDS
#: The log of one job ends at 100,000 events: after this many, it gets one in this many seconds.
MANY_EVENTS: Final = 80_000
SELDOM_SECONDS: Final = 30.0

READ_BYTES: Final = 65_536
#: What is read once nobody should be writing any more: a pipe holds no more than 1 MiB.
LAST_READS: Final = 16


class Log(Protocol):
    """`Job.log`."""

    def __call__(
        self, message: str, *, level: LogLevel = "info", payload: Mapping[str, Any] | None = None
    ) -> Coroutine[Any, Any, None]:
        """Add an event."""
        ...


class Output:
    """The two streams of one command. `run` reads and sends; the file descriptors are closed at its end."""

    def __init__(self, log: Log, stdout: int, stderr: int) -> None:
        self._log = log
        self.stdout = Stream("stdout", stdout)
        self.stderr = Stream("stderr", stderr)
        self._streams = (self.stdout, self.stderr)
        self._allowance = Allowance()
        self._reading = CancelScope(shield=True)
        self._more = Event()
        #: Set once nobody can write any more.
        self.at_end = Event()
        self._sent = Event()

    @property
    def result(self) -> str:
        """The last line of stdout that is not blank."""
        return self.stdout.last_line

    @property
    def last_words(self) -> str:
        """The last lines of stderr, or else of stdout."""
        return self.stderr.last_words or self.stdout.last_words

    async def run(self) -> None:
        """Until `finish`; a cancellation from outside does not end it."""
        try:
            with self._reading:
                async with create_task_group() as tasks:
                    tasks.start_soon(self._send_now_and_then)
                    async with create_task_group() as readers:
                        for stream in self._streams:
                            readers.start_soon(self._read, stream)
                    self.at_end.set()
            with CancelScope(shield=True):
                await self._send_the_rest()
        finally:
            for stream in self._streams:
                stream.close()
            self._sent.set()

    async def finish(self) -> None:
        """Take what is in the pipes, and return once all of it is on its way."""
        self._reading.cancel()
        await self._sent.wait()

    async def _read(self, stream: "Stream") -> None:
        while await stream.read():
            while stream.has_much and self._allowance.take():
                await self._send(stream, stream.cut())
            stream.forget_what_is_too_much()
            self._more.set()

    async def _send_now_and_then(self) -> None:
        while True:
            await self._more.wait()
            self._more = Event()
            await sleep(GATHER_SECONDS)
            for stream in sorted(self._streams, key=lambda stream: stream.waits_since):
                while stream.has_lines and self._allowance.take():
                    await self._send(stream, stream.cut())
            if any(stream.is_waiting for stream in self._streams):
                self._more.set()

    async def _send_the_rest(self) -> None:
        for stream in sorted(self._streams, key=lambda stream: stream.waits_since):
            stream.read_the_rest()
            while stream.is_waiting:
                await self._send(stream, stream.cut())

    async def _send(self, stream: "Stream", text: str) -> None:
        payload = None if stream is self.stdout else {"stream": stream.name}
        if (lost := stream.lost) is not None:
            await self._log(lost, level="warn", payload=payload)
        if text.strip():
            await self._log(text, payload=payload)


class Stream:
    """One of them: the characters that wait, and what is remembered of those that have gone."""

    def __init__(self, name: Literal["stdout", "stderr"], file: int) -> None:
        self.name = name
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._lost_lines = 0
        self._lost_characters = 0
        self._tail = ""
        self._line = ""
        self._last_line = ""
        #: When the oldest of what waits has come.
        self.waits_since = math.inf

    # Reading

    async def read(self) -> bool:
        """Take what comes next. False at the end."""
        while True:
            data = await _read(self._file)
            if data is not None:
                self.take(data)
                return bool(data)

    def read_the_rest(self) -> None:
        """What is in the pipe now, and that this is the end."""
        for _ in range(LAST_READS):
            data = _read_now(self._file)
            if not data:
                break
            self.take(data)
            self.forget_what_is_too_much()
        self.take(b"")

    def take(self, data: bytes) -> None:
        """More of it; nothing: the end."""
        text = self._decoder.decode(data, final=not data)
        if not self._text:
            self.waits_since = time.monotonic()
        self._text += text
        if not data and self._text and not self._text.endswith("\n"):
            self._text += "\n"
        self._tail = (self._tail + text)[-MOST_LAST_WORDS - 1 :]
        whole, newline, self._line = (self._line + text).rpartition("\n")
        self._line = self._line[:MAX_TEXT]
        if newline and (whole := whole.rstrip()):
            self._last_line = whole[whole.rfind("\n") + 1 :][:MAX_TEXT]

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._file)

    # Sending

    @property
    def is_waiting(self) -> bool:
        """Whether there is anything to be sent."""
        return bool(self._text)

    @property
    def has_much(self) -> bool:
        """Whether it fills an event."""
        return len(self._text) > MAX_TEXT

    @property
    def has_lines(self) -> bool:
        """Whether there is a line to be sent, or half a one that has waited for long."""
        late = time.monotonic() - self.waits_since >= HALF_LINE_SECONDS
        return self.has_much or "\n" in self._text or (bool(self._text) and late)

    def cut(self) -> str:
        """The next event: whole lines, as far as there are; half a line is better than nothing."""
        end = self._text.rfind("\n", 0, MAX_TEXT + 1)
        text = self._text[: end if end >= 0 else MAX_TEXT]
        self._text = self._text[len(text) :].removeprefix("\n")
        self.waits_since = time.monotonic() if self._text else math.inf
        return text.rstrip("\r\n")

    def forget_what_is_too_much(self) -> None:
        """The oldest lines, where more waits than may."""
        if len(self._text) <= MOST_WAITING:
            return
        end = self._text.find("\n", len(self._text) - MOST_WAITING) + 1
        gone = self._text[: end or len(self._text) - MOST_WAITING]
        self._text = self._text[len(gone) :]
        self._lost_lines += gone.count("\n")
        self._lost_characters += len(gone)

    @property
    def lost(self) -> str | None:
        """Says, once, what was forgotten before the next event."""
        if not self._lost_characters:
            return None
        text = (
            f"{self._lost_characters:,} characters of {self.name} ({self._lost_lines:,} lines) are left out here:"
            " they came faster than the log takes them."
        )
        self._lost_lines = self._lost_characters = 0
        return text

    # What is remembered

    @property
    def last_line(self) -> str:
        """Its last line that is not blank; of a long one its first 8,000 characters."""
        return (self._line if self._line.strip() else self._last_line).strip()

    @property
    def last_words(self) -> str:
        """Its last lines, as many as are not too much."""
        tail = self._tail
        if len(tail) > MOST_LAST_WORDS:
            tail = tail[tail.find("\n") + 1 :][-MOST_LAST_WORDS:]
        return tail.strip()


class Allowance:
    """How many events a log takes now: many at once, few in the long run."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = float(MOST_AT_ONCE)
        self._counted_at = clock()
        self._taken = 0

    def take(self) -> bool:
        """Whether there is one, which then is taken."""
        rate = EVENTS_A_SECOND if self._taken < MANY_EVENTS else 1 / SELDOM_SECONDS
        now = self._clock()
        self._left = min(MOST_AT_ONCE, self._left + (now - self._counted_at) * rate)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        self._taken += 1
        return True


if sys.platform == "win32":  # where a pipe can neither be waited for nor be read without waiting
    from anyio import CapacityLimiter, to_thread

    async def _read(file: int) -> bytes | None:
        return await to_thread.run_sync(
            os.read, file, READ_BYTES, abandon_on_cancel=True, limiter=CapacityLimiter(1)
        )

    def _read_now(file: int) -> bytes:
        return b""

else:

    async def _read(file: int) -> bytes | None:
        """What has come; nothing at the end, None where it was a false alarm."""
        await wait_readable(file)
        try:
            return os.read(file, READ_BYTES)
        except BlockingIOError:
            return None

    def _read_now(file: int) -> bytes:
        """What is there; nothing where nothing is."""
        try:
            return os.read(file, READ_BYTES)
        except BlockingIOError:
            return b""
