"""Durable waits: sleeps and events."""

from __future__ import annotations

import asyncio
from typing import Any

from zart.errors import EventTimedOutError
from zart.execution.branches import Waiting
from zart.execution.run import Run
from zart.models import Event, Outcome, Recorded
from zart.scheduler.entries import Receipt, StepRow

__all__ = ["sleep_until", "wait_for_event"]


async def sleep_until(run: Run, name: str, due_at: int) -> None:
    """Wait until a time, the first that was recorded under this name."""
    run.branches.meet()
    recorded = run.history.find(name, "sleep")
    if recorded is not None and recorded.outcome is not None:
        return  # over, also for a clock that has been set back since
    row = None
    if recorded is None:
        if run.stopping:
            await run.refuse()
        row = run.row(name, "sleep", None, None, due_at=due_at)
    elif recorded.due_at is not None:
        due_at = recorded.due_at
    if row is not None or run.clock.now_at() < due_at:
        if run.behind:
            await run.catch_up()
        await run.wait(Waiting(name, lambda: run.clock.now_at() >= due_at, due_at), row)
    # That the time is over shows in the due time; for readers the outcome goes with the next
    # commit.
    run.along += (run.row(name, "sleep", Outcome.OK, None, due_at=due_at),)


async def wait_for_event(
    run: Run, name: str, event: str, declared: Any, timeout: float | None
) -> Any:
    """Take the next event of a name, or the time-out: one of them is recorded."""
    run.branches.meet()
    shape = run.serializer.shape(declared)
    recorded = await _recorded(run, name)
    if recorded is None:
        if run.stopping:
            await run.refuse()
        due_at = None if timeout is None else run.clock.now_at() + int(timeout * 1_000_000)
    else:
        due_at = recorded.due_at
    if recorded is not None and recorded.outcome is not None:
        return _outcome(recorded, event, shape)
    if run.behind:
        await run.catch_up()
    row = None
    if recorded is None and not run.history.has_mail(event):  # a sibling may just have taken it
        row = run.row(name, "event", None, None, due_at=due_at)
    while True:
        if run.history.has_mail(event):
            return await _take(run, name, event, shape)
        if due_at is not None and run.clock.now_at() >= due_at and row is None:
            run.branches.enter()
            try:
                if await _time_out(run, name, due_at):
                    raise _timed_out(name, event)
            finally:
                run.branches.leave()
            continue
        await run.wait(
            Waiting(
                name,
                lambda: (
                    run.history.has_mail(event)
                    or (due_at is not None and run.clock.now_at() >= due_at)
                ),
                due_at,
            ),
            row,
        )
        row = None


async def _recorded(run: Run, name: str) -> Recorded | None:
    recorded = run.history.find(name, "event")
    if name in run.history.cut_off:
        await run.cut_off_again(name)
    return recorded


def _outcome(recorded: Recorded, event: str, shape: Any) -> Any:
    if recorded.outcome == Outcome.TIMED_OUT:
        raise _timed_out(recorded.name, event)
    return shape.decode(recorded.value or "null", "event", event)


async def _take(run: Run, name: str, event: str, shape: Any) -> Any:
    """Take an event: where no other branch could, that is recorded with whatever comes next.

    A crash may come before that, when what follows the wait has begun. But of all events of a name
    the first is taken, and so it is in the replay.
    """
    alone = run.branches.alone
    letter = run.history.take(event)
    assert letter is not None
    row = run.row(name, "event", Outcome.OK, letter.payload)
    if alone:
        run.along += (row,)
        run.takings += ((letter.sequence, name),)
        return shape.decode(letter.payload, "event", event)
    run.branches.enter()
    try:
        await _record_taking(run, name, letter, row)
    finally:
        run.branches.leave()
    return shape.decode(letter.payload, "event", event)


async def _record_taking(run: Run, name: str, letter: Event, row: StepRow) -> None:
    taking = run.ledger.commit(run.entry(steps=(row,), taken=((letter.sequence, name),)))
    try:
        receipt = await asyncio.shield(taking)
    except asyncio.CancelledError:
        if run.cancels:
            # The handler learns of it when this is committed too: until then a crash would find
            # the event taken.
            undoing = _put_back(run, taking, run.cut_offs.row(name), name, letter)
            undone = asyncio.create_task(undoing)
            run.write_behind(undone)
            await asyncio.shield(undone)
        raise
    if receipt is not Receipt.COMMITTED:
        run.lose()


async def _put_back(
    run: Run, taking: asyncio.Future[Receipt], row: StepRow, name: str, letter: Event
) -> Receipt:
    """Undo the taking of an event at which the handler was cut off: the next wait may have it."""
    await asyncio.wait([taking])
    entry = run.entry(steps=(row,), retried=(name,), taken=((letter.sequence, None),))
    receipt = await run.ledger.commit(entry)
    if receipt is Receipt.COMMITTED:
        run.history.put_back(letter, name)
        run.branches.look()
    return receipt


async def _time_out(run: Run, name: str, due_at: int) -> bool:
    """Record the time-out, unless something came that has not been seen yet."""
    run_claim = run.claim
    row = (
        run_claim.execution_id,
        run_claim.run,
        name,
        "event",
        run.history.position,
        Outcome.TIMED_OUT,
        None,
        due_at,
        None,
    )
    entry = run.entry(steps=(row,), unless_woken=run.history.wake)
    try:
        receipt = await run.ledger.commit(entry)
    except asyncio.CancelledError:
        if run.cancels:
            run.record_cut_off(name)
        raise
    if receipt is Receipt.FENCED:
        run.lose()
    if receipt is Receipt.WOKEN:
        run.along += tuple(entry.steps[:-1])
        run.takings += tuple(entry.taken)
        await run.refresh()
        # A COMMIT whose answer was lost may have recorded it before the wake came.
        return run.history.outcome_of(name) == Outcome.TIMED_OUT
    run.history.add(Recorded(name, "event", run.history.position, Outcome.TIMED_OUT, None, due_at))
    return True


def _timed_out(name: str, event: str) -> EventTimedOutError:
    return EventTimedOutError(f"no event {event!r} came in time for the wait {name!r}", event=event)
