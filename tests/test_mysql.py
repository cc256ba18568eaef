"""What is special to MySQL and MariaDB: JSON batches, locks, lost connections, cut-off DDL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncmy
import pytest
from asyncmy import errors

from tests.databases import Database, mysql_arguments
from zart.errors import ExecutionExistsError
from zart.models import Claim
from zart.scheduler.connect import MySQLScheduler
from zart.scheduler.entries import Delivery, Entry, Finish, NewExecution, Park, Receipt
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.frontier import whole
from zart.scheduler.sql.migrate import migrations
from zart.scheduler.sql.mysql import MySQLDatabase
from zart.scheduler.sql.mysql_url import arguments
from zart.scheduler.sql.statements import Tables
from zart.scheduler.sql.transaction import Transaction

pytestmark = pytest.mark.mysql

NAMES = [("default", "checkout")]


@asynccontextmanager
async def engine(database: Database) -> AsyncGenerator[SqlEngine, None]:
    made = SqlEngine(MySQLDatabase(database.url, Tables()))
    try:
        await made.migrate()
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def connection(database: Database) -> AsyncGenerator[Any, None]:
    """A connection of its own, in autocommit mode, with the server's settings."""
    made = await cast("Any", asyncmy).connect(**mysql_arguments(database.url))
    try:
        yield made
    finally:
        made.close()


async def query(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    cursor = connection.cursor()
    await cursor.execute(sql)
    return list(await cursor.fetchall() or ())


def execution(id: str, *, task: str = "checkout", input: str = "null", **more: Any) -> NewExecution:
    return NewExecution(
        id=id, task=task, queue="default", priority=0, input=input, seed=2**62 + 1, **more
    )


async def claim_one(backend: SqlEngine, id: str) -> Claim:
    await backend.schedule([execution(id)])
    (task,) = await backend.claim("worker-1", NAMES, 10)
    return task.claim


@pytest.mark.parametrize(
    "text",
    [
        '{"say": "\\"it\'s\\" 100%s %% \\\\ \\n"}',
        "é, 漢字, 😀, \u2028 and \x7f",
        "back\\slash' OR '1'='1",
        "",
        " padded ",
        "null",
        "x" * 1_500_000,
    ],
    ids=["quotes", "unicode", "escape", "empty", "padded", "null", "long"],
)
async def test_a_batch_carries_texts_unchanged(mysql_database: Database, text: str) -> None:
    """What goes through a batch's JSON comes out as it went in, character for character."""
    async with engine(mysql_database) as backend:
        claim = await claim_one(backend, "order-1")
        row = (claim.execution_id, claim.run, "charge", "step", 1, "ok", text, None, 2**62 + 3)
        assert await backend.commit([Entry(claim, steps=(row,))]) == [Receipt.COMMITTED]
        (task,) = await backend.refresh([claim])
        assert task.steps[0].value == text
        assert task.seed == 2**62 + 1


async def test_a_null_in_a_batch_is_no_value(mysql_database: Database) -> None:
    """A None in a batch is SQL's NULL, and not the JSON text null."""
    async with engine(mysql_database) as backend:
        claim = await claim_one(backend, "order-1")
        row = (claim.execution_id, claim.run, "nap", "sleep", 1, None, None, None, None)
        await backend.commit([Entry(claim, steps=(row,))])
        (task,) = await backend.refresh([claim])
        assert (task.steps[0].outcome, task.steps[0].value) == (None, None)


async def test_an_outcome_is_kept_by_the_upsert(mysql_database: Database) -> None:
    """The upsert's assignments see one another: none of them may change a finished step."""
    async with engine(mysql_database) as backend:
        claim = await claim_one(backend, "order-1")
        for value in ("1", "2"):
            row = (claim.execution_id, claim.run, "charge", "step", 1, "ok", value, None, 5)
            await backend.commit([Entry(claim, steps=(row,))])
        async with connection(mysql_database) as other:
            rows = await query(other, "SELECT value, started_at FROM zart_steps")
        assert rows == [("1", 5)]


async def test_ids_differ_by_case_and_accent(mysql_database: Database) -> None:
    """Ids that many collations call equal are different executions."""
    ids = ["order", "Order", "örder", "o\u0308rder", "order-ß", "order-ss"]
    async with engine(mysql_database) as backend:
        assert await backend.schedule([execution(i, chosen_id=True) for i in ids]) == [True] * 6
        assert {e.id for e in await backend.get(ids)} == set(ids)


async def test_a_claim_does_not_lock_what_it_skips(mysql_database: Database) -> None:
    """While one claim is open, another one gets the next rows, and neither waits."""
    async with engine(mysql_database) as backend:
        await backend.schedule([execution(f"order-{i}") for i in range(10)])

        async def pick(tx: Transaction) -> set[str]:
            rows = await tx.fetch("ready_tasks", names=whole(NAMES), amount=3)
            found = {row[0] for row in rows}
            if len(picked) == 0:
                picked.append(found)
                await backend.database.run(pick)
            else:
                picked.append(found)
            return found

        picked: list[set[str]] = []
        await backend.database.run(pick)
        assert [len(found) for found in picked] == [3, 3]
        assert not picked[0] & picked[1]


async def test_claims_read_the_index_in_its_order(mysql_database: Database) -> None:
    """Ready rows come from their own stretch of the index, unsorted, however many rows wait."""
    async with engine(mysql_database) as backend:
        later = [execution(f"later-{i:04d}", delay=10**10) for i in range(2000)]
        await backend.schedule(later)
        await backend.schedule([execution(f"order-{i}") for i in range(5)])
        async with connection(mysql_database) as other:
            await query(other, "ANALYZE TABLE zart_tasks")
            sql = backend.database.statements["ready_tasks"].sql
            values = ("'default'", "'checkout'", "-2147483648", "2147483647", "10")
            (plan,) = await query(other, "EXPLAIN " + sql % values)
            read = "SHOW SESSION STATUS LIKE 'Handler_read_next'"
            before = int((await query(other, read))[0][1])
            found = await query(other, sql % values)
            after = int((await query(other, read))[0][1])
        assert len(found) == 5
        assert "zart_tasks_ready" in plan
        assert "filesort" not in str(plan)
        assert after - before <= len(found) + 1


async def test_no_write_waits_for_another_executions_lock(mysql_database: Database) -> None:
    """However few rows there are: a batch reads, and locks, those of its keys alone."""

    async def go_on_and_end(backend: SqlEngine, id: str) -> None:
        claim = await claim_one(backend, id)
        row = (id, 1, "wait", "event", 1, None, None, None, 1)
        attempt = (id, 1, "step", 1, 1, "{}", 1, None, 1)
        await backend.commit(
            [Entry(claim, steps=(row,), attempts=(attempt,), erased=("old",), ending=Park(0, 1))]
        )
        await backend.offer([Delivery(id, "event", "null", "key")])
        (task,) = await backend.claim("worker-1", NAMES, 10)
        await backend.commit([Entry(task.claim, taken=((1, "wait"),))])
        await backend.give_back("worker-1", [task.claim])
        (task,) = await backend.claim("worker-1", NAMES, 10)
        await backend.commit([Entry(task.claim, ending=Park(1, 1, 1))])
        await backend.ready_due(10)
        (task,) = await backend.claim("worker-1", NAMES, 10)
        await backend.commit(
            [Entry(task.claim, ending=Finish("completed", "1", None, 1, 0, 1, None))]
        )

    async with engine(mysql_database) as backend, connection(mysql_database) as other:
        claim = await claim_one(backend, "b")
        attempt = ("b", 1, "step", 1, 1, "{}", 1, None, 1)
        step = ("b", 1, "step", "step", 1, "ok", "1", None, 1)
        await backend.commit([Entry(claim, steps=(step,), attempts=(attempt,))])
        await backend.offer([Delivery("b", "event", "null", "key")])
        # Rows, and not what lies between them.
        await query(other, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        await query(other, "BEGIN")
        for table in ("tasks", "executions", "steps", "step_attempts", "events"):
            assert len(await query(other, f"SELECT 1 FROM zart_{table} FOR UPDATE")) == 1
        for before_and_after in ("a", "c"):
            await asyncio.wait_for(go_on_and_end(backend, before_and_after), 5)
            await backend.schedule([execution(f"{before_and_after}2")])
            await asyncio.wait_for(backend.cancel(f"{before_and_after}2"), 5)


async def test_the_fence_changes_the_row_and_holds_it(mysql_database: Database) -> None:
    """Galera replicates changes and not locks, so the fence is a change, kept until the commit."""
    async with engine(mysql_database) as backend:
        claim = await claim_one(backend, "order-1")
        async with connection(mysql_database) as other:
            await backend.commit([Entry(Claim("order-1", 1, "", claim.epoch - 1))])
            before = await query(other, "SELECT touched FROM zart_tasks")
            assert before == [(0,)]  # a lost claim changes nothing

            async def fence(tx: Transaction) -> None:
                keys = [(claim.execution_id, claim.run, claim.step, claim.epoch)]
                rows = await tx.fetch("fence", entries=keys, unchanged=keys)
                assert rows[0][3] == claim.epoch
                locked = await query(other, "SELECT 1 FROM zart_tasks FOR UPDATE SKIP LOCKED")
                assert locked == []

            await backend.database.run(fence)
            after = await query(other, "SELECT touched FROM zart_tasks")
            assert after > before
            # An end or a park changes the row by itself, whatever goes along with it.
            parking = Entry(claim, ending=Park(0, 1))
            assert await backend.commit([Entry(claim), parking]) == [Receipt.COMMITTED] * 2
            assert await query(other, "SELECT touched FROM zart_tasks") == after


KEYS = [(f"order-{number}", 1, "") for number in range(20)]
CHANGES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "claim_tasks": ((), {"worker": "worker-1", "stride": 1}),
    "park_tasks": ((0, 0, 1, 0, 1), {}),
    "ready_due_tasks": ((), {}),
    "take_over_tasks": ((), {"worker": "worker-1", "crashed": 1}),
    "touch_tasks": ((), {}),
    "wake_tasks": ((1,), {}),
}
"""Statements that change tasks which are locked before: what comes after the key, and the rest."""


async def test_what_is_locked_is_found_once_when_it_changes(mysql_database: Database) -> None:
    """An update by a join notes where the rows are, and finds each again: twice the work."""
    async with engine(mysql_database) as backend:
        await backend.schedule([execution(key[0]) for key in KEYS])

        async def found_again(tx: Transaction, name: str, **values: Any) -> int:
            own = cast("Any", tx)._connection
            await query(own, "FLUSH STATUS")
            await tx.execute(name, **values)
            counts = dict(await query(own, "SHOW SESSION STATUS LIKE 'Handler_read_rnd'"))
            return int(counts["Handler_read_rnd"])

        async def change(tx: Transaction) -> dict[str, int]:
            twice: dict[str, int] = {}
            for name, (columns, values) in CHANGES.items():
                entries = [(*key, *columns) for key in KEYS]
                twice[name] = await found_again(tx, name, entries=entries, **values)
            ids = [key[0] for key in KEYS]
            ends = [(each, "completed", "1", None, 1, 0, 1) for each in (*ids, "gone")]
            twice["ends"] = await found_again(tx, "finish_executions", entries=ends)
            return twice

        twice = await backend.database.run(change)
        assert not any(twice.values()), twice
        ended = await backend.get([*(key[0] for key in KEYS), "gone"])
        assert [e.status for e in ended] == ["completed"] * 20  # and nothing was made anew


async def test_an_execution_is_found_among_its_distributed_steps(mysql_database: Database) -> None:
    """By its whole key: neither read nor locked are those, at the end of each of them."""
    steps = [("order-1", 1, f"step {number}") for number in range(100)]
    async with engine(mysql_database) as backend:
        claim = await claim_one(backend, "order-1")
        begun = tuple((*key, "distributed", 1, None, None, None, 1) for key in steps)
        distributed = tuple((*key, "default", "checkout", 0, "null") for key in steps)
        await backend.commit([Entry(claim, steps=begun, distributed=distributed)])

        async def lock(tx: Transaction) -> dict[str, str]:
            own = cast("Any", tx)._connection
            await query(own, "FLUSH STATUS")
            rows = await tx.fetch("lock_executions", entries=[("order-1",)])
            assert list(rows) == [("order-1", 1, 0)]
            return dict(await query(own, "SHOW SESSION STATUS LIKE 'Handler_read_next'"))

        assert await backend.database.run(lock) == {"Handler_read_next": "0"}


async def test_an_id_taken_in_between_is_found_out(mysql_database: Database) -> None:
    """An id that another transaction inserts after our look is met as scheduled, not twice."""
    async with engine(mysql_database) as backend:
        async with connection(mysql_database) as other:
            await query(other, "BEGIN")
            await backend.schedule_within(other, [execution("order-1", chosen_id=True)])
            ours = asyncio.create_task(backend.schedule([execution("order-1", chosen_id=True)]))
            await until_one_waits_for_a_lock(other)
            await query(other, "COMMIT")
        assert await ours == [False]


async def until_one_waits_for_a_lock(connection: Any) -> None:
    """InnoDB renews this table only for those who have not asked for a tenth of a second."""
    sql = (
        "SELECT 1 FROM information_schema.innodb_trx t"
        " JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id"
        " WHERE t.trx_state = 'LOCK WAIT' AND p.db = database()"
    )
    async with asyncio.timeout(10):
        while True:
            if await query(connection, sql):
                return
            await asyncio.sleep(0.15)


async def test_an_id_taken_within_a_callers_transaction_is_an_error(
    mysql_database: Database,
) -> None:
    """The caller's transaction may not see the id that it collides with; it is told so."""
    async with engine(mysql_database) as backend, connection(mysql_database) as other:
        await query(other, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await query(other, "START TRANSACTION WITH CONSISTENT SNAPSHOT")
        await backend.schedule([execution("order-1")])
        with pytest.raises(ExecutionExistsError):
            await backend.schedule_within(other, [execution("order-1", chosen_id=True)])


async def test_a_killed_connection_is_replaced(mysql_database: Database) -> None:
    """Connections that the server has cut are not handed out again; the call goes through."""
    async with engine(mysql_database) as backend, connection(mysql_database) as other:
        await backend.schedule([execution("order-1")])
        own = (await query(other, "SELECT connection_id()"))[0][0]
        sql = "SELECT id FROM information_schema.processlist WHERE db = database()"
        for (number,) in await query(other, sql):
            if number != own:
                await query(other, f"KILL {number}")
        await backend.schedule([execution("order-2")])
        assert len(await backend.get(["order-1", "order-2"])) == 2


async def test_a_cancelled_statement_costs_its_connection_alone(mysql_database: Database) -> None:
    """A caller that gives up in the middle of an answer leaves nothing behind for the next one."""
    async with engine(mysql_database) as backend, connection(mysql_database) as other:
        await claim_one(backend, "order-1")
        await query(other, "BEGIN")
        await query(other, "SELECT 1 FROM zart_tasks FOR UPDATE")
        waits = asyncio.create_task(backend.cancel("order-1"))
        await until_one_waits_for_a_lock(other)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        await query(other, "ROLLBACK")
        for _ in range(10):
            assert [e.id for e in await backend.get(["order-1"])] == ["order-1"]
        (found,) = await backend.get(["order-1"])
        assert found.status != "cancelled"


async def test_a_session_sees_that_its_connection_is_gone(mysql_database: Database) -> None:
    """A lease's session is known as broken when the server cuts it, without a query."""
    async with engine(mysql_database) as backend, connection(mysql_database) as other:
        async with backend.database.session() as session:
            assert await session.hold(7)
            assert await session.released([7, 8]) == {8}
            sql = "SELECT id FROM information_schema.processlist WHERE id = IS_USED_LOCK('{}')"
            ((number,),) = await query(other, sql.format("zart-worker-7"))
            await query(other, f"KILL {number}")
            async with asyncio.timeout(5):
                while True:
                    if session.broken:
                        break
                    await asyncio.sleep(0.01)
        async with backend.database.session() as session:
            assert await session.released([7]) == {7}


async def test_an_interrupted_migration_is_resumed(mysql_database: Database) -> None:
    """DDL commits by itself, so a migration that was cut off anywhere is finished by the next."""
    (first, *_) = migrations("mysql", Tables())
    async with connection(mysql_database) as other:
        for statement in first.statements()[:3]:
            await query(other, statement)
    async with engine(mysql_database) as backend:
        await claim_one(backend, "order-1")
        assert await backend.migrate() == []


async def test_several_processes_may_migrate_at_once(mysql_database: Database) -> None:
    """One of them applies each migration, the others find it applied."""
    engines = [SqlEngine(MySQLDatabase(mysql_database.url, Tables())) for _ in range(4)]
    applied = await asyncio.gather(*(each.migrate() for each in engines))
    assert sorted(map(len, applied)) == [0, 0, 0, 1]
    for each in engines:
        await each.close()


async def test_only_an_open_transaction_is_joined(mysql_database: Database) -> None:
    """A connection in autocommit mode is refused: its schedule would not be undone."""
    async with engine(mysql_database) as backend, connection(mysql_database) as other:
        with pytest.raises(ValueError, match="no open transaction"):
            await backend.schedule_within(other, [execution("order-1")])
        with pytest.raises(TypeError, match="asyncmy"):
            await backend.schedule_within(object(), [execution("order-1")])
        await query(other, "BEGIN")
        await backend.schedule_within(other, [execution("order-1")])
        await query(other, "ROLLBACK")
        assert await backend.get(["order-1"]) == []


def test_a_url_is_read_in_all_its_parts() -> None:
    """Percent-encoding is undone in every part, and what is missing has its usual value."""
    read = arguments("mysql://an%40na:p%2Fw%C3%A9@db.example:3307/sh%20op?connect_timeout=3")
    assert read == {
        "user": "an@na",
        "password": "p/wé".encode(),
        "database": "sh op",
        "connect_timeout": 3.0,
    }


@pytest.mark.parametrize("url", ["mysql://root@localhost", "mysql://root@localhost/"])
async def test_a_url_without_a_database_is_refused(url: str) -> None:
    """The message shows the form that a URL has."""
    with pytest.raises(ValueError, match="names no database: write mysql://"):
        await MySQLScheduler.connect(url)


@pytest.mark.parametrize(
    "number", [1205, 1213, 2006, 2013, 2003, 1040, 1053, 1047, 1290, 1836, 1021]
)
def test_errors_that_may_pass_are_tried_again(number: int) -> None:
    """Deadlocks, lost connections, a server without room: the transaction runs again."""
    database = MySQLDatabase("mysql://root@localhost/shop", Tables())
    assert database.transient(errors.OperationalError(number, "it may pass"))
    assert not database.transient(errors.ProgrammingError(1146, "no such table"))
