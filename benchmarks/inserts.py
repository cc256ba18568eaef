"""The bare batched insert rate of a database, which is the limit for whoever records steps in it.

``python -m benchmarks.inserts URL CONNECTIONS SECONDS`` prints one line of JSON. Rows are those of
a step, 128 in a transaction, committed one transaction after the other on each connection.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from benchmarks.loops import run
from tests.databases import mysql_arguments

BATCH = 128
TABLE = """
CREATE TABLE bare_steps (
    execution_id varchar(40) NOT NULL, run integer NOT NULL, name varchar(40) NOT NULL,
    kind varchar(20) NOT NULL, position integer NOT NULL, outcome varchar(20), value text,
    due_at bigint, started_at bigint, finished_at bigint,
    PRIMARY KEY (execution_id, run, name)
)"""

Row = tuple[Any, ...]


def batch() -> list[Row]:
    """The rows of one flush: steps of as many executions."""
    at = time.time_ns() // 1000
    return [
        (str(uuid.uuid4()), 1, "nothing", "step", 1, "ok", "null", None, at, at)
        for _ in range(BATCH)
    ]


def prepared(seconds: float) -> list[list[Row]]:
    """More batches than fit the time, made beforehand: their making is no part of the rate."""
    return [batch() for _ in range(int(1200 * seconds) + 10)]


async def on_postgres(url: str, connections: int, seconds: float) -> float:
    import asyncpg  # noqa: PLC0415 only for this database

    types = ("text", "int", "text", "text", "int", "text", "text", "bigint", "bigint", "bigint")
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, 1))
    sql = f"INSERT INTO bare_steps SELECT * FROM unnest({arrays})"
    pool = [await asyncpg.connect(url) for _ in range(connections)]
    await pool[0].execute(TABLE)
    batches = [tuple(zip(*rows, strict=True)) for rows in prepared(seconds * connections)]

    async def insert(connection: Any, until: float) -> int:
        written = 0
        while batches and time.perf_counter() < until:
            await connection.execute(sql, *batches.pop())
            written += BATCH
        return written

    rate = await _rate(insert, pool, seconds)
    for connection in pool:
        await connection.close()
    return rate


async def on_mysql(url: str, connections: int, seconds: float) -> float:
    import asyncmy  # noqa: PLC0415 only for this database

    pool = [await asyncmy.connect(**mysql_arguments(url)) for _ in range(connections)]
    async with pool[0].cursor() as cursor:
        await cursor.execute(TABLE)
    batches = prepared(seconds * connections)
    sql = "INSERT INTO bare_steps VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"

    async def insert(connection: Any, until: float) -> int:
        written = 0
        while batches and time.perf_counter() < until:
            async with connection.cursor() as cursor:
                await cursor.executemany(sql, batches.pop())
            await connection.commit()
            written += BATCH
        return written

    rate = await _rate(insert, pool, seconds)
    for connection in pool:
        await connection.ensure_closed()
    return rate


async def _rate(insert: Callable[..., Any], pool: list[Any], seconds: float) -> float:
    began = time.perf_counter()
    written = await asyncio.gather(*(insert(each, began + seconds) for each in pool))
    return float(sum(written) / (time.perf_counter() - began))


async def on_sqlite(url: str, connections: int, seconds: float) -> float:
    path = url.removeprefix("sqlite:///")
    _open(path).execute(TABLE + " WITHOUT ROWID")
    batches = prepared(seconds)
    written: list[int] = []

    def insert(until: float) -> None:
        connection = _open(path)
        while batches and time.perf_counter() < until:
            rows = batches.pop()
            with connection:
                connection.executemany(
                    "INSERT INTO bare_steps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
                )
            written.append(len(rows))

    began = time.perf_counter()
    threads = [threading.Thread(target=insert, args=(began + seconds,)) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    return sum(written) / (time.perf_counter() - began)


def _open(path: str) -> apsw.Connection:
    connection = apsw.Connection(str(Path(path)))
    connection.set_busy_timeout(10_000)
    connection.transaction_mode = "IMMEDIATE"
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


KINDS = {"sqlite": on_sqlite, "postgresql": on_postgres, "mysql": on_mysql}

if __name__ == "__main__":
    url, connections, seconds = sys.argv[1:4]
    measure = KINDS[url.partition(":")[0]]
    print(json.dumps({"rows_per_second": run(measure(url, int(connections), float(seconds)))}))
