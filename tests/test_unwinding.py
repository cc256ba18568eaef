"""What comes while a run that waits in several branches is being suspended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

import zart
from tests.databases import Database
from zart.execution.branches import Branches, Waiting
from zart.execution.history import History
from zart.models import Claim, ClaimedTask, Event
from zart.scheduler.entries import Delivery, Entry, Receipt
from zart.testing.conformance.harness import QUICK


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


@pytest.mark.guarantee(16, 17)
async def test_an_event_that_a_sibling_s_time_out_has_read_ends_the_wait_for_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the one branch reads again for its own sake is told to the others that wait in place."""
    delivered, received = asyncio.Event(), asyncio.Event()

    @zart.step
    async def until_received() -> None:
        await received.wait()

    async def in_vain() -> str:
        try:
            return await zart.wait_for_event("legal", type=str, timeout="1ms")
        except zart.EventTimedOutError:
            return "in time"

    async def paid() -> str:
        try:
            return await zart.wait_for_event("money", type=str)
        finally:
            received.set()

    @zart.durable
    async def approval() -> list[str]:
        return list(await asyncio.gather(in_vain(), paid(), until_received()))[:2]

    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        commit = scheduler.backend.commit
        timing_out = asyncio.Event()

        async def after_the_event(entries: Sequence[Entry]) -> list[Receipt]:
            if any(entry.unless_woken is not None for entry in entries):
                timing_out.set()
                await delivered.wait()
            return await commit(entries)

        monkeypatch.setattr(scheduler.backend, "commit", after_the_event)
        async with zart.Worker(scheduler, [approval], QUICK) as worker:
            monkeypatch.setattr(worker, "_reconcile", _looks_never)
            handle = await scheduler.schedule(approval, id="e")
            await timing_out.wait()
            # Past the scheduler: nothing rings here, as when another process delivers it.
            await scheduler.backend.offer([Delivery("e", "money", '"paid"', "k")])
            delivered.set()
            assert await handle.result(timeout="10s") == ["in time", "paid"]


@pytest.mark.guarantee(16)
def test_an_event_that_was_put_back_is_not_lost_to_an_older_answer() -> None:
    """A wait was cut off while it took an event; what was read in between is without that one."""
    claim, money = Claim("e", 1, "", 1), Event(1, "money", '"paid"')
    task = ClaimedTask(claim, "pays", "default", "null", 1, 1, 0, 1, 0, 0, events=[money])
    history = History(task)
    letter = history.take("money")
    assert letter is not None
    history.put_back(letter, "wait")
    history.refresh(msgspec.structs.replace(task, events=[Event(2, "more", "1")], wake_sequence=2))
    assert history.take("money") == money
    assert history.has_mail("more")


class _Nobody:
    def came_to_rest(self) -> None:
        """Nobody minds."""


@pytest.mark.guarantee(16, 17)
async def test_a_run_is_not_suspended_at_a_wait_that_is_over() -> None:
    """Whoever has ended it, and whether or not they have told."""
    over: list[str] = []

    async def handler() -> list[Waiting] | None:
        root = asyncio.current_task()
        assert root is not None
        branches = Branches(root, _Nobody())
        waiting = asyncio.create_task(branches.wait(Waiting("event", lambda: bool(over))))
        branches.enter()
        await asyncio.sleep(0)  # it waits in place, beside the work of this task
        over.append("event")
        branches.leave()
        await waiting
        return branches.suspended

    async with asyncio.timeout(10):
        assert await asyncio.create_task(handler()) is None


async def _looks_never() -> None:
    """Nothing is compared with the database."""
