"""`schedule_many` of very many: in portions, in one transaction, and in nobody's way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import zart
from zart.scheduler import durable
from zart.scheduler.sql.statements import Statement
from zart.scheduler.sql.transitions import schedule
from zart.testing.conformance.harness import guarantee
from zart.testing.conformance.rows import all_rows, count_rows, database_of

MANY = 2 * schedule.PORTION + 500


@zart.durable("echo")
async def echo(number: int) -> int:
    return number


@zart.durable("text")
async def text(data: str) -> None:
    """Takes as much as it is given."""


def _ids(amount: int) -> list[str]:
    """In an order that is not that of the ids."""
    return [f"n-{number * 7 % amount}" for number in range(amount)]


async def _both(scheduler: zart.DurableScheduler) -> tuple[int, int]:
    """How many executions there are, and how many tasks."""
    return await count_rows(scheduler, "executions"), await count_rows(scheduler, "tasks")


@guarantee(22)
async def test_many_portions_are_one_call(scheduler: zart.DurableScheduler) -> None:
    """Handles come in the order of the items; an id that is there or comes twice is not new."""
    ids = _ids(MANY)
    there = ids[::100]
    await scheduler.schedule_many(echo, range(0, MANY, 100), ids=there)
    handles = await scheduler.schedule_many(echo, [*range(MANY), 5], ids=[*ids, ids[5]])
    assert [h.id for h in handles] == [*ids, ids[5]]
    assert [h.created for h in handles] == [*(n % 100 != 0 for n in range(MANY)), False]
    assert await _both(scheduler) == (MANY, MANY)
    last = await scheduler.get(ids[MANY - 1])
    assert last.input == str(MANY - 1)


@guarantee(22)
async def test_a_conflict_in_the_last_portion_leaves_nothing(
    scheduler: zart.DurableScheduler,
) -> None:
    """The error names the id, and no portion before it was written."""
    last = max(_ids(MANY))
    await scheduler.schedule(echo, -1, id=last)
    before = await all_rows(scheduler)
    with pytest.raises(zart.ExecutionExistsError, match=repr(last)):
        await scheduler.schedule_many(echo, range(MANY), ids=_ids(MANY))
    assert await all_rows(scheduler) == before


@guarantee(21, 22)
async def test_many_join_the_callers_transaction(scheduler: zart.DurableScheduler) -> None:
    """They exist if it commits, and only then; a conflict leaves nothing in it to commit."""
    database = database_of(scheduler)
    last = max(_ids(MANY))
    before = await all_rows(scheduler)
    with pytest.raises(ZeroDivisionError):
        async with database.own_transaction(1) as (_, connection):
            await scheduler.schedule_many(echo, range(MANY), connection=connection)
            raise ZeroDivisionError
    assert await all_rows(scheduler) == before
    await scheduler.schedule(echo, -1, id=last)
    async with database.own_transaction(1) as (_, connection):
        with pytest.raises(zart.ExecutionExistsError):
            await scheduler.schedule_many(echo, range(MANY), ids=_ids(MANY), connection=connection)
    assert await _both(scheduler) == (1, 1)
    async with database.own_transaction(1) as (_, connection):
        await scheduler.schedule_many(echo, range(MANY), connection=connection)
    assert await _both(scheduler) == (MANY + 1, MANY + 1)


@guarantee(22)
async def test_more_than_a_server_takes_at_once_is_scheduled(
    scheduler: zart.DurableScheduler,
) -> None:
    """20 MB of inputs are no one statement: MariaDB refuses more than 16 MB."""
    handles = await scheduler.schedule_many(text, ["x" * 1_000_000] * 20)
    assert [h.created for h in handles] == [True] * 20
    assert await _both(scheduler) == (20, 20)


async def test_others_on_the_loop_have_their_turn(
    scheduler: zart.DurableScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, one turn of the loop encodes some and one statement writes some."""
    encoded, most = 0, 0
    written: list[int] = []
    encode, bind = scheduler.encode, Statement.bind

    def counted(*arguments: Any) -> str:
        nonlocal encoded
        encoded += 1
        return encode(*arguments)

    def bound(statement: Statement, values: Any, spread: Any) -> list[Any]:
        written.extend(len(values[batch]) for batch in statement.batches)
        return bind(statement, values, spread)

    async def watch() -> None:
        nonlocal most
        while True:
            before = encoded
            await asyncio.sleep(0)
            most = max(most, encoded - before)

    monkeypatch.setattr(scheduler, "encode", counted)
    monkeypatch.setattr(Statement, "bind", bound)
    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    await scheduler.schedule_many(echo, range(MANY))
    watching.cancel()
    assert encoded == MANY
    assert most == durable.TURN
    assert max(written) == schedule.PORTION
    assert sum(written) == 2 * MANY
