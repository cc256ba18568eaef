"""What a handler has sent and left behind is answered before the last that it writes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import zart
from zart.models import Claim, ClaimedTask
from zart.scheduler.entries import Entry, Receipt
from zart.testing.conformance.harness import QUICK, eventually


class SlowFlush:
    """Holds the flush that has a step's outcome until what must not overtake it has done so.

    That is an execution's end or park, or the end of an iteration. Or for a moment: they may wait.
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
        if any(entry.ending or entry.erased for entry in entries):
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


@pytest.mark.guarantee(18, 19)
async def test_an_iteration_s_end_does_not_overtake_the_outcome_of_a_step_that_was_left(
    scheduler: zart.DurableScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is dropped with the iteration: committed after that, it would be there for ever."""
    flush = SlowFlush(scheduler, "loop[0]/beside")
    monkeypatch.setattr(scheduler.backend, "commit", flush)

    async def beside() -> None: ...

    @zart.durable("looping")
    async def looping() -> bool:
        ctx = zart.context()
        async for number in zart.durable_loop("loop", range(2)):
            if number == 0:
                ctx.schedule_step("beside", beside)
                await flush.held.wait()
        await zart.sleep("1ms")
        return await zart.patched("new")

    async with zart.Worker(scheduler, [looping], QUICK):
        handle = await scheduler.schedule(looping)
        assert await handle.result(timeout="10s")
    names = [s.name for s in await scheduler.timeline(handle.id)]
    assert sorted(names) == ["loop", "new", "sleep"]


@pytest.mark.guarantee(16, 19)
async def test_an_answer_that_was_read_before_an_iteration_ended_does_not_bring_its_steps_back(
    scheduler: zart.DurableScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a finished iteration has dropped is no step that the code has not come to yet."""
    commit, refresh = scheduler.backend.commit, scheduler.backend.refresh
    offered, finishing, told = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def finish_when_told(entries: Sequence[Entry]) -> list[Receipt]:
        if any(entry.erased for entry in entries):
            finishing.set()
            await told.wait()
        return await commit(entries)

    async def read_while_it_finishes(claims: Sequence[Claim]) -> list[ClaimedTask]:
        await finishing.wait()
        fresh = await refresh(claims)
        # The caller passes it on before the event loop comes to this.
        asyncio.get_running_loop().call_soon(told.set)
        return fresh

    monkeypatch.setattr(scheduler.backend, "commit", finish_when_told)
    monkeypatch.setattr(scheduler.backend, "refresh", read_while_it_finishes)

    @zart.step
    async def part() -> None: ...

    @zart.step
    async def until_offered() -> None:
        await offered.wait()

    @zart.durable("looping")
    async def looping() -> bool:
        waiting = asyncio.create_task(zart.wait_for_event("go"))
        await until_offered()
        async for _ in zart.durable_loop("loop", range(2)):
            await part()
        await waiting
        return await zart.patched("new")

    async with zart.Worker(scheduler, [looping], QUICK):
        handle = await scheduler.schedule(looping, id="e")
        await eventually(lambda: _has(scheduler, "e", "event go"))
        await handle.offer_event("go")
        offered.set()
        assert await handle.result(timeout="10s")


async def _has(scheduler: zart.DurableScheduler, execution: str, name: str) -> bool:
    return any(step.name == name for step in await scheduler.timeline(execution))
