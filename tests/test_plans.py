"""Plans that no statistics can turn into scans."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import apsw
import asyncpg
import pytest

import zart
from tests.crash.processes import until
from tests.databases import Database
from zart.models import Claim
from zart.scheduler.entries import Entry, Finish
from zart.scheduler.sql import postgres
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.postgres import PLANNER, WORDING, PostgresDatabase
from zart.scheduler.sql.statements import Statement, Statements, Tables
from zart.scheduler.sql.transaction import Transaction
from zart.scheduler.sql.transitions.commit import commit_at_once
from zart.testing.conformance.rows import database_of

ENDED = Finish("completed", "1", None, 1, 0, 1, None)
WRITTEN = """
SELECT coalesce(sum(n_tup_upd), 0)::int AS updated, coalesce(sum(n_tup_hot_upd), 0)::int AS in_place
FROM pg_stat_user_tables WHERE relname = 'zart_executions'
"""

READS_ALL = (
    r"Seq Scan on zart|Hash Join|Merge Join"
    r"|using zart_\w+_pkey.*\n(?! *Index Cond: .*\b(?:execution_id|id|number) = )"
)
"""A table, or all of its key: a probe says which execution."""
FOR_PEOPLE = {
    "applied_migrations",
    "list_alive",
    "list_executions",
    "list_failed",
    "list_workers",
    "shift_tasks",
    "shift_steps",
    "shift_attempts",
}
"""Asked by hand, once, or in tests: they may read what there is."""


@zart.durable("plain")
async def plain(number: int) -> int:
    return number


@asynccontextmanager
async def planning(database: Database, mode: str) -> AsyncGenerator[asyncpg.Connection, None]:
    """A connection that plans as zart's own do, to a database with empty tables."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
    settings = {**PLANNER, "plan_cache_mode": mode}
    connection = await asyncpg.connect(database.url, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


async def test_a_cached_plan_finds_every_row_by_an_index(postgres_database: Database) -> None:
    """A plan made while the tables are empty, and kept for ever, scans no table and hashes none."""
    statements = Statements(WORDING, Tables())
    async with planning(postgres_database, "force_generic_plan") as connection:
        for name in statements:
            if name in FOR_PEOPLE or name.startswith("doctor_"):
                continue
            plan = await _plan(connection, name, statements[name].sql)
            assert not re.search(READS_ALL, plan), f"{name}:\n{plan}"


WHOLE_EXECUTIONS = {"cancel_open_steps", "history_events", "open_waits"}
"""They read all of an execution, which is all of the table here; no claim and no flush has one."""
SKEWED = """
INSERT INTO zart_tasks (execution_id, run, step, queue, task, priority, ready_at, due_at, worker)
SELECT 'e-' || n, 1, '', 'default', CASE WHEN n < 500 THEN 'known' ELSE 'unknown' END, 0,
       CASE WHEN n < 20000 THEN n END, CASE WHEN n >= 28000 THEN n END,
       CASE WHEN n >= 20000 AND n < 28000 THEN 'worker' END
FROM generate_series(1, 30000) AS n;
INSERT INTO zart_executions (id, task, queue, priority, input, run, seed, created_at)
SELECT 'e-' || n, 'unknown', 'default', 0, 'null', 1, 1, 1 FROM generate_series(1, 30000) AS n;
INSERT INTO zart_steps (execution_id, run, name, kind, position)
SELECT 'e-1', 1, 'step-' || n, 'step', n FROM generate_series(1, 30000) AS n;
INSERT INTO zart_events (execution_id, sequence, delivery, name, payload, created_at)
SELECT 'e-1', n, 'd-' || n, 'event', 'null', 1 FROM generate_series(1, 30000) AS n;
ANALYZE zart_tasks, zart_executions, zart_steps, zart_events
"""
"""One execution with all steps and events, one name with nearly all that is ready."""


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_no_statistics_turn_a_statement_to_a_scan(
    postgres_database: Database, mode: str
) -> None:
    """However unevenly the rows lie: claims probe the name, flushes the key."""
    statements = Statements(WORDING, Tables())
    async with planning(postgres_database, mode) as connection:
        await connection.execute(SKEWED)
        for name in statements:
            if name in FOR_PEOPLE or name.startswith("doctor_"):
                continue
            plan = await _plan(connection, name, statements[name].sql)
            reads_all = r"Seq Scan on zart" if name in WHOLE_EXECUTIONS else READS_ALL
            assert not re.search(reads_all, plan), f"{name}:\n{plan}"
        for name in ("claim_at_once", "ready_tasks", "look"):
            plan = await _plan(connection, name, statements[name].sql, again=True)
            probe = (
                r"zart_tasks_ready on zart_tasks.*\n *Index Cond: \(\(queue = .*\) AND \(task = "
            )
            assert re.search(probe, plan), f"{name}:\n{plan}"


DISTRIBUTED = """
INSERT INTO zart_tasks (execution_id, run, step, queue, task, priority)
SELECT 'e-1', 1, CASE WHEN n > 1 THEN 'step-' || n ELSE '' END, 'default', 'known', 0
FROM generate_series(1, 10000) AS n;
ANALYZE zart_tasks
"""
"""One execution with all tasks: what waits for its distributed steps, and the steps."""
WHOLE_KEY = r"Index Cond: \(\(execution_id = .*\) AND \(run = .*\) AND \(step = .*\)\)"


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_an_execution_is_found_among_its_distributed_steps(
    postgres_database: Database, mode: str
) -> None:
    """By its whole key: at the end of each of them, and for each event, all would be read."""
    statements = Statements(WORDING, Tables())
    async with planning(postgres_database, mode) as connection:
        await connection.execute(DISTRIBUTED)
        for name in ("lock_executions", "offer_at_once"):
            plan = await _plan(connection, name, statements[name].sql)
            assert re.search(WHOLE_KEY, plan), f"{name}:\n{plan}"


DEAD = """
INSERT INTO zart_tasks (execution_id, run, step, queue, task, priority, worker)
SELECT 'e-' || n, 1, '', 'default', 'known', 0, 'worker' FROM generate_series(1, 10000) AS n
"""
"""All that there is belongs to one worker, and no statistics tell of it yet."""
IDS = ",".join(f"e-{number}" for number in range(1, 501))
ONES, BLANKS = (",".join([each] * 500) for each in ("1", '""'))
BATCHES = {
    "take_over_tasks": f"1, '{{{IDS}}}', '{{{ONES}}}', '{{{BLANKS}}}', 'worker'",
    "give_back_tasks": f"'{{{IDS}}}', '{{{ONES}}}', '{{{BLANKS}}}', '{{{ONES}}}', 'worker'",
}
"""Statements that name some of a worker's tasks, and values for their parameters."""


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_a_batch_of_a_worker_s_tasks_is_found_by_their_keys(
    postgres_database: Database, mode: str
) -> None:
    """Not through all that the worker has: then a batch of a takeover took half a second."""
    statements = Statements(WORDING, Tables())
    async with planning(postgres_database, mode) as connection:
        await connection.execute(DEAD)
        for name, values in BATCHES.items():
            plan = await _plan(connection, name, statements[name].sql, values=values)
            assert "Index Scan using zart_tasks_pkey" in plan, f"{name}:\n{plan}"
            assert "zart_tasks_worker" not in plan, f"{name}:\n{plan}"


async def _plan(
    connection: asyncpg.Connection, name: str, sql: str, *, values: str = "", again: bool = False
) -> str:
    if not again:
        await connection.execute(f"PREPARE {name} AS {sql}")
    amount = max((int(n) for n in re.findall(r"\$(\d+)", sql)), default=0)
    values = values or ", ".join(["NULL"] * amount)
    rows = await connection.fetch(f"EXPLAIN EXECUTE {name}" + (f"({values})" if amount else ""))
    return "\n".join(row[0] for row in rows)


def _plan_on_sqlite(connection: apsw.Connection, statement: Statement) -> str:
    bound = [None] * len(statement.parameters)
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statement.sql}", bound)
    return "; ".join(row[3] for row in rows)


async def test_a_batch_on_sqlite_finds_each_row_by_its_key(sqlite_database: Database) -> None:
    """No table is read from end to end, and no batch again and again for each row of a table."""
    async with zart.connect(sqlite_database.url) as scheduler:
        await scheduler.migrate()
        statements = database_of(scheduler).statements
    connection = apsw.Connection(sqlite_database.url.removeprefix("sqlite:///"))
    for name in statements:
        if name in FOR_PEOPLE or name.startswith("doctor_"):
            continue
        plan = _plan_on_sqlite(connection, statements[name])
        assert not re.search(r"SCAN (?!json_each|CONSTANT)", plan), f"{name}: {plan}"
        assert not re.search(r"INDEX zart_tasks_worker.*SCAN json_each", plan), f"{name}: {plan}"
        # An execution's task by its whole key, not among those of its distributed steps.
        assert name != "lock_executions" or "run=? AND step=?" in plan, plan
    connection.close()


LISTED = {"before_at": "9", "before_id": "''", "task": "''", "status": "'waiting'", "amount": "9"}


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_a_list_of_the_few_does_not_go_through_all_that_has_ended(
    postgres_database: Database, mode: str
) -> None:
    """Those alive are found by their tasks, those that failed by an index of failures."""
    statements = Statements(WORDING, Tables())
    plans: list[str] = []
    async with planning(postgres_database, mode) as connection:
        await connection.execute(SKEWED)
        for name in ("list_alive", "list_failed"):
            values = ", ".join(LISTED[parameter] for parameter in statements[name].parameters)
            plans.append(await _plan(connection, name, statements[name].sql, values=values))
    alive, failed = plans
    assert "zart_executions_pkey" in alive, alive
    assert "zart_executions_created" not in alive, alive
    assert "zart_executions_failures" in failed, failed


async def test_a_list_of_the_few_does_not_go_through_a_file(sqlite_database: Database) -> None:
    """The same on SQLite."""
    async with zart.connect(sqlite_database.url) as scheduler:
        await scheduler.migrate()
        statements = database_of(scheduler).statements
    connection = apsw.Connection(sqlite_database.url.removeprefix("sqlite:///"))
    alive, failed = (
        _plan_on_sqlite(connection, statements[name]) for name in ("list_alive", "list_failed")
    )
    connection.close()
    assert "SCAN t" in alive, alive
    assert "SEARCH e USING PRIMARY KEY (id=?)" in alive, alive
    assert "zart_executions_failures" in failed, failed


async def test_the_end_of_an_execution_touches_no_index(postgres_database: Database) -> None:
    """The second write of its row stays on the row's page: a fifth of the server's time for it."""
    async with zart.connect(postgres_database.url) as scheduler:
        await scheduler.migrate()
        connection = await asyncpg.connect(postgres_database.url)
        before = await connection.fetchrow(WRITTEN)
        async with zart.Worker(scheduler, [plain]):
            for handle in await scheduler.schedule_many(plain, range(500)):
                await handle.result(timeout="30s")

    async def is_told() -> bool:
        return bool((await connection.fetchrow(WRITTEN))["updated"] >= before["updated"] + 500)

    try:
        await until(is_told, "the writes of ended connections are counted", seconds=30)
        after = await connection.fetchrow(WRITTEN)
    finally:
        await connection.close()
    assert after["in_place"] > before["in_place"] + 350


ONE_ROW = """
INSERT INTO zart_tasks (execution_id, run, step, queue, task, priority, due_at)
VALUES ('sleeper', 1, '', 'default', 'known', 0, 1);
INSERT INTO zart_executions (id, task, queue, priority, input, run, seed, created_at)
VALUES ('sleeper', 'known', 'default', 0, 'null', 1, 1, 1);
ANALYZE zart_tasks, zart_executions
"""
BURST = """
INSERT INTO zart_tasks (execution_id, run, step, queue, task, priority, worker)
SELECT 'e-' || n, 1, '', 'default', 'known', 0, 'worker' FROM generate_series(1, 3000) AS n
"""


async def test_a_plan_of_tables_with_one_row_is_given_up_when_it_is_slow(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server knows that one sleeps; a burst comes; its next ANALYZE is a minute away."""
    monkeypatch.setattr(postgres, "SLOW", 0.001)
    engine = SqlEngine(PostgresDatabase(postgres_database.url, Tables(), connections=1))
    sql = engine.database.statements["finish_at_once"].sql
    plans: list[str] = []

    async def end(tx: Transaction, first: int) -> None:
        numbers = range(first, first + 100)
        ends = [Entry(Claim(f"e-{n}", 1, "", 0), ending=ENDED) for n in numbers]
        await commit_at_once(tx, ends)

    async def explain(tx: Transaction) -> None:
        own = cast("Any", tx)._connection
        name = await own.fetchval(
            "SELECT name FROM pg_prepared_statements WHERE statement = $1", sql
        )
        rows = await own.fetch(f"EXPLAIN EXECUTE {name}({', '.join(['NULL'] * 10)})")
        plans.append("\n".join(row[0] for row in rows))

    try:
        await engine.database.open()
        await engine.migrate()
        connection = await asyncpg.connect(postgres_database.url)
        await connection.execute(ONE_ROW)
        for _ in range(8):  # by then a plan is kept
            await engine.database.run_alone(lambda tx: end(tx, 10_000))
        await connection.execute(BURST)
        await engine.database.run_alone(lambda tx: end(tx, 1))
        await engine.database.run_alone(explain)
        await connection.close()
    finally:
        await engine.close()
    assert re.search(WHOLE_KEY, plans[0]), plans[0]
