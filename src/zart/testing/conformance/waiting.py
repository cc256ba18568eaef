"""Guarantees 14 to 16: what waits costs a row, sleeps end in time, no event is lost."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

import zart
from zart.scheduler.durable import DurableScheduler
from zart.testing import pass_time
from zart.testing.conformance.harness import (
    Backend,
    eventually,
    guarantee,
    open_scheduler,
    working,
)
from zart.testing.conformance.mortal import mortal, reached
from zart.testing.conformance.rows import database_of, run_sql

__all__ = ["TestEvents", "TestSleepers", "TestTime"]


@dataclass
class Shipped:
    tracking_number: str


async def suspended(scheduler: DurableScheduler, id: str) -> zart.Execution:
    """The execution, as soon as it is suspended."""
    return await eventually(
        lambda: scheduler.get(id), is_true=lambda e: e.status is zart.Status.WAITING
    )


@zart.durable("nap")
async def nap() -> str:
    await zart.sleep("10h")
    return "rested"


@pytest.mark.asyncio
class TestSleepers:
    """14. A sleeping or event-waiting execution costs a row and nothing in any process."""

    @guarantee(14)
    async def test_a_thousand_waiting_executions_hold_nothing(self, backend: Backend) -> None:
        """With 1,000 waiting the worker has no task, thread or slot more than with none."""

        @zart.durable("rest")
        async def rest(kind: str) -> None:
            await (zart.sleep("10h") if kind == "sleep" else zart.wait_for_event("wake"))

        async with open_scheduler(backend) as scheduler, working(scheduler, rest) as worker:
            await eventually(lambda: _idle(worker))
            before = len(asyncio.all_tasks())
            await scheduler.schedule_many(rest, ["sleep", "event"] * 500)
            await eventually(lambda: _waiting(scheduler), is_true=lambda n: n == 1000, seconds=30)
            await eventually(lambda: _idle(worker))
            await eventually(lambda: _few_tasks(before + 2))  # a flush or two may be on its way
            assert worker.running == 0

    @guarantee(14)
    async def test_waiting_executions_take_no_slot(self, backend: Backend) -> None:
        """A worker with one slot runs others while a hundred executions sleep."""

        @zart.durable("quick")
        async def quick() -> str:
            return "done"

        one = zart.WorkerConfig(concurrency=1, shutdown_timeout="1s", poll_interval="20ms")
        async with (
            open_scheduler(backend) as scheduler,
            working(scheduler, nap, quick, config=one),
        ):
            await scheduler.schedule_many(nap, [None] * 100)
            await eventually(lambda: _waiting(scheduler), is_true=lambda n: n == 100)
            handle = await scheduler.schedule(quick)
            assert await handle.result("5s") == "done"

    @guarantee(14)
    async def test_what_it_waits_for_can_be_seen(self, backend: Backend) -> None:
        """A waiting execution tells what it waits for, and until when."""
        async with open_scheduler(backend) as scheduler, working(scheduler, nap):
            handle = await scheduler.schedule(nap)
            execution = await suspended(scheduler, handle.id)
            assert execution.waiting_for == ("sleep",)
            assert execution.worker is None
            assert execution.due is not None
            assert execution.started is not None
            assert execution.due - execution.started >= timedelta(hours=9, minutes=59)


async def _idle(worker: zart.Worker) -> bool:
    return worker.running == 0


async def _few_tasks(limit: int) -> bool:
    return len(asyncio.all_tasks()) <= limit


async def _waiting(scheduler: DurableScheduler) -> int:
    return len(await scheduler.list(status="waiting", limit=2000))


@pytest.mark.asyncio
class TestTime:
    """15. A sleep ends at its first recorded time, by the database's clock."""

    @guarantee(15)
    async def test_a_sleep_ends_at_its_first_recorded_time(self, backend: Backend) -> None:
        """Crashes, other workers and spurious wakes in between move its end nowhere."""
        lives: list[int] = []

        @zart.durable("one-sleep")
        async def workflow() -> None:
            lives.append(1)
            await zart.sleep("10h")

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow):
                first = (await suspended(scheduler, handle.id)).due
            async with working(scheduler, workflow):
                await handle.offer_event("unrelated")  # wakes it, and it sleeps on
                await eventually(lambda: _lived(lives, 2))
                again = await suspended(scheduler, handle.id)
                assert again.due == first
                await pass_time(scheduler, "9h")
                await handle.offer_event("unrelated")
                await eventually(lambda: _lived(lives, 3))
                await suspended(scheduler, handle.id)
                await pass_time(scheduler, "61m")
                await handle.result("5s")
            assert (await handle.get()).crashes == 0

    @guarantee(15)
    async def test_a_sleep_over_while_nobody_was_there_is_over(self, backend: Backend) -> None:
        """A sleep that ended while every worker was down ends at once when one comes."""
        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(nap)
            async with mortal(scheduler, nap):
                await suspended(scheduler, handle.id)
            await pass_time(scheduler, "11h")
            async with working(scheduler, nap):
                assert await handle.result("5s") == "rested"
            assert (await scheduler.timeline(handle.id))[0].outcome in (None, "ok")

    @guarantee(15)
    async def test_a_sleep_that_is_over_stays_over(self, backend: Backend) -> None:
        """What is recorded as over is not waited for again, also when the clock is set back."""

        @zart.durable("slept")
        async def slept() -> str:
            await zart.sleep("1ms")
            await zart.context().step("awake", lambda: "")
            await zart.wait_for_event("go")
            return "awake"

        async with open_scheduler(backend) as scheduler, working(scheduler, slept):
            handle = await scheduler.schedule(slept)
            await eventually(handle.get, is_true=lambda e: e.waiting_for == ("event go",))
            steps = database_of(scheduler).tables.named("steps")
            # By that clock its end is an hour away again.
            hour = 3600 * 1_000_000
            later = f"UPDATE {steps} SET due_at = due_at + {hour} WHERE kind = 'sleep'"
            await run_sql(scheduler, later)
            await handle.offer_event("go")
            assert await handle.result(timeout="5s") == "awake"

    @guarantee(15)
    async def test_a_short_sleep_ends_by_itself(self, backend: Backend) -> None:
        """A sleep ends not before its time and soon after, with no event and no help."""

        @zart.durable("short-sleep")
        async def workflow() -> float:
            before = await zart.now()
            await zart.sleep("200ms")
            return ((await zart.now()) - before).total_seconds()

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            assert 0.2 <= await handle.result("10s") < 3

    @guarantee(15)
    async def test_sleep_until_a_moment(self, backend: Backend) -> None:
        """`sleep_until` wakes at a moment; one that has passed is no wait."""

        @zart.durable("moments")
        async def workflow() -> bool:
            before = await zart.now()
            await zart.sleep_until(before - timedelta(days=1))
            moment = before + timedelta(milliseconds=150)
            await zart.sleep_until("soon", moment)
            for odd in ("2030", ("named", 2030)):
                arguments: Any = odd if isinstance(odd, tuple) else (odd,)
                with pytest.raises(TypeError, match="sleep_until takes a datetime"):
                    await zart.sleep_until(*arguments)
            return await zart.now() >= moment

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            assert await handle.result("10s") is True

    @guarantee(15)
    @pytest.mark.parametrize("hours", [-30, 30])
    async def test_a_workers_clock_may_be_wrong(
        self, backend: Backend, hours: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker whose date is off by more than a day sleeps, times out and backs off rightly."""
        right, right_ns = time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: right() + hours * 3600)
        monkeypatch.setattr(time, "time_ns", lambda: right_ns() + hours * 3600 * 10**9)

        @zart.durable("wrong-clock")
        async def workflow() -> float:
            before = await zart.now()
            await zart.sleep("100ms")
            with pytest.raises(zart.EventTimedOutError):
                await zart.wait_for_event("never", timeout="100ms")
            await zart.sleep("long", "5h")
            return ((await zart.now()) - before).total_seconds()

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            asleep = await eventually(
                handle.get,
                is_true=lambda e: e.waiting_for == ("sleep long",),
            )
            assert asleep.due is not None
            assert asleep.started is not None
            assert timedelta(hours=5) <= asleep.due - asleep.started < timedelta(hours=5, minutes=1)
            assert abs(asleep.started.timestamp() - right()) < 300
            await pass_time(scheduler, "5h")
            assert 0.2 <= await handle.result("5s") < 60


async def _lived(lives: list[int], amount: int) -> bool:
    return len(lives) >= amount


@zart.durable("three-events")
async def three_events() -> list[Any]:
    return [await zart.wait_for_event("news", type=str) for _ in range(3)]


@pytest.mark.asyncio
class TestEvents:
    """16. No event is lost; those of one name are taken in order, once each."""

    @guarantee(16)
    async def test_large_events_of_one_moment_arrive(self, backend: Backend) -> None:
        """Together they are longer than a statement that a server takes; each alone is not."""
        async with open_scheduler(backend) as scheduler:
            handles = [await scheduler.schedule("waits") for _ in range(20)]
            async with asyncio.timeout(20):
                await asyncio.gather(*(h.offer_event("large", '"' * 400_000) for h in handles))

    @guarantee(16)
    @pytest.mark.parametrize("sent", ["before", "during", "after"])
    async def test_an_event_is_never_lost(self, backend: Backend, sent: str) -> None:
        """An event sent before the wait, while it comes to park, or after it parked, is taken."""
        at_wait, offered = asyncio.Event(), asyncio.Event()

        @zart.durable("shipping")
        async def workflow() -> str:
            at_wait.set()
            if sent == "during":
                await reached(offered)  # the history has been read; the event comes after it
            shipped = await zart.wait_for_event("shipped", type=Shipped, timeout="24h")
            return shipped.tracking_number

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            if sent == "before":
                await handle.offer_event("shipped", Shipped("TN-7"))
            async with working(scheduler, workflow):
                await reached(at_wait)
                if sent == "after":
                    await suspended(scheduler, handle.id)
                if sent != "before":
                    await handle.offer_event("shipped", Shipped("TN-7"))
                offered.set()
                assert await handle.result("5s") == "TN-7"

    @guarantee(16)
    async def test_events_of_a_name_are_taken_in_order_once_each(self, backend: Backend) -> None:
        """Three events, some of them before the first wait: three waits get them in order."""
        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(three_events)
            await handle.offer_event("news", "1")
            await handle.offer_event("other", "x")
            await handle.offer_event("news", "2")
            async with working(scheduler, three_events):
                waiting = await suspended(scheduler, handle.id)
                assert waiting.waiting_for == ("event news#3",)
                await handle.offer_event("news", "3")
                assert await handle.result("5s") == ["1", "2", "3"]

    @guarantee(16)
    async def test_a_taken_event_replays_and_is_not_taken_twice(self, backend: Backend) -> None:
        """After a crash each wait gives the event it had taken, and the next takes the next."""
        stuck = asyncio.Event()

        @zart.durable("crash-between-events")
        async def workflow() -> list[str]:
            first = await zart.wait_for_event("news", type=str)
            if not stuck.is_set():
                stuck.set()
                await asyncio.Event().wait()
            return [first, await zart.wait_for_event("news", type=str)]

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            await handle.offer_event("news", "1")
            async with mortal(scheduler, workflow):
                await reached(stuck)
            await handle.offer_event("news", "2")
            async with working(scheduler, workflow):
                assert await handle.result("5s") == ["1", "2"]

    @guarantee(16)
    async def test_many_events_at_once_keep_their_order(self, backend: Backend) -> None:
        """A hundred events offered while the workflow takes them arrive, all and in order."""

        @zart.durable("hundred")
        async def workflow() -> list[int]:
            return [await zart.wait_for_event("number", type=int) for _ in range(100)]

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await asyncio.gather(*(handle.offer_event("number", n) for n in range(100)))
            assert await handle.result("10s") == list(range(100))

    @guarantee(16)
    async def test_a_null_payload_is_not_a_timeout(self, backend: Backend) -> None:
        """An event without a payload gives None, also in a wait with a timeout."""

        @zart.durable("null-event")
        async def workflow() -> str:
            return repr(await zart.wait_for_event("ping", timeout="1h"))

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await suspended(scheduler, handle.id)
            await handle.offer_event("ping")
            assert await handle.result("5s") == "None"

    @guarantee(16)
    async def test_a_timed_out_wait_stays_timed_out(self, backend: Backend) -> None:
        """An event that comes after the time-out was recorded does not undo it in a replay."""
        outcomes: list[str] = []
        stuck = asyncio.Event()

        @zart.durable("too-late")
        async def workflow() -> list[str]:
            try:
                outcomes.append(await zart.wait_for_event("news", type=str, timeout="1h"))
            except zart.EventTimedOutError as error:
                outcomes.append(f"no {error.event}")
            if not stuck.is_set():
                stuck.set()
                await asyncio.Event().wait()
            return [outcomes[-1], await zart.wait_for_event("news", type=str)]

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow):
                await suspended(scheduler, handle.id)
                await pass_time(scheduler, "61m")
                await reached(stuck)
            await handle.offer_event("news", "late")
            async with working(scheduler, workflow):
                assert await handle.result("5s") == ["no news", "late"]
            assert outcomes == ["no news", "no news"]
            assert (await scheduler.timeline(handle.id))[0].outcome == "timed_out"

    @guarantee(16)
    async def test_an_event_that_came_first_beats_the_timeout(self, backend: Backend) -> None:
        """Event first, then the deadline passes, both before any worker looks: the event counts."""

        @zart.durable("event-first")
        async def workflow() -> str:
            return await zart.wait_for_event("news", type=str, timeout="1h")

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with working(scheduler, workflow):
                await suspended(scheduler, handle.id)
            await handle.offer_event("news", "came")
            await pass_time(scheduler, "2h")
            async with working(scheduler, workflow):
                assert await handle.result("5s") == "came"
            assert (await scheduler.timeline(handle.id))[0].outcome == "ok"

    @guarantee(15, 16)
    async def test_a_wait_whose_event_a_sibling_has_taken_is_recorded_with_its_time(
        self, backend: Backend
    ) -> None:
        """Both have seen the one event while they waited for a record; the other's time counts."""

        @zart.step(idempotent=True)
        async def token() -> str:
            return ""

        async def second() -> str:
            try:
                return await zart.wait_for_event("news", type=str, timeout="10h")
            except zart.EventTimedOutError:
                return "late"

        @zart.durable("two-waits")
        async def workflow() -> list[str]:
            await token()
            return list(await asyncio.gather(zart.wait_for_event("news", type=str), second()))

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            await handle.offer_event("news", "first")
            async with working(scheduler, workflow):
                await suspended(scheduler, handle.id)
                await pass_time(scheduler, "11h")
                assert await handle.result("5s") == ["first", "late"]

    @guarantee(16)
    async def test_event_against_timeout_has_one_outcome(self, backend: Backend) -> None:
        """Raced many times over, each wait has one outcome and no event is lost or doubled."""

        @zart.durable("race")
        async def workflow() -> list[str]:
            made: list[str] = []
            try:
                made.append(await zart.wait_for_event("news", type=str, timeout="60ms"))
            except zart.EventTimedOutError:
                made.append("late")
                made.append(await zart.wait_for_event("news", type=str, timeout="1h"))
            return made

        config = zart.WorkerConfig(concurrency=50, shutdown_timeout="1s", poll_interval="10ms")
        async with open_scheduler(backend) as scheduler:
            async with working(scheduler, workflow, config=config):
                handles = await scheduler.schedule_many(workflow, [None] * 40)

                async def send(number: int, handle: zart.Handle[list[str]]) -> None:
                    await asyncio.sleep(number * 0.004)
                    await handle.offer_event("news", f"n{number}")

                await asyncio.gather(*(send(n, h) for n, h in enumerate(handles)))
                results = await asyncio.gather(*(h.result("10s") for h in handles))
            assert [r[-1] for r in results] == [f"n{n}" for n in range(40)]
            for handle, result in zip(handles, results, strict=True):
                outcome = (await scheduler.timeline(handle.id))[0].outcome
                assert outcome == ("ok" if len(result) == 1 else "timed_out")
