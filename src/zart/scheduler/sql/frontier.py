"""Where ready rows begin: what has been claimed long since need not be read past again.

A claimed row leaves the index of ready rows, and its entry stays there, dead, until vacuum or purge
may remove it. While one old transaction keeps them from that, every claim would read past all that
was claimed since: half a microsecond for each on PostgreSQL, four on MariaDB, so that a minute of
load makes a claim take longer than the work. Rows are claimed in order: so once a second a claim
looks at everything, and those between begin where that one did. What may lie before (a row whose
commit took long) waits for the next whole look.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import TypeAlias

__all__ = ["Frontier", "Place", "Stretch", "whole"]

Name: TypeAlias = tuple[str, str]
"""Queue and task."""
Place: TypeAlias = tuple[str, str, int, int]
"""Queue, task, priority and time of a ready row."""
Stretch: TypeAlias = tuple[str, str, int, int, int]
"""Queue, task, the lowest and highest priority, and the earliest time, in microseconds."""

MARGIN = 500_000
"""Microseconds before the oldest row of a whole look in which rows may still appear."""
WHOLE = 1.0
"""Seconds between whole looks; longer when one takes more than a tenth of that."""
SLOW, FAST = 0.03, 0.01
"""Seconds of a whole look, above the quickest one. Where an empty stretch costs as much, from the
first on a priority that was never seen here has to wait for the next whole look, until one takes
less than the second. The quickest tells how far away the database is, and how busy."""
PRIORITIES = 8
"""Priorities of one name that are kept apart; a name with more is always looked at whole."""
_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


def whole(names: Iterable[Name]) -> list[Stretch]:
    """Every ready row of these names."""
    return [(queue, task, _LOWEST, _HIGHEST, 0) for queue, task in names]


class Frontier:
    """How far each name's ready rows have been claimed, by priority."""

    def __init__(self, *, reads_past_ends: bool = False) -> None:
        self._since: dict[Name, dict[int, int]] = {}
        self._whole_at = 0.0
        self._reads_past_ends = reads_past_ends
        self._only_known = False
        self._quickest = math.inf

    def stretches(self, names: Sequence[Name]) -> tuple[list[Stretch], bool]:
        """What a claim has to look at, in order, and whether that is everything."""
        if not self._since or time.monotonic() >= self._whole_at:
            return whole(names), True
        return [stretch for name in names for stretch in self._of(name)], False

    def _of(self, name: Name) -> list[Stretch]:
        since = self._since.get(name, {})
        if len(since) > PRIORITIES:
            since = {}
        if since and self._only_known:
            return [(*name, priority, priority, since[priority]) for priority in sorted(since)]
        stretches: list[Stretch] = []
        low = _LOWEST
        for priority in sorted(since):
            # Rows of any other priority may come at any time: those stretches are mostly empty.
            if low < priority:
                stretches.append((*name, low, priority - 1, 0))
            stretches.append((*name, priority, priority, since[priority]))
            low = priority + 1
        if low <= _HIGHEST:
            stretches.append((*name, low, _HIGHEST, 0))
        return stretches

    def looked(self, places: Iterable[Place], seconds: float) -> None:
        """Note what a whole look has claimed, and how long it took.

        Only a whole look moves the frontier, and to the oldest that it met: rows do not come in
        order where several servers with clocks of their own write them.
        """
        oldest: dict[tuple[Name, int], int] = {}
        for queue, task, priority, ready_at in places:
            key = (queue, task), priority
            oldest[key] = min(ready_at, oldest.get(key, ready_at))
        for (name, priority), ready_at in oldest.items():
            self._since.setdefault(name, {})[priority] = ready_at - MARGIN
        self._whole_at = time.monotonic() + max(WHOLE, 10 * seconds)
        self._quickest = min(self._quickest, seconds)
        limit = self._quickest * 2 + (FAST if self._only_known else SLOW)
        self._only_known = self._reads_past_ends and seconds > limit

    def forget(self) -> None:
        """Look at everything next time."""
        self._whole_at = 0.0
