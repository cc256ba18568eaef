"""Guarantees 22 and 23: an id schedules once; cancel."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

import zart
from zart.scheduler.entries import Entry, Finish, Receipt
from zart.testing import pass_time
from zart.testing.conformance.faults import claim_all
from zart.testing.conformance.harness import (
    QUICK,
    Backend,
    eventually,
    guarantee,
    open_scheduler,
    working,
)
from zart.testing.conformance.rows import all_rows, count_rows

__all__ = ["TestCancel", "TestScheduling"]


@zart.durable("echo")
async def echo(number: int) -> int:
    return number


@zart.durable("other")
async def other(number: int) -> int:
    return number


@pytest.mark.asyncio
class TestScheduling:
    """22. The id is the idempotency key."""

    @guarantee(22)
    async def test_the_same_id_schedules_once(self, backend: Backend) -> None:
        """However often and wherever it is scheduled, there is one execution and one result."""
        async with (
            open_scheduler(backend) as first,
            open_scheduler(backend) as second,
            working(first, echo),
        ):
            handles = await asyncio.gather(
                *(s.schedule(echo, 7, id="same") for s in (first, second) for _ in range(5))
            )
            assert [h.created for h in handles].count(True) == 1
            assert [await h.result(timeout="10s") for h in handles] == [7] * 10
            assert await count_rows(first, "executions") == 1
            assert not (await second.schedule(echo, 7, id="same")).created

    @guarantee(22)
    async def test_an_id_stands_for_one_task_and_input(self, backend: Backend) -> None:
        """Another task or other input under an id is an error that says so; nothing is written."""
        async with open_scheduler(backend) as scheduler:
            await scheduler.schedule(echo, 7, id="taken")
            before = await all_rows(scheduler)
            with pytest.raises(zart.ExecutionExistsError, match="'echo' exists with other input"):
                await scheduler.schedule(echo, 8, id="taken")
            with pytest.raises(zart.ExecutionExistsError, match="belongs to an execution of task"):
                await scheduler.schedule(other, 7, id="taken")
            with pytest.raises(zart.ExecutionExistsError):
                await scheduler.schedule_many(echo, [1, 2, 3], ids=["a", "taken", "c"])
            with pytest.raises(zart.ExecutionExistsError):
                await scheduler.schedule_many(echo, [1, 2], ids=["twice", "twice"])
            assert await all_rows(scheduler) == before

    @guarantee(22)
    async def test_a_refused_id_spoils_no_neighbour(self, backend: Backend) -> None:
        """Calls that are written together fail one by one."""
        async with open_scheduler(backend) as scheduler:
            await scheduler.schedule(echo, 7, id="taken")
            calls = [scheduler.schedule(echo, n, id=i) for n, i in enumerate(("a", "taken", "b"))]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(answers[1], zart.ExecutionExistsError)
            assert [h.created for h in (answers[0], answers[2]) if isinstance(h, zart.Handle)] == [
                True,
                True,
            ]

    @guarantee(22)
    async def test_many_are_scheduled_at_once(self, backend: Backend) -> None:
        """schedule_many gives handles in the order of its items; ids that are there are kept."""
        async with open_scheduler(backend) as scheduler, working(scheduler, echo):
            await scheduler.schedule(echo, 1, id="n-1")
            ids = [f"n-{n}" for n in range(100)]
            handles = await scheduler.schedule_many(echo, range(100), ids=ids)
            assert [h.id for h in handles] == ids
            assert [h.created for h in handles].count(False) == 1
            assert [await h.result(timeout="20s") for h in handles] == list(range(100))
            assert await scheduler.schedule_many(echo, []) == []

    @guarantee(22)
    async def test_many_are_one_call_of_the_backend(self, backend: Backend) -> None:
        """schedule_many does not go to the database item by item."""
        async with open_scheduler(backend) as scheduler:
            calls: list[int] = []
            schedule = scheduler.backend.schedule

            async def counted(executions: Any) -> list[bool]:
                calls.append(len(executions))
                return await schedule(executions)

            scheduler.backend.schedule = counted  # type: ignore[method-assign]
            await scheduler.schedule_many(echo, range(50))
            assert calls == [50]

    @guarantee(13)
    async def test_the_most_urgent_goes_first_whatever_its_task(self, backend: Backend) -> None:
        """By priority, then by the time since which it waits; no name goes before another."""
        order: list[int] = []

        @zart.durable("first")
        async def first(number: int) -> None:
            order.append(number)

        @zart.durable("second")
        async def second(number: int) -> None:
            order.append(number)

        async with open_scheduler(backend) as scheduler:
            handles = [
                await scheduler.schedule(task, number, priority=priority)
                for number, (task, priority) in enumerate(
                    [(first, 5), (second, 5), (first, 5), (second, 1), (first, 7), (second, 6)]
                )
            ]
            one = zart.WorkerConfig(concurrency=1, poll_interval="20ms")
            async with working(scheduler, first, second, config=one):
                for handle in handles:
                    await handle.result(timeout="10s")
        assert order == [3, 0, 1, 2, 5, 4]

    @guarantee(22)
    async def test_an_id_is_made_where_none_is_given(self, backend: Backend) -> None:
        """It is a UUIDv7: unique, and in the order of scheduling."""
        async with open_scheduler(backend) as scheduler:
            handles = [await scheduler.schedule(echo, n) for n in range(5)]
            assert {UUID(h.id).version for h in handles} == {7}
            assert [h.id for h in handles] == sorted({h.id for h in handles})
            listed = await scheduler.list(task="echo")
            assert [e.id for e in listed] == [h.id for h in reversed(handles)]

    @guarantee(22)
    @pytest.mark.parametrize("how", ["delay", "at"])
    async def test_a_delayed_execution_waits_for_its_time(self, backend: Backend, how: str) -> None:
        """It is not claimed before, and runs after; an early event does not start it."""
        moment = datetime.now(UTC) + timedelta(hours=2)
        when: Any = {"delay": "2h"} if how == "delay" else {"at": moment}
        async with open_scheduler(backend) as scheduler, working(scheduler, echo):
            handle = await scheduler.schedule(echo, 1, **when)
            await handle.offer_event("early")
            known = await scheduler.schedule(echo, 2)
            assert await known.result(timeout="10s") == 2
            waiting = await handle.get()
            assert waiting.status == "waiting"
            assert waiting.waiting_for == ("start",)
            assert waiting.due is not None
            assert abs(waiting.due - moment) < timedelta(minutes=2)
            await pass_time(scheduler, "3h")
            assert await handle.result(timeout="10s") == 1

    @guarantee(22)
    async def test_lower_priority_goes_first(self, backend: Backend) -> None:
        """Of what is ready the lowest priority number is claimed first, then the oldest."""
        async with open_scheduler(backend) as scheduler:
            for number, priority in enumerate((5, 0, 5, -3)):
                await scheduler.schedule(echo, number, id=str(number), priority=priority)
            claimed = [(await claim_all(scheduler, "echo", amount=1))[0] for _ in range(4)]
            assert [t.claim.execution_id for t in claimed] == ["3", "1", "0", "2"]


@pytest.mark.asyncio
class TestCancel:
    """23. A cancelled execution does nothing more."""

    @guarantee(23)
    async def test_what_has_not_begun_ends_at_once(self, backend: Backend) -> None:
        """A pending execution and a delayed one are cancelled without a worker."""
        async with open_scheduler(backend) as scheduler:
            for handle in (
                await scheduler.schedule(echo, 1),
                await scheduler.schedule(echo, 1, delay="1h"),
            ):
                await handle.cancel()
                execution = await handle.get()
                assert execution.status == "cancelled"
                assert execution.finished is not None
                with pytest.raises(zart.ExecutionCancelledError) as cancelled:
                    await handle.result(timeout="5s")
                assert cancelled.value.execution_id == handle.id
            assert await count_rows(scheduler, "tasks") == 0

    @guarantee(23)
    @pytest.mark.parametrize("wait", ["sleep", "event", "backoff", "group"])
    async def test_what_waits_ends_at_once(self, backend: Backend, wait: str) -> None:
        """A waiting execution leaves no task, event or open step behind, and is never woken."""
        runs: list[str] = []

        @zart.step(retry=zart.RetryConfig.fixed(5, "1h"))
        async def failing() -> None:
            raise ValueError("later")

        class Waits(zart.TaskHandler[str, None]):
            name = "waits"

            async def run(self, ctx: zart.TaskContext, data: str) -> None:
                runs.append(data)
                match data:
                    case "sleep":
                        await ctx.sleep("1h")
                    case "event":
                        await ctx.wait_for_event("never", timeout="1h")
                    case "backoff":
                        await failing()
                    case _:
                        await ctx.start_child(echo, 1, id="child", queue="nobody")

        async with open_scheduler(backend) as scheduler, working(scheduler, Waits) as worker:
            handle = await scheduler.schedule(Waits, wait)
            await eventually(handle.get, is_true=lambda e: e.status == "waiting")
            await handle.offer_event("unheard", 1)
            await eventually(lambda: _idle(worker))
            await handle.cancel()
            assert (await handle.get()).status == "cancelled"
            with pytest.raises(zart.ExecutionCancelledError):
                await handle.result(timeout="5s")
            tables = await all_rows(scheduler)
            assert [row for row in tables["tasks"] if handle.id in row] == []
            assert tables["events"] == []
            steps = await scheduler.timeline(handle.id)
            assert all(s.outcome == "cancelled" for s in steps if s.kind in ("sleep", "event"))
            before = list(runs)
            await pass_time(scheduler, "5h")
            assert await claim_all(scheduler, "waits") == []
            assert runs == before

    @guarantee(23)
    async def test_a_running_async_step_is_cancelled(self, backend: Backend) -> None:
        """Its outcome is not recorded, no later step starts, and its slot is free again."""
        seen: list[str] = []
        entered = asyncio.Event()

        async def hang() -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        @zart.durable("hanging")
        async def hanging() -> None:
            context = zart.context()
            try:
                await context.step("hang", hang)
            finally:
                await context.step("clean up", seen.append, "step in finally")

        one_slot = zart.WorkerConfig(
            concurrency=1, poll_interval="20ms", shutdown_timeout=QUICK.shutdown_timeout
        )
        async with (
            open_scheduler(backend) as scheduler,
            working(scheduler, hanging, echo, config=one_slot),
        ):
            handle = await scheduler.schedule(hanging)
            await asyncio.wait_for(entered.wait(), 10)
            await handle.cancel()
            before = await all_rows(scheduler)
            next_one = await scheduler.schedule(echo, 3)
            assert await next_one.result(timeout="10s") == 3
            assert seen == ["cancelled"]
            assert await scheduler.timeline(handle.id) == []
            mine = [r for rows in before.values() for r in rows if handle.id in r]
            after = await all_rows(scheduler)
            assert [r for rows in after.values() for r in rows if handle.id in r] == mine

    @guarantee(9, 23)
    async def test_a_plain_step_ends_unheard(self, backend: Backend) -> None:
        """A step in a thread runs to its end; its outcome changes no row, and no step follows."""
        loop = asyncio.get_running_loop()
        entered, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        followed: list[str] = []

        def plain() -> str:
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(_wait(go_on), loop).result(10)
            loop.call_soon_threadsafe(ended.set)
            return "unheard"

        @zart.durable("plain")
        async def workflow() -> None:
            context = zart.context()
            await context.step("plain", plain)
            await context.step("next", followed.append, "next")

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow) as worker:
            handle = await scheduler.schedule(workflow)
            await asyncio.wait_for(entered.wait(), 10)
            await handle.cancel()
            before = await all_rows(scheduler)
            await eventually(lambda: _idle(worker))
            go_on.set()
            await asyncio.wait_for(ended.wait(), 10)
            assert await all_rows(scheduler) == before
            assert followed == []
            assert (await handle.get()).status == "cancelled"

    @guarantee(23)
    async def test_a_commit_after_the_cancel_is_rejected(self, backend: Backend) -> None:
        """A result that comes after the cancel does not undo it."""
        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(echo, 1)
            claim = (await claim_all(scheduler, "echo"))[0].claim
            await handle.cancel()
            before = await all_rows(scheduler)
            late = Entry(claim, ending=Finish("completed", "1", None, 1, 0, 1, None))
            assert await scheduler.backend.commit([late]) == [Receipt.FENCED]
            assert await all_rows(scheduler) == before

    @guarantee(23)
    async def test_a_running_distributed_step_is_cancelled_with_its_parent(
        self, backend: Backend
    ) -> None:
        """The parent's rows go at once, and what runs of them on any worker is stopped."""
        entered, stopped = asyncio.Event(), asyncio.Event()

        @zart.step
        async def far() -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        @zart.durable("parent")
        async def parent() -> None:
            await far.schedule()

        async with (
            open_scheduler(backend) as scheduler,
            open_scheduler(backend) as elsewhere,
            working(scheduler, parent, far),
            working(elsewhere, parent, far),
        ):
            handle = await scheduler.schedule(parent)
            await asyncio.wait_for(entered.wait(), 10)
            await handle.cancel()
            await asyncio.wait_for(stopped.wait(), 10)
            assert await count_rows(scheduler, "tasks") == 0

    @guarantee(23)
    async def test_cancelling_twice_is_no_error(self, backend: Backend) -> None:
        """The second cancel changes no row; a restart begins a new run."""
        async with open_scheduler(backend) as scheduler, working(scheduler, echo):
            handle = await scheduler.schedule(echo, 9, delay="1h")
            await handle.cancel()
            before = await all_rows(scheduler)
            await handle.cancel()
            assert await all_rows(scheduler) == before
            assert await scheduler.restart(handle.id) == 2
            assert await handle.result(timeout="10s") == 9

    @guarantee(23)
    async def test_a_cancelled_execution_keeps_its_counts(self, backend: Backend) -> None:
        """How often it was tried and when it was first started are not lost with the cancel."""

        @zart.durable("fails-first", retry=zart.RetryConfig.fixed(5, "1h"))
        async def workflow() -> None:
            raise ValueError("not yet")

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            waiting = await eventually(handle.get, is_true=lambda e: e.status == "waiting")
            await handle.cancel()
            cancelled = await handle.get()
            assert cancelled.status == "cancelled"
            assert (cancelled.attempt, cancelled.started) == (2, waiting.started)

    @guarantee(23)
    async def test_a_cancelled_execution_is_not_compensated(self, backend: Backend) -> None:
        """on_failure is for failures: a cancel is somebody's will."""
        compensated: list[str] = []

        @zart.durable("waits-for-ever")
        async def workflow() -> None:
            await zart.wait_for_event("never")

        @workflow.on_failure
        async def compensate(_data: None, failure: zart.Failure) -> None:
            compensated.append(failure.type)

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow, echo):
            handle = await scheduler.schedule(workflow)
            await eventually(handle.get, is_true=lambda e: e.status == "waiting")
            await handle.cancel()
            later = await scheduler.schedule(echo, 1)
            assert await later.result(timeout="10s") == 1
            assert compensated == []

    @guarantee(23)
    async def test_a_compensation_that_waits_is_not_woken_by_the_deadline(
        self, backend: Backend
    ) -> None:
        """The time is over for the handler alone; on_failure waits as long as it takes."""

        @zart.durable("fails", timeout="1h")
        async def workflow() -> None:
            raise ValueError("no luck")

        @workflow.on_failure
        async def compensate(_data: None, _failure: zart.Failure) -> None:
            await zart.wait_for_event("approval")

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            waiting = await eventually(handle.get, is_true=lambda e: e.status == "waiting")
            assert waiting.due is None
            await handle.offer_event("approval")
            with pytest.raises(zart.ExecutionFailedError, match="no luck"):
                await handle.result(timeout="10s")


async def _idle(worker: zart.Worker) -> bool:
    return worker.running == 0


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
