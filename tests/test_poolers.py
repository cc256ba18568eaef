"""The conformance suite on PostgreSQL as it is found behind poolers, and on what resembles it.

The whole suite runs each time, as it does on the three databases in `test_conformance`; only that
the tests of one kind share a database, which is cleared before each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import asyncpg
import pytest

import zart
from tests import databases
from tests.conftest import SERVERS
from tests.databases import Database
from tests.servers import PgbouncerServer
from tests.test_conformance import OneDatabase
from zart.scheduler.sql.postgres import PostgresDatabase
from zart.scheduler.sql.postgres_server import Capabilities, split_url
from zart.testing.conformance import *  # noqa: F403
from zart.testing.conformance.rows import database_of

pytestmark = pytest.mark.postgres

CAPABILITIES = "prepared_statements,listen,session_locks,skip_locked,read_committed"


@pytest.fixture(scope="session")
def pgbouncer(pytestconfig: pytest.Config) -> Iterator[PgbouncerServer]:
    with PgbouncerServer(pytestconfig.stash[SERVERS].url("postgres")) as server:
        yield server


@pytest.fixture(scope="session", params=["pgbouncer", "serializable", "distributed"])
def home(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[tuple[str, str]]:
    """A database: its own URL, and the one under which it is to be found."""
    with databases.postgres_database(pytestconfig.stash[SERVERS].url("postgres")) as made:
        match request.param:
            case "pgbouncer":
                pooler: PgbouncerServer = request.getfixturevalue("pgbouncer")
                yield made.url, pooler.in_front_of(made.url)
            case "serializable":
                run(made.url, serializable(made.url))
                yield made.url, made.url
            case _:
                yield made.url, f"{made.url}?zart_capabilities=none"


@pytest.fixture
def backend(home: tuple[str, str]) -> OneDatabase:
    direct, url = home
    databases.empty_postgres(direct, tables_stay=True, cut=False)
    return OneDatabase(url)


def serializable(url: str) -> str:
    """Makes every transaction of a database serializable that does not say otherwise."""
    name = url.rpartition("/")[2]
    return f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"


async def execute(url: str, sql: str) -> None:
    """Run statements on a connection of their own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def run(url: str, sql: str) -> None:
    """The same on a loop of its own."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop, debug=False) as runner:
        runner.run(execute(url, sql))


# -- what is found out, and what is told ---------------------------------------------------------


async def capabilities(url: str) -> Capabilities:
    """What a scheduler knows of its server after its first statement."""
    async with zart.connect(url) as scheduler:
        await scheduler.migrate()
        return postgres_of(scheduler).server.capabilities


def postgres_of(scheduler: zart.DurableScheduler) -> PostgresDatabase:
    found = database_of(scheduler)
    assert isinstance(found, PostgresDatabase)
    return found


async def test_a_pooler_is_found_out_and_told(
    postgres_database: Database, pgbouncer: PgbouncerServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing has to be said: one line in the log says what zart does without, and why."""
    caplog.set_level(logging.INFO, "zart.database")
    assert await capabilities(postgres_database.url) == Capabilities(
        **dict.fromkeys(CAPABILITIES.split(","), True)
    )
    assert caplog.messages == []
    pooled = pgbouncer.in_front_of(postgres_database.url)
    assert await capabilities(pooled) == Capabilities(skip_locked=True, read_committed=True)
    lines = [line for line in caplog.messages if "behind a pooler" in line]
    assert len(lines) == 1
    assert "does without prepared_statements, listen, session_locks" in lines[0]


async def test_a_pooler_that_takes_settings_and_ignores_them_is_found_out_too(
    postgres_database: Database, pytestconfig: pytest.Config
) -> None:
    """What is asked is whether they took effect, and which process answers."""
    names = "enable_seqscan,enable_hashjoin,enable_mergejoin,jit"
    names += ",tcp_keepalives_idle,tcp_keepalives_interval,tcp_keepalives_count"
    server = pytestconfig.stash[SERVERS].url("postgres")
    with PgbouncerServer(server, ignored=names) as pooler:
        found = await capabilities(pooler.in_front_of(postgres_database.url))
    assert found == Capabilities(skip_locked=True, read_committed=True)


async def test_what_the_url_names_counts_and_nothing_else(
    postgres_database: Database, pytestconfig: pytest.Config
) -> None:
    """A pooler that keeps sessions can do all: its user says so."""
    server = pytestconfig.stash[SERVERS].url("postgres")
    with PgbouncerServer(server, mode="session", connections=50) as pooler:
        url = f"{pooler.in_front_of(postgres_database.url)}?zart_capabilities={CAPABILITIES}"
        assert await capabilities(url) == Capabilities(
            **dict.fromkeys(CAPABILITIES.split(","), True)
        )
    assert await capabilities(f"{postgres_database.url}?zart_capabilities=listen") == Capabilities(
        listen=True
    )


def test_a_capability_that_there_is_not_is_refused() -> None:
    """With the names that there are; the other parts of a URL stay as they are."""
    with pytest.raises(ValueError, match="zart_capabilities names leap: it takes some of prepared"):
        split_url("postgresql://host/shop?zart_capabilities=listen,leap")
    url, told = split_url("postgresql://host/shop?sslmode=require&zart_capabilities=none")
    assert (url, told) == ("postgresql://host/shop?sslmode=require", Capabilities())


async def test_a_users_transaction_keeps_the_databases_isolation(
    postgres_database: Database,
) -> None:
    """zart's own transactions are read committed, whatever the default; yours are what it says."""
    await execute(postgres_database.url, serializable(postgres_database.url))
    async with zart.connect(postgres_database.url) as scheduler:
        await scheduler.migrate()
        database = postgres_of(scheduler)
        async with database.own_transaction(1) as (_, connection):
            shown = await connection.fetchval("SHOW transaction_isolation")
        async with database._acquired() as connection:
            alone = await connection.fetchval("SHOW transaction_isolation")
    assert (shown, alone) == ("serializable", "read committed")


async def test_a_doctor_tells_of_a_pooler(
    postgres_database: Database, pgbouncer: PgbouncerServer
) -> None:
    """With what it costs, and what to do about it."""
    async with zart.connect(pgbouncer.in_front_of(postgres_database.url)) as scheduler:
        await scheduler.migrate()
        findings = {finding.check: finding for finding in await scheduler.doctor()}
    told = findings["capabilities"]
    assert told.level == "warning"
    assert told.found.startswith("behind a pooler, without prepared_statements, listen")
    assert "zart_capabilities" in told.advice
