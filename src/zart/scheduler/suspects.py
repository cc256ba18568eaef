"""Suspects: tasks that are half way to the number of crashes at which they are given up.

One of them may be what kills its workers, the others were only beside it. A dead worker's tasks
all count the crash, and are claimed together again; so the innocent would reach the limit with the
guilty. Hence a worker runs one suspect at a time: the innocent come half way, and from then on are
not beside the guilty any more. Those below run at full speed: one crash may be anyone's. A suspect
that lives through its probation makes room for the next, so a long one holds up no one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from zart.models import Claim, ClaimedTask
from zart.scheduler.entries import Entry, Park

__all__ = ["Suspects"]

PROBATION = 5.0
"""Seconds that a suspect runs as the only one."""
PUT_OFF = (0.2, 0.6)
"""Seconds until a suspect that found the place taken is tried again, here or elsewhere."""


class Suspects:
    """Decides which of the claimed tasks a worker may start now."""

    def __init__(self, max_crashes: int) -> None:
        self._crashes = max(1, max_crashes // 2)
        self._present: Claim | None = None
        self._free_at = 0.0

    def admit(self, tasks: Sequence[ClaimedTask]) -> tuple[list[ClaimedTask], list[ClaimedTask]]:
        """Those to start, and those to put off: suspects for whom there is no room."""
        admitted: list[ClaimedTask] = []
        put_off: list[ClaimedTask] = []
        for task in tasks:
            if task.crashes < self._crashes:
                admitted.append(task)
            elif self._present is None or time.monotonic() >= self._free_at:
                self._present = task.claim
                self._free_at = time.monotonic() + PROBATION
                admitted.append(task)
            else:
                put_off.append(task)
        return admitted, put_off

    def ended(self, claim: Claim) -> None:
        """A task is not at work any more."""
        if claim == self._present:
            self._present = None

    @staticmethod
    def parked(task: ClaimedTask, now_at: int) -> Entry:
        """The entry that puts a suspect off, for a moment and for any worker."""
        due_at = now_at + int(random.uniform(*PUT_OFF) * 1_000_000)
        return Entry(task.claim, ending=Park(task.wake_sequence, task.attempt, due_at, -1))
