"""The database's time, as a process may know it between two answers."""

from __future__ import annotations

import time

__all__ = ["DatabaseClock"]


class DatabaseClock:
    """Estimates the database's time from its last answer and this machine's monotonic clock.

    The machine's own date plays no part: it may be wrong by hours. Before the first observation
    the local date stands in.
    """

    __slots__ = ("_offset",)

    def __init__(self) -> None:
        self._offset = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def observe(self, now_at: int) -> None:
        """Note the database's time, in microseconds, of an answer that has just come."""
        self._offset = now_at - time.monotonic_ns() // 1000

    def now_at(self) -> int:
        """The database's time now, in microseconds since 1970."""
        return self._offset + time.monotonic_ns() // 1000
