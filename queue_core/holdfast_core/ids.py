"""Ids: UUIDs of version 7 (RFC 9562), which sort by the time of their making."""

import os
import threading
import time
from uuid import UUID

__all__ = ["uuid7"]

_lock = threading.Lock()
_last = 0


def uuid7() -> UUID:
    """A new id, greater than every id that this process made before.

    Python has this from 3.14 on; PostgreSQL from 18 on. The 12 bits behind the millisecond carry its
    fraction (RFC 9562, method 3), raised by one where two ids would fall into the same slot.
    """
    global _last
    nanoseconds = time.time_ns()
    with _lock:
        slot = (nanoseconds // 1_000_000 << 12) | (nanoseconds % 1_000_000 * 4096 // 1_000_000)
        slot = max(slot, _last + 1)
        _last = slot
    milliseconds, fraction = slot >> 12, slot & 0xFFF
    tail = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | tail)
