"""Guarantee 18, and child executions: work beside the handler, here or on any worker."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

import zart
from zart.models import ClaimedTask
from zart.scheduler.entries import Entry, Finish, NewExecution, Park, Receipt
from zart.testing.conformance.faults import claim_all, declare_dead
from zart.testing.conformance.harness import (
    QUICK,
    Backend,
    eventually,
    guarantee,
    open_scheduler,
    working,
)
from zart.testing.conformance.rows import all_rows, count_rows

__all__ = ["TestChildren", "TestFanOut"]

ONE_SLOT = msgspec.structs.replace(QUICK, concurrency=1)


@zart.step
async def square(number: int) -> int:
    return number * number


@pytest.mark.asyncio
class TestFanOut:
    """18. Steps as rows that any worker may run, and closures in the same process."""

    @guarantee(18)
    async def test_a_worker_that_has_only_the_step_runs_it(self, backend: Backend) -> None:
        """Two steps that wait for each other end, on two workers with one slot each."""
        meeting = asyncio.Barrier(2)

        @zart.step
        async def meet(number: int) -> int:
            await meeting.wait()
            return number

        @zart.durable("meeting")
        async def workflow() -> list[int]:
            context = zart.context()
            handles = [context.schedule_step(f"meet-{n}", meet, n) for n in (1, 2)]
            return await context.wait_all(handles)

        async with (
            open_scheduler(backend) as scheduler,
            open_scheduler(backend) as elsewhere,
            working(scheduler, workflow, meet, config=ONE_SLOT),
            working(elsewhere, meet, config=ONE_SLOT),
        ):
            handle = await scheduler.schedule(workflow)
            assert await handle.result(timeout="10s") == [1, 2]

    @guarantee(18)
    async def test_a_parent_gives_its_slot_back(self, backend: Backend) -> None:
        """One worker with one slot runs a parent with many steps, which is woken once."""
        runs: list[str] = []

        @zart.durable("parent")
        async def parent() -> int:
            runs.append("run")
            handles = [square.schedule(number) for number in range(5)]
            return sum(await zart.wait_all(handles))

        async with (
            open_scheduler(backend) as scheduler,
            working(scheduler, parent, square, config=ONE_SLOT),
        ):
            handle = await scheduler.schedule(parent)
            assert await handle.result(timeout="10s") == 30
            assert len(runs) == 2
            steps = await scheduler.timeline(handle.id)
            assert [(s.name, s.kind, s.outcome, s.value) for s in steps] == [
                ("square", "distributed", "ok", "0"),
                *((f"square#{n + 1}", "distributed", "ok", str(n * n)) for n in range(1, 5)),
            ]
            assert await count_rows(scheduler, "tasks") == 0

    @guarantee(18)
    async def test_a_parent_waits_without_a_worker(self, backend: Backend) -> None:
        """Between its steps' ends a parent is a waiting row: no claim, no due time."""
        go_on = asyncio.Event()

        @zart.step
        async def held() -> str:
            await go_on.wait()
            return "done"

        @zart.durable("waiting-parent")
        async def parent() -> str:
            return await held.schedule()

        async with open_scheduler(backend) as scheduler, working(scheduler, parent, held) as worker:
            handle = await scheduler.schedule(parent)
            waiting = await eventually(handle.get, is_true=lambda e: e.status == "waiting")
            assert (waiting.worker, waiting.due) == (None, None)
            assert waiting.waiting_for == ("distributed held",)
            await eventually(lambda: _value(worker.running == 1))
            go_on.set()
            assert await handle.result(timeout="10s") == "done"

    @guarantee(18)
    async def test_steps_and_groups_follow_a_group(self, backend: Backend) -> None:
        """After a group the run goes on with further steps and further groups."""

        @zart.durable("groups")
        async def groups() -> list[int]:
            context = zart.context()
            first = await zart.wait_all([square.schedule(n) for n in (1, 2)])
            between = await context.step("between", lambda: sum(first))
            second = await zart.wait_all([square.schedule(n) for n in (between, 6)])
            alone = await square.schedule(10)
            return [*first, between, *second, alone, await square(3)]

        async with (
            open_scheduler(backend) as scheduler,
            working(scheduler, groups, square, config=ONE_SLOT),
        ):
            handle = await scheduler.schedule(groups)
            assert await handle.result(timeout="10s") == [1, 4, 5, 25, 36, 100, 9]

    @guarantee(18)
    async def test_closures_run_concurrently_and_are_recorded_one_by_one(
        self, backend: Backend
    ) -> None:
        """Closures that wait for each other end; a replay runs none of them again."""
        meeting = asyncio.Barrier(3)
        calls: list[int] = []

        @zart.durable("closures")
        async def closures() -> list[int]:
            context = zart.context()

            async def meet(number: int) -> int:
                calls.append(number)
                await meeting.wait()
                return number

            handles = [context.schedule_step(f"meet-{n}", meet, n) for n in range(3)]
            results = await context.wait_all(handles)
            await context.sleep("30ms")
            return results

        async with open_scheduler(backend) as scheduler, working(scheduler, closures):
            handle = await scheduler.schedule(closures)
            assert await handle.result(timeout="10s") == [0, 1, 2]
            assert sorted(calls) == [0, 1, 2]
            steps = await scheduler.timeline(handle.id)
            recorded = sorted((s.name, s.kind) for s in steps if s.kind != "sleep")
            assert recorded == [(f"meet-{n}", "step") for n in range(3)]

    @guarantee(18)
    async def test_a_group_of_both_kinds_ends(self, backend: Backend) -> None:
        """Closures and rows may be waited for together."""

        @zart.durable("mixed")
        async def mixed() -> list[int]:
            context = zart.context()
            handles = [
                context.schedule_step("closure", lambda: 7),
                context.schedule_step("row", square, 3),
            ]
            return await context.wait_all(handles)

        async with (
            open_scheduler(backend) as scheduler,
            working(scheduler, mixed, square, config=ONE_SLOT),
        ):
            handle = await scheduler.schedule(mixed)
            assert await handle.result(timeout="10s") == [7, 9]

    @guarantee(18)
    @pytest.mark.parametrize("kind", ["row", "closure", "child"])
    async def test_what_stands_twice_in_a_group_is_waited_for_once(
        self, backend: Backend, kind: str
    ) -> None:
        """One end wakes the parent, and its result stands in both places."""
        go_on = asyncio.Event()

        @zart.step
        async def slow() -> int:
            await go_on.wait()
            return 7

        @zart.durable("slow-child")
        async def child() -> int:
            await go_on.wait()
            return 7

        @zart.durable("twice")
        async def twice() -> list[int]:
            one = zart.start_child(child) if kind == "child" else slow.schedule()
            return await zart.wait_all([one, one])

        tasks = (twice, child, slow) if kind == "row" else (twice, child)
        async with open_scheduler(backend) as scheduler, working(scheduler, *tasks):
            handle = await scheduler.schedule(twice)
            state = "running" if kind == "closure" else "waiting"
            await eventually(handle.get, is_true=lambda e: e.status == state)
            go_on.set()
            assert await handle.result(timeout="10s") == [7, 7]

    @guarantee(5, 18)
    @pytest.mark.parametrize("registered", [True, False], ids=("row", "closure"))
    async def test_parallel_steps_are_tried_again(self, backend: Backend, registered: bool) -> None:
        """Both kinds keep their retries, and each failed attempt with its error."""
        calls: list[int] = []

        @zart.step(retry=zart.RetryConfig.fixed(2, "0s"))
        async def shaky() -> int:
            calls.append(1)
            if len(calls) < 3:
                raise ValueError(f"try {len(calls)}")
            return len(calls)

        @zart.durable("shaky-parent")
        async def parent() -> int:
            return await shaky.schedule()

        tasks = (parent, shaky) if registered else (parent,)
        async with open_scheduler(backend) as scheduler, working(scheduler, *tasks):
            handle = await scheduler.schedule(parent)
            assert await handle.result(timeout="10s") == 3
            step = (await scheduler.timeline(handle.id))[0]
            assert step.kind == ("distributed" if registered else "step")
            assert [(a.attempt, a.failure.message) for a in step.attempts] == [
                (1, "try 1"),
                (2, "try 2"),
            ]

    @guarantee(18)
    @pytest.mark.parametrize("before", [True, False], ids=("leaves", "joins"))
    async def test_a_step_that_joins_or_leaves_the_registry_goes_on_as_it_began(
        self, backend: Backend, before: bool
    ) -> None:
        """What is recorded as a row or as this process's own is replayed so, whatever is now."""

        @zart.durable("registered-parent")
        async def parent() -> list[int]:
            handles = [square.schedule(2), zart.schedule_step("three", square, 3)]
            await zart.wait_for_event("go on")
            return await zart.wait_all([*handles, square.schedule(4)])

        with_it, without = (parent, square), (parent,)
        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(parent)
            async with working(scheduler, *(with_it if before else without)):
                await eventually(handle.get, is_true=lambda e: e.waiting_for == ("event go on",))
                await eventually(
                    lambda: scheduler.timeline(handle.id),
                    is_true=lambda steps: sum(s.outcome == "ok" for s in steps) == 2,
                )
            await handle.offer_event("go on")
            async with working(scheduler, *(without if before else with_it)):
                assert await handle.result(timeout="10s") == [4, 9, 16]
            kinds = {
                s.name: s.kind for s in await scheduler.timeline(handle.id) if s.name != "go on"
            }
            first, then = ("distributed", "step") if before else ("step", "distributed")
            assert kinds == {
                "square": first,
                "three": first,
                "square#2": then,
                "event go on": "event",
            }

    @guarantee(18)
    @pytest.mark.parametrize("recorded", ["a step", "a distributed step"])
    async def test_another_kind_of_call_under_a_recorded_name_is_a_divergence(
        self, backend: Backend, recorded: str
    ) -> None:
        """It is never taken for what is recorded: the error says what to do."""
        code: list[str] = ["old"]

        @zart.durable("changed")
        async def changed() -> None:
            if code == ["old"]:
                if recorded == "a step":
                    await zart.context().step("thing", square, 2)
                else:
                    await zart.context().schedule_step("thing", square, 2)
                await zart.wait_for_event("go on")
            await zart.capture("thing", lambda: 2)

        async with open_scheduler(backend) as scheduler, working(scheduler, changed, square):
            handle = await scheduler.schedule(changed)
            await eventually(handle.get, is_true=lambda e: e.waiting_for == ("event go on",))
            code[:] = ["new"]
            await handle.offer_event("go on")
            with pytest.raises(zart.ExecutionFailedError, match="patched") as failed:
                await handle.result(timeout="10s")
            assert failed.value.error_type == "zart.errors.DivergenceError"
            assert f"the history has {recorded} under the name 'thing'" in str(failed.value)

    @guarantee(6, 18)
    @pytest.mark.parametrize("registered", [True, False], ids=("row", "closure"))
    async def test_parallel_steps_time_out(self, backend: Backend, registered: bool) -> None:
        """Both kinds keep their timeout, which is an outcome of its own."""
        never = asyncio.Event()

        @zart.step(timeout="40ms")
        async def hangs() -> None:
            await never.wait()

        @zart.durable("hanging-parent")
        async def parent() -> str:
            try:
                await hangs.schedule()
            except zart.StepTimedOutError as error:
                return error.step
            return "no time-out"

        tasks = (parent, hangs) if registered else (parent,)
        async with open_scheduler(backend) as scheduler, working(scheduler, *tasks):
            handle = await scheduler.schedule(parent)
            assert await handle.result(timeout="10s") == "hangs"
            assert (await scheduler.timeline(handle.id))[0].outcome == "timed_out"

    @guarantee(18)
    @pytest.mark.parametrize("registered", [True, False], ids=("row", "closure"))
    async def test_the_first_failure_wakes_and_is_raised(
        self, backend: Backend, registered: bool
    ) -> None:
        """A failure is raised while the other steps of its group still run."""
        never = asyncio.Event()

        @zart.step
        async def part(number: int) -> int:
            if number == 2:
                raise ValueError("number two")
            await never.wait()
            return number

        @zart.durable("failing-group")
        async def parent() -> str:
            try:
                await zart.wait_all([part.schedule(n) for n in (1, 2, 3)])
            except zart.StepFailedError as error:
                return f"{error.step}: {error.message}"
            return "no failure"

        tasks = (parent, part) if registered else (parent,)
        async with open_scheduler(backend) as scheduler, working(scheduler, *tasks) as worker:
            handle = await scheduler.schedule(parent)
            assert await handle.result(timeout="10s") == "part#2: number two"
            await eventually(lambda: _value(worker.running == 0))
            assert await count_rows(scheduler, "tasks") == 0
            if registered:
                outcomes = [s.outcome for s in await scheduler.timeline(handle.id)]
                assert outcomes == ["cancelled", "failed", "cancelled"]

    @guarantee(18)
    @pytest.mark.parametrize("registered", [True, False], ids=("row", "closure"))
    async def test_all_outcomes_of_a_group_can_be_had(
        self, backend: Backend, registered: bool
    ) -> None:
        """With return_exceptions a group waits for all, and failures stand in their places."""

        @zart.step
        async def part(number: int) -> int:
            if number % 2:
                raise ValueError(f"odd {number}")
            return number

        @zart.durable("all-outcomes")
        async def parent() -> list[str]:
            handles = [part.schedule(n) for n in range(4)]
            results = await zart.wait_all(handles, return_exceptions=True)
            await zart.sleep("20ms")
            return [getattr(r, "message", repr(r)) for r in results]

        tasks = (parent, part) if registered else (parent,)
        async with open_scheduler(backend) as scheduler, working(scheduler, *tasks):
            handle = await scheduler.schedule(parent)
            assert await handle.result(timeout="10s") == ["0", "odd 1", "2", "odd 3"]

    @guarantee(4, 18)
    async def test_a_distributed_business_error_keeps_its_type(self, backend: Backend) -> None:
        """What a step lists in raises= is raised in the parent as the same type."""

        @zart.step(raises=(LookupError,))
        async def find() -> None:
            raise LookupError("gone")

        @zart.durable("business")
        async def parent() -> str:
            try:
                await find.schedule()
            except LookupError as error:
                return str(error)
            return "found"

        async with open_scheduler(backend) as scheduler, working(scheduler, parent, find):
            handle = await scheduler.schedule(parent)
            assert await handle.result(timeout="10s") == "gone"

    @guarantee(18)
    async def test_a_plain_function_is_distributed(self, backend: Backend) -> None:
        """A plain def step with keyword arguments runs in a thread of whichever worker."""

        @zart.step
        def join(first: str, /, *rest: str, by: str = "-") -> str:
            return by.join((first, *rest))

        @zart.durable("joining")
        async def parent() -> str:
            return await join.schedule("a", "b", "c", by="+")

        async with open_scheduler(backend) as scheduler, working(scheduler, parent, join):
            handle = await scheduler.schedule(parent)
            assert await handle.result(timeout="10s") == "a+b+c"

    @guarantee(11, 18)
    async def test_a_distributed_step_that_kills_its_workers_fails(self, backend: Backend) -> None:
        """It counts its own crashes, and its failure reaches the parent."""

        @zart.durable("poisoned-parent")
        async def parent() -> int:
            return await square.schedule(2)

        limit = msgspec.structs.replace(QUICK, max_crashes=1)
        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(parent)
            claim = (await claim_all(scheduler, "poisoned-parent"))[0].claim
            row = (claim.execution_id, 1, "square", "distributed", 1, None, None, None, 1)
            task = (claim.execution_id, 1, "square", "default", "step square", 0, '{"number":2}')
            begun = Entry(claim, steps=(row,), distributed=(task,), ending=Park(0, 1, pending=1))
            assert await scheduler.backend.commit([begun]) == [Receipt.COMMITTED]
            for _ in range(2):
                assert len(await claim_all(scheduler, "step square")) == 1
                assert await declare_dead(scheduler) == 1
            async with working(scheduler, parent, square, config=limit):
                with pytest.raises(zart.ExecutionFailedError, match="died 2 times"):
                    await handle.result(timeout="10s")
            assert (await handle.get()).crashes == 0

    @guarantee(18)
    async def test_a_step_of_a_parent_that_has_ended_writes_nothing(self, backend: Backend) -> None:
        """The parent's end takes its open steps along; a late outcome changes no row."""
        go_on = asyncio.Event()
        entered = asyncio.Event()

        @zart.step
        def slow() -> str:
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(_wait(go_on), loop).result(10)
            return "late"

        @zart.durable("hasty")
        async def parent() -> str:
            slow.schedule()
            await zart.context().step("entered", _wait, entered)
            return "ended"

        loop = asyncio.get_running_loop()
        async with open_scheduler(backend) as scheduler, working(scheduler, parent, slow) as worker:
            handle = await scheduler.schedule(parent)
            assert await handle.result(timeout="10s") == "ended"
            before = await all_rows(scheduler)
            go_on.set()
            await eventually(lambda: _value(worker.running == 0))
            assert await all_rows(scheduler) == before

    @guarantee(18)
    async def test_rules_that_a_registered_step_would_not_follow_are_refused(
        self, backend: Backend
    ) -> None:
        """Its decorator's rules hold wherever it runs; others are not ignored without a word."""

        @zart.durable("ruling")
        async def ruling() -> int:
            return await zart.schedule_step("s", square, 3, timeout="1s")

        async with open_scheduler(backend) as scheduler, working(scheduler, ruling, square):
            handle = await scheduler.schedule(ruling)
            with pytest.raises(zart.ExecutionFailedError, match="rules of its decorator"):
                await handle.result(timeout="10s")


@pytest.mark.asyncio
class TestChildren:
    """Child executions: of their own, and awaited like steps."""

    @guarantee(18)
    async def test_a_child_gives_its_result_to_its_parent(self, backend: Backend) -> None:
        """A parent with one slot runs its child in it, and schedules it once over replays."""
        runs: list[str] = []

        @zart.durable("child")
        async def child(number: int) -> int:
            runs.append(zart.context().execution_id)
            return number + 1

        @zart.durable("parent")
        async def parent(number: int) -> list[int]:
            handle = zart.start_child(child, number)
            await zart.sleep("20ms")
            other = zart.start_child(child, 10, id="chosen")
            return [await handle, await other]

        async with (
            open_scheduler(backend) as scheduler,
            working(scheduler, parent, child, config=ONE_SLOT),
        ):
            handle = await scheduler.schedule(parent, 1)
            assert await handle.result(timeout="10s") == [2, 11]
            assert len(runs) == 2
            assert runs[-1] == "chosen"
            executions = [await scheduler.get(i) for i in runs]
            assert [e.parent for e in executions] == [handle.id, handle.id]

    @guarantee(18)
    async def test_a_child_waits_in_its_parents_queue(self, backend: Backend) -> None:
        """Who serves the parent serves its children; another queue is said."""

        @zart.durable("child")
        async def child() -> str:
            return "done"

        @zart.durable("parent")
        async def parent() -> str:
            zart.start_child(child, id="elsewhere", queue="other")
            return await zart.start_child(child, id="here")

        served = msgspec.structs.replace(QUICK, queues=("mine",))
        async with (
            open_scheduler(backend) as scheduler,
            working(scheduler, parent, child, config=served),
        ):
            handle = await scheduler.schedule(parent, queue="mine")
            assert await handle.result(timeout="10s") == "done"
            assert [(await scheduler.get(i)).queue for i in ("here", "elsewhere")] == [
                "mine",
                "other",
            ]

    @guarantee(18)
    async def test_a_childs_failure_is_raised_in_its_parent(self, backend: Backend) -> None:
        """The parent meets a ChildFailedError that names the child and its error."""

        @zart.durable("failing-child")
        async def child() -> None:
            raise ValueError("no luck")

        @zart.durable("parent")
        async def parent() -> str:
            handle = zart.start_child(child, id="the-child")
            try:
                await handle
            except zart.ChildFailedError as error:
                await zart.sleep("20ms")
                return f"{error.child} {error.error_type} {error.message}"
            return "no failure"

        async with open_scheduler(backend) as scheduler, working(scheduler, parent, child):
            handle = await scheduler.schedule(parent)
            assert await handle.result(timeout="10s") == "the-child ValueError no luck"

    @guarantee(18, 23)
    async def test_a_cancelled_child_wakes_its_parent(self, backend: Backend) -> None:
        """Cancelling a child ends the parent's wait with an error that says so."""

        @zart.durable("idle-child")
        async def child() -> None:
            await zart.wait_for_event("never")

        @zart.durable("parent")
        async def parent() -> str:
            try:
                await zart.start_child(child, id="the-child")
            except zart.ChildFailedError as error:
                return str(error)
            return "no failure"

        async with open_scheduler(backend) as scheduler, working(scheduler, parent, child):
            handle = await scheduler.schedule(parent)
            await eventually(handle.get, is_true=lambda e: e.status == "waiting")
            await eventually(
                lambda: scheduler.list(task="idle-child", status="waiting"), is_true=bool
            )
            await scheduler.cancel("the-child")
            assert "cancelled" in await handle.result(timeout="10s")

    @guarantee(18)
    async def test_a_child_goes_on_without_its_parent(self, backend: Backend) -> None:
        """A parent's cancellation leaves its child alone, and the child's end wakes nobody."""

        @zart.durable("lasting-child")
        async def child() -> str:
            return str(await zart.wait_for_event("go"))

        @zart.durable("parent")
        async def parent() -> Any:
            return await zart.start_child(child, id="the-child")

        async with open_scheduler(backend) as scheduler, working(scheduler, parent, child):
            handle = await scheduler.schedule(parent)
            await eventually(
                lambda: scheduler.list(task="lasting-child", status="waiting"), is_true=bool
            )
            await scheduler.cancel(handle.id)
            await scheduler.offer_event("the-child", "go", "on")
            assert await scheduler.result("the-child", timeout="10s") == "on"
            assert (await handle.get()).status == "cancelled"

    @guarantee(18, 22)
    async def test_a_childs_id_that_is_taken_is_an_error(self, backend: Backend) -> None:
        """An id that belongs to another execution fails the parent; it does not wait for ever."""

        @zart.durable("child")
        async def child(number: int) -> int:
            return number

        @zart.durable("parent")
        async def parent() -> int:
            return await zart.start_child(child, 2, id="taken")

        async with open_scheduler(backend) as scheduler, working(scheduler, parent, child):
            await scheduler.schedule(child, 1, id="taken")
            handle = await scheduler.schedule(parent)
            with pytest.raises(zart.ExecutionFailedError, match="taken"):
                await handle.result(timeout="3s")

    @guarantee(18, 22)
    async def test_a_restarted_parent_is_told_how_its_child_ended(self, backend: Backend) -> None:
        """A child of a chosen id that the earlier run started is the new run's; it ran once."""
        runs: list[int] = []

        @zart.durable("child")
        async def child(number: int) -> int:
            runs.append(number)
            if number < 0:
                raise ValueError("negative")
            return number

        @zart.durable("parent")
        async def parent(number: int) -> str:
            try:
                return str(await zart.start_child(child, number, id=f"child-{number}"))
            except zart.ChildFailedError as error:
                return error.message

        async with open_scheduler(backend) as scheduler, working(scheduler, parent, child):
            for number, result in ((1, "1"), (-1, "negative")):
                handle = await scheduler.schedule(parent, number)
                assert await handle.result(timeout="10s") == result
                assert await scheduler.restart(handle.id) == 2
                assert await handle.result(timeout="10s") == result
        assert runs == [1, -1]

    @guarantee(18, 22)
    @pytest.mark.parametrize("end", ["ends", "is cancelled"])
    async def test_a_child_that_runs_on_tells_its_restarted_parent(
        self, backend: Backend, end: str
    ) -> None:
        """The child was claimed when the first run was its parent, and ends in the second."""
        runs: list[int] = []
        go_on = asyncio.Event()

        @zart.durable("child")
        async def child() -> str:
            runs.append(zart.context().run)
            await go_on.wait()
            return "done"

        @zart.durable("parent")
        async def parent() -> str:
            try:
                return await zart.start_child(child, id="the-child")
            except zart.ChildFailedError as error:
                return str(error)

        async with open_scheduler(backend) as scheduler, working(scheduler, parent, child):
            handle = await scheduler.schedule(parent)
            await eventually(lambda: _value(runs))
            assert await scheduler.restart(handle.id) == 2
            await eventually(handle.get, is_true=lambda e: e.run == 2 and e.status == "waiting")
            if end == "ends":
                go_on.set()
                assert await handle.result(timeout="10s") == "done"
            else:
                await scheduler.cancel("the-child")
                assert "cancelled" in await handle.result(timeout="10s")
            assert runs == [1]

    @guarantee(18, 22)
    async def test_a_child_that_ends_in_the_flush_that_starts_it_again_tells_the_new_run(
        self, backend: Backend
    ) -> None:
        """The end was written for the run that the child belonged to when it was claimed."""
        async with open_scheduler(backend) as scheduler:
            first = await _claimed_parent(scheduler, "parent")
            await scheduler.backend.commit([_starts_child(first)])
            (child,) = await claim_all(scheduler, "child")
            await scheduler.restart("parent")
            (second,) = await claim_all(scheduler, "parent")
            ends = Finish("completed", '"done"', None, 1, 0, child.started_at, child.parent)
            receipts = await scheduler.backend.commit(
                [_starts_child(second), Entry(child.claim, ending=ends)]
            )
            assert receipts == [Receipt.COMMITTED] * 2
            (record,) = await scheduler.timeline("parent")
            assert (record.kind, record.outcome, record.value) == ("child", "ok", '"done"')

    @guarantee(18, 22)
    async def test_an_id_that_is_started_twice_is_the_first_ones_after_a_restart_too(
        self, backend: Backend
    ) -> None:
        """The second gets the error that it got in the first run, and nobody waits for ever."""

        @zart.durable("child")
        async def child() -> str:
            return "done"

        @zart.durable("parent")
        async def parent() -> list[str]:
            first, second = (zart.start_child(child, id="the-child") for _ in range(2))
            with pytest.raises(zart.ChildFailedError, match="the-child"):
                await second
            return [await first]

        async with open_scheduler(backend) as scheduler, working(scheduler, parent, child):
            handle = await scheduler.schedule(parent)
            assert await handle.result(timeout="10s") == ["done"]
            await scheduler.restart(handle.id)
            assert await handle.result(timeout="10s") == ["done"]

    @guarantee(18, 22)
    async def test_an_earlier_runs_child_with_other_input_is_not_taken_for_the_new_one(
        self, backend: Backend
    ) -> None:
        """The id stands for other work: that fails the parent, as any id that is taken."""

        @zart.durable("child")
        async def child(number: int) -> int:
            return number

        @zart.durable("parent")
        async def parent() -> int:
            return await zart.start_child(child, zart.context().run, id="the-child")

        async with open_scheduler(backend) as scheduler, working(scheduler, parent, child):
            handle = await scheduler.schedule(parent)
            assert await handle.result(timeout="10s") == 1
            await scheduler.restart(handle.id)
            with pytest.raises(zart.ExecutionFailedError, match="the-child"):
                await handle.result(timeout="10s")


async def _claimed_parent(scheduler: zart.DurableScheduler, parent: str) -> ClaimedTask:
    await scheduler.schedule("parent", None, id=parent)
    (task,) = await claim_all(scheduler, "parent")
    return task


def _starts_child(parent: ClaimedTask) -> Entry:
    """What a run writes when it starts a child of a chosen id."""
    link = (parent.claim.execution_id, parent.claim.run, "child")
    row = (*link, "child", 1, None, None, None, 1)
    child = NewExecution("the-child", "child", "default", 0, "null", 1, chosen_id=True, parent=link)
    return Entry(parent.claim, steps=(row,), children=(child,))


async def _value(value: Any) -> Any:
    return value


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
