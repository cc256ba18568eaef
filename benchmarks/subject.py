"""zart as `benchmarks.drive` measures it: what users use, with its defaults.

``@zart.durable``, ``@zart.step``, `schedule`, `schedule_many` and a `Worker` whose concurrency is
what is asked for. With ``--idempotent`` the steps are marked so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import zart
from benchmarks.drive import System, main
from benchmarks.sql import line

CHUNK = 1000
"""Executions scheduled in one transaction."""
STEPS = 20
"""Of an execution whose steps are timed."""


@zart.step(idempotent="--idempotent" in sys.argv)
async def nothing() -> None:
    """A step that does nothing."""


@zart.step
async def clock() -> int:
    return time.time_ns()


@zart.durable("steps")
async def steps(amount: int) -> None:
    Zart.here.began()
    for _ in range(amount):
        await nothing()


@zart.durable("started")
async def started() -> dict[str, int]:
    began = await clock()
    return {"began": began, "ended": time.time_ns()}


@zart.durable("resumed")
async def resumed() -> int:
    await zart.wait_for_event("go")
    return await clock()


@zart.durable("timed")
async def timed() -> list[float]:
    found = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        await nothing()
        found.append((time.perf_counter() - begun) * 1000)
    return found


class Zart(System):
    here: Zart
    """The one of this process."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._stack = AsyncExitStack()
        Zart.here = self

    async def prepare(self) -> None:
        async with zart.connect(self.url) as scheduler:
            await scheduler.migrate()

    async def open(self) -> None:
        self._scheduler = await self._stack.enter_async_context(zart.connect(self.url))
        self._line = await self._stack.enter_async_context(line(self.url))

    async def close(self) -> None:
        await self._stack.aclose()

    async def schedule(self, amount: int, step_count: int) -> None:
        for start in range(0, amount, CHUNK):
            inputs = [step_count] * min(CHUNK, amount - start)
            await self._scheduler.schedule_many(steps, inputs)

    async def left(self) -> int:
        ((amount,),) = await self._line.fetch("SELECT count(*) FROM zart_tasks")
        return int(amount)

    async def completed(self) -> int:
        sql = "SELECT count(*) FROM zart_executions WHERE status = 'completed'"
        ((amount,),) = await self._line.fetch(sql)
        return int(amount)

    @asynccontextmanager
    async def consuming(self, concurrency: int) -> AsyncIterator[None]:
        config = zart.WorkerConfig(concurrency=concurrency)
        tasks = [steps, started, resumed, timed]
        async with zart.Worker(self._scheduler, tasks, config):
            yield

    async def execute(self, step_count: int) -> None:
        handle = await self._scheduler.schedule(steps, step_count)
        await handle.result()

    async def start(self) -> dict[str, int]:
        handle = await self._scheduler.schedule(started)
        return await handle.result(timeout="30s")

    async def wait_for_event(self) -> Any:
        handle = await self._scheduler.schedule(resumed)
        sql = "SELECT count(*) FROM zart_tasks WHERE worker IS NULL AND ready_at IS NULL"
        while not (await self._line.fetch(sql))[0][0]:
            pass
        return handle

    async def go_on(self, waiting: Any) -> int:
        await waiting.offer_event("go")
        return int(await waiting.result(timeout="30s"))

    async def steps(self) -> Sequence[float]:
        handle = await self._scheduler.schedule(timed)
        return await handle.result(timeout="30s")


if __name__ == "__main__":
    main(Zart, "benchmarks.subject")
