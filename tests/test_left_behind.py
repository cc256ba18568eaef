"""What a handler has sent and left behind is answered before the last that it writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

import zart
from tests.databases import Database
from zart.scheduler.entries import Entry, Receipt
from zart.testing.conformance.harness import QUICK


@pytest.fixture
async def scheduler(database: Database) -> AsyncIterator[zart.DurableScheduler]:
    async with zart.connect(database.url) as made:
        await made.migrate()
        yield made


class SlowFlush:
    """Holds the flush that has a step's outcome until an execution's end or park has overtaken it.

    Or for a moment: they may wait for it.
    """

    def __init__(self, scheduler: zart.DurableScheduler, step: str) -> None:
        self._commit = scheduler.backend.commit
        self._step = step
        self.held = asyncio.Event()
        self._overtaken = asyncio.Event()

    async def __call__(self, entries: Sequence[Entry]) -> list[Receipt]:
        if not self.held.is_set() and self._step in [s[2] for e in entries for s in e.steps]:
            self.held.set()
            try:
                async with asyncio.timeout(0.3):
                    await self._overtaken.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(0.2)  # time for the next claim
        receipts = await self._commit(entries)
        if any(entry.ending is not None for entry in entries):
            self._overtaken.set()
        return receipts


@pytest.mark.guarantee(1, 7, 17)
async def test_a_retry_does_not_overtake_the_outcome_of_a_step_that_was_left(
    scheduler: zart.DurableScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is claimed again nothing of the life before it comes to its history any more."""
    flush = SlowFlush(scheduler, "paid")
    monkeypatch.setattr(scheduler.backend, "commit", flush)
    calls: list[str] = []

    @zart.step
    async def paid() -> None:
        calls.append("paid")

    @zart.step
    async def shaky() -> None:
        await flush.held.wait()
        calls.append("shaky")
        if calls.count("shaky") == 1:
            raise ConnectionError

    @zart.durable("both", retry=zart.RetryConfig.fixed(1, "1ms"))
    async def both() -> None:
        await asyncio.gather(paid(), shaky())

    async with zart.Worker(scheduler, [both], QUICK):
        handle = await scheduler.schedule(both)
        await handle.result(timeout="10s")
    assert calls == ["paid", "shaky", "shaky"]


@pytest.mark.guarantee(6)
async def test_a_deadline_does_not_overtake_the_outcome_of_a_step(
    scheduler: zart.DurableScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has happened by then is in the timeline."""
    monkeypatch.setattr(scheduler.backend, "commit", SlowFlush(scheduler, "paid"))

    @zart.step
    async def paid() -> None: ...

    @zart.durable("late", timeout="100ms")
    async def late() -> None:
        await paid()

    async with zart.Worker(scheduler, [late], QUICK):
        handle = await scheduler.schedule(late)
        with pytest.raises(zart.ExecutionFailedError, match="did not end within"):
            await handle.result(timeout="10s")
    assert [(s.name, s.outcome) for s in await scheduler.timeline(handle.id)] == [("paid", "ok")]
