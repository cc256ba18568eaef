"""What an examination finds: each trouble is made on a real database, and seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import apsw
import asyncmy
import asyncpg
import pytest

import zart
from tests.databases import Database, mysql_arguments
from zart.scheduler.findings import Finding
from zart.scheduler.sql.doctor import examination, mysql, postgres, sqlite
from zart.testing.conformance.harness import eventually
from zart.testing.conformance.rows import run_sql


@zart.step
async def note(number: int) -> int:
    return number


@zart.durable("known")
async def known(number: int) -> int:
    return await note(number)


@asynccontextmanager
async def migrated(url: str) -> AsyncIterator[zart.DurableScheduler]:
    async with zart.connect(url) as scheduler:
        await scheduler.migrate()
        yield scheduler


async def found(scheduler: zart.DurableScheduler, check: str) -> Finding:
    """The one finding of a check."""
    findings = [finding for finding in await scheduler.doctor() if finding.check == check]
    assert len(findings) == 1, findings
    return findings[0]


async def test_a_healthy_database_has_no_finding_but_good_ones(database: Database) -> None:
    """Tables, a worker, work done: everything is looked at, and everything is ok."""
    async with migrated(database.url) as scheduler, zart.Worker(scheduler, [known]):
        handle = await scheduler.schedule(known, 1)
        await handle.result(timeout="10s")
        findings = await scheduler.doctor()
    assert [f for f in findings if f.level != "ok" and f.check != "connection"] == []
    checks = {finding.check for finding in findings}
    assert {"connection", "server", "durability", "clock", "tables", "workers", "queue"} <= checks


async def test_missing_tables_are_a_problem(database: Database) -> None:
    """A database that has not been migrated: said with the mend, and nothing is made."""
    async with zart.connect(database.url) as scheduler:
        if database.kind == "sqlite":  # here the file itself would be missing
            await run_sql(scheduler, "SELECT 1")
        finding = await found(scheduler, "tables")
        assert finding.level == "problem"
        assert "zart migrate" in finding.advice
        with pytest.raises(zart.MigrationError):
            await scheduler.get("nothing")


async def test_a_migration_that_is_missing_or_newer_is_told_apart(database: Database) -> None:
    """Older tables are a problem, newer ones a warning: migrations only add."""
    async with migrated(database.url) as scheduler:
        await run_sql(scheduler, "INSERT INTO zart_migrations VALUES (9999, 'later')")
        assert (await found(scheduler, "tables")).level == "warning"
        await run_sql(scheduler, "DELETE FROM zart_migrations")
        assert (await found(scheduler, "tables")).level == "problem"


async def test_work_without_a_worker_is_a_problem(database: Database) -> None:
    """No worker and nothing to do is a warning; with something to do it is a problem."""
    async with migrated(database.url) as scheduler:
        assert (await found(scheduler, "workers")).level == "warning"
        await scheduler.schedule(known, 1)
        assert (await found(scheduler, "workers")).level == "problem"
        await run_sql(scheduler, "UPDATE zart_tasks SET ready_at = ready_at - 400000000")
        lag = await found(scheduler, "queue")
    assert lag.level == "problem"
    assert "start a worker" in lag.advice


async def test_a_task_that_no_worker_knows_is_named(database: Database) -> None:
    """A worker with free slots leaves a name alone: it has no code for it."""
    async with migrated(database.url) as scheduler, zart.Worker(scheduler, [known]):
        await scheduler.schedule("strange", None, queue="default")
        assert "unknown tasks" not in {f.check for f in await scheduler.doctor()}  # too young
        await run_sql(scheduler, "UPDATE zart_tasks SET ready_at = ready_at - 60000000")
        finding = await found(scheduler, "unknown tasks")
    assert finding.level == "problem"
    assert "'strange' in queue 'default' (1 for " in finding.found


async def test_a_busy_workers_backlog_is_no_unknown_task(database: Database) -> None:
    """All slots of the queue's worker are taken: what waits for them is late, not unknown."""
    never = asyncio.Event()

    @zart.durable("slow")
    async def slow() -> None:
        await never.wait()

    config = zart.WorkerConfig(concurrency=1, shutdown_timeout="0s")
    elsewhere = zart.WorkerConfig(queues=("other",))
    async with (
        migrated(database.url) as scheduler,
        zart.Worker(scheduler, [slow, known], config) as worker,
        zart.Worker(scheduler, [known], elsewhere),
    ):
        await scheduler.schedule(slow)
        await eventually(lambda: asyncio.sleep(0, worker.running))
        await scheduler.schedule(known, 1)
        await run_sql(scheduler, "UPDATE zart_tasks SET ready_at = ready_at - 60000000")
        findings = {f.check: f for f in await scheduler.doctor()}
    assert "unknown tasks" not in findings
    assert findings["queue"].level == "warning"
    assert "more workers" in findings["queue"].advice


async def test_a_dead_worker_is_told(database: Database) -> None:
    """A worker whose lease has run out, and that nobody has struck out."""
    async with migrated(database.url) as scheduler:
        async with scheduler.backend.lease_session() as line:
            await line.register("dead-one", "elsewhere", 1, 10, None, -5_000_000)
        finding = await found(scheduler, "dead workers")
    assert (finding.level, "1 worker without a beat" in finding.found) == ("warning", True)


async def test_clocks_that_differ_are_told(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is an hour off hears by how much."""
    wrong = SimpleNamespace(time=lambda: time.time() - 3600, perf_counter=time.perf_counter)
    async with migrated(database.url) as scheduler:
        monkeypatch.setattr(examination, "time", wrong)
        finding = await found(scheduler, "clock")
    assert finding.level == "warning"
    assert "60 min ahead of" in finding.found


async def test_a_check_that_cannot_be_made_is_told(
    postgres_database: Database,
) -> None:
    """A user without the right to look: one warning, and the other checks go on."""
    name = postgres_database.url.rpartition("/")[2]
    async with migrated(postgres_database.url) as scheduler:
        await run_sql(
            scheduler, f"REVOKE SELECT ON pg_prepared_xacts FROM PUBLIC; CREATE USER {name}"
        )
        try:
            await run_sql(scheduler, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
            place = postgres_database.url.rpartition("@")[2]
            async with zart.connect(f"postgresql://{name}@{place}") as other:
                finding = await found(other, "snapshots")
                assert (finding.level, "could not be looked at" in finding.found) == (
                    "warning",
                    True,
                )
                assert (await found(other, "tables")).level == "ok"
        finally:
            await run_sql(scheduler, f"DROP OWNED BY {name}; DROP USER {name}")


SETTINGS = {
    "synchronous_commit": ("durability", "ALTER DATABASE {name} SET synchronous_commit = off"),
    "autovacuum_enabled of zart_tasks": (
        "autovacuum",
        "ALTER TABLE zart_tasks SET (autovacuum_enabled = false)",
    ),
}


@pytest.mark.parametrize("setting", SETTINGS)
async def test_a_setting_that_endangers_is_a_problem(
    postgres_database: Database, setting: str
) -> None:
    """What weakens durability or stops vacuum is named."""
    check, sql = SETTINGS[setting]
    async with migrated(postgres_database.url) as scheduler:
        assert (await found(scheduler, check)).level == "ok"
        await run_sql(scheduler, sql.format(name=postgres_database.url.rpartition("/")[2]))
    async with zart.connect(postgres_database.url) as scheduler:
        finding = await found(scheduler, check)
    assert (finding.level, setting in finding.found) == ("problem", True)


async def test_a_transaction_that_pins_the_oldest_snapshot_is_told(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its process, its age and the way to end it; and the dead rows that it keeps."""
    monkeypatch.setattr(postgres, "_PINNED", (0.0, 1e9))
    monkeypatch.setattr(postgres, "_DEAD", 100)
    async with migrated(postgres_database.url) as scheduler:
        pin = await asyncpg.connect(postgres_database.url)
        try:
            await pin.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            process = await pin.fetchval("SELECT pg_backend_pid()")
            snapshot = await found(scheduler, "oldest snapshot")
            await scheduler.schedule_many(known, range(300))
            for _ in range(2):
                await run_sql(scheduler, "UPDATE zart_tasks SET priority = 1")

            async def dead() -> Finding:
                return await found(scheduler, "dead rows")

            told = await eventually(dead, is_true=lambda finding: finding.level == "warning")
        finally:
            await pin.close()
    assert snapshot.level == "warning"
    assert f"transaction {process} " in snapshot.found
    assert f"pg_terminate_backend({process})" in snapshot.advice
    assert "zart_tasks has the most: 600" in told.found


async def test_a_transaction_that_holds_back_purge_is_told(
    mysql_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its connection, and the way to end it."""
    monkeypatch.setattr(mysql, "_PINNED", (-1.0, 1e9))
    connecting = asyncmy.connect(**mysql_arguments(mysql_database.url))
    async with (
        migrated(mysql_database.url) as scheduler,
        connecting as connection,
        connection.cursor() as cursor,
    ):
        await cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        await cursor.execute("SELECT count(*) FROM zart_tasks")
        # Other tests' transactions come and go on this server; this one stays.
        finding = await eventually(
            lambda: found(scheduler, "oldest snapshot"),
            is_true=lambda finding: finding.level == "warning",
        )
        assert "KILL " in finding.advice


async def test_a_log_that_cannot_be_written_back_is_told(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's write-ahead log grows while a reader stands still."""
    monkeypatch.setattr(sqlite, "_LOG", (6.0 * (1 << 20), 1e12))
    path = sqlite_database.url.removeprefix("sqlite:///")
    async with migrated(sqlite_database.url) as scheduler:
        reader = apsw.Connection(path)
        try:
            reader.execute("BEGIN; SELECT count(*) FROM zart_tasks").fetchall()
            for _ in range(8):
                await scheduler.schedule(known, 1)
                await scheduler.schedule("big", "x" * 1_000_000)
            assert (await found(scheduler, "write-ahead log")).level == "warning"
        finally:
            reader.close()


MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home rw,relatime shared:2 - nfs4 server:/home rw,vers=4.2
31 22 0:41 / /home/me/local\040disk rw,relatime shared:3 - xfs /dev/sdb1 rw
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [("/var/shop.db", "ext4"), ("/home/me/shop.db", "nfs4"), ("/home/me/local disk/a.db", "xfs")],
)
def test_the_file_system_under_a_file_is_found(place: str, kind: str) -> None:
    """The innermost mount point that the path lies under counts."""
    assert sqlite.file_system(Path(place), MOUNTS.strip()) == kind
