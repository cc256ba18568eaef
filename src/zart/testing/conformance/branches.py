"""Guarantee 17: concurrent branches, suspension, and handlers that get in its way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import zart
from zart.testing import pass_time
from zart.testing.conformance.harness import Backend, eventually, guarantee, open_scheduler, working
from zart.testing.conformance.mortal import mortal, reached
from zart.testing.conformance.waiting import suspended

__all__ = ["TestBranches", "TestSuspension"]


ONE_SLOT = zart.WorkerConfig(concurrency=1, shutdown_timeout="1s", poll_interval="20ms")


@zart.durable("bystander")
async def bystander() -> str:
    await zart.sleep("20ms")
    return "served"


async def is_idle(worker: zart.Worker) -> bool:
    return worker.running == 0


@pytest.mark.asyncio
class TestBranches:
    """17. A branch that waits does not stop its siblings; all waiting: suspended."""

    @guarantee(17)
    @pytest.mark.parametrize("form", ["gather", "group"])
    async def test_a_waiting_branch_does_not_stop_its_siblings_step(
        self, backend: Backend, form: str
    ) -> None:
        """While one branch sleeps, the other's step is neither cancelled nor run a second time."""
        calls: list[str] = []
        inside, go_on = asyncio.Event(), asyncio.Event()

        @zart.step
        async def slow() -> str:
            calls.append("slow")
            inside.set()
            await go_on.wait()
            return "slow"

        async def sleeper() -> str:
            await zart.sleep("10h")
            return "rested"

        @zart.durable("sleep-beside-step")
        async def workflow() -> list[str]:
            if form == "gather":
                return list(await asyncio.gather(sleeper(), slow()))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(sleeper()), group.create_task(slow())]
            return [task.result() for task in tasks]

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow) as worker:
            handle = await scheduler.schedule(workflow)
            await reached(inside)
            assert (await handle.get()).status == "running"
            go_on.set()
            await suspended(scheduler, handle.id)
            await eventually(lambda: is_idle(worker))
            await pass_time(scheduler, "11h")
            assert await handle.result("5s") == ["rested", "slow"]
            assert calls == ["slow"]

    @guarantee(17)
    @pytest.mark.parametrize("form", ["group", "task"])
    async def test_a_wait_does_not_stop_branches_that_have_just_been_made(
        self, backend: Backend, form: str
    ) -> None:
        """Where the workflow itself waits, the steps that it has begun beside run all the same."""
        calls: list[str] = []

        @zart.step
        async def ask() -> str:
            calls.append("ask")
            return "asked"

        @zart.durable("asks-and-waits")
        async def workflow() -> list[str]:
            if form == "group":
                async with asyncio.TaskGroup() as group:
                    asking = group.create_task(ask())
                    answer = await zart.wait_for_event("answer", type=str)
            else:
                asking = asyncio.create_task(ask())
                answer = await zart.wait_for_event("answer", type=str)
                await asking
            return [asking.result(), answer]

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow) as worker:
            handle = await scheduler.schedule(workflow)
            await eventually(lambda: _called(calls, 1))
            await suspended(scheduler, handle.id)
            await eventually(lambda: is_idle(worker))
            await handle.offer_event("answer", "yes")
            assert await handle.result("5s") == ["asked", "yes"]
            assert calls == ["ask"]

    @guarantee(3, 17)
    @pytest.mark.parametrize("form", ["step", "event", "group"])
    async def test_a_failing_branch_ends_the_wait_of_the_workflow_itself_in_each_life(
        self, backend: Backend, form: str
    ) -> None:
        """In a replay it fails before it has anything to do, and is a branch all the same."""

        @zart.step
        async def fail() -> None:
            raise ValueError("no card")

        async def branch() -> None:
            if form == "event":
                await zart.wait_for_event("soon", timeout="1ms")
            elif form == "group":
                await asyncio.gather(fail(), fail())
            else:
                await fail()

        @zart.durable("failing-beside")
        async def workflow() -> str:
            ended = "passed"
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(branch())
                    await zart.wait_for_event("never")
            except* (zart.StepFailedError, zart.EventTimedOutError):
                ended = "failed"
            await zart.sleep("10h")
            return ended

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await eventually(
                handle.get, is_true=lambda e: e.due is not None and "sleep" in e.waiting_for
            )
            await pass_time(scheduler, "11h")
            assert await handle.result("5s") == "failed"

    @guarantee(17)
    async def test_it_is_suspended_once_plain_io_beside_a_wait_has_ended(
        self, backend: Backend
    ) -> None:
        """I/O outside of steps keeps the run in memory while it lasts, and no longer."""
        answered = asyncio.Event()

        async def sleeper() -> str:
            await zart.sleep("10h")
            return "rested"

        @zart.durable("io-beside-sleep")
        async def workflow() -> str:
            sleeping = asyncio.create_task(sleeper())
            await answered.wait()
            return await sleeping

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow) as worker:
            handle = await scheduler.schedule(workflow)
            await eventually(
                lambda: scheduler.timeline(handle.id), is_true=lambda steps: len(steps) == 1
            )
            assert (await handle.get()).status == "running"
            answered.set()
            await suspended(scheduler, handle.id)
            await eventually(lambda: is_idle(worker))
            await pass_time(scheduler, "11h")
            assert await handle.result("5s") == "rested"

    @guarantee(17)
    async def test_a_gather_that_returns_exceptions_does_not_take_the_suspension_for_one(
        self, backend: Backend
    ) -> None:
        """The signal is no result: the results are those of the branches."""

        async def sleeper(hours: int) -> int:
            await zart.sleep(f"sleep-{hours}", f"{hours}h")
            return hours

        @zart.durable("gathers-exceptions")
        async def workflow() -> list[str]:
            results = await asyncio.gather(sleeper(1), sleeper(2), return_exceptions=True)
            return [str(result) for result in results]

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await suspended(scheduler, handle.id)
            await pass_time(scheduler, "3h")
            assert await handle.result("5s") == ["1", "2"]

    @guarantee(14, 17)
    @pytest.mark.parametrize("form", ["gather", "group"])
    async def test_it_is_suspended_when_every_branch_waits(
        self, backend: Backend, form: str
    ) -> None:
        """A sleep, an event and a backoff side by side: suspended, and each ends in its time."""
        calls: list[int] = []

        @zart.step(retry=zart.RetryConfig.fixed(3, "5h"))
        async def flaky() -> str:
            calls.append(1)
            if len(calls) < 2:
                raise ConnectionError
            return "charged"

        async def sleeper() -> str:
            await zart.sleep("10h")
            return "rested"

        async def receiver() -> str:
            return await zart.wait_for_event("news", type=str)

        @zart.durable("all-wait")
        async def workflow() -> list[str]:
            if form == "gather":
                return list(await asyncio.gather(sleeper(), receiver(), flaky()))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part()) for part in (sleeper, receiver, flaky)]
            return [task.result() for task in tasks]

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow) as worker:
            handle = await scheduler.schedule(workflow)
            await suspended(scheduler, handle.id)
            await eventually(lambda: is_idle(worker))
            await handle.offer_event("news", "came")
            await eventually(
                lambda: scheduler.get(handle.id),
                is_true=lambda e: e.waiting_for == ("sleep", "retry flaky"),
            )
            await pass_time(scheduler, "6h")
            await eventually(lambda: _called(calls, 2))
            await suspended(scheduler, handle.id)
            await pass_time(scheduler, "6h")
            assert await handle.result("5s") == ["rested", "came", "charged"]
            assert len(calls) == 2

    @guarantee(16, 17)
    async def test_an_event_reaches_a_branch_that_waits_in_place(self, backend: Backend) -> None:
        """A branch whose sibling is at work gets its event without a suspension."""
        inside, taken = asyncio.Event(), asyncio.Event()

        @zart.step
        async def slow() -> None:
            inside.set()
            await reached(taken)

        async def receiver() -> str:
            made = await zart.wait_for_event("news", type=str)
            taken.set()
            return made

        @zart.durable("event-in-place")
        async def workflow() -> str:
            made: str = (await asyncio.gather(receiver(), slow()))[0]
            return made

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await reached(inside)
            await handle.offer_event("news", "came")
            assert await handle.result("10s") == "came"

    @guarantee(17)
    async def test_branches_keep_their_names_in_a_replay(self, backend: Backend) -> None:
        """Calls of one step side by side get their names when called: a replay mixes nothing up."""
        stuck = asyncio.Event()

        @zart.step
        async def shout(word: str, pause: float) -> str:
            await asyncio.sleep(pause)
            return word.upper()

        @zart.durable("named-branches")
        async def workflow() -> list[str]:
            made = await asyncio.gather(shout("a", 0.05), shout("b", 0.0), shout("c", 0.02))
            if not stuck.is_set():
                stuck.set()
                await asyncio.Event().wait()
            return list(made)

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow):
                await reached(stuck)
            async with working(scheduler, workflow):
                assert await handle.result("5s") == ["A", "B", "C"]
            values = {step.name: step.value for step in await scheduler.timeline(handle.id)}
            assert values == {"shout": '"A"', "shout#2": '"B"', "shout#3": '"C"'}

    @guarantee(3, 17)
    async def test_a_failing_branch_cancels_its_group_in_each_life(self, backend: Backend) -> None:
        """A TaskGroup with a failed step ends its sibling's wait, and does so again in a replay."""
        lives: list[int] = []

        @zart.step
        async def fail() -> None:
            raise ValueError("no card")

        @zart.durable("failing-group")
        async def workflow() -> str:
            lives.append(1)
            branch = "passed"
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(zart.wait_for_event("never"))
                    group.create_task(fail())
            except* zart.StepFailedError as errors:
                branch = str(errors.exceptions[0])
            await zart.sleep("10h")
            return branch

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await suspended(scheduler, handle.id)
            await pass_time(scheduler, "11h")
            assert "no card" in await handle.result("5s")
            assert len(lives) == 2


async def _called(calls: Sequence[object], amount: int) -> bool:
    return len(calls) >= amount


@pytest.mark.asyncio
class TestSuspension:
    """17. Suspension is a BaseException; while it unwinds, durable calls refuse to run."""

    @guarantee(17)
    async def test_suspension_is_no_exception(self, backend: Backend) -> None:
        """`except Exception` around a wait does not catch the suspension."""
        caught: list[str] = []

        @zart.durable("cautious")
        async def workflow() -> str:
            try:
                await zart.sleep("10h")
            except Exception as error:  # what the test is about
                caught.append(repr(error))
            return "rested"

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await suspended(scheduler, handle.id)
            await pass_time(scheduler, "11h")
            assert await handle.result("5s") == "rested"
            assert caught == []

    @guarantee(17)
    @pytest.mark.parametrize("form", ["alone", "gather"])
    async def test_durable_calls_refuse_to_run_while_unwinding(
        self, backend: Backend, form: str
    ) -> None:
        """A step in `finally` runs when its block is left for good, not at each suspension."""
        calls: list[str] = []

        @zart.step
        async def release() -> None:
            calls.append("release")

        @zart.step
        async def other() -> None:
            calls.append("other")

        @zart.durable("finally")
        async def workflow() -> None:
            try:
                if form == "alone":
                    await zart.sleep("10h")
                else:
                    await asyncio.gather(zart.sleep("10h"), zart.sleep("9h"))
            finally:
                await release()
                await zart.sleep("1ms")
                await other()

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await suspended(scheduler, handle.id)
            assert calls == []
            names = [step.name for step in await scheduler.timeline(handle.id)]
            assert names == ["sleep"] if form == "alone" else ["sleep", "sleep#2"]
            await pass_time(scheduler, "11h")
            await handle.result("5s")
            assert calls == ["release", "other"]

    @guarantee(17)
    @pytest.mark.parametrize("form", ["gather", "group"])
    async def test_many_branches_that_unwind_swallow_nothing(
        self, backend: Backend, form: str
    ) -> None:
        """However many have a durable call in their `finally`, each is refused once and lets go."""
        events = [f"event-{number}" for number in range(30)]

        async def branch(event: str) -> str:
            try:
                return await zart.wait_for_event(event, type=str)
            finally:
                await zart.context().step(f"after {event}", lambda: "")

        @zart.durable("many-branches")
        async def workflow() -> list[str]:
            if form == "gather":
                return list(await asyncio.gather(*map(branch, events)))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(branch(event)) for event in events]
            return [task.result() for task in tasks]

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            ended = await eventually(
                handle.get, is_true=lambda e: e.status.finished or e.status == "waiting"
            )
            assert ended.failure is None
            for event in events:
                await handle.offer_event(event, event)
            assert await handle.result("10s") == events

    @guarantee(17)
    @pytest.mark.parametrize("then", ["return", "raise", "again", "group"])
    async def test_swallowing_the_suspension_is_an_error_that_says_so(
        self, backend: Backend, then: str
    ) -> None:
        """A handler that catches the signal and goes on fails with it named; others are served."""
        over = asyncio.Event()

        async def wait() -> None:
            if then == "group":
                await asyncio.gather(zart.sleep("1h"), zart.sleep("1h"))
            else:
                await zart.sleep("10h")

        @zart.durable("swallower")
        async def workflow() -> str:
            while not over.is_set():
                try:
                    await wait()
                except BaseException as error:  # what the test is about
                    if then == "raise":
                        raise ValueError("something else") from error
                if then != "again":
                    break
            return "swallowed"

        async with (
            open_scheduler(backend) as scheduler,
            working(scheduler, workflow, bystander, config=ONE_SLOT) as worker,
        ):
            handle = await scheduler.schedule(workflow)
            with pytest.raises(zart.ExecutionFailedError, match="caught the signal") as failed:
                await handle.result("10s")
            assert failed.value.error_type == "zart.errors.SuspensionSwallowedError"
            served = await scheduler.schedule(bystander)
            assert await served.result("5s") == "served"
            await eventually(lambda: is_idle(worker))
            over.set()

    @guarantee(17)
    async def test_a_step_after_the_swallowed_signal_refuses(self, backend: Backend) -> None:
        """A handler that catches the signal once and goes on to a step is suspended there."""
        calls: list[int] = []

        @zart.step
        async def step() -> None:
            calls.append(1)

        @zart.durable("swallows-once")
        async def workflow() -> None:
            try:
                await zart.sleep("10h")
            except BaseException:  # what the test is about
                calls.append(0)
            await step()

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await suspended(scheduler, handle.id)
            assert calls == [0]
            await pass_time(scheduler, "11h")
            await handle.result("5s")
            assert calls == [0, 1]
