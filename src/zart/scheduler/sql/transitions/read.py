"""What callers ask: executions, timelines and results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from zart.models import Attempt, Execution, Failure, Outcome, Status, StepRecord, as_datetime
from zart.scheduler.sql.transaction import Row, Transaction

__all__ = ["attempts", "executions", "get", "results", "timeline"]


_LISTS: dict[str, str] = {
    Status.PENDING: "list_alive",
    Status.RUNNING: "list_alive",
    Status.WAITING: "list_alive",
    Status.FAILED: "list_failed",
}
"""The statement for each status that has one of its own."""


def failure(text: str | None) -> Failure | None:
    """The recorded failure in a JSON text."""
    return None if text is None else msgspec.json.decode(text, type=Failure)


def _status(row: Row) -> Status:
    if row[3] is not None:
        return Status(row[3])
    if row[11] is not None:
        return Status.RUNNING
    return Status.PENDING if row[17] is not None else Status.WAITING


def _execution(row: Row, waits: tuple[str, ...]) -> Execution:
    created = as_datetime(row[13])
    assert created is not None
    return Execution(
        id=row[0],
        task=row[1],
        queue=row[2],
        status=_status(row),
        input=row[4],
        output=row[5],
        failure=failure(row[6]),
        run=row[7],
        attempt=row[8],
        crashes=row[9],
        priority=row[10],
        worker=row[11],
        parent=row[12],
        created=created,
        started=as_datetime(row[14]),
        finished=as_datetime(row[15]),
        due=as_datetime(row[16]),
        waiting_for=waits,
    )


async def _with_waits(tx: Transaction, rows: list[Row]) -> list[Execution]:
    waiting = [row for row in rows if _status(row) is Status.WAITING]
    waits: dict[str, dict[str, str]] = {row[0]: {} for row in waiting}
    if waiting:
        keys = sorted((row[0], row[7]) for row in waiting)
        for execution_id, kind, name in await tx.fetch("open_waits", entries=keys):
            waits[execution_id][name] = _wait(kind, name)
        for execution_id, name in await tx.fetch("open_retries", entries=keys):
            waits[execution_id].setdefault(name, f"retry {name}".rstrip())
    for row in waiting:
        if not waits[row[0]] and row[16] is not None:
            waits[row[0]][""] = "start" if row[14] is None else "retry"
    return [_execution(row, tuple(waits.get(row[0], {}).values())) for row in rows]


def _wait(kind: str, name: str) -> str:
    """Kind and name of an open record; a name that says its kind already does for both."""
    for part in name.split("/"):
        if part == kind or part.startswith((f"{kind} ", f"{kind}#")):
            return name
    return f"{kind} {name}"


async def get(tx: Transaction, ids: Sequence[str]) -> list[Execution]:
    """The executions of these ids, those that exist."""
    return await _with_waits(tx, await tx.fetch("get_executions", entries=[(i,) for i in ids]))


async def executions(
    tx: Transaction, *, task: str, status: str, amount: int, before: tuple[int, str]
) -> list[Execution]:
    """Executions, newest first."""
    rows = await tx.fetch(
        _LISTS.get(status, "list_executions"),
        task=task,
        status=status,
        amount=amount,
        before_at=before[0],
        before_id=before[1],
    )
    return await _with_waits(tx, rows)


async def results(tx: Transaction, ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """By id: status (None while alive), output and failure."""
    rows = await tx.fetch("results", entries=[(i,) for i in ids])
    return {row[0]: row[1:] for row in rows}


async def timeline(tx: Transaction, execution_id: str, run: int) -> list[StepRecord]:
    """A run's steps in the order they were begun, each with its failed attempts."""
    tries: dict[str, list[Attempt]] = {}
    for row in await tx.fetch("timeline_attempts", execution_id=execution_id, run=run):
        tries.setdefault(row[0], []).append(_attempt(row))
    rows = await tx.fetch("timeline_steps", execution_id=execution_id, run=run)
    steps = [_step(row, tuple(tries.pop(row[0], ()))) for row in rows]
    # A step that waits for its next attempt has no row of its own yet.
    rest = sorted(tries.items(), key=lambda each: (str(each[1][0].started), each[0]))
    last = max((step.position for step in steps), default=0)
    for position, (name, made) in enumerate(rest, last + 1):
        steps.append(_retrying(run, name, position, tuple(made)))
    return steps


async def attempts(tx: Transaction, execution_id: str, run: int) -> list[Attempt]:
    """The failed attempts at a run itself."""
    rows = await tx.fetch("run_attempts", execution_id=execution_id, run=run)
    return [_attempt(row) for row in rows]


def _attempt(row: Row) -> Attempt:
    error = failure(row[3])
    assert error is not None
    # The last one has no time after its start: there was to be no other.
    again = row[6] > (row[4] or 0)
    return Attempt(
        step=row[0],
        run_attempt=row[1],
        attempt=row[2],
        failure=error,
        started=as_datetime(row[4]),
        failed=as_datetime(row[5]),
        retry=as_datetime(row[6]) if again else None,
    )


def _retrying(run: int, name: str, position: int, attempts: tuple[Attempt, ...]) -> StepRecord:
    return StepRecord(
        name=name,
        kind="step",
        run=run,
        position=position,
        outcome=None,
        value=None,
        failure=None,
        started=attempts[0].started,
        finished=None,
        due=attempts[-1].retry,
        attempts=attempts,
    )


def _step(row: Row, attempts: tuple[Attempt, ...]) -> StepRecord:
    outcome = None if row[4] is None else Outcome(row[4])
    failed = outcome not in (None, Outcome.OK) and row[5] is not None
    due_at: int | None = row[8]
    due = as_datetime(due_at)
    if outcome is None and due is None and attempts:
        due = attempts[-1].retry
    return StepRecord(
        name=row[0],
        kind=row[1],
        run=row[2],
        position=row[3],
        outcome=outcome,
        value=None if failed else row[5],
        failure=failure(row[5]) if failed else None,
        started=as_datetime(row[6]),
        finished=as_datetime(row[7]),
        due=due,
        attempts=attempts,
    )
