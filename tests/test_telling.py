"""Who is told of work, and when: nobody waits for a look at the database who can know at once."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import apsw
import asyncpg
import pytest

import zart
from tests.crash.processes import until
from tests.databases import Database
from tests.marks import hinted
from zart.models import Claim, Claimed
from zart.scheduler import worker as polling
from zart.scheduler.entries import Entry, Park, Receipt
from zart.scheduler.sql import sqlite
from zart.scheduler.wakeup import READY, Bell
from zart.testing.conformance.harness import guarantee
from zart.testing.conformance.waiting import suspended

SELDOM = zart.WorkerConfig(concurrency=1, poll_interval="60s", shutdown_timeout="1s")
"""A worker that hears of its work or comes too late."""


@zart.durable("echo")
async def echo(value: int) -> int:
    return value


@zart.durable("listens")
async def listens() -> Any:
    return await zart.wait_for_event("word")


@asynccontextmanager
async def both(
    database: Database,
) -> AsyncGenerator[tuple[zart.DurableScheduler, zart.DurableScheduler], None]:
    """Two schedulers on a database with its tables, as two processes have them."""
    async with zart.connect(database.url) as one, zart.connect(database.url) as other:
        await one.migrate()
        yield one, other


@guarantee(16)
async def test_an_event_just_before_the_park_resumes_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event finds the execution running, and its park finds it woken: no look is waited for."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        commit = scheduler.backend.commit
        parks: list[Receipt] = []

        async def with_an_event(entries: Sequence[Entry]) -> list[Receipt]:
            parking = [e for e in entries if isinstance(e.ending, Park)]
            if parking and not parks:
                before = len(claims)
                await scheduler.offer_event(parking[0].claim.execution_id, "word", "now")
                await until(
                    lambda: claims[before:] == [0], "it is told, and finds nothing", seconds=10
                )
            receipts = await commit(entries)
            if parking:
                parks.extend(receipts)
            return receipts

        claim = scheduler.backend.claim
        claims: list[int] = []

        async def counted(*arguments: Any) -> Claimed:
            claimed = await claim(*arguments)
            claims.append(len(claimed))
            return claimed

        monkeypatch.setattr(scheduler.backend, "commit", with_an_event)
        monkeypatch.setattr(scheduler.backend, "claim", counted)
        config = zart.WorkerConfig(concurrency=4, poll_interval="60s", shutdown_timeout="1s")
        async with zart.Worker(scheduler, [listens], config):
            handle = await scheduler.schedule(listens)
            assert await handle.result(timeout="10s") == "now"
        assert parks[:1] == [Receipt.READY]


@guarantee(16)
async def test_an_event_just_before_a_wait_in_place_resumes_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told of while the branch was busy with a step, and no other waited."""
    monkeypatch.setattr(polling, "RECONCILE", 60.0)
    busy, free, heard = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @zart.step
    async def other_work() -> None:
        await heard.wait()

    @zart.step
    async def work_before() -> None:
        busy.set()
        await free.wait()

    async def hears() -> Any:
        await work_before()
        word = await zart.wait_for_event("word")
        heard.set()
        return word

    @zart.durable("busy")
    async def busily() -> Any:
        _, word = await asyncio.gather(other_work(), hears())
        return word

    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        owned = scheduler.backend.owned
        looks: list[str] = []

        async def counted(worker: str) -> dict[Claim, int]:
            found = await owned(worker)
            looks.append(worker)
            return found

        monkeypatch.setattr(scheduler.backend, "owned", counted)
        async with zart.Worker(scheduler, [busily], SELDOM):
            handle = await scheduler.schedule(busily)
            await asyncio.wait_for(busy.wait(), 10)
            before = len(looks)
            await handle.offer_event("word", "now")
            await until(lambda: len(looks) > before, "it is told, and nobody waits", seconds=10)
            free.set()
            assert await handle.result(timeout="10s") == "now"


@guarantee(15)
async def test_a_delayed_start_is_told_of(database: Database) -> None:
    """Its time may come before the worker's next look at those that sleep."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        await _starts_in_time(scheduler, scheduler)


@hinted
@guarantee(15)
async def test_a_delayed_start_is_told_of_elsewhere(database: Database) -> None:
    """A worker in another process hears of it, too."""
    async with both(database) as (scheduler, other):
        await _starts_in_time(scheduler, other)


async def _starts_in_time(
    scheduler: zart.DurableScheduler, elsewhere: zart.DurableScheduler
) -> None:
    async with zart.Worker(elsewhere, [echo], SELDOM):
        assert await (await scheduler.schedule(echo, 1)).result(timeout="10s") == 1
        handle = await scheduler.schedule(echo, 2, delay="100ms")
        assert await handle.result(timeout="10s") == 2


async def test_a_worker_that_knows_of_nothing_does_not_ask(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a claim has left nothing, one execution after the other begins without another."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        claim, claims = scheduler.backend.claim, 0

        async def counted(*arguments: Any) -> Claimed:
            nonlocal claims
            claims += 1
            return await claim(*arguments)

        monkeypatch.setattr(scheduler.backend, "claim", counted)
        async with zart.Worker(scheduler, [echo], SELDOM):
            for number in range(30):
                handle = await scheduler.schedule(echo, number)
                assert await handle.result(timeout="10s") == number
        assert claims < 10


@hinted
async def test_a_hint_to_a_full_worker_is_kept(database: Database) -> None:
    """What comes while every slot is taken is claimed as soon as one is free."""
    release = asyncio.Event()

    @zart.durable("holds")
    async def holds(label: str) -> str:
        await release.wait()
        return label

    async with both(database) as (scheduler, elsewhere):
        heard = Bell()
        await scheduler.wakeups.attach(heard, READY)
        async with zart.Worker(scheduler, [holds], SELDOM) as worker:
            first = await scheduler.schedule(holds, "first")
            await until(lambda: worker.running == 1, "the first holds the slot", seconds=10)
            heard.ring()
            await heard.wait(1)
            second = await elsewhere.schedule(holds, "second")
            assert await heard.wait(10)
            release.set()
            assert await first.result(timeout="10s") == "first"
            assert await second.result(timeout="10s") == "second"


async def test_after_a_pause_the_commit_itself_tells(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of another process hears of an execution and of an event from their own commits."""
    async with both(postgres_database) as (scheduler, elsewhere):
        async with zart.Worker(elsewhere, [listens], SELDOM):
            sent: list[str] = []
            hints = scheduler.backend.hints
            monkeypatch.setattr(hints, "send", sent.append)
            monkeypatch.setattr(type(hints), "SHARE", 1)  # as long a pause as the commit took
            await asyncio.sleep(0.5)
            handle = await scheduler.schedule(listens)
            await suspended(scheduler, handle.id)
            await asyncio.sleep(0.5)
            await handle.offer_event("word", "heard")
            assert await handle.result(timeout="10s") == "heard"
        assert sent == []


async def test_nobody_asks_after_what_has_just_been_inserted(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller of another process looks when it hears of an end, and not before."""
    async with both(postgres_database) as (scheduler, elsewhere):
        results, looks = scheduler.backend.results, 0

        async def counted(ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
            nonlocal looks
            looks += 1
            return await results(ids)

        monkeypatch.setattr("zart.scheduler.results.FIRST_LOOK", 60)
        async with zart.Worker(elsewhere, [echo], SELDOM):
            assert await (await scheduler.schedule(echo, 1)).result(timeout="10s") == 1
            await asyncio.sleep(0.5)  # a further hint of this end is none of the next one's
            monkeypatch.setattr(scheduler.backend, "results", counted)
            monkeypatch.setattr("zart.scheduler.results.FRESH", 60)
            assert await (await scheduler.schedule(echo, 2)).result(timeout="10s") == 2
        assert looks == 1


async def test_a_server_that_takes_no_notification_takes_the_rest(
    postgres_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Its queue of them may be full: what is scheduled or offered is written all the same."""
    owner = await asyncpg.connect(postgres_database.url)
    name = await owner.fetchval("SELECT current_database()")
    await owner.execute(f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog')
    await owner.execute(
        """
        CREATE FUNCTION public.pg_notify(text, text) RETURNS text LANGUAGE plpgsql AS $$
        BEGIN
            RAISE 'too many notifications in the NOTIFY queue' USING ERRCODE = '54000';
        END $$
        """
    )
    await owner.close()
    async with zart.connect(postgres_database.url) as scheduler:
        await scheduler.migrate()
        handle = await scheduler.schedule(listens)
        await handle.offer_event("word", "heard")
        async with zart.Worker(scheduler, [listens], SELDOM):
            assert await handle.result(timeout="10s") == "heard"
    assert "takes no notification" in caplog.text


async def test_what_a_claim_has_looked_at_and_left_is_told_to_others(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim locks one task more than it takes; who passed by that one hears of it."""
    gate, begun = asyncio.Event(), []

    @zart.durable("one of two")
    async def one_of_two(number: int) -> int:
        begun.append(number)
        await gate.wait()
        return number

    async with both(postgres_database) as (first, second):
        scheduled, passed_by, idle = asyncio.Event(), asyncio.Event(), []
        claim, claim_first = second.backend.claim, first.backend.claim

        async def beside_the_other(*arguments: Any) -> Claimed:
            if passed_by.is_set():
                return await claim(*arguments)
            if scheduled.is_set():
                passed_by.set()  # one is being claimed, and the other looked at: both are locked
            idle.append("second")
            return Claimed()

        async def after_the_other(*arguments: Any) -> Claimed:
            if scheduled.is_set():
                await passed_by.wait()
                return await claim_first(*arguments)
            idle.append("first")
            return Claimed()

        monkeypatch.setattr(second.backend, "claim", beside_the_other)
        monkeypatch.setattr(first.backend, "claim", after_the_other)
        ready_due = second.backend.ready_due

        async def looked(*arguments: Any) -> Any:
            answer = await ready_due(*arguments)
            idle.append("looked")
            return answer

        monkeypatch.setattr(second.backend, "ready_due", looked)
        async with (
            zart.Worker(first, [one_of_two], SELDOM),
            zart.Worker(second, [one_of_two], SELDOM),
        ):
            # Nobody looks any more: from here on one is told, or it comes too late.
            await until(
                lambda: {"first", "second", "looked"} <= set(idle), "both are idle", seconds=10
            )
            scheduled.set()
            handles = await first.schedule_many(one_of_two, [1, 2])
            since = time.monotonic()
            await until(lambda: len(begun) == 2, "both begin", seconds=10)
            assert time.monotonic() - since < 5
            gate.set()
            assert [await h.result(timeout="10s") for h in handles] == [1, 2]


async def test_those_who_come_one_after_the_other_do_not_keep_the_first_from_its_result(
    mysql_database: Database,
) -> None:
    """Without hints every end is found by a look, and each newcomer asks for one of its own."""

    @zart.durable("nobody-runs-it")
    async def nobody_runs_it() -> None: ...

    async with both(mysql_database) as (one, other):
        waited_for = await one.schedule(nobody_runs_it)
        first = await one.schedule(echo, 1)
        waiting = asyncio.create_task(first.result())
        others: list[asyncio.Task[Any]] = []
        async with zart.Worker(other, [echo], SELDOM):
            deadline = time.monotonic() + 10
            while not waiting.done():
                assert time.monotonic() < deadline
                others.append(asyncio.create_task(waited_for.result()))
                await asyncio.sleep(0.001)
        for task in others:
            task.cancel()


async def test_a_file_that_nobody_writes_to_is_hardly_looked_at(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker costs next to nothing, and hears of the next commit all the same."""
    looks = 0

    def heed(connection: apsw.Connection) -> None:
        def ran(statement: Any) -> None:
            nonlocal looks
            looks += "data_version" in statement["sql"]

        connection.trace_v2(apsw.SQLITE_TRACE_STMT, ran)

    monkeypatch.setattr(apsw, "connection_hooks", [*apsw.connection_hooks, heed])
    monkeypatch.setattr(sqlite, "SELDOM", 60.0)
    async with both(sqlite_database) as (one, other), zart.Worker(one, [echo], SELDOM):
        assert await (await other.schedule(echo, 1)).result(timeout="10s") == 1
        await asyncio.sleep(0.5)
        looks = 0
        await asyncio.sleep(1.5)
        assert looks < 100
        assert await (await other.schedule(echo, 2)).result(timeout="10s") == 2


async def test_a_file_that_cannot_be_watched_is_looked_at(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's watches may be used up: commits are heard of by looking."""

    def used_up(_: Any) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(sqlite, "FileWatch", used_up)
    monkeypatch.setattr(sqlite, "SELDOM", 60.0)
    async with both(sqlite_database) as (one, other), zart.Worker(one, [echo], SELDOM):
        await asyncio.sleep(0.3)
        assert await (await other.schedule(echo, 1)).result(timeout="10s") == 1


async def test_one_who_stops_listening_at_once_ends_the_listening_thread_well(
    sqlite_database: Database,
) -> None:
    """Whatever it is about: it called, in three of four tries, what was not there any more."""
    async with zart.connect(sqlite_database.url) as scheduler:
        await scheduler.migrate()
    for _ in range(20):
        async with zart.connect(sqlite_database.url) as scheduler:
            with pytest.raises(zart.ExecutionNotFoundError):
                await scheduler.result("nobody")
