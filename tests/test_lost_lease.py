"""Leases that are lost, and that must not be: by a death, or by taking over from the dead."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

import zart
from tests.databases import Database
from tests.marks import servers_only
from tests.racing import COMMITTED, engine
from tests.test_conformance import OneDatabase
from zart.scheduler import lease as lease_module
from zart.scheduler.entries import Entry
from zart.scheduler.lease import Lease, LeaseTimes
from zart.scheduler.sql.transitions import commit as committing
from zart.scheduler.sql.transitions import lease as leases
from zart.testing.conformance.faults import SHORT_LEASE, claim_all, separable_worker
from zart.testing.conformance.harness import eventually, guarantee, open_scheduler, working
from zart.testing.conformance.rows import run_sql

BEATING = zart.WorkerConfig(shutdown_timeout="1s", poll_interval="20ms", beat="200ms", lease="2s")
"""A beat that is late on a busy machine is none that was held up: the lease holds meanwhile."""


@guarantee(1, 9)
async def test_no_step_begins_between_the_worker_s_new_name_and_the_end_of_its_old_tasks(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease has its new name and holds again: what ran under the old one still waits."""
    runs: list[str] = []
    parted, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @zart.durable("renamed")
    async def renamed() -> str:
        runs.append("body")
        if len(runs) == 1:
            parted.set()
            await go_on.wait()
            try:
                await zart.context().step("pay", lambda: runs.append("late effect"))
            finally:
                ended.set()
        return await zart.context().step("pay", lambda: "heir")

    backend = OneDatabase(database.url)
    async with (
        open_scheduler(backend) as scheduler,
        separable_worker(backend, renamed) as (worker, partition),
    ):
        heard = asyncio.Event()
        monkeypatch.setattr(worker, "_reconcile", _looks_later)  # or that look finds out first
        _hear_late(worker, heard, monkeypatch)
        handle = await scheduler.schedule(renamed)
        await asyncio.wait_for(parted.wait(), 10)
        name = worker.id
        partition.cut()
        async with working(scheduler, renamed, config=SHORT_LEASE):
            assert await handle.result(timeout="10s") == "heir"
        partition.heal()
        await eventually(lambda: _answer(worker.id != name and worker._lease.valid))
        go_on.set()
        await asyncio.sleep(0.1)  # the handler goes on and comes to its step, which must not begin
        assert not ended.is_set()
        heard.set()
        await asyncio.wait_for(ended.wait(), 10)
        assert runs == ["body", "body"]


@servers_only
@guarantee(10)
async def test_a_locked_task_of_a_dead_worker_costs_no_living_one_its_lease(
    database: Database,
) -> None:
    """Its other tasks go on meanwhile, and so does this one as soon as the lock is gone.

    SQLite has one lock, of the whole file.
    """

    @zart.durable("bequeathed")
    async def bequeathed() -> str:
        return "done"

    async with (
        zart.connect(database.url) as scheduler,
        zart.connect(database.url) as other,
        AsyncExitStack() as holding,
    ):
        await scheduler.migrate()
        await scheduler.schedule_many(bequeathed, [None, None], ids=["locked", "free"])
        claims = {t.claim.execution_id: t.claim for t in await claim_all(scheduler, "bequeathed")}
        await _enter_dead(scheduler, "ghost")
        lock = engine(scheduler).database.own_transaction(1)
        tx, _ = await holding.enter_async_context(lock)
        assert await committing.commit(tx, [Entry(claims["locked"])]) == COMMITTED
        async with (
            working(scheduler, bequeathed, config=BEATING) as one,
            working(other, bequeathed, config=BEATING) as two,
        ):
            names = one.id, two.id
            await scheduler.result("free", timeout="20s")
            for _ in range(25):  # longer than a lease, with a look for the dead each half a second
                assert (one.holds, two.holds) == (True, True)
                await asyncio.sleep(0.1)
            assert (await scheduler.get("locked")).worker == "ghost"
            await holding.aclose()
            await scheduler.result("locked", timeout="20s")
            assert (one.id, two.id) == names
            assert [(await scheduler.get(i)).crashes for i in ("locked", "free")] == [1, 1]
            await eventually(lambda: _entered(scheduler), is_true=lambda ids: ids == {*names})


async def _enter_dead(scheduler: zart.DurableScheduler, worker: str) -> None:
    """Enter a worker whose lease runs out at once."""
    await engine(scheduler).database.run(
        lambda tx: leases.register(tx, worker, "host", 1, 1, None, 1)
    )


class _Slow:
    """A lease session on which each batch of a taking-over takes as long as it may."""

    def __init__(self, clock: list[float], times: LeaseTimes, batches: int) -> None:
        self._clock = clock
        self._times = times
        self._batches = batches
        self.beats = 0

    async def take_over(self, _worker: str, still_dead: Any, *, crashed: bool) -> int:
        assert still_dead(0, 1, 0)
        assert crashed
        self._clock[0] += self._times.lease / 3 - 0.01
        self._batches -= 1
        return int(self._batches >= 0)

    async def beat(self, *_: Any, **__: Any) -> bool:
        self.beats += 1
        return True


async def test_a_long_takeover_costs_no_lease_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tasks the dead worker had, the beat comes in between."""
    times = LeaseTimes()
    clock = [1000.0]
    lease = Lease(
        Any, times, 1, on_lost=lambda _: None, on_takeover=lambda: held.append(lease.valid)
    )
    held: list[bool] = []
    monkeypatch.setattr(lease_module, "_clock", lambda: clock[0])
    monkeypatch.setattr(lease, "_call", lambda function, *arguments: function(*arguments))
    line: Any = _Slow(clock, times, batches=20)
    lease._registered = True
    await lease._beat(line, False, relocked=True)
    await lease._take_over(line, "dead", 0, "its lease has run out")
    assert held == [True] * 20
    assert line.beats > 10


@guarantee(9, 10)
async def test_a_clock_set_forward_just_before_a_worker_starts_kills_nobody(
    database: Database,
) -> None:
    """To its first look every lease seems to have run out, until the next beat of each."""
    times = zart.WorkerConfig(beat="1s", lease="3s", poll_interval="20ms")

    @zart.durable("untimely")
    async def untimely() -> None: ...

    async with zart.connect(database.url) as scheduler, zart.connect(database.url) as other:
        await scheduler.migrate()
        async with working(scheduler, untimely, config=times) as living:
            name = living.id
            started = (await scheduler.workers())[0].beat
            beaten = await eventually(
                lambda: _beat_of(scheduler, name), is_true=lambda beat: beat > started
            )
            # As it looks after the clock has been set: the beat is an hour old.
            hour = 3600 * 1_000_000
            await run_sql(
                scheduler,
                f"UPDATE zart_workers SET beat_at = beat_at - {hour},"
                f" expires_at = expires_at - {hour}",
            )
            async with working(other, untimely, config=times):
                await eventually(
                    lambda: _beat_of(scheduler, name), is_true=lambda beat: beat > beaten
                )
            assert living.id == name


async def _entered(scheduler: zart.DurableScheduler) -> set[str]:
    return {row.id for row in await scheduler.workers()}


async def _beat_of(scheduler: zart.DurableScheduler, worker: str) -> datetime:
    """When a worker last beat; one that has been struck out never did."""
    never = datetime.min.replace(tzinfo=UTC)
    return next((row.beat for row in await scheduler.workers() if row.id == worker), never)


def _hear_late(worker: Any, heard: asyncio.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """The news of the death waits in the event loop until ``heard``."""
    lost = worker._lost_lease
    waiting: set[asyncio.Task[None]] = set()

    async def later(dead: str) -> None:
        await heard.wait()
        lost(dead)

    def heard_of(dead: str) -> None:
        waiting.add(asyncio.create_task(later(dead)))

    monkeypatch.setattr(worker._lease, "_on_lost", heard_of)


async def _looks_later() -> None:
    """Nothing is compared with the database."""


async def _answer(value: Any) -> Any:
    return value


@guarantee(8, 10)
async def test_a_worker_whose_beats_are_refused_for_a_moment_keeps_its_lock(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers that it takes no writes; who has no beat due meanwhile sees no death."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    @zart.durable("refused")
    async def refused() -> str:
        entered.set()
        await go_on.wait()
        return "done"

    backend = OneDatabase(database.url)
    config = zart.WorkerConfig(beat="2s", lease="6s", poll_interval="20ms")
    async with (
        open_scheduler(backend) as scheduler,
        separable_worker(backend, refused, config=config) as (worker, _),
        working(scheduler, refused, config=zart.WorkerConfig(queues=("another",))),
    ):
        handle = await scheduler.schedule(refused)
        await asyncio.wait_for(entered.wait(), 10)
        name, beat, refusals = worker.id, worker._lease._beat, 0

        async def refuse(*_: Any, **__: Any) -> None:
            nonlocal refusals
            refusals += 1
            raise RuntimeError("no writes at present")

        monkeypatch.setattr(worker._lease, "_beat", refuse)
        await eventually(lambda: _answer(refusals))
        await asyncio.sleep(1.6)  # the other looks for locks every half a second
        monkeypatch.setattr(worker._lease, "_beat", beat)
        go_on.set()
        assert await handle.result(timeout="10s") == "done"
        assert refusals > 1
        assert worker.id == name
        assert (await handle.get()).crashes == 0


@guarantee(9)
async def test_a_worker_whose_lock_is_gone_begins_nothing_until_its_next_beat(
    database: Database,
) -> None:
    """Others may take the free lock for a death long before its lease has run out."""

    @zart.durable("unlocked")
    async def unlocked() -> None: ...

    backend = OneDatabase(database.url)
    config = zart.WorkerConfig(beat="20s", lease="60s", shutdown_timeout="1s")
    async with (
        open_scheduler(backend),
        separable_worker(backend, unlocked, config=config) as (worker, partition),
    ):
        name = worker.id
        assert worker.holds
        partition.die()
        await eventually(lambda: _answer(not worker.holds))
        partition.heal()
        await eventually(lambda: _answer(worker.holds))
        assert worker.id == name
