"""zart's sleepers as `benchmarks.parking` measures them.

``python -m benchmarks.sleepers URL AMOUNT`` prints one line of JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import zart
from benchmarks.parking import DAYS, Sleepers, main
from benchmarks.sql import line

CHUNK = 1000
"""Executions scheduled in one transaction."""


@zart.step
async def nothing() -> None:
    """A step that does nothing."""


@zart.durable("sleeper")
async def sleeper() -> None:
    await nothing()
    Zart.here.asleep += 1
    await zart.sleep(f"{DAYS}d")


class Zart(Sleepers):
    recovers = False  # a sleeper is a row, which nothing holds and nobody takes up
    here: Zart
    """The one of this process."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        Zart.here = self

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        async with zart.connect(self.url) as self._scheduler:
            await self._scheduler.migrate()
            async with zart.Worker(self._scheduler, [sleeper]) as self._worker:
                yield

    async def start(self, amount: int) -> None:
        for first in range(0, amount, CHUNK):
            await self._scheduler.schedule_many(sleeper, [None] * min(CHUNK, amount - first))

    async def settled(self) -> None:
        while self._worker.running:  # noqa: ASYNC110 a task counts as running until its commit
            await asyncio.sleep(0.002)
        async with line(self.url) as on:
            sql = "SELECT count(*) FROM zart_tasks WHERE due_at IS NOT NULL"
            ((parked,),) = await on.fetch(sql)
        if parked != self.asleep:
            raise RuntimeError(f"{parked} of {self.asleep} sleepers are parked")


if __name__ == "__main__":
    main(Zart, "sleepers")
