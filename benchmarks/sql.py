"""A connection beside zart's own, for what is filled in and read off during a measurement."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias

import apsw

from tests.databases import mysql_arguments

__all__ = ["Line", "line", "prefixed"]

Row: TypeAlias = tuple[Any, ...]


def prefixed(prefix: str, table: str) -> str:
    """The name of one of zart's tables."""
    return f"{prefix}{table}"


class Line(Protocol):
    """One connection; each statement commits by itself. Parameters stand as ``?`` in the text."""

    kind: str

    async def fetch(self, sql: str, *values: Any) -> list[Row]:
        """Run a statement and give its rows."""
        ...


class _Sqlite:
    kind = "sqlite"

    def __init__(self, path: str) -> None:
        self._connection = apsw.Connection(path)
        self._connection.set_busy_timeout(60_000)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")

    async def fetch(self, sql: str, *values: Any) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()

    async def close(self) -> None:
        self._connection.close(True)


class _Postgres:
    kind = "postgresql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *values: Any) -> list[Row]:
        parts = sql.split("?")
        numbered = "".join(f"{part}${n}" for n, part in enumerate(parts[:-1], 1)) + parts[-1]
        return [tuple(row) for row in await self._connection.fetch(numbered, *values)]

    async def close(self) -> None:
        await self._connection.close()


class _Mysql:
    kind = "mysql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *values: Any) -> list[Row]:
        async with self._connection.cursor() as cursor:
            await cursor.execute(sql.replace("%", "%%").replace("?", "%s"), values)
            return list(await cursor.fetchall())

    async def close(self) -> None:
        await self._connection.ensure_closed()


@asynccontextmanager
async def line(url: str) -> AsyncGenerator[Line, None]:
    """A connection to the database of this URL."""
    opened = await _open(url)
    try:
        yield opened
    finally:
        await opened.close()


async def _open(url: str) -> _Sqlite | _Postgres | _Mysql:
    if url.startswith("sqlite:"):
        return _Sqlite(url.removeprefix("sqlite:///"))
    if url.startswith("mysql:"):
        import asyncmy  # noqa: PLC0415 only for this database

        return _Mysql(await asyncmy.connect(**mysql_arguments(url)))
    import asyncpg  # noqa: PLC0415 only for this database

    return _Postgres(await asyncpg.connect(url, command_timeout=None))


async def columns(on: Line, table: str) -> Sequence[str]:
    """The columns of a table that can be written."""
    if on.kind == "sqlite":
        return [row[1] for row in await on.fetch(f"PRAGMA table_info({table})")]
    schema = "current_schema()" if on.kind == "postgresql" else "database()"
    rows = await on.fetch(
        "SELECT column_name FROM information_schema.columns"
        f" WHERE table_schema = {schema} AND table_name = ?"
        " AND coalesce(generation_expression, '') = '' ORDER BY ordinal_position",
        table,
    )
    return [row[0] for row in rows]
