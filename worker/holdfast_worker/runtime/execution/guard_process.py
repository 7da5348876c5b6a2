"""The guard: a script that holds the reading end of a pipe from a worker, which tells it one line for each thing.

    watch GROUP DEADLINE FOLDER    a group of processes has begun; DEADLINE on time.monotonic(), or never; FOLDER in hex
    until GROUP DEADLINE           it has another deadline
    forget GROUP                   it has ended

When a deadline passes, that group is killed. When the pipe closes, the worker has ended, in whatever way: all groups
are asked to end, killed a moment later, and their folders removed. Few imports: it is there for as long as its worker.
"""

import os
import select
import signal
import sys
import time

#: What the commands of a worker that has died get to end by themselves.
MOMENT_SECONDS = 1.0
LOOK_SECONDS = 0.02
READ_BYTES = 65_536
WORKER = 0

deadlines: dict[int, float] = {}
folders: dict[int, str] = {}
NEVER = float("inf")


def main() -> None:
    """Watch until the worker has ended."""
    # A service that stops signals all of its processes, a terminal all that it knows: the worker decides.
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(sign, signal.SIG_IGN)
    heard = b""
    while True:
        wait = min(deadlines.values(), default=NEVER) - time.monotonic()
        timeout = None if wait == NEVER else max(0.0, wait)
        if select.select([WORKER], [], [], timeout)[0]:
            # All that was said comes before any judgement of it: both of us may have been frozen.
            data = os.read(WORKER, READ_BYTES)
            if not data:
                break
            *lines, heard = (heard + data).split(b"\n")
            for line in lines:
                obey(line.decode("ascii").split(" "))
            continue
        now = time.monotonic()
        for group in [group for group, deadline in deadlines.items() if deadline <= now]:
            del deadlines[group]
            send(group, signal.SIGKILL)
    end_all()


def obey(words: list[str]) -> None:
    """One line."""
    group = int(words[1])
    if words[0] == "watch":
        deadlines[group] = moment(words[2])
        folders[group] = os.fsdecode(bytes.fromhex(words[3]))
    elif words[0] == "forget":
        deadlines.pop(group, None)
        folders.pop(group, None)
    elif group in deadlines:  # once killed it stays so
        deadlines[group] = moment(words[2])


def moment(text: str) -> float:
    """A deadline."""
    return NEVER if text == "never" else float(text)


def end_all() -> None:
    """The worker has ended."""
    now = time.monotonic()
    left = {group: min(deadline, now + MOMENT_SECONDS) for group, deadline in deadlines.items()}
    for group in list(left):
        send(group, signal.SIGTERM)
        send(group, signal.SIGCONT)
    while left:
        for group, until in list(left.items()):
            if not send(group, 0):
                del left[group]
            elif time.monotonic() >= until:
                send(group, signal.SIGKILL)
                del left[group]
        time.sleep(LOOK_SECONDS)
    if folders:
        import shutil

        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)


def send(group: int, sign: int) -> bool:
    """Signal a group. False where there is none any more."""
    try:
        os.killpg(group, sign)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
    sys.exit(0)
