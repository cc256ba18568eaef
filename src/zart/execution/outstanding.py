"""What a run has written without waiting for it: entries on their way to the commit."""

from __future__ import annotations

import asyncio
from collections import deque

from zart.scheduler.entries import Receipt, StepRow

__all__ = ["MOST", "Outstanding"]

MOST = 128
"""Steps that a handler may be ahead of their records, as many as go in one flush.

It stops there, so that a long row of idempotent steps neither fills the memory nor keeps the event
loop to itself: one whose function waits for nothing would never let the journal begin.
"""


class Outstanding:
    """Entries whose receipt nobody has waited for yet, in the order in which they were written."""

    __slots__ = ("ahead", "entries")

    def __init__(self) -> None:
        self.ahead = 0
        """The outcomes in them that the handler went on with."""
        self.entries: deque[tuple[asyncio.Future[Receipt], tuple[StepRow, ...]]] = deque()

    def add(self, receipt: asyncio.Future[Receipt], outcomes: tuple[StepRow, ...] = ()) -> None:
        """Note an entry, with those of its rows whose outcome the handler knows already."""
        self.entries.append((receipt, outcomes))
        self.ahead += len(outcomes)

    @property
    def outcomes(self) -> tuple[StepRow, ...]:
        """What the handler knows, and the database perhaps not yet."""
        return tuple(row for receipt, rows in self.entries if not _written(receipt) for row in rows)

    async def committed(self) -> bool:
        """Wait until all is committed; False when the claim is lost.

        What could not be written is raised here, once: the failure that comes of it must not stand
        in the way of its own record.
        """
        while self.entries:
            entry = self.entries[0]
            try:
                receipt = await asyncio.shield(entry[0])
            except asyncio.CancelledError:
                raise  # of who waits here; the entry is still on its way
            except Exception:
                self._drop(entry)
                raise
            self._drop(entry)
            if receipt is Receipt.FENCED:
                return False
        return True

    def _drop(self, entry: tuple[asyncio.Future[Receipt], tuple[StepRow, ...]]) -> None:
        """Forget the first entry, unless another branch that waited for it has."""
        if self.entries and self.entries[0] is entry:
            self.entries.popleft()
            self.ahead -= len(entry[1])


def _written(receipt: asyncio.Future[Receipt]) -> bool:
    return receipt.done() and not receipt.cancelled() and receipt.exception() is None
