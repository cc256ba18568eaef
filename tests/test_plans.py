"""Plans of PostgreSQL that no statistics can turn into scans."""

from __future__ import annotations

import re

import asyncpg

import zart
from tests.databases import Database
from zart.scheduler.sql.postgres import PLANNER, WORDING
from zart.scheduler.sql.statements import Statements, Tables

FOR_PEOPLE = {
    "applied_migrations",
    "list_executions",
    "list_workers",
    "shift_tasks",
    "shift_steps",
    "shift_attempts",
}
"""Asked by hand, once, or in tests: they may read what there is."""


async def test_a_cached_plan_finds_every_row_by_an_index(postgres_database: Database) -> None:
    """A plan made while the tables are empty, and kept for ever, scans no table and hashes none."""
    async with zart.connect(postgres_database.url) as scheduler:
        await scheduler.migrate()
    statements = Statements(WORDING, Tables())
    settings = {**PLANNER, "plan_cache_mode": "force_generic_plan"}
    connection = await asyncpg.connect(postgres_database.url, server_settings=settings)
    try:
        for name in statements:
            if name in FOR_PEOPLE or name.startswith("doctor_"):
                continue
            plan = await _plan(connection, name, statements[name].sql)
            assert not re.search(r"Seq Scan on zart|Hash Join|Merge Join", plan), f"{name}:\n{plan}"
    finally:
        await connection.close()


async def _plan(connection: asyncpg.Connection, name: str, sql: str) -> str:
    await connection.execute(f"PREPARE {name} AS {sql}")
    amount = max((int(n) for n in re.findall(r"\$(\d+)", sql)), default=0)
    values = f"({', '.join(['NULL'] * amount)})" if amount else ""
    rows = await connection.fetch(f"EXPLAIN EXECUTE {name}{values}")
    return "\n".join(row[0] for row in rows)
