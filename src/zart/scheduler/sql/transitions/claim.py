"""Claiming: ready tasks become one worker's own, and come with their history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from zart.models import Claim, Claimed, ClaimedTask, Event, Recorded, RecordedAttempt, new_stride
from zart.scheduler.sql.frontier import Place, Stretch, whole
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


async def claim(
    tx: Transaction, worker: str, stretches: Sequence[Stretch], amount: int
) -> tuple[Claimed, list[Place]]:
    """Claim up to ``amount`` ready tasks, with their histories; gives too where they were found.

    One more is looked for, only to see whether any is left.
    """
    found = await tx.fetch("ready_tasks", names=stretches, amount=amount + 1)
    if not found:
        return Claimed(), []
    rows = found[:amount]
    keys = sorted((row[0], row[1], row[2]) for row in rows)
    places: list[Place] = [(row[3], row[4], row[5], row[6]) for row in rows]
    stride = new_stride()
    await tx.execute("claim_tasks", entries=keys, worker=worker, stride=stride)
    rows = await tx.fetch("claimed_executions", entries=keys)
    tasks = Claimed(claimed(row) for row in rows)
    tasks.more = len(found) > amount
    await history(tx, [task for task in tasks if has_history(task, stride)])
    return tasks, places


async def claim_at_once(
    tx: Transaction, worker: str, stretches: Sequence[Stretch], amount: int, stride: int
) -> tuple[Claimed, list[Place], list[ClaimedTask]]:
    """The same in one statement; gives too those whose history is still to be read.

    The history comes from the statement's snapshot, which may be older than the locked task.
    """
    tasks = Claimed()
    places: list[Place] = []
    stale: list[ClaimedTask] = []
    values = {"names": stretches, "amount": amount, "worker": worker, "stride": stride}
    for row in await tx.fetch("claim_at_once", **values):
        task = claimed(row)
        tasks.append(task)
        places.append((task.queue, task.task, row[21], row[22]))
        tasks.more = row[23] > amount
        if has_history(task, stride):
            unchanged = row[16] is not None and row[16] + stride == task.claim.epoch
            if unchanged and row[17] == task.wake_sequence:
                _fill_in(task, *row[18:21])
            else:
                stale.append(task)
    return tasks, places, stale


_decode = msgspec.json.Decoder(list[Any]).decode


def _fill_in(
    task: ClaimedTask, steps: str | None, attempts: str | None, events: str | None
) -> None:
    if steps is not None:
        task.steps = [Recorded(*each) for each in _decode(steps)]
    if attempts is not None:
        task.attempts = [RecordedAttempt(*each) for each in _decode(attempts)]
    if events is not None:
        task.events = [Event(*each) for each in _decode(events)]


def has_history(task: ClaimedTask, stride: int) -> bool:
    """A first claim, whose epoch is one stride, has nothing recorded if no event came before."""
    return task.claim.epoch != stride or task.wake_sequence > 0 or task.claim.run > 1


async def history(tx: Transaction, tasks: Iterable[ClaimedTask]) -> None:
    """Fill in what is recorded of each task's run and what lies in its mailbox."""
    by_id: dict[tuple[str, str], ClaimedTask] = {
        (t.claim.execution_id, t.claim.step): t for t in tasks
    }
    if not by_id:
        return
    steps: dict[str, list[Recorded]] = defaultdict(list)
    events: dict[str, list[Event]] = defaultdict(list)
    failed: dict[tuple[str, str], list[RecordedAttempt]] = defaultdict(list)
    runs = sorted({(t.claim.execution_id, t.claim.run) for t in by_id.values() if not t.claim.step})
    if runs:
        for row in await tx.fetch("history_steps", entries=runs):
            steps[row[0]].append(Recorded(*row[1:]))
        mailboxes = [(execution_id,) for execution_id, _run in runs]
        for row in await tx.fetch("history_events", entries=mailboxes):
            events[row[0]].append(Event(*row[1:]))
    attempts = sorted(
        {
            (t.claim.execution_id, t.claim.run, 0 if t.claim.step else t.attempt)
            for t in by_id.values()
        }
    )
    for row in await tx.fetch("history_attempts", entries=attempts):
        execution_id, step = row[0], row[1]
        # A distributed step's are its own, also where its execution is claimed along with it.
        owner = (execution_id, step if (execution_id, step) in by_id else "")
        failed[owner].append(RecordedAttempt(*row[1:]))
    for key, task in by_id.items():
        if not task.claim.step:
            task.steps, task.events = steps.get(key[0], ()), events.get(key[0], ())
        task.attempts = failed.get(key, ())


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
    )


async def ready_due(tx: Transaction, amount: int) -> int:
    """Make sleepers whose time has come ready; gives how many there were."""
    keys = [(r[0], r[1], r[2]) for r in await tx.fetch("due_tasks", amount=amount)]
    if keys:
        await tx.execute("ready_due_tasks", entries=sorted(keys))
    return len(keys)


async def look(tx: Transaction, stretches: Sequence[Stretch]) -> tuple[int, int | None, bool]:
    """The database's time, that of the next sleeper, and whether a task there is ready."""
    # A batch has at least one row; no queue is called by an empty name.
    row = (await tx.fetch("look", wanted=stretches or whole([("", "")])))[0]
    return row[0], row[1], bool(row[2])
