"""Steps marked ``idempotent=True``: what they cost, and what may not overtake their records."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import zart
from tests.databases import Database
from zart.execution.outstanding import MOST
from zart.scheduler.entries import Entry, Receipt
from zart.testing.conformance.harness import QUICK, working

STEPS = 10


@zart.step
async def ordinary() -> None:
    """Recorded before the next begins."""


@zart.step(idempotent=True)
async def quick() -> None:
    """May go on before it is recorded."""


@zart.durable("ordinary-steps")
async def ordinary_steps() -> None:
    for _ in range(STEPS):
        await ordinary()


@zart.durable("idempotent-steps")
async def idempotent_steps() -> None:
    for _ in range(STEPS):
        await quick()


@zart.durable("mixed-steps")
async def mixed_steps() -> int:
    """How many steps are recorded when the ordinary one begins."""
    for _ in range(STEPS):
        await quick()
    return await recorded_so_far()


flushes: list[int] = []
"""The number of steps in each flush that has been committed."""


@zart.step
async def recorded_so_far() -> int:
    return sum(flushes)


def watch_flushes(scheduler: zart.DurableScheduler) -> None:
    """Keep count from now on."""
    commit = scheduler.backend.commit

    async def counted(entries: Sequence[Entry]) -> list[Receipt]:
        receipts = await commit(entries)
        flushes.append(sum(len(entry.steps) for entry in entries))
        return receipts

    scheduler.backend.commit = counted  # type: ignore[method-assign]


async def test_ten_idempotent_steps_cost_one_flush(database: Database) -> None:
    """One execution at a time: ten ordinary steps take ten flushes, ten idempotent ones one."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        watch_flushes(scheduler)
        # Counted when the worker has stopped: a result may be seen before its flush is.
        flushes.clear()
        async with zart.Worker(scheduler, [ordinary_steps]):
            await (await scheduler.schedule(ordinary_steps)).result(timeout="10s")
        assert [n for n in flushes if n] == [1] * STEPS
        flushes.clear()
        async with zart.Worker(scheduler, [idempotent_steps]):
            await (await scheduler.schedule(idempotent_steps)).result(timeout="10s")
        assert flushes == [STEPS]  # the run's end goes with them


async def test_an_ordinary_step_begins_after_they_are_recorded(database: Database) -> None:
    """What is not safe to repeat has no effect while what came before could still be lost."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [mixed_steps]):
            flushes.clear()
            watch_flushes(scheduler)
            handle = await scheduler.schedule(mixed_steps)
            assert await handle.result(timeout="10s") == STEPS


async def test_a_handler_is_not_far_ahead_of_its_records(sqlite_database: Database) -> None:
    """However many steps follow each other, and though none of them waits for anything."""
    begun = 0
    ahead: list[int] = []

    @zart.durable("many-steps")
    async def many_steps() -> None:
        nonlocal begun
        for number in range(3 * MOST):
            await zart.context().step(f"step-{number}", len, "", idempotent=True)
            begun += 1
            ahead.append(begun - sum(flushes))

    async with zart.connect(sqlite_database.url) as scheduler:
        await scheduler.migrate()
        async with working(scheduler, many_steps):
            flushes.clear()
            watch_flushes(scheduler)
            await (await scheduler.schedule(many_steps)).result(timeout="20s")
    assert max(ahead) <= MOST


@zart.step
async def echo(token: str) -> str:
    return token


@zart.durable("echoing")
async def echoing(token: str) -> str:
    return token


def begin_elsewhere(kind: str, token: str) -> zart.StepHandle[str]:
    if kind == "child":
        return zart.start_child(echoing, token)
    return zart.context().schedule_step("distributed", echo, token)


@pytest.mark.guarantee(2, 18)
@pytest.mark.parametrize("kind", ["child", "distributed"])
async def test_what_begins_elsewhere_does_not_overtake_what_it_comes_of(
    database: Database, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A child with a step's result is there only together with that result, in the other flush."""
    held, begun, looked = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @zart.durable("parent")
    async def parent() -> str:
        token = await zart.context().step("token", lambda: "abc", idempotent=True)
        await held.wait()
        return await begin_elsewhere(kind, token)

    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        commit = scheduler.backend.commit

        async def token_late(entries: Sequence[Entry]) -> list[Receipt]:
            elsewhere = any(entry.children or entry.distributed for entry in entries)
            if not elsewhere and not held.is_set():
                held.set()
                await looked.wait()
            receipts = await commit(entries)
            if elsewhere:
                begun.set()
            return receipts

        monkeypatch.setattr(scheduler.backend, "commit", token_late)
        handle = await scheduler.schedule(parent)
        async with working(scheduler, parent, echoing, echo):
            await asyncio.wait_for(begun.wait(), 10)
            steps = {s.name: s.outcome for s in await scheduler.timeline(handle.id)}
            looked.set()
            assert await handle.result(timeout="10s") == "abc"
    assert steps["token"] == "ok"


async def bad_wait(*, alone: bool) -> None:
    if alone:
        await zart.sleep("bad-3", "1h")
    else:  # in place, so that its own record goes ahead of the park
        await asyncio.gather(zart.sleep("bad-3", "1h"), zart.sleep("bad-4", "2h"))


@pytest.mark.guarantee(7)
@pytest.mark.parametrize(
    ("kind", "then"),
    [
        *[
            (kind, then)
            for kind in ("idempotent", "child", "distributed")
            for then in ("step", "end")
        ],
        ("wait", "end"),
        ("lone wait", "end"),
    ],
)
async def test_a_record_that_cannot_be_written_fails_the_run_and_is_tried_as_often_as_it_may(
    database: Database, monkeypatch: pytest.MonkeyPatch, kind: str, then: str
) -> None:
    """It is a failure like any other: counted, and in the end the execution's."""
    runs: list[int] = []

    @zart.durable("unwritable", retry=zart.RetryConfig.fixed(2, "0s"))
    async def unwritable() -> None:
        runs.append(1)
        for bad in ("bad-1", "bad-2"):  # one failure must not hide another
            if kind.endswith("wait"):
                continue
            if kind == "idempotent":
                await zart.context().step(bad, lambda: "", idempotent=True)
            elif kind == "child":
                zart.start_child(echoing, "", name=bad)
            else:
                zart.context().schedule_step(bad, echo, "")
        if then == "step":
            await ordinary()
        elif kind.endswith("wait"):
            await bad_wait(alone=kind == "lone wait")

    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        commit = scheduler.backend.commit

        async def refusing(entries: Sequence[Entry]) -> list[Receipt]:
            if any(row[2].startswith("bad") for entry in entries for row in entry.steps):
                raise RuntimeError("a row that the database does not take")
            return await commit(entries)

        monkeypatch.setattr(scheduler.backend, "commit", refusing)
        async with working(scheduler, unwritable, echoing, echo, config=QUICK):
            handle = await scheduler.schedule(unwritable)
            with pytest.raises(zart.ExecutionFailedError, match="does not take"):
                await handle.result(timeout="10s")
    assert len(runs) == 3
