"""Transaction steps: what a function writes to the database and its outcome are one commit."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from zart.execution.attempts import attempts, recorded_value
from zart.execution.gate import called
from zart.execution.run import Run, current_run
from zart.execution.step import StepRules
from zart.models import Outcome
from zart.scheduler.entries import Receipt, StepRow
from zart.serialization import Shape

__all__ = ["transact"]

_KIND = "transaction"


async def transact(
    run: Run,
    name: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    asynchronous: bool,
    shape: Shape,
    rules: StepRules,
) -> Any:
    """A step whose function gets the driver's connection before its arguments; gives its result."""

    def work(connection: Any) -> Awaitable[Any]:
        result: Awaitable[Any] = called(
            function, (connection, *arguments), asynchronous, _Within(run)
        )
        return result

    run.cut_offs.dealt_with()
    recorded = run.history.find(name, _KIND)
    if name in run.history.cut_off:
        await run.cut_off_again(name)
    if recorded is not None and recorded.outcome is not None:
        return run.replay(recorded, shape, rules)
    if run.stopping:
        await run.refuse()
    if run.behind:
        await run.catch_up_before(functools.partial(_record_cancelled, run, name))
    started = run.clock.now_at()
    run.branches.enter()
    try:
        once = functools.partial(_once, run, name, work, shape, started)
        ended = await attempts(run, name, once, rules, run.history.attempt(name))
        if ended.outcome != Outcome.OK:
            row = run.row(name, _KIND, ended.outcome, ended.text, started_at=started)
            await run.write(run.entry(steps=(row,), attempts=ended.attempts))
    except asyncio.CancelledError:
        _record_cancelled(run, name, started)
        raise
    finally:
        run.branches.leave()
    return run.made(name, ended, rules)


async def _once(
    run: Run, name: str, work: Callable[[Any], Awaitable[Any]], shape: Shape, started: int
) -> tuple[str, Any]:
    made: list[tuple[str, Any]] = []

    async def write(connection: Any) -> StepRow:
        if not run.may_begin:
            raise _LeaseInDoubtError
        token = current_run.set(None)
        try:
            value = await work(connection)
        finally:
            current_run.reset(token)
        made[:] = [recorded_value(run, "step", name, shape, value)]
        return run.row(name, _KIND, Outcome.OK, made[0][0], started_at=started)

    while True:
        # Not within the transaction: on SQLite that would keep the heartbeat from the file.
        await run.wait_to_begin()
        try:
            receipt, recorded = await run.scheduler.backend.transact(run.claim, name, write)
            break
        except _LeaseInDoubtError:
            continue
    if receipt is not Receipt.COMMITTED:
        run.lose()
    if recorded is not None:
        # An earlier COMMIT whose answer was lost: what it recorded is the result.
        text = recorded.value or "null"
        return text, shape.decode(text)
    return made[0]


def _record_cancelled(run: Run, name: str, started: int) -> None:
    """The cut-off alone is recorded: whether it was committed, only the database can say.

    If it was, its rows are there, and its outcome with them, once and for all: the cut-off
    changes neither. The handler was cut off, so a replay is, too; but where the cancellation
    leaves the handler and the run is tried again, it finds the outcome and what it has written.
    If it was not, nothing is recorded of it, and that next attempt runs it.
    """
    if run.stopping:
        return
    if run.cancels:
        run.record_cut_off(name)
        return
    # Its function cancelled itself, and was rolled back.
    row = run.row(name, _KIND, Outcome.CANCELLED, None, started_at=started)
    run.write_soon(run.entry(steps=(row,)), (row,))


class _Within:
    """The gate of a function inside a transaction, where nothing may be waited for.

    Where it may not begin the transaction is rolled back, and begun again when it may.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def may_begin(self) -> bool:
        return self._run.may_begin

    async def wait_to_begin(self) -> None:
        raise _LeaseInDoubtError


class _LeaseInDoubtError(Exception):
    """Rolls a user's transaction back before it has begun anything."""
