"""What the state model (tests/chaos/test_model.py) has found, each forced by a small test."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import apsw
import pytest

import zart
from tests.databases import Database
from zart.execution.run import Run, current_run
from zart.scheduler.config import WorkerConfig
from zart.scheduler.sql import sqlite
from zart.testing.conformance.harness import eventually

QUICK = WorkerConfig(concurrency=10, shutdown_timeout="2s", poll_interval="20ms")


# -- a caught failure replays as the same one ---------------------------------------------------


@pytest.mark.guarantee(3, 18)
async def test_the_first_failure_of_a_group_is_the_same_in_a_replay(
    scheduler: zart.DurableScheduler,
) -> None:
    """A step that fails after its sibling's failure was raised does not take its place."""
    release = asyncio.Event()
    raised: list[str] = []

    @zart.step
    async def slow() -> None:
        await release.wait()
        raise ValueError("slow")

    @zart.step
    async def quick() -> None:
        raise ValueError("quick")

    @zart.durable("race")
    async def race() -> str:
        try:
            await zart.wait_all([slow.schedule(), quick.schedule()])
        except zart.StepFailedError as error:
            raised.append(error.step)
        await zart.wait_for_event("go")
        return raised[-1]

    async with zart.Worker(scheduler, [race, slow, quick], QUICK):
        handle = await scheduler.schedule(race, id="r")
        await eventually(lambda: _outcome(scheduler, "r", "quick"))
        await eventually(lambda: _status(scheduler, "r"), is_true=lambda s: s == "waiting")
        await eventually(lambda: _kind(scheduler, "r", "event"))
        release.set()
        await eventually(lambda: _outcome(scheduler, "r", "slow"))
        await handle.offer_event("go")
        assert await handle.result(timeout="10s") == "quick"
    assert set(raised) == {"quick"}


@pytest.mark.guarantee(3, 18)
async def test_the_first_failure_of_closures_is_the_same_in_a_replay(
    scheduler: zart.DurableScheduler,
) -> None:
    """The same for steps that run in this process."""
    raised: list[str] = []

    @zart.durable("race")
    async def race() -> str:
        context, release = zart.context(), asyncio.Event()

        async def slow() -> None:
            await release.wait()
            raise ValueError("slow")

        async def quick() -> None:
            raise ValueError("quick")

        handles = [context.schedule_step(each.__name__, each) for each in (slow, quick)]
        try:
            await context.wait_all(handles)
        except zart.StepFailedError as error:
            raised.append(error.step)
        release.set()
        await context.wait_all(handles, return_exceptions=True)
        await zart.sleep("1ms")
        return raised[-1]

    async with zart.Worker(scheduler, [race], QUICK):
        handle = await scheduler.schedule(race)
        assert await handle.result(timeout="10s") == "quick"
    assert raised == ["quick", "quick"]


# -- a parent is woken by the last of its children ----------------------------------------------


@pytest.mark.guarantee(17, 18)
async def test_a_parent_that_saw_a_childs_end_before_it_parked_is_woken(
    scheduler: zart.DurableScheduler,
) -> None:
    """What ended while the run waited in place is not waited for once more."""
    last, seen = asyncio.Event(), asyncio.Event()
    runs: list[Run] = []

    @zart.step
    async def member(number: int) -> int:
        if number:
            await last.wait()
        return number

    async def beside() -> None:
        await seen.wait()

    @zart.durable("family")
    async def family() -> list[int]:
        run = current_run.get()
        assert run is not None
        runs.append(run)
        handles = [member.schedule(number) for number in (0, 1)]
        found, _ = await asyncio.gather(
            zart.wait_all(handles), zart.context().step("beside", beside)
        )
        return found

    async with zart.Worker(scheduler, [family, member], QUICK):
        handle = await scheduler.schedule(family, id="f")
        await eventually(lambda: _outcome(scheduler, "f", "member"))
        await eventually(lambda: _has_seen(runs, "member"))
        seen.set()
        await eventually(lambda: _status(scheduler, "f"), is_true=lambda s: s == "waiting")
        last.set()
        assert await handle.result(timeout="10s") == [0, 1]


async def _has_seen(runs: list[Run], step: str) -> bool:
    """Whether a run that waits in place has heard of the step's end."""
    return bool(runs) and runs[-1].history.outcome_of(step) is not None


# -- an execution's own retry and what was cut off ----------------------------------------------


@pytest.mark.guarantee(7, 17)
@pytest.mark.parametrize("strict", [False, True], ids=("gather", "task group"))
async def test_a_retry_runs_what_the_failure_had_cut_off(
    scheduler: zart.DurableScheduler, strict: bool
) -> None:
    """The next attempt does not wait for ever to be cut off again."""
    begun: list[str] = []
    long_begun = asyncio.Event()

    async def fails_once() -> str:
        begun.append("fails")
        await long_begun.wait()
        if begun.count("fails") == 1:
            raise ValueError("once")
        return "mended"

    async def long() -> str:
        begun.append("long")
        long_begun.set()
        await asyncio.sleep(60 if begun.count("long") == 1 else 0)
        return "done"

    @zart.durable("pair", max_retries=1, retry=zart.RetryConfig.fixed(1, "1ms"))
    async def pair() -> list[str]:
        context = zart.context()
        work = [context.step("fails", fails_once), context.step("long", long)]
        if not strict:
            return list(await asyncio.gather(*work))
        async with asyncio.TaskGroup() as group:
            branches = [group.create_task(each) for each in work]
        return [branch.result() for branch in branches]

    async with zart.Worker(scheduler, [pair], QUICK):
        handle = await scheduler.schedule(pair)
        assert await handle.result(timeout="10s") == ["mended", "done"]
    assert sorted(begun) == ["fails", "fails", "long", "long"]


@pytest.mark.guarantee(7)
async def test_a_retry_keeps_what_the_handler_had_cut_off_itself(
    scheduler: zart.DurableScheduler,
) -> None:
    """A step whose time-out the handler has dealt with is not run again."""
    begun: list[int] = []

    async def long() -> None:
        begun.append(1)
        await asyncio.sleep(60)

    async def after() -> str:
        return "after"

    @zart.durable("patient", max_retries=1, retry=zart.RetryConfig.fixed(1, "1ms"))
    async def patient() -> str:
        context = zart.context()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await context.step("long", long)
        result = await context.step("after", after)
        if context.attempt == 1:
            raise ValueError("once")
        return result

    async with zart.Worker(scheduler, [patient], QUICK):
        handle = await scheduler.schedule(patient)
        assert await handle.result(timeout="10s") == "after"
    assert begun == [1]


@pytest.mark.guarantee(7)
@pytest.mark.parametrize(("times", "of_the_rule", "tries"), [(2, 1, 3), (0, 2, 3), (1, 0, 2)])
async def test_max_retries_says_how_often_and_the_rule_when(
    scheduler: zart.DurableScheduler, times: int, of_the_rule: int, tries: int
) -> None:
    """The rule's own number counts where ``max_retries`` is not given."""
    begun: list[int] = []
    rule = zart.RetryConfig.fixed(of_the_rule, "1ms")

    @zart.durable("in vain", max_retries=times, retry=rule)
    async def in_vain() -> None:
        begun.append(zart.context().attempt)
        raise ValueError("again")

    async with zart.Worker(scheduler, [in_vain], QUICK):
        handle = await scheduler.schedule(in_vain)
        with pytest.raises(zart.ExecutionFailedError):
            await handle.result(timeout="10s")
    assert begun == [*range(1, tries + 1)]


# -- SQLite's one writer ------------------------------------------------------------------------


@pytest.mark.guarantee(20, 23)
async def test_a_cancelled_transaction_leaves_no_lock_behind(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step's transaction that is cancelled while it waits for the writer is closed, not lost."""
    made: list[apsw.Connection] = []
    opened = sqlite._open

    def opening(path: Path) -> apsw.Connection:
        made.append(opened(path))
        return made[-1]

    async with zart.connect(sqlite_database.url) as scheduler:
        await scheduler.migrate()
        database: Any = scheduler.backend.database  # type: ignore[attr-defined]
        blocker = opened(database.path)
        blocker.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(sqlite, "_open", opening)

        async def transact() -> None:
            async with database.own_transaction(1):
                pass

        task = asyncio.create_task(transact())
        await eventually(lambda: _at_work(made))
        task.cancel()
        blocker.execute("COMMIT")
        blocker.close()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(scheduler.schedule("anything"), 5)


async def _at_work(connections: list[apsw.Connection]) -> bool:
    """Whether a thread stands in a statement of the connection."""
    try:
        return bool(connections) and connections[0].total_changes() < 0
    except apsw.ThreadingViolationError:
        return True


# -- looking ------------------------------------------------------------------------------------


async def _outcome(scheduler: zart.DurableScheduler, execution: str, step: str) -> str | None:
    return next((s.outcome for s in await scheduler.timeline(execution) if s.name == step), None)


async def _kind(scheduler: zart.DurableScheduler, execution: str, kind: str) -> bool:
    return any(step.kind == kind for step in await scheduler.timeline(execution))


async def _status(scheduler: zart.DurableScheduler, execution: str) -> str:
    return (await scheduler.get(execution)).status
