"""Scheduling: new executions and the tasks that run them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from zart.scheduler.entries import NewExecution
from zart.scheduler.sql.transaction import Note, Row, Transaction, carrying

__all__ = [
    "Conflict",
    "RaceLostError",
    "insert_executions",
    "same_work",
    "schedule",
    "schedule_at_once",
    "schedule_each",
]


PORTION = 1000
"""Executions that go in one statement; above that nothing is gained."""
PORTION_CHARACTERS = 1024 * 1024
"""Characters of input in one statement, one longer input aside: a server refuses long ones."""


class RaceLostError(Exception):
    """Another transaction took an id in between: run the transition again."""


class Conflict(Exception):
    """An id stands for something else already."""

    def __init__(self, execution: NewExecution, task: str) -> None:
        super().__init__(execution.id)
        self.execution = execution
        self.task = task


async def schedule(tx: Transaction, executions: Sequence[NewExecution]) -> list[bool]:
    """Insert all or none; gives for each whether it is new. Raises `Conflict` for another's id."""
    new, ours, conflicts = await _sort_out(tx, executions, again=tx.attempt > 1)
    if conflicts:
        raise next(iter(conflicts.values()))
    for portion in _portions(list(new.values())):
        await insert_executions(tx, portion)
    return [new.get(e.id) is e or e.id in ours for e in executions]


async def schedule_each(
    tx: Transaction, executions: Sequence[NewExecution], *, again: bool = False
) -> list[bool | Conflict]:
    """Insert executions, each as if it were alone: a conflict is the answer of that one.

    ``again`` says that some of them may have been inserted already.
    """
    new, ours, conflicts = await _sort_out(tx, executions, again=again or tx.attempt > 1)
    for portion in _portions(list(new.values())):
        await insert_executions(tx, portion)
    return [conflicts.get(id(e)) or new.get(e.id) is e or e.id in ours for e in executions]


async def schedule_at_once(
    tx: Transaction, executions: Sequence[NewExecution], note: Note | None
) -> set[str]:
    """Insert in one statement what is not there yet; gives the ids that were inserted.

    The note is told of with the first of them.

    A second try, after a race or an answer that was lost, inserts nothing: `schedule_each` finds
    out first what the first one did.
    """
    ids = {e.id for e in executions}
    if tx.attempt > 1 or len(ids) < len(executions) or _is_long(executions):
        return set()
    entries = sorted(
        (e.id, e.task, e.queue, e.priority, e.input, e.seed, *_start(e)) for e in executions
    )
    values = {"entries": entries, **carrying(note)}
    return {row[0] for row in await tx.fetch("schedule_at_once", **values)}


async def _sort_out(
    tx: Transaction, executions: Sequence[NewExecution], *, again: bool
) -> tuple[dict[str, NewExecution], set[str], dict[int, Conflict]]:
    """What is to be inserted, the ids that a former try has inserted, and conflicts by identity.

    However many there are, it is done in portions: one statement for all would be longer than a
    server takes, and would keep this process's event loop busy for as long as it takes to write.
    Every id is looked up before the first row is inserted, so a conflict leaves nothing behind in
    a caller's transaction either. All go in the order of their ids: two transactions that schedule
    the same ones wait for each other, and never each for the other.
    """
    new: dict[str, NewExecution] = {}
    ours: set[str] = set()
    conflicts: dict[int, Conflict] = {}
    for portion in _portions(sorted(executions, key=lambda e: e.id)):
        chosen = [e for e in portion if e.chosen_id or again]
        known: dict[str, Row] = {}
        if chosen:
            rows = await tx.fetch("existing_executions", entries=[(e.id,) for e in chosen])
            known = {row[0]: row for row in rows}
        for execution in portion:
            if (earlier := known.get(execution.id)) is None:
                twin = new.setdefault(execution.id, execution)
                task, payload = twin.task, twin.input
            elif not execution.chosen_id:
                ours.add(execution.id)  # nobody else knows that id
                continue
            else:
                task, payload = earlier[1], earlier[2]
            if not same_work(execution, task, payload):
                conflicts[id(execution)] = Conflict(execution, task)
    return new, ours, conflicts


def _is_long(executions: Sequence[NewExecution]) -> bool:
    return sum(len(e.input) for e in executions) > PORTION_CHARACTERS


def _start(execution: NewExecution) -> tuple[int | None, int | None, str | None, int]:
    """When it starts, and whose it is: delay, due_at, worker, epoch."""
    worker, epoch = execution.claimed or (None, 0)
    return execution.delay, execution.due_at, worker, epoch


def _portions(executions: Sequence[NewExecution]) -> Iterator[Sequence[NewExecution]]:
    """Consecutive parts of at most so many rows, and of about so many characters."""
    start, size = 0, 0
    for number, execution in enumerate(executions):
        size += len(execution.input)
        if number - start == PORTION or (size > PORTION_CHARACTERS and number > start):
            yield executions[start:number]
            start, size = number, len(execution.input)
    if start < len(executions):
        yield executions[start:]


def same_work(execution: NewExecution, task: str, payload: str) -> bool:
    """True for the same task with the same input, however its JSON is written."""
    if execution.task != task:
        return False
    return execution.input == payload or bool(
        msgspec.json.decode(execution.input) == msgspec.json.decode(payload)
    )


async def insert_executions(tx: Transaction, executions: Sequence[NewExecution]) -> None:
    """Insert executions that are not there yet, with their tasks."""
    executions = sorted(executions, key=lambda e: e.id)
    inserted = await tx.execute(
        "insert_executions",
        entries=[
            (e.id, e.task, e.queue, e.priority, e.input, e.seed, *(e.parent or (None, None, None)))
            for e in executions
        ],
    )
    if inserted < len(executions):
        raise RaceLostError
    await tx.execute(
        "insert_tasks",
        entries=[(e.id, 1, e.queue, e.task, e.priority, *_start(e)) for e in executions],
    )
