"""Every place where a public coroutine waits is a place where it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import zart
from tests.chaos.cancelling import ANSWERED, WAITING, Remains, cancelled_at
from tests.chaos.conftest import Budget
from tests.databases import Database
from zart.testing.conformance.harness import eventually
from zart.testing.conformance.rows import run_sql

WHENS = (WAITING, ANSWERED)
IDLE = zart.WorkerConfig(concurrency=4, shutdown_timeout="1s", poll_interval="50ms")
POOL = 20
"""Connections that one scheduler may keep, whatever its database."""

Scheduler: TypeAlias = zart.DurableScheduler
Legal: TypeAlias = Callable[[Scheduler, str], Awaitable[bool]]


@zart.durable("nothing")
async def nothing() -> str:
    return "done"


async def _exists_or_not(scheduler: Scheduler, name: str) -> bool:
    """It can be scheduled as if nothing had been, and is one execution then."""
    await scheduler.schedule(nothing, id=name)
    return (await scheduler.get(name)).status == "pending"


async def _all_or_none(scheduler: Scheduler, name: str) -> bool:
    found = [e for e in await scheduler.list(limit=10_000) if e.id.startswith(f"{name}-")]
    return len(found) in (0, 3)


async def _has_an_event_or_not(scheduler: Scheduler, name: str) -> bool:
    found = await run_sql(scheduler, f"SELECT * FROM zart_events WHERE execution_id = '{name}'")
    return len(found) <= 1


async def _is_cancelled_or_not(scheduler: Scheduler, name: str) -> bool:
    return (await scheduler.get(name)).status in ("cancelled", "pending")


async def _has_run_once_or_twice(scheduler: Scheduler, name: str) -> bool:
    return (await scheduler.get(name)).run in (1, 2)


async def _is_pending(scheduler: Scheduler, name: str) -> bool:
    return (await scheduler.get(name)).status == "pending"


OPERATIONS: dict[str, tuple[Callable[[Scheduler, str], Any], Legal]] = {
    "schedule": (lambda s, name: s.schedule(nothing, id=f"{name}!"), _exists_or_not),
    "schedule_many": (
        lambda s, name: s.schedule_many(nothing, [None] * 3, ids=[f"{name}-{n}" for n in range(3)]),
        _all_or_none,
    ),
    "get": (lambda s, name: s.get(name), _is_pending),
    "list": (lambda s, _: s.list(), _is_pending),
    "timeline": (lambda s, name: s.timeline(name), _is_pending),
    "workers": (lambda s, _: s.workers(), _is_pending),
    "doctor": (lambda s, _: s.doctor(), _is_pending),
    "result": (lambda s, _: s.result("ended", timeout="5s"), _is_pending),
    "wait": (lambda s, _: s.wait("ended", timeout="5s"), _is_pending),
    "offer_event": (lambda s, name: s.offer_event(name, "event", 1), _has_an_event_or_not),
    "cancel": (lambda s, name: s.cancel(name), _is_cancelled_or_not),
    "restart": (lambda s, name: s.restart(name), _has_run_once_or_twice),
    "migrate": (lambda s, _: s.migrate(), _is_pending),
}


async def test_a_scheduler_serves_on_wherever_its_callers_are_cancelled(
    database: Database, budget: Budget
) -> None:
    """No task, thread, open transaction or connection is left, and every row is a legal one."""
    before = Remains(database)
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        await (await scheduler.schedule(nothing, id="ended")).cancel()
        with contextlib.suppress(zart.ExecutionCancelledError):
            await scheduler.result("ended", timeout="5s")
        await asyncio.gather(*(scheduler.get("ended") for _ in range(POOL)))
        idle = Remains(database)
        places = 0
        for operation in OPERATIONS:
            # In `make test` one of the two ways, another one in each run.
            for when in WHENS if budget.long else [budget.chance.choice(WHENS)]:
                places += await _cancel_everywhere(scheduler, operation, when)
        assert places > len(OPERATIONS)
        await idle.none(connections=POOL)
        # Every connection of the pool is there to be had, and works.
        await asyncio.gather(*(scheduler.get("ended") for _ in range(POOL)))
    await before.none(connections=0)


async def _cancel_everywhere(scheduler: Scheduler, operation: str, when: str) -> int:
    """Cancel one operation at each of its places; gives how many there were."""
    call, legal = OPERATIONS[operation]
    for number in itertools.count(1):
        name = f"{operation}-{when}-{number}"
        await scheduler.schedule(nothing, id=name)
        reached = await cancelled_at(_ended(call(scheduler, name)), number, when)
        assert await legal(scheduler, name), (operation, number, when)
        if not reached:
            return number - 1
    raise AssertionError(operation)


async def _ended(work: Awaitable[Any]) -> None:
    with contextlib.suppress(zart.ExecutionCancelledError):
        await work


async def test_connecting_and_closing_leave_nothing_wherever_they_are_cancelled(
    database: Database,
) -> None:
    """Closing goes on by itself when its caller is cancelled."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
    before = Remains(database)

    async def use() -> None:
        async with zart.connect(database.url) as scheduler:
            with contextlib.suppress(zart.ExecutionNotFoundError):
                await scheduler.result("nobody", timeout="5s")
            await scheduler.schedule(nothing)

    for when in WHENS:
        for number in itertools.count(1):
            if not await cancelled_at(use(), number, when):
                break
        assert number > 3
    await before.none(connections=0)


async def test_a_worker_starts_and_stops_clean_wherever_it_is_cancelled(
    database: Database,
) -> None:
    """What it held is another's soon, and no heartbeat of it goes on."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [nothing], IDLE):
            await (await scheduler.schedule(nothing)).result(timeout="10s")
        before = Remains(database)
        for lives in (_started, _stopped, _run):
            await _cancel_lives(scheduler, lives)
        await before.none(connections=POOL)
        assert await scheduler.workers() == []
        async with zart.Worker(scheduler, [held], IDLE):
            for execution in await scheduler.list(task="held"):
                assert await scheduler.result(execution.id, timeout="20s") == "done"


@zart.durable("held")
async def held() -> str:
    """Is in the middle of something when its worker ends; the second claim of it ends it."""
    if zart.context().execution_id in _held:
        return "done"
    _held.add(zart.context().execution_id)
    await asyncio.sleep(30)
    return "never"


_held: set[str] = set()


async def _started(scheduler: Scheduler, number: int, when: str) -> bool:
    worker = zart.Worker(scheduler, [nothing], IDLE)

    async def use() -> None:
        async with worker:
            pass

    return await cancelled_at(use(), number, when)


async def _stopped(scheduler: Scheduler, number: int, when: str) -> bool:
    handle = await scheduler.schedule(held)
    worker = zart.Worker(scheduler, [held], IDLE)
    await worker.start()
    await eventually(lambda: _answer(handle.id in _held))
    return await cancelled_at(worker.stop(timeout="50ms"), number, when)


async def _run(scheduler: Scheduler, number: int, when: str) -> bool:
    """At its second place it works, until it is told to end."""
    worker = zart.Worker(scheduler, [nothing], IDLE)
    telling = asyncio.create_task(_tell_to_end(scheduler))
    reached = await cancelled_at(worker.run(), number, when)
    telling.cancel()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    return reached


async def _tell_to_end(scheduler: Scheduler) -> None:
    await eventually(scheduler.workers)
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        os.kill(os.getpid(), signal.SIGTERM)


async def _cancel_lives(
    scheduler: Scheduler, lives: Callable[[Scheduler, int, str], Awaitable[bool]]
) -> None:
    for when in WHENS:
        for number in itertools.count(1):
            if not await lives(scheduler, number, when):
                break
        assert number > 1


async def _answer(value: Any) -> Any:
    return value
