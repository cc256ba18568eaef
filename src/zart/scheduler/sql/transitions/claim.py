"""Claiming: ready tasks become one worker's own, and come with their history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zart.models import Claim, ClaimedTask, Event, Recorded, RecordedAttempt
from zart.scheduler.sql.transaction import Row, Transaction

__all__ = [
    "claim",
    "claim_at_once",
    "claimed",
    "has_history",
    "history",
    "look",
    "ready_due",
]

Key = tuple[str, int, str]


async def claim(
    tx: Transaction, worker: str, names: Sequence[tuple[str, str]], amount: int
) -> list[ClaimedTask]:
    """Claim up to ``amount`` ready tasks of these (queue, task) names, with their histories."""
    keys = await ready_keys(tx, names, amount)
    if not keys:
        return []
    keys.sort()
    await tx.execute("claim_tasks", entries=keys, worker=worker)
    rows = await tx.fetch("claimed_executions", entries=keys)
    tasks = [claimed(row) for row in rows]
    await history(tx, [task for task in tasks if has_history(task)])
    return tasks


async def claim_at_once(
    tx: Transaction, worker: str, names: Sequence[tuple[str, str]], amount: int
) -> list[ClaimedTask]:
    """The same in one statement; the histories are still to be read."""
    rows = await tx.fetch("claim_at_once", names=names, amount=amount, worker=worker)
    return [claimed(row) for row in rows]


async def ready_keys(tx: Transaction, names: Sequence[tuple[str, str]], amount: int) -> list[Key]:
    """Lock ready tasks that no one else has locked."""
    return [
        (row[0], row[1], row[2])
        for row in await tx.fetch("ready_tasks", names=names, amount=amount)
    ]


def has_history(task: ClaimedTask) -> bool:
    """A first claim that no event came before has nothing recorded."""
    return task.claim.epoch > 1 or task.wake_sequence > 0 or task.claim.run > 1


async def history(tx: Transaction, tasks: Iterable[ClaimedTask]) -> None:
    """Fill in what is recorded of each task's run and what lies in its mailbox."""
    by_id: dict[tuple[str, str], ClaimedTask] = {
        (t.claim.execution_id, t.claim.step): t for t in tasks
    }
    if not by_id:
        return
    for each in by_id.values():  # read from the start when the transaction runs again
        each.steps.clear()
        each.attempts.clear()
        each.events.clear()
    runs = sorted({(t.claim.execution_id, t.claim.run) for t in by_id.values() if not t.claim.step})
    if runs:
        for row in await tx.fetch("history_steps", entries=runs):
            by_id[row[0], ""].steps.append(Recorded(*row[1:]))
        mailboxes = [(execution_id,) for execution_id, _run in runs]
        for row in await tx.fetch("history_events", entries=mailboxes):
            by_id[row[0], ""].events.append(Event(*row[1:]))
    attempts = sorted(
        {
            (t.claim.execution_id, t.claim.run, 0 if t.claim.step else t.attempt)
            for t in by_id.values()
        }
    )
    for row in await tx.fetch("history_attempts", entries=attempts):
        execution_id, step = row[0], row[1]
        task = by_id.get((execution_id, "")) or by_id.get((execution_id, step))
        if task is not None:
            task.attempts.append(RecordedAttempt(*row[1:]))


def claimed(row: Row) -> ClaimedTask:
    parent = (row[13], row[14], row[15]) if row[13] is not None and not row[2] else None
    return ClaimedTask(
        claim=Claim(row[0], row[1], row[2], row[3]),
        task=row[4],
        queue=row[5],
        input=row[6],
        seed=row[7],
        attempt=row[8],
        crashes=row[9],
        wake_sequence=row[10],
        started_at=row[11],
        now_at=row[12],
        parent=parent,
        steps=[],
        attempts=[],
        events=[],
    )


async def ready_due(tx: Transaction, amount: int) -> int:
    """Make sleepers whose time has come ready; gives how many there were."""
    keys = [(r[0], r[1], r[2]) for r in await tx.fetch("due_tasks", amount=amount)]
    if keys:
        await tx.execute("ready_due_tasks", entries=sorted(keys))
    return len(keys)


async def look(tx: Transaction, names: Sequence[tuple[str, str]]) -> tuple[int, int | None, bool]:
    """The database's time, that of the next sleeper, and whether a task of these names is ready."""
    # A batch has at least one row; no queue is called by an empty name.
    row = (await tx.fetch("look", wanted=names or [("", "")]))[0]
    return row[0], row[1], bool(row[2])
