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
WHOLE, RAREST = 1.0, 10.0
"""Seconds between whole looks; longer, within bounds, when one takes more than a tenth of that."""
SLOW, FAST = 0.03, 0.01
"""Seconds of a whole look. Where an empty stretch costs as much, two in a row that take the first
let a priority that was never seen here wait for the next whole look, until one takes less than the
second. One slow look alone tells of a busy machine."""
PRIORITIES = 8
"""Priorities of one name that are kept apart; a name with more is always looked at whole."""
_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


def whole(names: Iterable[Name]) -> list[Stretch]:
    """Every ready row of these names."""
    return [(queue, task, _LOWEST, _HIGHEST, 0) for queue, task in names]


class _Name:
    """What is known of one name."""

    __slots__ = ("many", "since", "whole_at")

    def __init__(self) -> None:
        self.since: dict[int, int] = {}
        """By priority: from which time on rows may be ready."""
        self.many = False
        """True for a name with so many priorities that it is always looked at whole."""
        self.whole_at = -math.inf


class Frontier:
    """How far each name's ready rows have been claimed, by priority.

    Workers of one process share it, each with its own names: so every name has a time of its own
    for the next whole look.
    """

    def __init__(self, *, reads_past_ends: bool = False) -> None:
        self._names: dict[Name, _Name] = {}
        self._reads_past_ends = reads_past_ends
        self._only_known = False
        self._slow = 0

    def stretches(self, names: Sequence[Name]) -> tuple[list[Stretch], list[Name]]:
        """What a claim has to look at, in order, and those of the names it looks at whole."""
        now = time.monotonic()
        stretches: list[Stretch] = []
        wholly: list[Name] = []
        for name in names:
            known = self._names.get(name)
            if known is None or now >= known.whole_at:
                stretches += whole([name])
                wholly.append(name)
            else:
                stretches += self._of(name, known.since)
        return stretches, wholly

    def _of(self, name: Name, since: dict[int, int]) -> list[Stretch]:
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

    def looked(self, wholly: Sequence[Name], places: Iterable[Place], seconds: float) -> None:
        """Note what a look has claimed that was whole for these names, and how long it took.

        Only a whole look moves a frontier, and to the oldest that it met: rows do not come in
        order where several servers with clocks of their own write them.
        """
        whole_at = time.monotonic() + min(max(WHOLE, 10 * seconds), RAREST)
        for name in wholly:
            self._names.setdefault(name, _Name()).whole_at = whole_at
        oldest: dict[tuple[Name, int], int] = {}
        for queue, task, priority, ready_at in places:
            key = (queue, task), priority
            oldest[key] = min(ready_at, oldest.get(key, ready_at))
        looked_at = set(wholly)
        for (name, priority), ready_at in oldest.items():
            if name in looked_at:
                self._move(self._names[name], priority, ready_at - MARGIN)
        limit = FAST if self._only_known else SLOW
        self._slow = self._slow + 1 if seconds > limit else 0
        self._only_known = self._reads_past_ends and self._slow > 1

    @staticmethod
    def _move(name: _Name, priority: int, since: int) -> None:
        if name.many:
            return
        name.since[priority] = since
        if len(name.since) > PRIORITIES:
            name.many = True
            name.since.clear()

    def forget(self) -> None:
        """Look at everything next time."""
        for name in self._names.values():
            name.whole_at = -math.inf
