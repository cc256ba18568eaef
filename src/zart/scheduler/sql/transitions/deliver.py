"""What comes from outside to an execution: events, cancel and restart."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from zart.models import Status
from zart.scheduler.entries import Delivery, NewExecution
from zart.scheduler.sql.transaction import Note, Transaction, carrying
from zart.scheduler.sql.transitions.commit import parent_step_row

__all__ = ["Answer", "cancel", "offer", "offer_at_once", "restart"]


class Answer(Enum):
    """What became of a delivery."""

    DONE = "done"
    NOT_FOUND = "not found"
    FINISHED = "finished"


async def offer_at_once(
    tx: Transaction, deliveries: Sequence[Delivery], note: Note | None
) -> set[str]:
    """Deliver to executions that are alive, one event each; gives those that have theirs.

    A second try, after an answer that was lost, delivers nothing: `offer` finds out first what
    the first one did.
    """
    if tx.attempt > 1:
        return set()
    entries = sorted((d.execution_id, d.key, d.name, d.payload) for d in deliveries)
    values = {"entries": entries, **carrying(note)}
    return {row[0] for row in await tx.fetch("offer_at_once", **values)}


async def offer(
    tx: Transaction, deliveries: Sequence[Delivery], *, again: bool = False
) -> list[Answer]:
    """Put events into mailboxes and wake their executions.

    ``again`` says that some of them may have been delivered already.

    The task's row is locked first and its wake sequence numbers the events, so events are ordered
    as they were committed, and a park that has not seen them finds the sequence moved.
    """
    ids = sorted({d.execution_id for d in deliveries})
    rows = await tx.fetch("lock_executions", entries=[(i,) for i in ids])
    live = {row[0]: (row[1], row[2]) for row in rows}
    done: set[str] = set()
    if again or tx.attempt > 1:
        known = await tx.fetch("delivered", entries=[(d.execution_id, d.key) for d in deliveries])
        done = {row[0] for row in known}
    finished: set[str] = set()
    if missing := [(i,) for i in ids if i not in live]:
        finished = {row[0] for row in await tx.fetch("statuses", entries=missing)}
    answers: list[Answer] = []
    amounts: dict[str, int] = {}
    events: list[tuple[str, int, str, str, str]] = []
    for delivery in deliveries:
        target = delivery.execution_id
        if target in live:
            if delivery.key not in done:
                amounts[target] = amounts.get(target, 0) + 1
                sequence = live[target][1] + amounts[target]
                events.append((target, sequence, delivery.key, delivery.name, delivery.payload))
            answers.append(Answer.DONE)
        else:
            answers.append(Answer.FINISHED if target in finished else Answer.NOT_FOUND)
    if events:
        await tx.execute("insert_events", entries=events)
        await tx.execute(
            "wake_tasks", entries=sorted((i, live[i][0], "", n) for i, n in amounts.items())
        )
    return answers


async def cancel(tx: Transaction, execution_id: str) -> Answer:
    """End a live execution as cancelled: its task row goes, so no claim on it passes a fence."""
    await _lock_with_parent(tx, execution_id)
    rows = await tx.fetch("lock_execution_row", id=execution_id)
    if not rows:
        return Answer.NOT_FOUND
    status, run = rows[0][4], rows[0][7]
    if status is not None:
        return Answer.DONE if status == Status.CANCELLED else Answer.FINISHED
    live = (await tx.fetch("get_executions", entries=[(execution_id,)]))[0]
    attempt, crashes, started_at = live[8], live[9], live[14]
    await tx.execute(
        "finish_executions",
        entries=[(execution_id, Status.CANCELLED, None, None, attempt, crashes, started_at)],
    )
    await tx.execute("cancel_open_steps", entries=[(execution_id, run)])
    await tx.execute("delete_task_group", entries=[(execution_id,)])
    await tx.execute("delete_events", entries=[(execution_id,)])
    parent = rows[0][12:15]
    if parent[0] is not None:
        row = parent_step_row(parent, Status.CANCELLED, None)
        await tx.execute("end_steps", entries=[row])
        await tx.execute("count_down", entries=[(parent[0], parent[1], "", 1, 1)])
    return Answer.DONE


async def _lock_with_parent(tx: Transaction, execution_id: str) -> None:
    """Lock an execution's task row, its parent's first, as a child's end does."""
    rows = await tx.fetch("existing_executions", entries=[(execution_id,)])
    parent = rows[0][3] if rows else None
    for target in [execution_id] if parent is None else [parent, execution_id]:
        await tx.fetch("lock_executions", entries=[(target,)])


async def restart(tx: Transaction, execution_id: str, seed: int, run: int | None) -> int | Answer:
    """Begin a new run from the top; gives its number.

    ``run`` is the run that the caller saw: a try again after a lost answer finds it superseded.
    """
    await tx.fetch("lock_executions", entries=[(execution_id,)])
    rows = await tx.fetch("lock_execution_row", id=execution_id)
    if not rows:
        return Answer.NOT_FOUND
    row = rows[0]
    current: int = row[7]
    if run is not None and current != run:
        return current
    await tx.execute("keep_run", id=execution_id)
    await tx.execute("cancel_open_steps", entries=[(execution_id, current)])
    await tx.execute("delete_task_group", entries=[(execution_id,)])
    await tx.execute("delete_events", entries=[(execution_id,)])
    await tx.execute("begin_run", id=execution_id, seed=seed)
    new = NewExecution(execution_id, row[1], row[2], row[3], row[11], seed)
    await tx.execute(
        "insert_tasks",
        entries=[(new.id, current + 1, new.queue, new.task, new.priority, None, None, None, 0)],
    )
    return current + 1
