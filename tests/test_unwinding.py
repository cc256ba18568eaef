"""What comes while a run that waits in several branches is being suspended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import zart
from tests.databases import Database
from zart.models import Claim, ClaimedTask


class SlowReading:
    """Holds the answer that tells a running execution of its events until it is being unwound."""

    def __init__(self, scheduler: zart.DurableScheduler) -> None:
        self._refresh = scheduler.backend.refresh
        self.delivered = asyncio.Event()
        self.read = asyncio.Event()
        self.unwinding = asyncio.Event()
        self.passed_on = asyncio.Event()

    async def __call__(self, claims: Sequence[Claim]) -> list[ClaimedTask]:
        await self.delivered.wait()
        fresh = await self._refresh(claims)
        self.read.set()
        await self.unwinding.wait()
        # The caller passes it on before the event loop comes to this.
        asyncio.get_running_loop().call_soon(self.passed_on.set)
        return fresh


@pytest.mark.guarantee(16, 17)
async def test_an_event_read_before_a_suspension_and_told_after_it_is_not_lost(
    database: Database,
) -> None:
    """The park says which wake its waits have seen, not which one came while they unwound."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        reading, begun = SlowReading(scheduler), asyncio.Event()
        scheduler.backend.refresh = reading  # type: ignore[method-assign]

        async def legal() -> str:
            try:
                return await zart.wait_for_event("legal", type=str)
            finally:
                reading.unwinding.set()
                await reading.passed_on.wait()

        @zart.step
        async def until_read() -> None:
            begun.set()
            await reading.read.wait()

        @zart.durable
        async def approval() -> str:
            async with asyncio.TaskGroup() as group:
                signed = group.create_task(legal())
                paid = group.create_task(zart.wait_for_event("money", type=str))
                group.create_task(until_read())  # keeps the run in memory for so long
            return f"{signed.result()}, {paid.result()}"

        async with zart.Worker(scheduler, [approval]):
            handle = await scheduler.schedule(approval)
            await begun.wait()
            await handle.offer_event("legal", "signed")
            await handle.offer_event("money", "paid")
            reading.delivered.set()
            assert await handle.result(timeout="20s") == "signed, paid"
