"""A transaction that stays open, and keeps everything that is deleted meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import asyncmy
import asyncpg
import pytest

import zart
from tests.chaos.conftest import Budget
from tests.chaos.own import Administrator, each_server, own_server
from tests.crash.processes import until
from tests.databases import Database, mysql_arguments
from tests.figures import figure
from tests.racing import new
from zart.scheduler.sql.doctor import mysql, postgres
from zart.scheduler.sql.engine import SqlEngine

FEEDERS = 6
BATCH = 25
WINDOW = 2.0
"""Seconds over which a rate is measured."""
FLOOR = 0.5
"""The part of the undisturbed rate that is left, however long the snapshot stays."""
DEAD = 4
"""Dead rows in all of zart's tables for each execution of one step that has ended, the ones
before the snapshot among them: nobody says when the server vacuums those away."""
SLACK = 2000
LOG = 100_000
"""Bytes of SQLite's write-ahead log for each of these."""
PAST = {"postgres": 30_000, "mysql": 60_000}
"""Dead entries in the index of ready rows."""

NAMES = [("default", "pinned")]


@zart.step
async def note(number: int) -> int:
    return number


@zart.durable("pinned")
async def pinned(number: int) -> int:
    return await note(number)


class Flow:
    """Executions that are kept under way in this process, and how many have ended."""

    def __init__(self, scheduler: zart.DurableScheduler) -> None:
        self.ended = 0
        self._scheduler = scheduler
        self._feeding = True

    async def feed(self) -> None:
        while self._feeding:
            handles = await self._scheduler.schedule_many(pinned, range(BATCH))
            for number, handle in enumerate(handles):
                assert await handle.result(timeout="60s") == number
                self.ended += 1

    def stop(self) -> None:
        self._feeding = False

    async def rate(self, seconds: float = WINDOW) -> float:
        """Executions that end a second, from now on for so long."""
        before, began = self.ended, time.monotonic()
        await asyncio.sleep(seconds)
        return (self.ended - before) / (time.monotonic() - began)


@asynccontextmanager
async def flowing(scheduler: zart.DurableScheduler) -> AsyncGenerator[Flow, None]:
    """A worker and a load for it; every execution of it must end."""
    flow = Flow(scheduler)
    config = zart.WorkerConfig(concurrency=200)
    async with zart.Worker(scheduler, [pinned], config), asyncio.TaskGroup() as feeders:
        for _ in range(FEEDERS):
            feeders.create_task(flow.feed())
        yield flow
        flow.stop()


@asynccontextmanager
async def snapshot(database: Database) -> AsyncGenerator[str, None]:
    """A transaction that is open for the length of a block and sees what was before; its name."""
    if database.kind == "postgres":
        connection = await asyncpg.connect(database.url)
        try:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            yield str(await connection.fetchval("SELECT pg_backend_pid() FROM pg_class LIMIT 1"))
        finally:
            await connection.close()
        return
    connecting = asyncmy.connect(**mysql_arguments(database.url))
    async with connecting as other, other.cursor() as cursor:
        await cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        await cursor.execute("SELECT connection_id(), count(*) FROM zart_tasks")
        yield str((await cursor.fetchone())[0])


async def dead_rows(administrator: Administrator, kind: str) -> int:
    """Rows of zart's tables that nobody will read again; on MariaDB, changes not yet purged."""
    rows = await administrator.run(
        "SELECT sum(n_dead_tup)::int FROM pg_stat_user_tables"
        if kind == "postgres"
        else "SELECT `COUNT` FROM information_schema.innodb_metrics"
        " WHERE name = 'trx_rseg_history_len'"
    )
    return int(rows[0][0])


@each_server
async def test_throughput_has_a_floor_and_dead_rows_a_ceiling(
    kind: str, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load, with a snapshot that stays: work goes on, and the doctor names what holds it."""
    for room in (postgres, mysql):
        monkeypatch.setattr(room, "_PINNED", (1.0, 1e9))
    async with own_server(kind) as (_, database), zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        administrator = Administrator(database)
        async with flowing(scheduler) as flow:
            await until(lambda: flow.ended > FEEDERS * BATCH, "executions end", seconds=30)
            before = await flow.rate()
            async with snapshot(database) as name:
                end = time.monotonic() + budget.seconds
                rates: list[float] = []
                while time.monotonic() < end:
                    rates.append(await flow.rate(max(WINDOW, budget.seconds / 20)))
                dead = await dead_rows(administrator, kind)
                ended = flow.ended
                told = {f.check: f for f in await scheduler.doctor()}["oldest snapshot"]
            after = await flow.rate()
            figure(
                f"snapshot held for {budget.seconds:.0f} s: {kind}",
                f"{before:.0f} executions/s before, at least {min(rates):.0f} meanwhile,"
                f" {after:.0f} after; {dead} dead rows for {ended} ended",
            )
            assert rates[-1] >= FLOOR * min(before, after), (before, rates, after)
            assert dead <= DEAD * ended + SLACK
            assert (told.level, name in told.found) == ("warning", True), told
        if kind == "postgres":
            await administrator.run("VACUUM")

        async def is_gone() -> bool:
            return await dead_rows(administrator, kind) < max(SLACK, dead / 10)

        await until(is_gone, "what the snapshot held back is gone", seconds=60)


async def test_throughput_has_a_floor_beside_a_reader_that_stays(
    sqlite_database: Database, budget: Budget
) -> None:
    """What it holds on SQLite is the write-ahead log, which begins anew once it has gone."""
    path = Path(sqlite_database.url.removeprefix("sqlite:///"))
    log = path.with_name(f"{path.name}-wal")
    async with zart.connect(sqlite_database.url) as scheduler:
        await scheduler.migrate()
        async with flowing(scheduler) as flow:
            await until(lambda: flow.ended > FEEDERS * BATCH, "executions end", seconds=30)
            before = await flow.rate()
            reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM zart_tasks").fetchall()
                begun, end = flow.ended, time.monotonic() + budget.seconds
                rates: list[float] = []
                while time.monotonic() < end:
                    rates.append(await flow.rate(max(WINDOW, budget.seconds / 20)))
                ended, size = flow.ended - begun, log.stat().st_size
            finally:
                reader.close()
            after = await flow.rate()
            grown = log.stat().st_size
    figure(
        f"reader held for {budget.seconds:.0f} s: sqlite",
        f"{before:.0f} executions/s before, at least {min(rates):.0f} meanwhile, {after:.0f}"
        f" after; write-ahead log of {size / 1e6:.0f} MB for {ended} ended",
    )
    assert rates[-1] >= FLOOR * min(before, after), (before, rates, after)
    assert size <= LOG * ended + SLACK * 4096, (size, ended)
    assert grown <= size + SLACK * 4096


@each_server
async def test_a_claim_does_not_read_past_what_was_claimed(kind: str) -> None:
    """It begins where the last whole look did: many dead entries before that cost it nothing."""
    async with own_server(kind) as (_, database), zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        engine = scheduler.backend
        assert isinstance(engine, SqlEngine)
        administrator = Administrator(database)
        async with snapshot(database):
            for _ in range(PAST[kind] // 2000):
                await scheduler.schedule_many("pinned", range(2000))
            await administrator.run("UPDATE zart_tasks SET worker = 'gone', ready_at = NULL")
            await administrator.run("DELETE FROM zart_tasks")
            await _claim(engine)
            past, on = [], []
            for _ in range(7):
                engine._frontier.forget()
                past.append(await _claim(engine))
                on.append(await _claim(engine))
    figure(
        f"claim beside {PAST[kind]} dead entries: {kind}",
        f"{_ms(on)} between whole looks, {_ms(past)} for a whole look",
    )
    assert 2 * statistics.median(on) < statistics.median(past)


async def _claim(engine: SqlEngine) -> float:
    """Schedule and claim one; gives the seconds of the claim."""
    await engine.schedule([new(f"one-{time.monotonic_ns()}", "pinned")])
    began = time.monotonic()
    assert len(await engine.claim("ghost", NAMES, 100)) == 1
    return time.monotonic() - began


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.1f} ms"
