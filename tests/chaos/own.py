"""A database server of a test's own, to do harm to; and what its administrator can do there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncmy
import asyncpg
import pytest

from tests.databases import Database, mysql_arguments
from tests.servers import MariadbServer, PostgresServer, Server

Rows = list[tuple[Any, ...]]

REMOTE = [pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in ("postgres", "mysql")]
"""The kinds that are servers."""
each_server = pytest.mark.parametrize("kind", REMOTE)
"""For a test that breaks its server: it runs once for each kind, and starts one for itself."""
_SERVERS: dict[str, type[Server]] = {"postgres": PostgresServer, "mysql": MariadbServer}


@asynccontextmanager
async def own_server(
    kind: str,
    make: Callable[[], Server] | None = None,
    create: Sequence[str] = ("CREATE DATABASE zart",),
) -> AsyncGenerator[tuple[Server, Database], None]:
    """A server that nobody else uses, with an empty database; gone at the end."""
    server = await asyncio.to_thread(make or _SERVERS[kind])
    try:
        for statement in create:
            await Administrator(Database(kind, server.url)).run(statement)
        yield server, Database(kind, urlunsplit(urlsplit(server.url)._replace(path="/zart")))
    finally:
        await asyncio.to_thread(server.close)


class Administrator:
    """One connection with every right, made for each statement: those of before may be dead."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self, sql: str) -> Rows:
        if self._database.kind == "postgres":
            connection = await asyncpg.connect(self._database.url)
            try:
                return [tuple(row) for row in await connection.fetch(sql)]
            finally:
                await connection.close()
        connecting = asyncmy.connect(**mysql_arguments(self._database.url))
        async with connecting as connection, connection.cursor() as cursor:
            await cursor.execute(sql)
            return list(await cursor.fetchall() or ())

    async def end_connections(self, only: Sequence[int] | None = None) -> int:
        """Cut every connection to the database but this one, or those of these ids.

        Gives how many there were. On MariaDB they are those to any database of the server.
        """
        if self._database.kind == "postgres":
            which = "" if only is None else f" AND pid IN ({_list(only)})"
            ended = await self.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <>"
                " pg_backend_pid() AND datname = current_database()"
                f" AND backend_type = 'client backend'{which}"
            )
            return len(ended)
        which = "" if only is None else f" AND id IN ({_list(only)})"
        found = await self.run(
            "SELECT id FROM information_schema.processlist WHERE id <> connection_id()"
            f" AND command <> 'Daemon' AND db IS NOT NULL{which}"
        )
        await asyncio.gather(*(self._end(number) for (number,) in found))
        return len(found)

    async def _end(self, number: int) -> None:
        with suppress(asyncmy.errors.OperationalError):  # it may have ended by itself
            await self.run(f"KILL {number}")

    async def lock_holders(self) -> dict[str, int]:
        """The connection that holds the lock of each worker's heartbeat."""
        if self._database.kind == "postgres":
            rows = await self.run(
                "SELECT w.id, l.pid FROM zart_workers w JOIN pg_locks l ON l.locktype = 'advisory'"
                " AND (l.classid::bigint << 32 | l.objid::bigint) = w.session_lock"
            )
        else:
            rows = await self.run(
                "SELECT id, IS_USED_LOCK(CONCAT('zart-worker-', LOWER(HEX(session_lock))))"
                " FROM zart_workers"
            )
        return {row[0]: row[1] for row in rows if row[1] is not None}


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(str(int(number)) for number in numbers) or "0"
