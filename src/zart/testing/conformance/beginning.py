"""Guarantees 8, 10 and 13 for executions that begin in the process that schedules them.

A worker beside the caller is handed what it may begin with the insertion itself, without a claim.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import zart
from zart.scheduler import strays
from zart.scheduler import worker as worker_module
from zart.testing.conformance.harness import QUICK, Backend, guarantee, open_scheduler, working
from zart.testing.conformance.rows import count_rows

__all__ = ["TestBeginning"]


class Crowd:
    """How many of its executions run, and the most that ever did."""

    running = 0
    most = 0


@zart.durable("echo")
async def echo(number: int) -> int:
    Crowd.running += 1
    Crowd.most = max(Crowd.most, Crowd.running)
    await asyncio.sleep(0.002)
    Crowd.running -= 1
    return number


@zart.durable("stranger")
async def stranger(number: int) -> int:
    return number


def of(slots: int) -> zart.WorkerConfig:
    return zart.WorkerConfig(concurrency=slots, shutdown_timeout="5s", poll_interval="20ms")


async def warm(scheduler: zart.DurableScheduler) -> None:
    """Let the worker find out that nothing is left to claim."""
    for number in range(3):
        handle = await scheduler.schedule(echo, number)
        await handle.result(timeout="10s")


@pytest.mark.asyncio
class TestBeginning:
    """A claim like any other, taken with the insertion."""

    @guarantee(8)
    async def test_it_begins_without_a_claim(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is left for a claim to find, here or elsewhere; many go in one commit."""
        async with open_scheduler(backend) as scheduler, working(scheduler, echo):
            await warm(scheduler)

            async def nothing(*_: Any) -> list[Any]:
                return []

            monkeypatch.setattr(scheduler.backend, "claim", nothing)
            handles = await asyncio.gather(*(scheduler.schedule(echo, n) for n in range(10)))
            assert [await h.result(timeout="10s") for h in handles] == list(range(10))
            assert await count_rows(scheduler, "tasks") == 0

    @guarantee(8)
    async def test_no_more_run_than_the_worker_has_slots(self, backend: Backend) -> None:
        """A burst beyond the slots waits in the database."""
        Crowd.running = Crowd.most = 0
        async with open_scheduler(backend) as scheduler, working(scheduler, echo, config=of(3)):
            await warm(scheduler)
            handles = await asyncio.gather(*(scheduler.schedule(echo, n) for n in range(40)))
            assert [await h.result(timeout="20s") for h in handles] == list(range(40))
        assert 1 <= Crowd.most <= 3

    @guarantee(13)
    async def test_a_task_that_the_worker_does_not_know_waits(self, backend: Backend) -> None:
        """And so does one of a queue that it does not serve, and one whose time has not come."""
        async with open_scheduler(backend) as scheduler, working(scheduler, echo):
            await warm(scheduler)
            waiting = [
                await scheduler.schedule(stranger, 1),
                await scheduler.schedule(echo, 1, queue="elsewhere"),
                await scheduler.schedule(echo, 1, delay="1h"),
            ]
            await warm(scheduler)
            assert [(await h.get()).status for h in waiting] == ["pending", "pending", "waiting"]

    @guarantee(8)
    async def test_what_others_schedule_is_not_overtaken_for_ever(self, backend: Backend) -> None:
        """However busily this process schedules for itself."""
        async with (
            open_scheduler(backend) as first,
            open_scheduler(backend) as second,
            working(first, echo, stranger, config=of(2)),
        ):
            await warm(first)
            over = asyncio.Event()

            async def busy() -> None:
                while not over.is_set():
                    await (await first.schedule(echo, 1)).result(timeout="30s")

            callers = [asyncio.create_task(busy()) for _ in range(8)]
            try:
                for number in range(3):
                    handle = await second.schedule(stranger, number)
                    assert await handle.result(timeout="10s") == number
            finally:
                over.set()
                await asyncio.gather(*callers)

    @guarantee(10)
    async def test_one_that_was_inserted_and_not_begun_is_run_all_the_same(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when the answer to its insertion is lost: its worker gives it back."""
        monkeypatch.setattr(worker_module, "RECONCILE", 0.1)
        monkeypatch.setattr(strays, "STRAY", 0.5)
        async with open_scheduler(backend) as scheduler, working(scheduler, echo) as worker:
            await warm(scheduler)
            begun = asyncio.Event()

            def lose(_: Any) -> None:
                worker.release()
                begun.set()

            with monkeypatch.context() as losing:
                losing.setattr(worker, "begin", lose)
                handle = await scheduler.schedule(echo, 5)
            assert begun.is_set()
            assert await handle.result(timeout="20s") == 5
            assert (await handle.get()).crashes == 0

    @guarantee(8, 10)
    @pytest.mark.parametrize("late", [False, True])
    async def test_a_worker_that_stops_meanwhile_loses_nothing(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch, late: bool
    ) -> None:
        """Inserted while the worker stops, or after it has: it ends here, or another takes it."""
        async with open_scheduler(backend) as scheduler, open_scheduler(backend) as other:
            config = zart.WorkerConfig(
                concurrency=5, shutdown_timeout="100ms" if late else "10s", poll_interval="20ms"
            )
            inserted, answered = asyncio.Event(), asyncio.Event()
            schedule_each = scheduler.backend.schedule_each

            async def slowly(executions: Any, note: Any) -> Any:
                answer = await schedule_each(executions, note)
                inserted.set()
                await answered.wait()
                return answer

            async with working(scheduler, echo, config=config) as worker:
                await warm(scheduler)
                monkeypatch.setattr(scheduler.backend, "schedule_each", slowly)
                scheduling = asyncio.create_task(scheduler.schedule(echo, 7))
                await inserted.wait()
                stopping = asyncio.create_task(worker.stop())
                if late:
                    await stopping
                answered.set()
                handle = await scheduling
                await stopping
            short = zart.WorkerConfig(beat="200ms", lease="600ms", poll_interval="20ms")
            async with working(other, echo, config=short if late else QUICK):
                assert await handle.result(timeout="20s") == 7
