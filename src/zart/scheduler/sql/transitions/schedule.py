"""Scheduling: new executions and the tasks that run them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from zart.scheduler.entries import NewExecution
from zart.scheduler.sql.transaction import Row, Transaction

__all__ = ["Conflict", "RaceLostError", "insert_executions", "schedule"]


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
    """Insert executions; gives for each whether it is new. Raises `Conflict` for another's id.

    However many there are, it is done in portions: one statement for all would be longer than a
    server takes, and would keep this process's event loop busy for as long as it takes to write.
    Every id is looked up before the first row is inserted, so a conflict leaves nothing behind in
    a caller's transaction either. All go in the order of their ids: two transactions that schedule
    the same ones wait for each other, and never each for the other.
    """
    new: dict[str, NewExecution] = {}
    portions = list(_portions(sorted(executions, key=lambda e: e.id)))
    for portion in portions:
        await _look_up(tx, portion, new)
    for portion in portions if len(new) == len(executions) else _portions(list(new.values())):
        await insert_executions(tx, portion)
    return [new.get(e.id) is e for e in executions]


async def _look_up(
    tx: Transaction, executions: Sequence[NewExecution], new: dict[str, NewExecution]
) -> None:
    """Add to ``new`` the first of each id that is not there yet."""
    chosen = [e for e in executions if e.chosen_id or tx.attempt > 1]
    known: dict[str, Row] = {}
    if chosen:
        rows = await tx.fetch("existing_executions", entries=[(e.id,) for e in chosen])
        known = {row[0]: row for row in rows}
    for execution in executions:
        earlier = known.get(execution.id)
        if earlier is not None:
            task, payload = earlier[1], earlier[2]
        else:
            twin = new.setdefault(execution.id, execution)
            if twin is execution:
                continue
            task, payload = twin.task, twin.input
        if not _same(execution, task, payload):
            raise Conflict(execution, task)


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


def _same(execution: NewExecution, task: str, payload: str) -> bool:
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
        entries=[(e.id, 1, e.queue, e.task, e.priority, e.delay, e.due_at) for e in executions],
    )
