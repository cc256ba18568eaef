"""A worker that can die within the process of its test, at a chosen place.

What a SIGKILL does is done here without one, so that the place is exact: nothing more is written,
nothing is given back, the worker's row stays, and another worker takes its executions over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from zart.execution.worker import Worker
from zart.scheduler.config import WorkerConfig
from zart.scheduler.durable import DurableScheduler
from zart.scheduler.entries import Entry, Receipt
from zart.scheduler.running import Stop
from zart.testing.conformance.harness import QUICK

__all__ = ["MortalWorker", "mortal", "reached"]


class MortalWorker(Worker):
    """A worker with a `crash`; until then it is like any other."""

    def __init__(
        self, scheduler: DurableScheduler, tasks: Sequence[Any], config: WorkerConfig = QUICK
    ) -> None:
        super().__init__(scheduler, tasks, config)
        self._loses_writes = False
        self._loses_answers = False
        self._dead = asyncio.Event()
        self.stuck = asyncio.Event()
        """Set when a write has come to the place where it is lost."""

    def lose_writes(self) -> None:
        """From now on nothing that is committed reaches the database."""
        self._loses_writes = True

    def lose_answers(self) -> None:
        """From now on what is committed reaches the database, but no answer comes back."""
        self._loses_answers = True

    async def _write(self, entries: Sequence[Entry]) -> list[Receipt]:
        if not self._loses_writes:
            receipts = await super()._write(entries)
            if not self._loses_answers:
                return receipts
        self.stuck.set()
        await self._dead.wait()
        raise asyncio.CancelledError

    async def crash(self) -> None:
        """Die, and be found dead: its executions are ready for others, one crash counted each."""
        if self._stopping:
            return
        self._stopping = True
        for duty in self._duties:
            duty.cancel()
        await asyncio.gather(*self._duties, return_exceptions=True)
        rest = list(self._running.values())
        for running, task in rest:
            running.stop(Stop.LOST)
            task.cancel()
        self._dead.set()
        if rest:
            await asyncio.wait([task for _, task in rest], timeout=2)
        await self._journal.drain()
        for bell in (self._ready, self._woken, self._time):
            self.scheduler.wakeups.detach(bell)
        await self._lease.stop(strike_out=False)
        async with self.scheduler.backend.lease_session() as line:
            await line.take_over(self.id, _is_dead)


def _is_dead(_expires_at: int, _now_at: int, _beat_at: int) -> bool:
    return True


@asynccontextmanager
async def mortal(
    scheduler: DurableScheduler, *tasks: Any, config: WorkerConfig = QUICK
) -> AsyncGenerator[MortalWorker, None]:
    """A worker that dies at the end of the block, unless it has before."""
    worker = MortalWorker(scheduler, tasks, config)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.crash()


async def reached(place: asyncio.Event) -> None:
    """Wait until the code under test has come to a place; it must within seconds."""
    async with asyncio.timeout(10):
        await place.wait()
