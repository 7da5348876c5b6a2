"""Delays between tries: longer each time, and never the same for two workers."""

import random
from typing import Final

__all__ = ["Backoff"]

FIRST_SECONDS: Final = 0.2
MOST_SECONDS: Final = 30.0


class Backoff:
    """Doubling delays with full jitter, in seconds."""

    def __init__(self, *, first: float = FIRST_SECONDS, most: float = MOST_SECONDS) -> None:
        self._first = min(first, most)
        self._most = most
        self._ceiling = self._first

    def next(self) -> float:
        """How long to wait before the next try: from half of a ceiling, which doubles, to all of it."""
        ceiling, self._ceiling = self._ceiling, min(self._most, self._ceiling * 2)
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311 (no secret)

    def reset(self) -> None:
        """It has worked: begin anew."""
        self._ceiling = self._first
