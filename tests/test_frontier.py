"""Claims go on where the last one ended, and lose nothing by it."""

from __future__ import annotations

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
    known.looked([*met, ("default", "work", 7, 10**15), ("default", "work", 0, 10**15 + 1)], 0.0)
    stretches, everything = known.stretches([("default", "work"), ("default", "other")])
    assert not everything
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
    assert known.stretches([("default", "work")]) == (frontier.whole([("default", "work")]), True)
