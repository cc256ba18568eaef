"""Cut-offs: durable calls that the handler's own code has cancelled, by a timeout or a sibling.

The handler went on as one who was cut off there, and so must its replay. Were the
cancellation raised from the record, nobody would know it as theirs: ``asyncio.timeout`` would not
make a TimeoutError of it. So a replay waits at the call to be cut off again.

A step whose function was cancelled has no outcome but this. But its commit may be under way, or
done, when the call is cancelled. The step's record stands then: what it has done is done, and a
transaction's rows are there. The cut-off is a record of its own beside it; the two say both, in
whichever order they are committed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NoReturn

from zart.clock import DatabaseClock
from zart.execution.failure import write_failure
from zart.execution.history import CUT_OFF, History, cut_off_at
from zart.models import Claim, Failure, Outcome
from zart.scheduler.entries import StepRow

__all__ = ["RECORD", "CutOffs"]

RECORD = write_failure(Failure("CancelledError", "cut off by the workflow's own code"))
"""What is recorded: it tells a cut-off from a step that was cancelled by its own function."""

PATIENCE = 10.0
"""Seconds that a replay waits to be cut off again before it says so."""

_log = logging.getLogger("zart.execution")


class CutOffs:
    """A run's cut-offs that the handler has not dealt with, by record, with the task of each."""

    __slots__ = ("_claim", "_clock", "_history", "_root", "tasks")

    def __init__(
        self, claim: Claim, history: History, clock: DatabaseClock, root: asyncio.Task[Any]
    ) -> None:
        self._claim = claim
        self._history = history
        self._clock = clock
        self._root = root
        self.tasks: dict[str, asyncio.Task[Any]] = {}

    def note(self, record: str) -> None:
        """The present task is cut off, as this record says."""
        self.tasks[record] = _here()

    def dealt_with(self) -> None:
        """At a durable call: what was cut off in its task has been dealt with; all, in the root."""
        here = _here()
        for record, task in list(self.tasks.items()):
            if task is here or here is self._root:
                del self.tasks[record]

    @property
    def left(self) -> set[str]:
        """The records of what was cut off by the failure that has left the handler.

        They are no results of its next attempt: nothing need cut it off there, and it would wait
        for that for ever. Those that the handler has dealt with stay. A step that had ended all the
        same has a record of its own, which stays too.
        """
        return set(self.tasks)

    def row(self, name: str) -> StepRow:
        """The record that the present task is cut off at a step which has ended, or may have."""
        history, claim, record = self._history, self._claim, cut_off_at(name)
        history.cut_off |= {name}
        history.position += 1
        self.note(record)
        key = (claim.execution_id, claim.run, record, CUT_OFF, history.position)
        return (*key, Outcome.CANCELLED, RECORD, None, self._clock.now_at())

    async def again(self, name: str) -> NoReturn:
        """Wait to be cut off at a step, as the first life was."""
        record = cut_off_at(name) if name in self._history.cut_off else name
        loop = asyncio.get_running_loop()
        warning = loop.call_later(PATIENCE, self._warn, name)
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            self.note(record)
            raise
        finally:
            warning.cancel()
        raise AssertionError("nobody sets this future's result")

    def _warn(self, name: str) -> None:
        _log.warning(
            "step %r of execution %r was cut off by the workflow's own code when it first ran, and"
            " in this replay nothing has cut it off for %g s; the execution waits there and keeps"
            " its slot. What cancels a step (asyncio.timeout, a failing sibling, a cancel()) must"
            " do so again in a replay: bound the step with its own timeout=, and decide by recorded"
            " results. `zart restart` begins the execution anew, `zart cancel` ends it",
            name,
            self._claim.execution_id,
            PATIENCE,
        )


def _here() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
