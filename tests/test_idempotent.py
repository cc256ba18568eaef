"""Steps marked ``idempotent=True``: what they cost, one execution at a time."""

from __future__ import annotations

from collections.abc import Sequence

import zart
from tests.databases import Database
from zart.scheduler.entries import Entry, Receipt

STEPS = 10


@zart.step
async def ordinary() -> None:
    """Recorded before the next begins."""


@zart.step(idempotent=True)
async def quick() -> None:
    """May go on before it is recorded."""


@zart.durable("ordinary-steps")
async def ordinary_steps() -> None:
    for _ in range(STEPS):
        await ordinary()


@zart.durable("idempotent-steps")
async def idempotent_steps() -> None:
    for _ in range(STEPS):
        await quick()


@zart.durable("mixed-steps")
async def mixed_steps() -> int:
    """How many steps are recorded when the ordinary one begins."""
    for _ in range(STEPS):
        await quick()
    return await recorded_so_far()


flushes: list[int] = []
"""The number of steps in each flush that has been committed."""


@zart.step
async def recorded_so_far() -> int:
    return sum(flushes)


def watch_flushes(scheduler: zart.DurableScheduler) -> None:
    """Keep count from now on."""
    commit = scheduler.backend.commit

    async def counted(entries: Sequence[Entry]) -> list[Receipt]:
        receipts = await commit(entries)
        flushes.append(sum(len(entry.steps) for entry in entries))
        return receipts

    scheduler.backend.commit = counted  # type: ignore[method-assign]


async def test_ten_idempotent_steps_cost_one_flush(database: Database) -> None:
    """One execution at a time: ten ordinary steps take ten flushes, ten idempotent ones one."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [ordinary_steps, idempotent_steps]):
            flushes.clear()
            watch_flushes(scheduler)
            await (await scheduler.schedule(ordinary_steps)).result(timeout="10s")
            assert [n for n in flushes if n] == [1] * STEPS
            flushes.clear()
            await (await scheduler.schedule(idempotent_steps)).result(timeout="10s")
            assert [n for n in flushes if n] == [STEPS]
            assert len(flushes) <= 2  # the run's end goes by itself, or with them


async def test_an_ordinary_step_begins_after_they_are_recorded(database: Database) -> None:
    """What is not safe to repeat has no effect while what came before could still be lost."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [mixed_steps]):
            flushes.clear()
            watch_flushes(scheduler)
            handle = await scheduler.schedule(mixed_steps)
            assert await handle.result(timeout="10s") == STEPS
