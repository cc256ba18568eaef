"""The database's time, as a process may know it between two answers."""

from __future__ import annotations

import time

__all__ = ["DatabaseClock"]


SET_BACK = 1_000_000
"""Microseconds: what is behind by more is no late answer but a clock that was set."""
TRUSTED = 30_000_000
"""Microseconds for which the quickest answer counts; the two clocks drift apart slowly."""


class DatabaseClock:
    """Estimates the database's time from its last answer and this machine's monotonic clock.

    An answer is as old as it was under way, so of those that came lately the quickest counts: by
    the others it would be earlier, and a sleep would end too early by as much. The machine's own
    date plays no part: it may be wrong by hours. Before the first observation the local date
    stands in.
    """

    __slots__ = ("_offset", "_until")

    def __init__(self) -> None:
        self._offset = time.time_ns() // 1000 - time.monotonic_ns() // 1000
        self._until = 0

    def observe(self, now_at: int) -> None:
        """Note the database's time, in microseconds, of an answer that has just come."""
        here = time.monotonic_ns() // 1000
        offset = now_at - here
        behind = self._offset - offset
        if behind <= 0 or behind > SET_BACK or here > self._until:
            self._offset, self._until = offset, here + TRUSTED

    def now_at(self) -> int:
        """The database's time now, in microseconds since 1970."""
        return self._offset + time.monotonic_ns() // 1000
