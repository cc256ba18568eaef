"""The connections of a PostgreSQL scheduler: few serve many, and what is lent comes back."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import pytest

import zart
from tests.databases import Database
from zart.testing.conformance.rows import on_driver, run_sql


@zart.durable("nothing")
async def nothing() -> None:
    """Never run here."""


@pytest.mark.parametrize("connections", [1, 2, 3])
async def test_few_connections_serve_many(postgres_database: Database, connections: int) -> None:
    """None is kept from those who wait for one."""
    async with zart.connect(postgres_database.url, connections=connections) as scheduler:
        await scheduler.migrate()
        handles = await asyncio.gather(*(scheduler.schedule(nothing) for _ in range(20)))
        for _ in range(3):
            found = await asyncio.gather(*(handle.get() for handle in handles))
            assert {execution.status for execution in found} == {"pending"}
        since = time.monotonic()
    assert time.monotonic() - since < 2  # none is missed at the end


async def test_a_connection_that_is_kept_beyond_its_transaction_is_of_no_use(
    postgres_database: Database,
) -> None:
    """It serves others by then: a workflow that wrote on it would write into theirs."""
    kept: list[Any] = []

    async def move(connection: Any) -> None:
        kept.append(connection)
        await on_driver(connection, "INSERT INTO ledger (amount) VALUES (1)")

    @zart.durable("keeps")
    async def keeps() -> None:
        await zart.context().transaction("move", move)

    async with zart.connect(postgres_database.url) as scheduler:
        await scheduler.migrate()
        await run_sql(scheduler, "CREATE TABLE ledger (amount integer)")
        async with zart.Worker(scheduler, [keeps]):
            await (await scheduler.schedule(keeps)).result(timeout="10s")
        with pytest.raises(asyncpg.InterfaceError, match="released"):
            await kept[0].execute("INSERT INTO ledger (amount) VALUES (2)")
        assert await run_sql(scheduler, "SELECT amount FROM ledger") == [(1,)]


@pytest.mark.parametrize("cut", ["by answer_timeout", "by the user"])
async def test_a_statement_of_a_transaction_that_takes_too_long_says_what_cut_it(
    postgres_database: Database, cut: str
) -> None:
    """The driver raises a TimeoutError without a word; one of the user's own is left as it is."""

    async def report(connection: asyncpg.Connection[Any]) -> None:
        if cut == "by the user":
            async with asyncio.timeout(0.1):
                await connection.execute("SELECT pg_sleep(60)")
        await connection.execute("SELECT pg_sleep(0.9)", timeout=30)  # has a time of its own
        await connection.execute("SELECT pg_sleep(60)")

    @zart.durable("reports")
    async def reports() -> None:
        await zart.context().transaction("report", report)

    async with zart.connect(postgres_database.url, answer_timeout="500ms") as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [reports]):
            handle = await scheduler.schedule(reports)
            with pytest.raises(zart.ExecutionFailedError) as failed:
                await handle.result(timeout="20s")
    assert failed.value.step_type == "TimeoutError"
    assert ("`answer_timeout` of `zart.connect`, 0.5 s" in str(failed.value)) == (
        cut == "by answer_timeout"
    )
