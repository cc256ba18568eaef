"""A failover to a standby that had not all: the database forgets what it had acknowledged."""

from __future__ import annotations

import random

import pytest

import zart
from tests.databases import Database
from tests.racing import COMMITTED, FENCED, NAMES, checkpoint, engine, new
from zart.scheduler.entries import Entry
from zart.scheduler.sql.engine import SqlEngine
from zart.testing.conformance.harness import guarantee
from zart.testing.conformance.rows import database_of, run_sql


async def forget_claims(scheduler: zart.DurableScheduler) -> None:
    """Set every task back to what it was when it had been scheduled."""
    tasks = database_of(scheduler).tables.named("tasks")
    await run_sql(
        scheduler,
        f"UPDATE {tasks} SET epoch = 0, worker = NULL, ready_at = 1, started_at = NULL",
    )


@guarantee(8, 9)
@pytest.mark.parametrize("heir", ["another", "worker"])
async def test_the_owner_of_a_claim_that_was_forgotten_writes_nothing(
    database: Database, scheduler: zart.DurableScheduler, heir: str
) -> None:
    """A claim made anew, by another worker or the same, is not the one that was lost.

    Not even where both come of a program that seeds `random`.
    """
    backend: SqlEngine = engine(scheduler)
    await backend.schedule([new("e")])
    random.seed(1)
    (lost,) = await backend.claim("worker", NAMES, 1)
    await forget_claims(scheduler)
    random.seed(1)
    # A scheduler of its own: this one knows until its next whole look that it has been there.
    async with zart.connect(database.url) as other:
        (anew,) = await engine(other).claim(heir, NAMES, 1)
    assert await backend.commit([Entry(lost.claim, steps=(checkpoint(lost.claim),))]) == FENCED
    assert await scheduler.timeline("e") == []
    assert await backend.commit([Entry(anew.claim, steps=(checkpoint(anew.claim),))]) == COMMITTED
