"""Guarantee 19: durable loops; and `patched`, which lets the code of running executions change."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

import zart
from zart.testing.conformance.harness import (
    Backend,
    eventually,
    guarantee,
    open_scheduler,
    working,
)
from zart.testing.conformance.mortal import mortal
from zart.testing.conformance.rows import count_rows

__all__ = ["TestLoops", "TestPatches"]


@pytest.mark.asyncio
class TestLoops:
    """19. A loop records its counter and state, and drops what is finished."""

    @guarantee(19)
    @pytest.mark.parametrize("after_commit", [False, True], ids=("in the step", "after it"))
    async def test_a_crash_in_the_middle_resumes_at_the_iteration(
        self, backend: Backend, after_commit: bool
    ) -> None:
        """Counter and state come from the record; finished iterations' steps never run again."""
        calls: list[int] = []
        reached = asyncio.Event()
        never = asyncio.Event()

        @zart.step
        async def read(page: int) -> int:
            calls.append(page)
            if page == 12 and calls.count(12) == 1 and not after_commit:
                reached.set()
                await never.wait()
            return page * 10

        @zart.durable("pages")
        async def pages() -> list[int]:
            loop = zart.durable_loop("pages", range(10, 15), state=0)
            seen: list[int] = []
            async for page in loop:
                seen.append(loop.index)
                value = await read(page)
                if page == 12 and not reached.is_set():
                    reached.set()
                    await never.wait()
                loop.state += value
            return [loop.state, *seen]

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(pages)
            async with mortal(scheduler, pages):
                await asyncio.wait_for(reached.wait(), 10)
            async with working(scheduler, pages):
                assert await handle.result(timeout="10s") == [600, 2, 3, 4]
            assert calls == ([10, 11, 12, 13, 14] if after_commit else [10, 11, 12, 12, 13, 14])

    @guarantee(19)
    async def test_a_loop_is_compacted_as_it_goes(self, backend: Backend) -> None:
        """The rows of an execution do not grow with its iterations, whatever they record."""
        amounts: dict[int, int] = {}

        @zart.step(idempotent=True)
        async def note(number: int) -> int:
            return number

        @zart.durable("long-loop")
        async def long_loop() -> int:
            context = zart.context()
            loop = context.loop("work", range(60), state=0)
            async for number in loop:
                loop.state += await context.step("one", _same, number)
                await note(number)
                await zart.sleep("0s")
                if number in (3, 30, 59):
                    amounts[number] = await count_rows(scheduler, "steps")
            return loop.state

        async with open_scheduler(backend) as scheduler, working(scheduler, long_loop):
            handle = await scheduler.schedule(long_loop)
            assert await handle.result(timeout="60s") == sum(range(60))
            # The mark, and the iteration's own: two steps and a sleep, some on their way yet.
            assert len(amounts) == 3
            assert max(amounts.values()) <= 4
            assert [s.name for s in await scheduler.timeline(handle.id)] == ["work"]

    @guarantee(16, 19)
    async def test_events_and_failed_attempts_are_compacted(self, backend: Backend) -> None:
        """A finished iteration takes its events, failed attempts and parallel steps along."""
        failing = {0, 1, 2}

        @zart.step(retry=zart.RetryConfig.fixed(1, "0s"))
        async def shaky(number: int) -> int:
            if number in failing:
                failing.discard(number)
                raise ValueError("once")
            return number

        @zart.durable("events")
        async def events() -> list[int]:
            got: list[int] = []
            loop = zart.durable_loop("events", range(3), state=got)
            async for number in loop:
                loop.state = [*loop.state, await zart.wait_for_event("next", type=int)]
                await shaky(number)
                await shaky.schedule(number)
                await zart.start_child(child, number)
            return loop.state

        @zart.durable("child")
        async def child(number: int) -> int:
            return number

        async with open_scheduler(backend) as scheduler, working(scheduler, events, shaky, child):
            handle = await scheduler.schedule(events)
            for number in range(4):
                await scheduler.offer_event(handle.id, "next", number * 2)
            assert await handle.result(timeout="20s") == [0, 2, 4]
            assert [s.name for s in await scheduler.timeline(handle.id)] == ["events"]
            for table in ("step_attempts", "tasks", "events"):
                assert await count_rows(scheduler, table) == 0, table

    @guarantee(9, 19)
    async def test_a_parallel_step_of_a_finished_iteration_writes_nothing_more(
        self, backend: Backend
    ) -> None:
        """Nobody waits for it any more: it is called off, and leaves no attempt behind."""
        begun = asyncio.Event()

        @zart.step(retry=zart.RetryConfig.fixed(1, "0s"))
        async def bad() -> None:
            await begun.wait()
            raise ValueError("bad")

        @zart.step(retry=zart.RetryConfig.fixed(5, "300ms"))
        async def slow() -> None:
            begun.set()
            raise ValueError("slow")

        @zart.durable("racing")
        async def racing() -> None:
            async for number in zart.durable_loop("race", range(2)):
                if number:
                    await zart.sleep("700ms")
                    return
                handles = [slow.named("slow").schedule(), bad.named("bad").schedule()]
                while not await count_rows(scheduler, "step_attempts"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                with pytest.raises(zart.StepFailedError, match="bad"):
                    await zart.wait_all(handles)

        async with open_scheduler(backend) as scheduler, working(scheduler, racing, bad, slow):
            await (await scheduler.schedule(racing)).result(timeout="20s")
            for table in ("step_attempts", "tasks"):
                assert await count_rows(scheduler, table) == 0, table

    @guarantee(18, 19)
    async def test_a_child_of_a_finished_iteration_leaves_nothing_behind(
        self, backend: Backend
    ) -> None:
        """One that nobody waits for ends by itself, and the loop's record does not grow by it."""
        ended: list[int] = []

        @zart.durable("child")
        async def child(number: int) -> None:
            ended.append(number)

        @zart.durable("starting")
        async def starting() -> bool:
            async for number in zart.durable_loop("loop", range(3)):
                zart.start_child(child, number)
            await zart.wait_for_event("go")
            return await zart.patched("what comes after them")

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(starting)
            async with working(scheduler, starting):
                await eventually(handle.get, is_true=lambda e: e.status == "waiting")
            async with working(scheduler, starting, child):
                children = functools.partial(scheduler.list, task="child", status="completed")
                await eventually(children, is_true=lambda found: len(found) == 3)
                assert [s.name for s in await scheduler.timeline(handle.id)] == ["loop", "event go"]
                await handle.offer_event("go")
                assert await handle.result(timeout="10s")  # it has not passed that place before
            assert sorted(ended) == [0, 1, 2]

    @guarantee(18, 19)
    async def test_a_closure_that_outlives_its_iteration_leaves_nothing_behind(
        self, backend: Backend
    ) -> None:
        """It runs to its end beside the next ones, and is not recorded any more."""
        over = asyncio.Event()
        ended: list[int] = []

        async def beside(number: int) -> None:
            await over.wait()
            ended.append(number)
            if ended.count(number) == 1:
                raise ValueError

        @zart.durable("outlived")
        async def outlived() -> None:
            ctx = zart.context()
            retry = zart.RetryConfig.fixed(1, "1ms")
            async for number in zart.durable_loop("loop", range(3)):
                ctx.schedule_step("beside", beside, number, retry=retry)
            over.set()
            while len(ended) < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await zart.sleep("1ms")

        async with open_scheduler(backend) as scheduler, working(scheduler, outlived):
            handle = await scheduler.schedule(outlived)
            await handle.result(timeout="10s")
            assert sorted(ended) == [0, 0, 1, 1, 2, 2]
            assert [s.name for s in await scheduler.timeline(handle.id)] == ["loop", "sleep"]

    @guarantee(18, 19)
    @pytest.mark.parametrize("kind", ["row", "child"])
    async def test_what_a_finished_iteration_has_begun_cannot_be_awaited(
        self, backend: Backend, kind: str
    ) -> None:
        """Its record is dropped: an error says so, and nobody waits for ever."""

        @zart.step
        async def part() -> None: ...

        @zart.durable("part")
        async def child() -> None: ...

        @zart.durable("late")
        async def late() -> None:
            before: zart.StepHandle[None] | None = None
            async for _ in zart.durable_loop("loop", range(2)):
                if before is not None:
                    await before
                before = part.schedule() if kind == "row" else zart.start_child(child)

        async with open_scheduler(backend) as scheduler, working(scheduler, late, part, child):
            handle = await scheduler.schedule(late)
            with pytest.raises(zart.ExecutionFailedError, match="await it within that iteration"):
                await handle.result(timeout="10s")

    @guarantee(19)
    async def test_names_are_free_in_each_iteration(self, backend: Backend) -> None:
        """A step may be named the same in each iteration, and before and after the loop."""

        @zart.durable("names")
        async def names() -> list[int]:
            context = zart.context()
            before = await context.step("same", lambda: -1)
            loop = context.loop("loop", [5, 6], state=list[int]())
            async for number in loop:
                value = await context.step("same", _same, number)
                loop.state = [*loop.state, value]
            after = await context.step("after", lambda: -2)
            await context.sleep("20ms")
            return [before, *loop.state, after]

        async with open_scheduler(backend) as scheduler, working(scheduler, names):
            handle = await scheduler.schedule(names)
            assert await handle.result(timeout="10s") == [-1, 5, 6, -2]
            steps = await scheduler.timeline(handle.id)
            assert sorted(s.name for s in steps) == ["after", "loop", "same", "sleep"]

    @guarantee(19)
    @pytest.mark.parametrize("held", [False, True], ids=("in the for", "in a variable"))
    async def test_a_loop_can_be_left_by_break(self, backend: Backend, held: bool) -> None:
        """After a break the run goes on, replays alike, and names are those outside the loop."""
        calls: list[str] = []

        def note(label: str) -> str:
            calls.append(label)
            return label

        @zart.durable("breaking")
        async def breaking() -> list[str]:
            context = zart.context()
            found: list[str] = []
            loop = context.loop("search") if held else None
            async for number in loop or context.loop("search"):
                found.append(await context.step("look", note, f"look {number}"))
                if number == 2:
                    break
            await context.sleep("20ms")
            found.append(await context.step("look", note, "look outside"))
            await context.sleep("20ms")
            return found

        async with open_scheduler(backend) as scheduler, working(scheduler, breaking):
            handle = await scheduler.schedule(breaking)
            result = await handle.result(timeout="10s")
            # A replay begins at the iteration it had come to: those before it are compacted.
            assert result == ["look 2", "look outside"]
            assert calls == ["look 0", "look 1", "look 2", "look outside"]
            names = [s.name for s in await scheduler.timeline(handle.id)]
            assert "look" in names

    @guarantee(19)
    async def test_loops_can_be_nested(self, backend: Backend) -> None:
        """An inner loop belongs to its iteration of the outer one, over waits and replays."""
        calls: list[tuple[int, int]] = []

        @zart.durable("nested")
        async def nested() -> int:
            context = zart.context()
            outer = context.loop("outer", range(3), state=0)
            async for x in outer:
                inner = context.loop("inner", range(3), state=0)
                async for y in inner:
                    inner.state += await context.step("cell", _note, calls, (x, y))
                    if y == 1:
                        await context.sleep("10ms")
                outer.state += await context.step("row", _same, inner.state)
            return outer.state

        async with open_scheduler(backend) as scheduler, working(scheduler, nested):
            handle = await scheduler.schedule(nested)
            assert await handle.result(timeout="10s") == sum(x * 10 + y for x, y in calls)
            assert calls == [(x, y) for x in range(3) for y in range(3)]
            assert [s.name for s in await scheduler.timeline(handle.id)] == ["outer"]

    @guarantee(19)
    async def test_a_finished_loop_is_skipped(self, backend: Backend) -> None:
        """A replay does not enter a loop that has ended, and finds its last state."""
        bodies: list[int] = []

        @zart.durable("finished-loop")
        async def finished_loop() -> list[int]:
            loop = zart.durable_loop("work", [1, 2, 3], state=[0])
            async for number in loop:
                bodies.append(number)
                loop.state = [*loop.state, number]
            empty = zart.durable_loop("empty", list[int]())
            async for _ in empty:
                raise AssertionError("there is nothing to loop over")
            await zart.sleep("20ms")
            return loop.state

        async with open_scheduler(backend) as scheduler, working(scheduler, finished_loop):
            handle = await scheduler.schedule(finished_loop)
            assert await handle.result(timeout="10s") == [0, 1, 2, 3]
            assert bodies == [1, 2, 3]

    @guarantee(2, 19)
    async def test_state_that_cannot_be_recorded_is_an_error(self, backend: Backend) -> None:
        """The error names the loop; the execution fails instead of losing its state."""

        @zart.durable("odd-state")
        async def odd_state() -> None:
            loop: Any = zart.durable_loop("odd", range(2), state=0)
            async for _ in loop:
                loop.state = object()

        async with open_scheduler(backend) as scheduler, working(scheduler, odd_state):
            handle = await scheduler.schedule(odd_state)
            with pytest.raises(zart.ExecutionFailedError, match="odd"):
                await handle.result(timeout="10s")

    @guarantee(19)
    async def test_a_failed_iteration_is_tried_again(self, backend: Backend) -> None:
        """The execution's own retry goes on at the iteration that failed."""
        bodies: list[int] = []

        @zart.durable("retried-loop", retry=zart.RetryConfig.fixed(1, "0s"))
        async def retried() -> int:
            loop = zart.durable_loop("work", range(4), state=0)
            async for number in loop:
                bodies.append(number)
                loop.state += await zart.capture("value", functools.partial(_same, number))
                if number == 2 and bodies.count(2) == 1:
                    raise ValueError("once")
            return loop.state

        async with open_scheduler(backend) as scheduler, working(scheduler, retried):
            handle = await scheduler.schedule(retried)
            assert await handle.result(timeout="10s") == 6
            assert bodies == [0, 1, 2, 2, 3]

    @guarantee(19)
    async def test_a_loop_can_wait_in_each_iteration(self, backend: Backend) -> None:
        """A loop without end that waits for events is resumed at its iteration each time."""
        bodies: list[int] = []

        @zart.durable("endless")
        async def endless() -> int:
            loop = zart.durable_loop("endless", state=0)
            async for number in loop:
                bodies.append(number)
                added = await zart.wait_for_event("add", type=int)
                if added == 0:
                    break
                loop.state += added
            return loop.state

        async with open_scheduler(backend) as scheduler, working(scheduler, endless):
            handle = await scheduler.schedule(endless)
            for added in (1, 2, 3, 0):
                await eventually(handle.get, is_true=lambda e: e.status == "waiting")
                await scheduler.offer_event(handle.id, "add", added)
            assert await handle.result(timeout="10s") == 6
            assert sorted(set(bodies)) == [0, 1, 2, 3]


@pytest.mark.asyncio
class TestPatches:
    """`patched` tells old runs from new ones, and stays with its answer."""

    @guarantee(1)
    async def test_a_patch_leaves_runs_alone_that_had_passed_it(self, backend: Backend) -> None:
        """A run that had come further before the change does not take the new code."""
        new_code = False
        calls: list[str] = []

        @zart.durable("changed")
        async def changed() -> list[str]:
            context = zart.context()
            done = [await context.step("first", _note_text, calls, "first")]
            if new_code and await context.patched("second-receipt"):
                done.append(await context.step("extra", _note_text, calls, "extra"))
            done.append(await context.step("last", _note_text, calls, "last"))
            await context.wait_for_event("go")
            return done

        async with open_scheduler(backend) as scheduler:
            old = await scheduler.schedule(changed, id="old")
            async with working(scheduler, changed):
                await eventually(old.get, is_true=lambda e: e.status == "waiting")
            new_code = True
            async with working(scheduler, changed):
                new = await scheduler.schedule(changed, id="new")
                await eventually(new.get, is_true=lambda e: e.status == "waiting")
                await old.offer_event("go")
                await new.offer_event("go")
                assert await old.result(timeout="10s") == ["first", "last"]
                assert await new.result(timeout="10s") == ["first", "extra", "last"]
            assert calls == ["first", "last", "first", "extra", "last"]

    @guarantee(1)
    async def test_a_patch_reaches_runs_that_had_not_come_to_it(self, backend: Backend) -> None:
        """A run that stood before the change takes the new code, also on its later replays."""
        new_code = False

        @zart.durable("changed-later")
        async def changed() -> list[str]:
            context = zart.context()
            done = [await context.step("first", lambda: "first")]
            await context.wait_for_event("go")
            if new_code and await context.patched("extra-step"):
                done.append(await context.step("extra", lambda: "extra"))
            await context.sleep("20ms")
            return done

        async with open_scheduler(backend) as scheduler:
            handle = await scheduler.schedule(changed)
            async with working(scheduler, changed):
                await eventually(handle.get, is_true=lambda e: e.status == "waiting")
            new_code = True
            async with working(scheduler, changed):
                await handle.offer_event("go")
                assert await handle.result(timeout="10s") == ["first", "extra"]

    @guarantee(1)
    async def test_a_patch_in_a_compensation_asks_about_the_compensation(
        self, backend: Backend
    ) -> None:
        """What the workflow has recorded plays no part; what `on_failure` has, does."""
        new_code = True
        calls: list[str] = []

        @zart.durable("compensated")
        async def compensated() -> None:
            await zart.context().step("first", lambda: "")
            raise ValueError("bad")

        @compensated.on_failure
        async def undo(_: None, failure: zart.Failure) -> None:
            context = zart.context()
            if new_code and await context.patched("undo more"):
                await context.step("more", _note_text, calls, f"more {context.execution_id}")
            await context.step("undo", _note_text, calls, f"undo {context.execution_id}")
            await context.wait_for_event("go")

        async with open_scheduler(backend) as scheduler:
            new = await scheduler.schedule(compensated, id="new")
            async with working(scheduler, compensated):
                await eventually(new.get, is_true=lambda e: e.status == "waiting")
            new_code = False
            old = await scheduler.schedule(compensated, id="old")
            async with working(scheduler, compensated):
                await eventually(old.get, is_true=lambda e: e.status == "waiting")
            new_code = True
            async with working(scheduler, compensated):
                for handle in (new, old):
                    await handle.offer_event("go")
                    await scheduler.wait(handle.id, timeout="10s")
            assert calls == ["more new", "undo new", "undo old"]


def _same(number: int) -> int:
    return number


def _note(calls: list[tuple[int, int]], cell: tuple[int, int]) -> int:
    calls.append(cell)
    return cell[0] * 10 + cell[1]


def _note_text(calls: list[str], label: str) -> str:
    calls.append(label)
    return label
