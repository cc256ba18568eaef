"""Guarantees 1 to 4: recorded steps, what replay sees, typed outcomes, business errors."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest

import zart
from zart.testing.conformance.harness import Backend, eventually, guarantee, open_scheduler, working
from zart.testing.conformance.mortal import mortal, reached

__all__ = ["TestOutcomes", "TestRecordedSteps", "TestStepValues"]


@dataclass
class Card:
    number: str
    tags: tuple[str, ...] = ()


class CardDeclinedError(Exception):
    """A business error with more than a message."""

    def __init__(self, card: str, code: int) -> None:
        super().__init__(card, code)
        self.card = card
        self.code = code


class StolenCardError(CardDeclinedError):
    """A kind of the above."""


class SoldOutError(Exception):
    """A business error that is made of something else than its message."""

    def __init__(self, article: str) -> None:
        super().__init__(f"no {article} left")
        self.article = article


@pytest.mark.asyncio
class TestRecordedSteps:
    """1. A recorded step never runs again."""

    @guarantee(1)
    async def test_a_recorded_step_is_skipped_after_a_crash(self, backend: Backend) -> None:
        """After a crash in the second step the first hands back its record and does not run."""
        calls: list[str] = []
        in_second = asyncio.Event()

        @zart.step
        async def first() -> str:
            calls.append("first")
            return f"first-{len(calls)}"

        @zart.step
        async def second() -> None:
            calls.append("second")
            if calls.count("second") == 1:
                in_second.set()
                await asyncio.Event().wait()

        @zart.durable("two-steps")
        async def workflow() -> str:
            made = await first()
            await second()
            return made

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow):
                await reached(in_second)
            async with working(scheduler, workflow):
                assert await handle.result("10s") == "first-1"
            assert calls == ["first", "second", "second"]
            assert (await handle.get()).crashes == 1

    @guarantee(1)
    async def test_a_step_lost_before_its_commit_runs_again(self, backend: Backend) -> None:
        """A crash between a step's end and its commit: it runs again, one outcome is recorded."""
        calls: list[int] = []

        @zart.step
        async def count() -> int:
            calls.append(len(calls) + 1)
            return calls[-1]

        @zart.durable("lost-step")
        async def workflow() -> int:
            return await count()

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow) as worker:
                worker.lose_writes()
                await reached(worker.stuck)
                assert await scheduler.timeline(handle.id) == []
            async with working(scheduler, workflow):
                assert await handle.result("10s") == 2
            assert calls == [1, 2]
            timeline = await scheduler.timeline(handle.id)
            assert [(s.name, s.outcome, s.value) for s in timeline] == [("count", "ok", "2")]

    @guarantee(1)
    async def test_a_step_committed_before_the_crash_is_skipped(self, backend: Backend) -> None:
        """A crash after the commit and before its answer: the record counts."""
        calls: list[int] = []

        @zart.step
        async def count() -> int:
            calls.append(len(calls) + 1)
            return calls[-1]

        @zart.durable("unanswered-step")
        async def workflow() -> int:
            return await count()

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow) as worker:
                worker.lose_answers()
                await reached(worker.stuck)
            async with working(scheduler, workflow):
                assert await handle.result("10s") == 1
            assert calls == [1]

    @guarantee(1)
    async def test_a_crash_at_every_commit_repeats_no_recorded_step(self, backend: Backend) -> None:
        """Workers that die after each commit in turn: each step runs once."""
        calls: list[int] = []

        @zart.step
        async def square(number: int) -> int:
            calls.append(number)
            return number * number

        @zart.durable("five-steps")
        async def workflow() -> int:
            return sum([await square(number) for number in range(5)])

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            for _ in range(5):
                async with mortal(scheduler, workflow) as worker:
                    worker.lose_answers()
                    await reached(worker.stuck)
            async with working(scheduler, workflow):
                assert await handle.result("10s") == 30
            assert calls == [0, 1, 2, 3, 4]

    @guarantee(1)
    async def test_plain_and_anonymous_functions_are_steps_too(self, backend: Backend) -> None:
        """A plain def, a lambda and a closure are recorded and skipped as async functions are."""
        calls: list[str] = []
        stuck = asyncio.Event()

        def plain(word: str) -> str:
            calls.append(word)
            return word.upper()

        async def halt() -> None:
            if not stuck.is_set():
                stuck.set()
                await asyncio.Event().wait()

        class Steps(zart.TaskHandler[None, list[str]]):
            name = "kinds-of-steps"

            async def run(self, ctx: zart.TaskContext, data: None) -> list[str]:
                made = [
                    await ctx.step("plain", plain, "a"),
                    await ctx.step("lambda", lambda: plain("b")),
                    await ctx.step("async-lambda", lambda: _later(calls, "c")),
                ]
                await ctx.step("halt", halt)
                return made

        handler = Steps()
        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(handler, None)
            async with mortal(scheduler, handler):
                await reached(stuck)
            async with working(scheduler, handler):
                assert await handle.result("10s") == ["A", "B", "c"]
            assert calls == ["a", "b", "c"]


async def _later(calls: list[str], word: str) -> str:
    calls.append(word)
    return word


@pytest.mark.asyncio
class TestStepValues:
    """2. What the first run sees is what replay sees."""

    @guarantee(2)
    @pytest.mark.parametrize("idempotent", [False, True])
    async def test_large_values_of_one_moment_are_recorded(
        self, backend: Backend, idempotent: bool
    ) -> None:
        """Together they are longer than a statement that a server takes; each alone is not."""

        @zart.step(idempotent=idempotent)
        async def large(number: int) -> str:
            return '"' * (400_000 + number)

        @zart.durable("large-values")
        async def workflow() -> int:
            return sum(map(len, await asyncio.gather(*(large(n) for n in range(20)))))

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            assert await handle.result("20s") == 20 * 400_000 + sum(range(20))

    @guarantee(2)
    async def test_a_step_gives_the_decoded_value_not_the_live_object(
        self, backend: Backend
    ) -> None:
        """The caller gets an equal copy of the declared type, and a replay gets the same."""
        live = Card("4242", ("gold",))
        seen: list[Card] = []
        stuck = asyncio.Event()

        @zart.step
        async def load() -> Card:
            return live

        @zart.step
        async def halt() -> None:
            if not stuck.is_set():
                stuck.set()
                await asyncio.Event().wait()

        @zart.durable("load-card")
        async def workflow() -> Card:
            card = await load()
            seen.append(card)
            card.number += "!"  # a change to the copy is no change to the record
            await halt()
            return card

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow):
                await reached(stuck)
            assert seen[0] is not live
            assert live.number == "4242"
            async with working(scheduler, workflow):
                assert await handle.result("10s") == Card("4242!", ("gold",))
            assert seen[0] == seen[1] == Card("4242!", ("gold",))

    @guarantee(2)
    async def test_first_run_and_replay_see_one_shape(self, backend: Backend) -> None:
        """An undeclared value is already what JSON makes of it in the run that recorded it."""
        seen: list[Any] = []
        stuck = asyncio.Event()

        async def undeclared():  # type: ignore[no-untyped-def]
            return {"pair": [1, 2.0], "none": None}

        @zart.durable("undeclared")
        async def workflow() -> None:
            seen.append(await zart.context().step("undeclared", undeclared))
            if not stuck.is_set():
                stuck.set()
                await asyncio.Event().wait()

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow):
                await reached(stuck)
            async with working(scheduler, workflow):
                await handle.result("10s")
            assert seen[0] == seen[1]
            assert list(map(type, seen[0]["pair"])) == list(map(type, seen[1]["pair"]))

    @guarantee(2)
    async def test_a_value_that_cannot_be_encoded_names_the_step(self, backend: Backend) -> None:
        """An object without a JSON form is an error that names the step, tried once only."""
        calls: list[int] = []

        @zart.step(retry=zart.RetryConfig.fixed(3, "10ms"))
        async def open_socket() -> object:
            calls.append(1)
            return object()

        @zart.durable("unencodable")
        async def workflow() -> None:
            await open_socket()

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            with pytest.raises(zart.ExecutionFailedError) as failed:
                await handle.result("10s")
            assert "step 'open_socket'" in str(failed.value)
            assert "cannot be recorded" in str(failed.value)
            assert calls == [1]

    @guarantee(2)
    async def test_a_value_that_does_not_fit_its_annotation_is_refused(
        self, backend: Backend
    ) -> None:
        """A step that returns another type than it declares fails, so no replay reads it wrong."""

        @zart.step
        async def total() -> int:
            many: Any = "many"
            return cast("int", many)

        @zart.durable("misfit")
        async def workflow() -> str:
            try:
                await total()
            except zart.StepFailedError as error:
                return error.error_type
            return "passed"

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            assert (await handle.result("10s")).endswith("EncodeError")

    @guarantee(2)
    async def test_now_uuid_random_and_capture_replay(self, backend: Backend) -> None:
        """Time, random values and captured ones are the same in every life of a run."""
        seen: list[tuple[Any, ...]] = []
        stuck = asyncio.Event()
        settings = iter(["first", "second"])

        @zart.durable("captured")
        async def workflow() -> None:
            setting = await zart.capture("setting", lambda: next(settings))
            seen.append((await zart.now(), zart.uuid(), zart.uuid(), zart.random(), setting))
            if not stuck.is_set():
                stuck.set()
                await asyncio.Event().wait()

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow):
                await reached(stuck)
            async with working(scheduler, workflow):
                await handle.result("10s")
            assert seen[0] == seen[1]
            assert seen[0][1] != seen[0][2]


@pytest.mark.asyncio
class TestOutcomes:
    """3 and 4. Outcomes are typed; business errors keep their type."""

    @guarantee(3)
    @pytest.mark.parametrize("ending", ["failed", "timed_out", "business", "cancelled"])
    async def test_a_caught_outcome_replays_as_the_same_exception(
        self, backend: Backend, ending: str
    ) -> None:
        """Whatever ended a step, code that caught it catches the same again after a crash."""
        calls: list[int] = []
        caught: list[tuple[type[BaseException], str]] = []
        stuck = asyncio.Event()

        @zart.step(raises=(CardDeclinedError,), timeout="50ms")
        async def charge() -> str:
            calls.append(1)
            match ending:
                case "failed":
                    raise RuntimeError("no route")
                case "business":
                    raise StolenCardError("4242", 7)
                case "cancelled":
                    raise asyncio.CancelledError
                case _:
                    await asyncio.Event().wait()
            return ""

        @zart.durable("branching")
        async def workflow() -> str:
            branch = "charged"
            try:
                await charge()
            except (zart.StepError, CardDeclinedError, asyncio.CancelledError) as error:
                caught.append((type(error), str(error)))
                branch = "caught"
            if not stuck.is_set():
                stuck.set()
                await asyncio.Event().wait()
            return branch

        expected = {
            "failed": zart.StepFailedError,
            "timed_out": zart.StepTimedOutError,
            "business": StolenCardError,
            "cancelled": asyncio.CancelledError,
        }
        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow):
                await reached(stuck)
                await eventually(lambda: scheduler.timeline(handle.id))
            async with working(scheduler, workflow):
                assert await handle.result("10s") == "caught"
            assert calls == [1]
            assert caught[0] == caught[1]
            assert caught[0][0] is expected[ending]
            recorded = (await scheduler.timeline(handle.id))[0].outcome
            assert recorded == ("failed" if ending == "business" else ending)

    @guarantee(3)
    async def test_a_step_cut_off_by_the_handler_is_cut_off_in_replay(
        self, backend: Backend
    ) -> None:
        """A step ended by the handler's own asyncio.timeout ends the same way in a replay."""
        calls: list[int] = []
        stuck = asyncio.Event()

        @zart.step
        async def slow() -> str:
            calls.append(1)
            await asyncio.Event().wait()
            return ""

        @zart.durable("cut-off")
        async def workflow() -> str:
            try:
                async with asyncio.timeout(0.05):
                    return await slow()
            except TimeoutError:
                branch = "late"
            if not stuck.is_set():
                stuck.set()
                await asyncio.Event().wait()
            return branch

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(workflow)
            async with mortal(scheduler, workflow):
                await reached(stuck)
                await eventually(lambda: scheduler.timeline(handle.id))
            async with working(scheduler, workflow):
                assert await handle.result("10s") == "late"
            assert calls == [1]
            assert (await scheduler.timeline(handle.id))[0].outcome == "cancelled"

    @guarantee(4)
    async def test_a_business_error_is_recorded_once_and_raised_as_its_type(
        self, backend: Backend
    ) -> None:
        """An error listed in raises= is not retried and keeps its type, arguments and fields."""
        calls: list[int] = []

        @zart.step(raises=(CardDeclinedError,), retry=zart.RetryConfig.fixed(5, "10ms"))
        async def charge() -> str:
            calls.append(1)
            raise StolenCardError("4242", 7)

        @zart.durable("declined")
        async def workflow() -> list[str]:
            try:
                await charge()
            except CardDeclinedError as error:
                return [type(error).__name__, error.card, str(error.code)]
            return []

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            assert await handle.result("10s") == ["StolenCardError", "4242", "7"]
            assert calls == [1]
            assert (await scheduler.timeline(handle.id))[0].outcome == "failed"

    @guarantee(4)
    async def test_a_business_error_keeps_its_message_whatever_its_constructor_takes(
        self, backend: Backend
    ) -> None:
        """What its constructor makes of its args is no other error than the one that was raised."""

        @zart.step(raises=SoldOutError)
        async def reserve() -> None:
            raise SoldOutError("tea")

        @zart.durable("sold-out")
        async def workflow() -> str:
            try:
                await reserve()
            except SoldOutError as error:
                return str(error)
            return ""

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            assert await handle.result("10s") == "no tea left"

    @guarantee(4)
    async def test_a_business_error_of_pythons_own_keeps_its_message(
        self, backend: Backend
    ) -> None:
        """Also where it is made of more than its args, or of what JSON does not have."""

        class DiskFullError(OSError):
            def __init__(self, path: str) -> None:
                super().__init__(28, "disk full", path)

        errors = [
            FileNotFoundError(2, "no such file", "/tmp/letter"),
            DiskFullError("/tmp"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ]

        def fail(number: int) -> None:
            raise errors[number]

        @zart.durable("of-python")
        async def workflow() -> list[str]:
            told: list[str] = []
            for number in range(len(errors)):
                try:
                    await zart.context().step(f"{number}", fail, number, raises=Exception)
                except (OSError, UnicodeError) as error:
                    told.append(f"{type(error).__name__}: {error}")
            return told

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            expected = [f"{type(error).__name__}: {error}" for error in errors]
            assert await handle.result("10s") == expected

    @guarantee(4)
    async def test_a_business_error_that_cannot_be_made_again_is_step_failed(
        self, backend: Backend
    ) -> None:
        """Such as the group of a TaskGroup: its members are no JSON, and there is none without."""

        @zart.step(raises=Exception)
        async def fail() -> None:
            raise ExceptionGroup("all of them", [ValueError("one")])

        @zart.durable("group")
        async def workflow() -> str:
            try:
                await fail()
            except zart.StepFailedError as error:
                return f"{error.error_type}: {error.message}"
            return ""

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            told = "ExceptionGroup: all of them (1 sub-exception)"
            assert await handle.result("10s") == told

    @guarantee(4)
    async def test_any_other_error_becomes_step_failed_with_the_original(
        self, backend: Backend
    ) -> None:
        """An unlisted error is a StepFailedError that tells type, message and traceback."""

        def connect_to_stock() -> None:
            raise ConnectionResetError("stock is down")

        @zart.durable("unlisted")
        async def workflow() -> list[str]:
            try:
                await zart.context().step("stock", connect_to_stock, raises=(CardDeclinedError,))
            except zart.StepFailedError as error:
                return [error.step, error.error_type, error.message, error.traceback]
            return []

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            step, error_type, message, trace = await handle.result("10s")
            assert (step, error_type) == ("stock", "ConnectionResetError")
            assert message == "stock is down"
            assert "in connect_to_stock" in trace
            failure = (await scheduler.timeline(handle.id))[0].failure
            assert failure is not None
            assert (failure.type, failure.message) == (error_type, message)

    @guarantee(4)
    async def test_an_error_that_escapes_is_told_to_who_waits(self, backend: Backend) -> None:
        """The caller of result() reads what failed: the step's name and the original error."""

        @zart.step
        async def charge() -> None:
            raise ValueError("no card")

        @zart.durable("escaping")
        async def workflow() -> None:
            await charge()

        async with open_scheduler(backend) as scheduler, working(scheduler, workflow):
            handle = await scheduler.schedule(workflow)
            with pytest.raises(zart.ExecutionFailedError, match=r"'charge' failed: ValueError"):
                await handle.result("10s")
            assert (await handle.get()).status == "failed"
