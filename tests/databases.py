"""An empty database for each test: which kinds there are, how one is made and removed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import uuid4

import asyncmy
import asyncpg

KINDS = ("sqlite", "postgres", "mysql")


class UnknownDatabaseError(Exception):
    """ZART_TEST_DATABASES names something that is none of the kinds."""


@dataclass(frozen=True)
class Database:
    """A database made for one test, and where to reach it."""

    kind: str
    url: str


def selected_kinds() -> tuple[str, ...]:
    """The kinds to test: all, or those that ZART_TEST_DATABASES names."""
    named = os.environ.get("ZART_TEST_DATABASES", ",".join(KINDS)).replace(" ", "").split(",")
    kinds = tuple(kind for kind in KINDS if kind in named)
    if not kinds or set(named) - set(KINDS):
        raise UnknownDatabaseError(
            f"ZART_TEST_DATABASES is {','.join(named)!r}; it takes some of {','.join(KINDS)}."
        )
    return kinds


def given_servers() -> dict[str, str]:
    """The administrators' URLs of servers that run already, by kind."""
    given = {kind: os.environ.get(f"ZART_TEST_{kind.upper()}_URL") for kind in KINDS[1:]}
    return {kind: url for kind, url in given.items() if url}


def sqlite_database(folder: Path) -> Database:
    return Database("sqlite", f"sqlite:///{folder / 'zart.db'}")


@contextmanager
def postgres_database(server: str) -> Iterator[Database]:
    name = _unique_name()
    _run(_on_postgres(server, f'CREATE DATABASE "{name}"'))
    try:
        yield Database("postgres", _with_path(server, name))
    finally:
        _run(_on_postgres(server, f'DROP DATABASE "{name}" WITH (FORCE)'))


class Pool:
    """Databases that are emptied and used again: to make one takes a fifth to half of a second, to
    empty one less than a tenth of it.
    """

    def __init__(
        self,
        make: Callable[[], AbstractContextManager[Database]],
        empty: Callable[[str], None],
    ) -> None:
        self._make = make
        self._empty = empty
        self._stack = ExitStack()
        self._spare: list[Database] = []

    @contextmanager
    def taken(self) -> Iterator[Database]:
        """An empty database, back in the pool afterwards."""
        if self._spare:
            taken = self._spare.pop()
            self._empty(taken.url)
        else:
            taken = self._stack.enter_context(self._make())
        try:
            yield taken
        finally:
            self._spare.append(taken)

    def close(self) -> None:
        self._stack.close()


def postgres_pool(server: str, *, tables_stay: bool = False) -> Pool:
    """Databases on a PostgreSQL server; ``tables_stay`` as in `empty_postgres`."""
    return Pool(
        partial(postgres_database, server), partial(empty_postgres, tables_stay=tables_stay)
    )


def mysql_pool(server: str) -> Pool:
    """Databases on a MariaDB server, in which zart's tables stay."""
    return Pool(partial(mysql_database, server), empty_mysql)


def empty_postgres(url: str, *, tables_stay: bool = False, cut: bool = True) -> None:
    """Leave nothing of what a test has put into a database, or set for it, or left connected.

    ``tables_stay`` leaves zart's own tables there, without rows: who migrates finds them, in a
    tenth of the time. ``cut`` ends connections, and undoes what is set for the database.
    """
    name = url.rpartition("/")[2]
    statements = ["SET lock_timeout = '10s'"]
    if cut:
        statements += [_CUT, f'ALTER DATABASE "{name}" RESET ALL']
    statements.append(_CLEAR if tables_stay else _DROP)
    _run(_on_postgres(url, "; ".join(statements)))


_CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_OF_TESTS = "nspname !~ '^pg_' AND nspname <> 'information_schema'"
_DROP = f"""
    DO $$
    DECLARE used text;
    BEGIN
        FOR used IN SELECT nspname FROM pg_namespace WHERE {_OF_TESTS} LOOP
            EXECUTE format('DROP SCHEMA %I CASCADE', used);
        END LOOP;
    END $$;
    CREATE SCHEMA public;
    GRANT USAGE ON SCHEMA public TO PUBLIC
"""
_CLEAR = f"""
    DO $$
    DECLARE used text;
    BEGIN
        FOR used IN SELECT nspname FROM pg_namespace WHERE {_OF_TESTS} AND nspname <> 'public' LOOP
            EXECUTE format('DROP SCHEMA %I CASCADE', used);
        END LOOP;
        FOR used IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
            IF used LIKE 'zart\\_%' AND used <> 'zart_migrations' THEN
                EXECUTE format('DELETE FROM public.%I', used);
            ELSIF used <> 'zart_migrations' THEN
                EXECUTE format('DROP TABLE public.%I CASCADE', used);
            END IF;
        END LOOP;
    END $$
"""


@contextmanager
def mysql_database(server: str) -> Iterator[Database]:
    name = _unique_name()
    _run(_create_on_mysql(server, name))
    try:
        yield Database("mysql", _with_path(server, name))
    finally:
        _run(_drop_on_mysql(server, name))


def mysql_arguments(url: str) -> dict[str, Any]:
    """A MySQL URL as the arguments of `asyncmy.connect`."""
    parts = urlsplit(url)
    return {
        "host": parts.hostname or "127.0.0.1",
        "port": parts.port or 3306,
        "user": unquote(parts.username or "root"),
        "password": unquote(parts.password or ""),
        "db": parts.path.strip("/") or None,
        "autocommit": True,
    }


def empty_mysql(url: str) -> None:
    """Leave nothing of what a test has put into a database but zart's own tables, without rows."""
    _run(_empty_on_mysql(url))


async def _on_postgres(server: str, statement: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _create_on_mysql(server: str, name: str) -> None:
    async with _mysql_cursor(server) as cursor:
        await cursor.execute(
            f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        )


async def _empty_on_mysql(url: str) -> None:
    async with _mysql_cursor(url) as cursor:
        await _cut_on_mysql(cursor, url.rpartition("/")[2])
        await cursor.execute("SHOW TABLES")
        for (table,) in await cursor.fetchall():
            kept = table.startswith("zart_")
            if table != "zart_migrations":
                await cursor.execute(f"{'DELETE FROM' if kept else 'DROP TABLE'} `{table}`")


async def _drop_on_mysql(server: str, name: str) -> None:
    async with _mysql_cursor(server) as cursor:
        await _cut_on_mysql(cursor, name)
        await cursor.execute(f"DROP DATABASE `{name}`")


async def _cut_on_mysql(cursor: Any, name: str) -> None:
    """End the connections of a database: what is done to it would wait for their locks."""
    await cursor.execute(
        "SELECT id FROM information_schema.processlist WHERE db = %s AND id <> connection_id()",
        (name,),
    )
    for (connection_id,) in await cursor.fetchall():
        try:
            await cursor.execute(f"KILL {connection_id}")
        except asyncmy.errors.OperationalError:
            continue  # it left by itself


@asynccontextmanager
async def _mysql_cursor(server: str) -> AsyncIterator[Any]:
    connecting = asyncmy.connect(**mysql_arguments(server))
    async with connecting as connection, connection.cursor() as cursor:
        yield cursor


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end on a loop of its own, leaving the test's loop alone."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop, debug=False) as runner:
        runner.run(work)


def _unique_name() -> str:
    return f"zart_test_{uuid4().hex}"


def _with_path(url: str, path: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{path}"))
