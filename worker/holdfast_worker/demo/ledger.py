"""What the workers said, put together as they say it."""

import json
import threading
from collections import Counter, defaultdict
from typing import Any

__all__ = ["Ledger"]


class Ledger:
    """Counts of the workers' events. Their reader threads write, the demo reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._completed: Counter[str] = Counter()
        self._failed: dict[str, str] = {}
        self._refused: Counter[int] = Counter()
        self._paused_lines: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def take(self, line: str) -> None:
        """One line of a worker's stdout. What is not an event is passed over."""
        try:
            event: Any = json.loads(line)
            with self._lock:
                match event["event"]:
                    case "completed":
                        self._completed[event["jobId"]] += 1
                    case "failed" | "lost":
                        self._failed[event["jobId"]] = f"{event['event']}: {event['detail']}"
                    case "refused":
                        self._refused[event["version"]] += 1
                    case "paused":
                        self._paused_lines[event["worker"]][event["version"]] += 1
                    case _:
                        pass
        except (ValueError, KeyError, TypeError):
            return

    @property
    def completed(self) -> Counter[str]:
        """How often each job was reported as done."""
        with self._lock:
            return self._completed.copy()

    @property
    def failed(self) -> dict[str, str]:
        """The jobs of which a worker said that they failed or were lost, with its words."""
        with self._lock:
            return dict(self._failed)

    def refused(self, version: int) -> int:
        """How many claims came back empty because of the pause of this version."""
        with self._lock:
            return self._refused[version]

    def told_once(self, worker: str, version: int) -> bool:
        """Whether this worker logged this version of the pause exactly once."""
        with self._lock:
            return self._paused_lines[worker][version] == 1
