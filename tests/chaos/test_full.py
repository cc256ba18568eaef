"""A database that is there and does not serve: full, read-only, out of connections."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import apsw
import asyncmy
import asyncpg
import pytest

import zart
from tests.chaos.load import load
from tests.chaos.outages import LINES, Outage, ReadOnly, ride_out
from tests.chaos.own import REMOTE, Administrator, each_server, own_server
from tests.chaos.small_disk import SMALL, SmallServer, disks_possible
from tests.crash.processes import WorkerProcess, until
from tests.databases import Database, mysql_arguments
from zart.scheduler.sql import database as databases
from zart.scheduler.sql import mysql_pool, postgres
from zart.testing.conformance.harness import guarantee
from zart.testing.conformance.rows import on_driver

CONNECTIONS = 4


@pytest.fixture(params=REMOTE)
def remote(request: pytest.FixtureRequest) -> Database:
    """An empty database that is reached over a network."""
    made: Database = request.getfixturevalue(f"{request.param}_database")
    return made


@pytest.mark.timed
@guarantee(1)
@each_server
async def test_a_full_disk_holds_work_up_and_loses_nothing(kind: str, tmp_path: Path) -> None:
    """Nothing is written until there is room; one line says why; then all goes on by itself."""
    small = SMALL[kind] if kind == "mysql" or disks_possible() else None
    async with AsyncExitStack() as stack:
        if small is None:
            # No disks for this user here. The nearest to it: no write passes either.
            _, database = await stack.enter_async_context(own_server(kind))
            outage: Outage = ReadOnly(database)
        else:
            server, database = await stack.enter_async_context(own_server(kind, small, ()))
            assert isinstance(server, SmallServer)
            for statement in server.create:
                await Administrator(Database(kind, server.url)).run(statement)
            outage = Full(server)
        running = await stack.enter_async_context(load(database.url, tmp_path))
        await ride_out(running, outage, await running.rate())
        await running.finish()


class Full:
    """The database's disk has no room left."""

    def __init__(self, server: SmallServer) -> None:
        self.name = f"{server.name} full"
        self._server = server

    @property
    def says(self) -> tuple[str, ...]:
        return ("space", "full") if self._server.is_running else ("connect",)

    async def begin(self) -> None:
        await self._server.fill()

    async def end(self) -> None:
        await self._server.free()


class CannotGrow:
    """No file of these processes may grow beyond a size; what they write besides is small."""

    name = "sqlite full"
    says = ("IOError", "FullError")

    def __init__(self, members: Sequence[WorkerProcess]) -> None:
        self._members = members

    async def begin(self) -> None:
        self._limit(1_500_000)

    async def end(self) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        for member in self._members:
            resource.prlimit(member.id, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.timed
@guarantee(1)
async def test_a_sqlite_file_that_cannot_grow_holds_work_up_and_loses_nothing(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """The limit of its processes' files stands for the full disk; it is lifted, and all goes on."""
    async with load(sqlite_database.url, tmp_path) as running:
        outage = CannotGrow(running.workers.members)
        await ride_out(running, outage, await running.rate())
        await running.finish()


class Locked:
    """Another program has what heartbeats are written to, and keeps it longer than a lease."""

    says = ()

    def __init__(self, database: Database, seconds: float) -> None:
        self.name = f"{database.kind} locked"
        self._database = database
        self._seconds = seconds
        self._stack = AsyncExitStack()

    async def begin(self) -> None:
        match self._database.kind:
            case "sqlite":
                file = apsw.Connection(self._database.url.removeprefix("sqlite:///"))
                self._stack.callback(file.close)
                file.set_busy_timeout(10_000)
                await asyncio.to_thread(file.execute, "BEGIN IMMEDIATE")
            case "postgres":
                other = await asyncpg.connect(self._database.url)
                self._stack.push_async_callback(other.close)
                await other.execute("BEGIN; LOCK TABLE zart_workers IN EXCLUSIVE MODE")
            case _:
                connecting = asyncmy.connect(**mysql_arguments(self._database.url))
                connection = await self._stack.enter_async_context(connecting)
                await on_driver(connection, "LOCK TABLES zart_workers WRITE")
        await asyncio.sleep(self._seconds)

    async def end(self) -> None:
        await self._stack.aclose()


@pytest.mark.timed
@guarantee(1, 10)
async def test_heartbeats_that_are_locked_out_for_longer_than_the_lease_are_no_deaths(
    database: Database, tmp_path: Path
) -> None:
    """None gets through: when the lock is gone, no worker takes another for dead."""
    async with load(database.url, tmp_path, beat=1, lease=3) as running:
        await ride_out(running, Locked(database, 5), await running.rate())
        await running.finish()


@guarantee(20)
async def test_an_exhausted_pool_holds_work_up_and_says_so(
    remote: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Users' transactions hold every connection: the rest waits, is told why, and goes on."""
    for module in (databases, postgres, mysql_pool):
        monkeypatch.setattr(module, "POOL_TIMEOUT", 0.3, raising=False)
    release = asyncio.Event()
    inside: list[str] = []

    async def hold(_connection: Any, execution: str) -> str:
        inside.append(execution)
        await release.wait()
        return execution

    @zart.durable("slow")
    async def slow() -> str:
        return await zart.transaction("hold", hold, zart.context().execution_id)

    @zart.durable("quick")
    async def quick() -> str:
        return "done"

    async with (
        zart.connect(remote.url) as watcher,
        zart.connect(remote.url, connections=CONNECTIONS) as scheduler,
    ):
        await watcher.migrate()
        held = [await watcher.schedule(slow, id=f"slow-{n}") for n in range(2 * CONNECTIONS)]
        async with zart.Worker(scheduler, [slow, quick], zart.WorkerConfig(poll_interval="50ms")):
            await until(lambda: len(inside) >= CONNECTIONS - 1, "transactions hold connections")
            await until(lambda: "connections was free" in caplog.text, "the log says so")
            told = [r for r in caplog.records if r.levelno >= logging.WARNING]
            assert len(told) <= LINES, caplog.text
            release.set()
            results = [await handle.result(timeout="30s") for handle in held]
            assert results == [handle.id for handle in held]
            late = await scheduler.schedule(quick)
            assert await late.result(timeout="10s") == "done"
        assert sorted(inside) == sorted(results)
