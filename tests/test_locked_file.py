"""A SQLite file that another process has locked when a worker starts."""

from __future__ import annotations

import asyncio

import apsw
import pytest

import zart
from tests.databases import Database
from zart.scheduler.sql import sqlite
from zart.scheduler.wakeup import Bell


async def test_a_worker_starts_beside_a_locked_file(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hints wait, and so does its entry; it is at work as soon as the file is free."""

    @zart.durable("echo")
    async def echo(number: int) -> int:
        return number

    async with zart.connect(sqlite_database.url) as first:
        await first.migrate()
        handle = await first.schedule(echo, 5)
    monkeypatch.setattr(sqlite, "BUSY_MILLISECONDS", 20)
    other = apsw.Connection(sqlite_database.url.removeprefix("sqlite:///"))
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    async with zart.connect(sqlite_database.url) as scheduler:
        worker = zart.Worker(scheduler, [echo])
        starting = asyncio.create_task(worker.start())
        watching = asyncio.create_task(scheduler.wakeups.attach(Bell(), "ready"))
        await asyncio.wait([starting, watching], timeout=0.5)
        assert watching.done()
        assert watching.exception() is None
        other.execute("COMMIT")
        other.close()
        await asyncio.wait_for(starting, 20)
        result = scheduler.result(handle.id, timeout="10s")
        assert await result == 5
        await worker.stop()
