"""What stands in the tables, and a user's own statements, whichever driver runs them."""

from __future__ import annotations

from typing import Any

import apsw

from zart.scheduler.durable import DurableScheduler
from zart.scheduler.sql.database import Database, Ddl
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.statements import TABLES
from zart.scheduler.sql.transaction import Row

__all__ = ["all_rows", "count_rows", "database_of", "on_driver", "run_sql"]


def database_of(scheduler: DurableScheduler) -> Database:
    """The database behind a scheduler."""
    backend = scheduler.backend
    if not isinstance(backend, SqlEngine):
        raise TypeError(f"no tables are known of {type(backend).__name__}")
    return backend.database


async def run_sql(scheduler: DurableScheduler, sql: str) -> list[Row]:
    """Run a statement of the test's own, committed; gives its rows."""
    reads = sql.lstrip().upper().startswith("SELECT")

    async def job(ddl: Ddl) -> list[Row]:
        if reads:
            return [tuple(row) for row in await ddl.fetch(sql)]
        await ddl.execute(sql)
        return []

    return await database_of(scheduler).exclusively(job)


async def all_rows(scheduler: DurableScheduler) -> dict[str, list[Row]]:
    """Every row of every table, but for the workers', whose heartbeats go on by themselves."""
    database = database_of(scheduler)
    names = [name for name in TABLES if name != "workers"]

    async def job(ddl: Ddl) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for name in names:
            rows = await ddl.fetch(f"SELECT * FROM {database.tables.named(name)}")
            found[name] = sorted((tuple(row) for row in rows), key=repr)
        return found

    return await database.exclusively(job)


async def count_rows(scheduler: DurableScheduler, table: str) -> int:
    """How many rows one of zart's tables has."""
    name = database_of(scheduler).tables.named(table)
    amount: int = (await run_sql(scheduler, f"SELECT count(*) FROM {name}"))[0][0]
    return amount


async def on_driver(connection: Any, sql: str) -> list[Row]:
    """Run a statement on a driver's own connection, as a user's code would."""
    if isinstance(connection, apsw.Connection):
        return list(connection.execute(sql))
    if hasattr(connection, "fetch"):  # asyncpg
        return [tuple(row) for row in await connection.fetch(sql)]
    async with connection.cursor() as cursor:  # asyncmy
        await cursor.execute(sql)
        return list(await cursor.fetchall())
