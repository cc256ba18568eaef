"""Guarantees 5 to 7: retries, timeouts, and the execution's own retries."""

from __future__ import annotations

import asyncio
import functools
import time
from datetime import timedelta

import pytest

import zart
from zart.scheduler.durable import DurableScheduler
from zart.testing import pass_time
from zart.testing.conformance.harness import Backend, eventually, guarantee, open_scheduler, working
from zart.testing.conformance.mortal import mortal, reached
from zart.testing.conformance.rows import count_rows

__all__ = ["TestExecutionRetries", "TestStepRetries", "TestTimeouts"]

TEN_HOURS = zart.RetryConfig.fixed(3, "10h")


async def is_waiting(scheduler: DurableScheduler, id: str) -> bool:
    return (await scheduler.get(id)).status is zart.Status.WAITING


async def waits(scheduler: DurableScheduler, id: str) -> None:
    """Return as soon as an execution is suspended."""
    await eventually(lambda: is_waiting(scheduler, id))


class OutOfStockError(Exception):
    """What a workflow makes of a failed step."""


class CardDeclinedError(Exception):
    """A business error."""


@zart.step(raises=(CardDeclinedError,), timeout="100ms")
async def spoilt(how: str) -> None:
    if how == "timed out":
        await asyncio.Event().wait()
    raise CardDeclinedError("no money") if how == "business" else ConnectionError("no line")


async def fails(how: str) -> None:
    """Let a step's failure out of the handler, one way or another."""
    try:
        if how == "elsewhere":
            await zart.schedule_step("spoilt", spoilt, how)
        elif how == "one of a group":
            async with asyncio.TaskGroup() as group:
                group.create_task(spoilt(how))
        else:
            await spoilt(how)
    except zart.StepFailedError as error:
        if how == "raised from":
            raise OutOfStockError("later") from error
        if how == "unrelated":
            raise OutOfStockError("later") from None
        raise


_STEP_FAILED = "zart.errors.StepFailedError"
_HERE = "zart.testing.conformance.retries"
ENDS = {
    "plain": (_STEP_FAILED, "spoilt", "ConnectionError"),
    "raised from": (f"{_HERE}.OutOfStockError", "spoilt", "ConnectionError"),
    "business": (f"{_HERE}.CardDeclinedError", "spoilt", f"{_HERE}.CardDeclinedError"),
    "timed out": ("zart.errors.StepTimedOutError", "spoilt", "TimeoutError"),
    "elsewhere": (_STEP_FAILED, "spoilt", "ConnectionError"),
    "one of a group": ("ExceptionGroup", "spoilt", "ConnectionError"),
    "unrelated": (f"{_HERE}.OutOfStockError", "", ""),
}
"""Type, step and the step's type of the failure that each way to fail ends an execution with."""


@pytest.mark.asyncio
class TestStepRetries:
    """5. Retry counts and backoff survive a crash; each failed attempt is kept."""

    @guarantee(5)
    async def test_a_short_backoff_waits_in_place(self, backend: Backend) -> None:
        """A step with a short backoff succeeds in the life it began in; failures are kept."""
        calls: list[int] = []
        lives: list[int] = []

        @zart.step(retry=zart.RetryConfig.fixed(3, "10ms"))
        async def flaky() -> str:
            calls.append(1)
            if len(calls) < 3:
                raise ConnectionError(f"no {len(calls)}")
            return "ok"

        @zart.durable("short-backoff")
        async def workflow() -> str:
            lives.append(1)
            return await flaky()

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            assert await handle.result("10s") == "ok"
            assert (len(calls), len(lives)) == (3, 1)
            attempts = (await scheduler.timeline(handle.id))[0].attempts
            assert [(a.attempt, a.failure.type, a.failure.message) for a in attempts] == [
                (1, "ConnectionError", "no 1"),
                (2, "ConnectionError", "no 2"),
            ]
            assert all("in flaky" in a.failure.traceback for a in attempts)

    @guarantee(5)
    async def test_a_long_backoff_suspends(self, backend: Backend) -> None:
        """A long backoff gives the slot back and goes on with the next attempt when it is over."""
        calls: list[int] = []

        @zart.step(retry=TEN_HOURS)
        async def flaky() -> int:
            calls.append(1)
            if len(calls) < 3:
                raise ConnectionError
            return len(calls)

        @zart.durable("long-backoff")
        async def workflow() -> int:
            return await flaky()

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with working(scheduler, workflow) as worker:
                for attempt in (1, 2):
                    await waits(scheduler, handle.id)
                    await eventually(lambda: _has_none_running(worker))
                    await pass_time(scheduler, "9h")
                    await handle.offer_event("wake")  # it looks, and waits on
                    await waits(scheduler, handle.id)
                    assert len(calls) == attempt
                    await pass_time(scheduler, "61m")
                    await eventually(functools.partial(_has_made, calls, attempt + 1))
                assert await handle.result("10s") == 3

    @guarantee(5)
    async def test_the_count_of_attempts_survives_crashes(self, backend: Backend) -> None:
        """Two attempts before a crash and two after: the step ends after four, all are kept."""
        calls: list[int] = []
        third = asyncio.Event()

        @zart.step(retry=zart.RetryConfig.fixed(3, "10ms"))
        async def flaky() -> None:
            calls.append(1)
            if len(calls) == 3:
                third.set()
                await asyncio.Event().wait()  # the crash comes: no attempt that was recorded
            raise ConnectionError(f"no {len(calls)}")

        @zart.durable("counted")
        async def workflow() -> str:
            try:
                await flaky()
            except zart.StepFailedError as error:
                return error.message
            return ""

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow):
                await reached(third)
            async with working(scheduler, workflow):
                assert await handle.result("10s") == "no 5"
            assert len(calls) == 5
            attempts = (await scheduler.timeline(handle.id))[0].attempts
            assert [(a.attempt, a.failure.message) for a in attempts] == [
                (1, "no 1"),
                (2, "no 2"),
                (3, "no 4"),
                (4, "no 5"),
            ]

    @guarantee(5)
    async def test_the_backoff_survives_a_crash(self, backend: Backend) -> None:
        """After a crash during a backoff the step waits for the rest of it, as before."""
        calls: list[int] = []
        in_sibling = asyncio.Event()

        @zart.step(retry=TEN_HOURS)
        async def flaky() -> str:
            calls.append(1)
            if len(calls) < 2:
                raise ConnectionError
            return "ok"

        @zart.step
        async def sibling() -> None:
            if not in_sibling.is_set():
                in_sibling.set()
                await asyncio.Event().wait()

        @zart.durable("crash-in-backoff")
        async def workflow() -> str:
            made: str = (await asyncio.gather(flaky(), sibling()))[0]
            return made

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow):
                await reached(in_sibling)
                await eventually(lambda: _has_attempt(scheduler, handle.id))
            async with working(scheduler, workflow):
                await waits(scheduler, handle.id)
                assert len(calls) == 1
                await pass_time(scheduler, "11h")
                assert await handle.result("10s") == "ok"

    @guarantee(5, 18)
    async def test_the_count_of_a_row_that_is_claimed_along_with_its_execution(
        self, backend: Backend
    ) -> None:
        """A step of its own row goes on with its second attempt, whoever is claimed beside it."""
        calls: list[int] = []

        @zart.step(retry=zart.RetryConfig.fixed(1, "10h"))
        async def flaky() -> None:
            calls.append(1)
            raise ConnectionError(f"no {len(calls)}")

        @zart.durable("claimed-together")
        async def workflow() -> str:
            row = flaky.schedule()
            await zart.wait_for_event("go")
            try:
                await row
            except zart.StepFailedError as error:
                return error.message
            return ""

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with working(scheduler, workflow, flaky) as worker:
                await eventually(lambda: _has_attempt(scheduler, handle.id))
                await waits(scheduler, handle.id)
                await eventually(lambda: _has_none_running(worker))
            await pass_time(scheduler, "11h")
            await scheduler.backend.ready_due(1)
            await handle.offer_event("go")  # both are ready before anybody looks
            async with working(scheduler, workflow, flaky):
                assert await handle.result("10s") == "no 2"
            assert len(calls) == 2

    @guarantee(5)
    async def test_an_error_that_is_not_worth_it_is_not_retried(self, backend: Backend) -> None:
        """The retry rule says which errors count; others end the step at once."""
        calls: list[int] = []

        @zart.step(retry=zart.RetryConfig.fixed(5, "10ms", never=(KeyError,)))
        async def flaky() -> None:
            calls.append(1)
            raise (ValueError if len(calls) < 2 else KeyError)("gone")

        @zart.durable("choosy")
        async def workflow() -> str:
            try:
                await flaky()
            except zart.StepFailedError as error:
                return error.error_type
            return ""

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            assert await handle.result("10s") == "KeyError"
            assert len(calls) == 2


async def _has_none_running(worker: zart.Worker) -> bool:
    return worker.running == 0


async def _has_made(calls: list[int], amount: int) -> bool:
    return len(calls) >= amount


async def _has_attempt(scheduler: DurableScheduler, id: str) -> bool:
    """True once a failed attempt is recorded: a claim's history would carry it."""
    return any(step.attempts for step in await scheduler.timeline(id))


@pytest.mark.asyncio
class TestTimeouts:
    """6. A timeout bounds all attempts together; the execution's bounds everything."""

    @guarantee(6)
    async def test_a_timeout_bounds_all_attempts_together(self, backend: Backend) -> None:
        """Attempts that each would fit end with the step's timeout, which no retry follows."""
        calls: list[int] = []

        @zart.step(timeout="150ms", retry=zart.RetryConfig.fixed(1000, "10ms"))
        async def slow() -> None:
            calls.append(1)
            await asyncio.sleep(0.05)
            raise ConnectionError

        @zart.durable("bounded")
        async def workflow() -> str:
            try:
                await slow()
            except zart.StepTimedOutError as error:
                return error.step
            return ""

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            begun = time.monotonic()
            assert await handle.result("10s") == "slow"
            assert time.monotonic() - begun < 3
            assert 1 <= len(calls) <= 3
            assert (await scheduler.timeline(handle.id))[0].outcome == "timed_out"

    @guarantee(6)
    async def test_a_recorded_deadline_holds_when_a_deploy_takes_the_timeout_away(
        self, backend: Backend
    ) -> None:
        """The step ends as timed out, as it would have."""
        calls: list[int] = []

        async def slow() -> None:
            calls.append(1)
            if len(calls) == 1:
                raise ConnectionError
            await asyncio.Event().wait()

        @zart.durable("redeployed")
        async def workflow() -> str:
            timeout = None if calls else "2h"
            retry = zart.RetryConfig.fixed(3, "1h")
            try:
                await zart.context().step("slow", slow, timeout=timeout, retry=retry)
            except zart.StepTimedOutError as error:
                return error.message
            return ""

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await waits(scheduler, handle.id)
            await pass_time(scheduler, timedelta(hours=2, seconds=-2))
            assert await handle.result("10s") == "it did not end within its time"
            assert len(calls) == 2

    @guarantee(6)
    @pytest.mark.parametrize("registered", [True, False], ids=("row", "here"))
    async def test_no_attempt_begins_after_the_timeout(
        self, backend: Backend, registered: bool
    ) -> None:
        """A process that stands still in the pause between two finds that the time is over."""
        calls: list[int] = []

        @zart.step(timeout="800ms", retry=zart.RetryConfig.fixed(3, "700ms"))
        async def slow() -> None:
            calls.append(1)
            raise ConnectionError

        @zart.durable("stands-still")
        async def workflow() -> str:
            try:
                await (slow.schedule() if registered else slow())
            except zart.StepTimedOutError as error:
                return error.message
            return ""

        tasks = (workflow, slow) if registered else (workflow,)
        async with open_scheduler(backend) as scheduler, working(scheduler, *tasks):
            handle = await scheduler.schedule(workflow)
            attempts = await eventually(lambda: count_rows(scheduler, "step_attempts"))
            time.sleep(0.9)  # noqa: ASYNC251 nothing has its turn meanwhile
            assert (await handle.result("10s")).startswith("no time is left")
            assert len(calls) == attempts == 1

    @guarantee(6)
    async def test_per_attempt_bounds_each_one(self, backend: Backend) -> None:
        """With per_attempt a timed-out attempt is retried, and the last one's end is a timeout."""
        calls: list[int] = []

        @zart.step(timeout="50ms", per_attempt=True, retry=zart.RetryConfig.fixed(2, "10ms"))
        async def hang() -> None:
            calls.append(1)
            await asyncio.Event().wait()

        @zart.durable("per-attempt")
        async def workflow() -> str:
            try:
                await hang()
            except zart.StepTimedOutError:
                return "late"
            return ""

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            assert await handle.result("10s") == "late"
            assert len(calls) == 3

    @guarantee(6)
    async def test_a_plain_function_that_blocks_is_bounded_too(self, backend: Backend) -> None:
        """The thread of a plain def cannot be stopped, but its step ends with the timeout."""

        @zart.step(timeout="50ms")
        def block() -> None:
            time.sleep(0.4)

        @zart.durable("blocking")
        async def workflow() -> str:
            try:
                await block()
            except zart.StepTimedOutError:
                return "late"
            return ""

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            assert await handle.result("10s") == "late"

    @guarantee(6)
    async def test_the_deadline_is_recorded_with_the_first_failure(self, backend: Backend) -> None:
        """The first attempt's deadline still holds in later lives: past it nothing is tried."""
        calls: list[int] = []

        @zart.step(timeout="11h", retry=TEN_HOURS)
        async def flaky() -> str:
            calls.append(1)
            if len(calls) < 2:
                raise ConnectionError("first")
            return "ok"

        @zart.durable("deadline")
        async def workflow() -> str:
            try:
                return await flaky()
            except zart.StepTimedOutError:
                return "late"

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with working(scheduler, workflow):
                await waits(scheduler, handle.id)
            await pass_time(scheduler, "12h")  # while no worker is there
            async with working(scheduler, workflow):
                assert await handle.result("10s") == "late"
            assert len(calls) == 1
            assert (await scheduler.timeline(handle.id))[0].outcome == "timed_out"

    @guarantee(6)
    async def test_a_backoff_past_the_deadline_is_not_waited_for(self, backend: Backend) -> None:
        """When the next attempt would begin after the deadline, the step times out at once."""

        @zart.step(timeout="1h", retry=TEN_HOURS)
        async def flaky() -> None:
            raise ConnectionError("first")

        @zart.durable("no-time-left")
        async def workflow() -> str:
            try:
                await flaky()
            except zart.StepTimedOutError as error:
                return str(error)
            return ""

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            assert "ConnectionError: first" in await handle.result("10s")

    @guarantee(6)
    async def test_a_step_costs_no_write_at_its_start(self, backend: Backend) -> None:
        """While the first attempt of a step with a timeout runs, nothing is recorded of it."""
        inside, go_on = asyncio.Event(), asyncio.Event()

        @zart.step(timeout="1h", retry=TEN_HOURS)
        async def step() -> None:
            inside.set()
            await go_on.wait()

        @zart.durable("no-first-write")
        async def workflow() -> None:
            await step()

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await reached(inside)
            assert await scheduler.timeline(handle.id) == []
            go_on.set()
            await handle.result("10s")

    @guarantee(6)
    async def test_the_executions_deadline_stops_a_running_step(self, backend: Backend) -> None:
        """An execution whose step hangs fails at its deadline, and its worker is free again."""

        @zart.step
        async def hang() -> None:
            await asyncio.Event().wait()

        @zart.durable("hanging", timeout="100ms", max_retries=5)
        async def workflow() -> None:
            await hang()

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow) as worker:
            handle = await scheduler.schedule(workflow)
            with pytest.raises(zart.ExecutionFailedError, match="did not end within") as failed:
                await handle.result("10s")
            assert failed.value.error_type == "ExecutionTimedOut"
            await eventually(lambda: _has_none_running(worker))

    @guarantee(6)
    @pytest.mark.parametrize("wait", ["sleep", "event", "backoff", "retry"])
    async def test_the_executions_deadline_ends_every_wait(
        self, backend: Backend, wait: str
    ) -> None:
        """Sleeps, events and backoffs end with the execution's deadline, in no life after it."""
        lives: list[int] = []

        @zart.step(retry=TEN_HOURS)
        async def fail() -> None:
            raise ConnectionError

        async def body() -> None:
            lives.append(1)
            match wait:
                case "sleep":
                    await zart.sleep("10h")
                case "event":
                    await zart.wait_for_event("never")
                case "backoff":
                    await fail()
                case _:
                    raise ConnectionError

        retry = zart.RetryConfig.fixed(3, "30m") if wait == "retry" else None
        workflow = zart.durable(f"waits-{wait}", timeout="1h", retry=retry)(body)
        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await waits(scheduler, handle.id)
            await pass_time(scheduler, "61m")
            with pytest.raises(zart.ExecutionFailedError, match="did not end within"):
                await handle.result("10s")
            assert len(lives) == 1


@pytest.mark.asyncio
class TestExecutionRetries:
    """7. An execution's retries keep its steps; only what escaped is tried again."""

    @guarantee(7)
    @pytest.mark.parametrize("escape", ["plain", "raised-from", "own"])
    async def test_only_the_failure_that_escaped_is_tried_again(
        self, backend: Backend, escape: str
    ) -> None:
        """Recorded steps stay, also caught failures; the failure that escaped runs again."""
        calls: list[str] = []

        @zart.step
        async def charge() -> str:
            calls.append("charge")
            return "ch-1"

        @zart.step
        async def optional() -> None:
            calls.append("optional")
            raise ConnectionError("mail is down")

        @zart.step
        async def ship() -> str:
            calls.append("ship")
            if calls.count("ship") == 1 and escape != "own":
                raise ConnectionError("no truck")
            return "sent"

        @zart.durable("tried-again", max_retries=1, retry=zart.RetryConfig.fixed(1, "10ms"))
        async def workflow() -> list[str]:
            made = [await charge()]
            try:
                await optional()
            except zart.StepFailedError as error:
                made.append(error.message)
            try:
                made.append(await ship())
            except zart.StepFailedError as error:
                if escape == "raised-from":
                    raise OutOfStockError("ship later") from error
                raise
            if escape == "own" and zart.context().attempt == 1:
                raise OutOfStockError("no step's fault")
            return made

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            assert await handle.result("10s") == ["ch-1", "mail is down", "sent"]
            expected = ["charge", "optional", "ship"] + ([] if escape == "own" else ["ship"])
            assert calls == expected
            assert (await handle.get()).attempt == 2

    @guarantee(5, 7)
    async def test_what_is_tried_again_keeps_its_failed_attempts(self, backend: Backend) -> None:
        """The attempts of a step that the execution's retry runs again stay in the timeline."""
        calls: list[int] = []

        @zart.step(retry=zart.RetryConfig.fixed(1, "10ms"))
        async def flaky() -> None:
            calls.append(1)
            if len(calls) < 4:
                raise ConnectionError(f"no {len(calls)}")

        @zart.durable("kept-attempts", retry=zart.RetryConfig.fixed(1, "10ms"))
        async def workflow() -> None:
            await flaky()

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await handle.result("10s")
            step = (await scheduler.timeline(handle.id))[0]
            assert step.outcome == "ok"
            kept = [(a.run_attempt, a.attempt, a.failure.message) for a in step.attempts]
            assert kept == [(1, 1, "no 1"), (1, 2, "no 2"), (2, 1, "no 3")]

    @guarantee(7)
    async def test_the_count_of_runs_tries_survives_a_crash(self, backend: Backend) -> None:
        """A crash costs no retry and gives none: the run's own tries are counted apart."""
        lives: list[int] = []
        in_second = asyncio.Event()

        @zart.durable("run-tries", retry=zart.RetryConfig.fixed(2, "10ms"))
        async def workflow() -> None:
            lives.append(zart.context().attempt)
            if len(lives) == 2:
                in_second.set()
                await asyncio.Event().wait()
            raise ConnectionError(f"life {len(lives)}")

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow):
                await reached(in_second)
            async with working(scheduler, workflow):
                with pytest.raises(zart.ExecutionFailedError, match="life 4"):
                    await handle.result("10s")
            assert lives == [1, 2, 2, 3]
            assert (await handle.get()).crashes == 1

    @guarantee(3, 7)
    @pytest.mark.parametrize("how", ENDS)
    async def test_a_failure_names_the_step_that_it_comes_of(
        self, backend: Backend, how: str
    ) -> None:
        """on_failure and the record get the same, whether the step failed now or in a replay."""
        told: list[zart.Failure] = []

        @zart.durable("fails-now", max_retries=0)
        async def now() -> None:
            await fails(how)

        @zart.durable("fails-in-a-replay", max_retries=0)
        async def replayed() -> None:
            try:
                await fails(how)
            except BaseException as error:
                if isinstance(error, Exception):
                    await zart.sleep("10ms")
                raise

        @now.on_failure
        @replayed.on_failure
        async def compensate(_: None, failure: zart.Failure) -> None:
            told.append(failure)

        async with open_scheduler(backend) as scheduler:
            async with working(scheduler, now, replayed, spoilt):
                ends: list[tuple[str, str, str]] = []
                for workflow in (now, replayed):
                    handle = await scheduler.schedule(workflow)
                    failure = (await scheduler.wait(handle.id, timeout="10s")).failure
                    assert failure is not None
                    ends.append((failure.type, failure.step, failure.step_type))
                    with pytest.raises(zart.ExecutionFailedError) as failed:
                        await handle.result()
                    assert (failed.value.step, failed.value.step_type) == ends[-1][1:]
            assert ends == [ENDS[how]] * 2
            assert [(f.type, f.step, f.step_type) for f in told] == ends

    @guarantee(5, 7)
    async def test_why_it_is_tried_again_and_when_can_be_seen(self, backend: Backend) -> None:
        """A run's own failed attempts are told with error, time and the time of the next one."""

        @zart.durable("stalls", retry=zart.RetryConfig.fixed(1, "10h"))
        async def workflow() -> None:
            raise ConnectionError(f"no {zart.context().attempt}")

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            await waits(scheduler, handle.id)
            execution, [first] = await handle.get(), await scheduler.attempts(handle.id)
            assert (execution.waiting_for, execution.due) == (("retry",), first.retry)
            assert (first.step, first.attempt, first.failure.message) == ("", 1, "no 1")
            assert first.failed is not None
            assert first.retry is not None
            assert timedelta(hours=9) < first.retry - first.failed < timedelta(hours=11)
            assert await scheduler.timeline(handle.id) == []

            await pass_time(scheduler, "11h")
            await scheduler.wait(handle.id, "10s")
            made = await scheduler.attempts(handle.id)
            assert [a.failure.message for a in made] == ["no 1", "no 2"]
            assert made[1].retry is None

            assert await scheduler.restart(handle.id) == 2
            await waits(scheduler, handle.id)
            assert len(await scheduler.attempts(handle.id)) == 1
            assert len(await scheduler.attempts(handle.id, run=1)) == 2

    @guarantee(5)
    @pytest.mark.parametrize("where", ["here", "elsewhere"])
    async def test_a_step_that_will_be_tried_again_is_told(
        self, backend: Backend, where: str
    ) -> None:
        """It comes after the steps before it, with its attempt, until when it waits."""

        @zart.step(retry=TEN_HOURS)
        async def flaky() -> None:
            raise ConnectionError("no line")

        @zart.durable("told-step")
        async def workflow() -> None:
            await zart.now()
            if where == "here":
                await flaky()
            else:
                await zart.schedule_step("flaky", flaky)

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow, flaky):
            handle = await scheduler.schedule(workflow)
            await eventually(lambda: _has_waited(scheduler, handle.id))
            before, step = await scheduler.timeline(handle.id)
            assert (step.name, step.outcome, len(step.attempts)) == ("flaky", None, 1)
            assert step.position > before.position
            assert step.due == step.attempts[0].retry is not None
            waiting_for = "retry flaky" if where == "here" else "distributed flaky"
            assert (await handle.get()).waiting_for == (waiting_for,)


async def _has_waited(scheduler: DurableScheduler, id: str) -> bool:
    """True when the execution waits and a step of it has failed."""
    steps = await scheduler.timeline(id)
    return await is_waiting(scheduler, id) and any(step.attempts for step in steps)
