"""Two versions of the package on one database, as during an upgrade.

The next version is this one with one more migration, and a statement that uses what it adds.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import zart
from tests.crash import ledger
from tests.crash.ledger import Story
from tests.crash.processes import WorkerProcess, crew, until
from tests.crash.workflow import Journey, journey
from tests.databases import Database
from zart.testing.conformance.harness import guarantee
from zart.testing.conformance.rows import run_sql

JOURNEYS = 8
ADDITIONS = """
ALTER TABLE {workers} ADD COLUMN version varchar(20);
CREATE INDEX {workers}_version ON {workers} (version);
CREATE TABLE {runs}_notes (id varchar(200) NOT NULL PRIMARY KEY, note varchar(200));
ALTER TABLE {steps} ADD COLUMN note varchar(20);
ALTER TABLE {tasks} ADD COLUMN note varchar(20);
"""
REGISTER = "INSERT INTO {workers} (id, "
VALUES = "SELECT :id, "
MIGRATE = """
import asyncio, sys, zart

async def main():
    async with zart.connect(sys.argv[1]) as scheduler:
        print(await scheduler.migrate())

asyncio.run(main())
"""


class NextVersion:
    """A copy of the package with one more migration."""

    def __init__(self, folder: Path, kind: str, migration: str = "9999_additions") -> None:
        self._place = folder / "next"
        package = self._place / "zart"
        ours = Path(zart.__file__).parent
        shutil.copytree(ours, package, ignore=shutil.ignore_patterns("__pycache__"))
        sql = package / "scheduler" / "sql"
        (sql / "migrations" / kind / f"{migration}.sql").write_text(ADDITIONS)
        queries = sql / "queries" / "portable.sql"
        text = queries.read_text()
        assert (text.count(REGISTER), text.count(VALUES)) == (1, 1)
        text = text.replace(REGISTER, f"{REGISTER}version, ")
        queries.write_text(text.replace(VALUES, f"{VALUES}'next', "))

    @property
    def within(self) -> Sequence[str]:
        """What starts a process with this version."""
        return ("env", f"PYTHONPATH={self._place}")

    async def migrate(self, url: str) -> str:
        """Migrate with it; gives what was applied."""
        command = [*self.within, sys.executable, "-c", MIGRATE, url]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)


@guarantee(1, 8)
@pytest.mark.parametrize("first", ["old", "next"])
async def test_the_old_and_the_next_version_serve_one_database_at_once(
    database: Database, tmp_path: Path, first: str
) -> None:
    """Whichever comes first; the tables may change under the one that is at work."""
    following = NextVersion(tmp_path, database.kind)
    async with (
        zart.connect(database.url) as scheduler,
        crew(database.url, tmp_path, concurrency=4) as workers,
    ):
        if first == "old":
            await scheduler.migrate()
            old = workers.start()
            travellers = await depart(scheduler, "early")
            await until(lambda: old.lines, "the old one is at work", seconds=60)
            assert "9999_additions" in await following.migrate(database.url)
            new = workers.start(within=following.within)
        else:
            assert "9999_additions" in await following.migrate(database.url)
            new = workers.start(within=following.within)
            travellers = await depart(scheduler, "early")
            await until(lambda: new.lines, "the next one is at work", seconds=60)
            old = workers.start()
        await until(lambda: entered(scheduler, 2), "both are entered", seconds=60)
        versions = await run_sql(scheduler, "SELECT process, version FROM zart_workers")
        assert dict(versions) == {old.id: None, new.id: "next"}
        while not (busy_since(old, "late") and busy_since(new, "late")):
            travellers += await depart(scheduler, f"late-{len(travellers)}")
            await arrive(scheduler, travellers)
        assert not list(Story(ledger.read(tmp_path)).violations())
        assert await scheduler.migrate() == []
        assert [await member.stop() for member in (old, new)] == [0, 0], workers.logs()
        if first == "next":
            assert "migrated by a newer zart (9999_additions)" in old.log.read_text()


async def test_an_old_version_does_not_begin_on_tables_that_have_changed_beyond_it(
    database: Database, tmp_path: Path
) -> None:
    """The migration's name says so; the process that starts is told what to do."""
    following = NextVersion(tmp_path, database.kind, "9999_breaking_additions")
    await following.migrate(database.url)
    async with zart.connect(database.url) as scheduler:
        with pytest.raises(zart.MigrationError, match=r"9999_breaking_additions.*: update"):
            await zart.Worker(scheduler, [journey]).start()
        with pytest.raises(zart.MigrationError, match="9999_breaking_additions"):
            await scheduler.migrate()


async def depart(scheduler: zart.DurableScheduler, prefix: str) -> list[str]:
    """Executions of every feature, each with its letter on the way."""
    names = [f"{prefix}-{number}" for number in range(JOURNEYS)]
    for name in names:
        await scheduler.schedule(journey, id=name)
        await scheduler.offer_event(name, "letter", secrets.token_hex(4))
    return names


async def arrive(scheduler: zart.DurableScheduler, names: Sequence[str]) -> None:
    for name in names:
        assert await scheduler.result(name, type=Journey, timeout="60s")


async def entered(scheduler: zart.DurableScheduler, amount: int) -> bool:
    return len(await scheduler.workers()) == amount


def busy_since(worker: WorkerProcess, prefix: str) -> bool:
    return any(line.execution.startswith(prefix) for line in worker.lines)
