"""Scheduling: new executions and the tasks that run them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from zart.scheduler.entries import NewExecution
from zart.scheduler.sql.transaction import Row, Transaction

__all__ = ["Conflict", "RaceLostError", "insert_executions", "schedule"]


class RaceLostError(Exception):
    """Another transaction took an id in between: run the transition again."""


class Conflict(Exception):
    """An id stands for something else already."""

    def __init__(self, execution: NewExecution, task: str) -> None:
        super().__init__(execution.id)
        self.execution = execution
        self.task = task


async def schedule(tx: Transaction, executions: Sequence[NewExecution]) -> list[bool]:
    """Insert executions; gives for each whether it is new. Raises `Conflict` for another's id."""
    chosen = [e for e in executions if e.chosen_id or tx.attempt > 1]
    known: dict[str, Row] = {}
    if chosen:
        rows = await tx.fetch("existing_executions", entries=[(e.id,) for e in chosen])
        known = {row[0]: row for row in rows}
    first: dict[str, NewExecution] = {}
    created: list[bool] = []
    for execution in executions:
        earlier = known.get(execution.id)
        if earlier is not None:
            if not _same(execution, earlier[1], earlier[2]):
                raise Conflict(execution, earlier[1])
        elif execution.id in first:
            twin = first[execution.id]
            if not _same(execution, twin.task, twin.input):
                raise Conflict(execution, twin.task)
        else:
            first[execution.id] = execution
            created.append(True)
            continue
        created.append(False)
    if first:
        await insert_executions(tx, list(first.values()))
    return created


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
