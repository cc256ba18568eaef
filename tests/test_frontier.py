"""Claims go on where the last one ended, and lose nothing by it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import zart
from tests.databases import Database
from tests.racing import new
from zart.scheduler.sql import frontier
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.frontier import Frontier
from zart.testing.conformance.rows import run_sql

NAMES = [("default", "work")]
HOUR = 3_600_000_000


async def claimed(engine: SqlEngine, amount: int = 10) -> list[str]:
    tasks = await engine.claim("ghost", NAMES, amount)
    return sorted(task.claim.execution_id for task in tasks)


async def test_a_more_urgent_row_is_claimed_first(database: Database) -> None:
    """However far the rows of its task have been claimed: priorities are kept apart."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        engine = scheduler.backend
        assert isinstance(engine, SqlEngine)
        await engine.schedule([new(f"usual-{n}") for n in range(4)])
        assert len(await claimed(engine, 2)) == 2
        handle = await scheduler.schedule("work", None, id="urgent", priority=-5)
        later = await scheduler.schedule("work", None, id="later", priority=5)
        assert await claimed(engine, 1) == [handle.id]
        assert len(await claimed(engine, 2)) == 2
        assert await claimed(engine, 1) == [later.id]


async def test_a_row_that_appears_late_is_claimed_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that counts as ready since long before the last claim: at the next whole look."""
    monkeypatch.setattr(frontier, "WHOLE", HOUR)
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        engine = scheduler.backend
        assert isinstance(engine, SqlEngine)
        await engine.schedule([new("first")])
        assert await claimed(engine) == ["first"]
        await engine.schedule([new("late")])
        await run_sql(scheduler, f"UPDATE zart_tasks SET ready_at = {1} WHERE worker IS NULL")
        if database.kind != "sqlite":  # there nothing dead stays, so each look is whole
            assert await claimed(engine) == []
            engine._frontier.forget()
        assert await claimed(engine) == ["late"]


def test_the_stretches_of_a_name_leave_no_priority_out() -> None:
    """Together they are every priority, each once, in order."""
    known = Frontier()
    met = [("default", "work", 0, 10**15), ("default", "work", 7, 10**15 + 9)]
    met += [("default", "work", 7, 10**15), ("default", "work", 0, 10**15 + 1)]
    known.looked(NAMES, met, 0.0)
    stretches, wholly = known.stretches([*NAMES, ("default", "other")])
    assert wholly == [("default", "other")]
    assert [stretch[2:4] for stretch in stretches] == [
        (-(2**31), -1),
        (0, 0),
        (1, 6),
        (7, 7),
        (8, 2**31 - 1),
        (-(2**31), 2**31 - 1),
    ]
    assert [stretch[4] for stretch in stretches] == [0, 10**15 - 500_000, 0, 10**15 - 500_000, 0, 0]
    known.forget()
    assert known.stretches(NAMES) == (frontier.whole(NAMES), NAMES)


def test_a_busy_worker_takes_no_whole_look_from_its_neighbour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two workers of one process, with names of their own: each name has its own turn."""
    now = 1000.0
    monkeypatch.setattr(frontier.time, "monotonic", lambda: now)
    known = Frontier()
    hot, cold = [("default", "hot")], [("default", "cold")]
    for names in (hot, cold):
        known.looked(names, [(*names[0], 0, 10**15)], 0.0)
    for _ in range(3):  # whole looks for the hot name, as often as it is due
        now += frontier.WHOLE
        assert known.stretches(hot)[1] == hot
        known.looked(hot, [(*hot[0], 0, 10**15)], 0.0)
    assert known.stretches(hot)[1] == []
    assert known.stretches(cold)[1] == cold


def test_the_rest_after_a_slow_whole_look_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the database took, a row that appears late is looked for soon."""
    now = 1000.0
    monkeypatch.setattr(frontier.time, "monotonic", lambda: now)
    known = Frontier()
    known.looked(NAMES, [(*NAMES[0], 0, 10**15)], 60.0)
    now += frontier.RAREST - 0.1
    assert known.stretches(NAMES)[1] == []
    now += 0.1
    assert known.stretches(NAMES)[1] == NAMES


async def test_waiting_for_a_connection_does_not_count_as_looking(database: Database) -> None:
    """What the database takes to find rows decides how often it is asked, and nothing else."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        engine = scheduler.backend
        assert isinstance(engine, SqlEngine)
        looks: list[float] = []
        looked = engine._frontier.looked
        engine._frontier.looked = lambda names, places, seconds: (  # type: ignore[method-assign]
            looks.append(seconds),
            looked(names, places, seconds),
        )[1]
        busy = "_run_alone_once" if database.kind == "postgres" else "_run_once"
        once = getattr(engine.database, busy)

        async def late(*arguments: Any) -> Any:
            await asyncio.sleep(0.5)
            return await once(*arguments)

        setattr(engine.database, busy, late)
        await engine.schedule([new("first")])
        assert await claimed(engine) == ["first"]
        assert all(seconds < 0.4 for seconds in looks)
        assert bool(looks) == (database.kind != "sqlite")


def test_a_name_of_many_priorities_is_looked_at_whole_and_costs_no_memory() -> None:
    """As where a time is given for a priority."""
    known = Frontier()
    for priority in range(1000):
        known.looked(NAMES, [(*NAMES[0], priority, 10**15)], 0.0)
    assert known.stretches(NAMES)[0] == frontier.whole(NAMES)
    assert len(known._names[NAMES[0]].since) == 0
