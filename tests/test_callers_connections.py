"""A connection of the caller's own, which may give its rows another form than zart's have."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import apsw
import asyncmy
import asyncpg
import pytest
from asyncmy.cursors import DictCursor

import zart
from tests.databases import Database, mysql_arguments

pytestmark = pytest.mark.guarantee(21, 22)


def as_dict(cursor: apsw.Cursor, row: apsw.SQLiteValues) -> Any:
    return dict(zip([column[0] for column in cursor.get_description()], row, strict=True))


@asynccontextmanager
async def rows_as_dicts(database: Database) -> AsyncGenerator[Any, None]:
    """An open transaction on a connection whose rows are dicts."""
    if database.kind == "sqlite":
        file = apsw.Connection(database.url.removeprefix("sqlite:///"))
        file.row_trace = as_dict
        with file:
            yield file
        file.close()
    elif database.kind == "postgres":  # there every form of a row can be read by its numbers
        postgres: Any = await cast("Any", asyncpg).connect(database.url)
        async with postgres.transaction():
            yield postgres
        await postgres.close()
    else:
        arguments = mysql_arguments(database.url) | {"cursor_cls": DictCursor}
        async with cast("Any", asyncmy).connect(**arguments) as connection:
            await connection.begin()
            yield connection
            await connection.commit()


async def test_a_callers_rows_may_be_dicts(database: Database) -> None:
    """An id that is there already is found on such a connection, too."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        await scheduler.schedule("joined", 5, id="j")
        async with rows_as_dicts(database) as connection:
            again = await scheduler.schedule("joined", 5, id="j", connection=connection)
            new = await scheduler.schedule("joined", 6, id="k", connection=connection)
        assert (again.created, new.created) == (False, True)
        assert (await new.get()).input == "6"


async def test_options_may_ask_for_dicts(mysql_database: Database) -> None:
    """They are what a transaction's function gets; zart's own rows are not touched by it."""

    async def look(connection: Any) -> int:
        async with connection.cursor() as cursor:
            await cursor.execute("SELECT 21 AS half")
            return int((await cursor.fetchone())["half"]) * 2

    @zart.durable("doubles")
    async def doubles() -> int:
        return await zart.context().transaction("look", look)

    options = {"cursor_cls": DictCursor}
    async with zart.connect(mysql_database.url, options=options) as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [doubles]):
            assert await (await scheduler.schedule(doubles)).result(timeout="10s") == 42
