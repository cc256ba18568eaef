"""A database with a past: millions of rows such as zart makes, made by SQL from real ones.

Each kind of execution is run once by zart through its public API, up to where it stands still: it
sleeps, waits for an event, is ready, or has ended. Its rows in all tables are then copied, under
ids and times of their own, and a copy is compared with another execution that zart has run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import zart
from benchmarks.sql import Line, Row, columns, prefixed

__all__ = ["KINDS", "KNOWN", "analyze", "fill", "stands"]

BATCH = 100_000
TABLES = {"executions": "id", "steps": "execution_id", "tasks": "execution_id"}
"""Where rows of an execution stand, and the column that says whose they are."""
APART = 36 - 12
"""The characters that the ids of copies have in common: a UUID without its last group."""
OWN = {"seed", "epoch"}
"""Columns, beside ids and times, that differ between executions that are alike."""


@zart.step
async def nothing() -> None:
    """A step that does nothing."""


@zart.durable("sleeping")
async def sleeping() -> None:
    await nothing()
    await zart.sleep("30d")


@zart.durable("expecting")
async def expecting() -> None:
    await nothing()
    await zart.wait_for_event("go", timeout="30d")


@zart.durable("finished")
async def finished() -> None:
    await nothing()


@zart.durable("unknown")
async def unknown() -> None:
    """No worker of these benchmarks has it in its registry."""


KNOWN = (sleeping, expecting, finished)
KINDS = {"sleeping": sleeping, "expecting": expecting, "finished": finished, "unknown": unknown}
"""What a database can be filled with."""


async def fill(
    scheduler: zart.DurableScheduler,
    on: Line,
    kind: str,
    amount: int,
    *,
    prefix: str = "zart_",
    told: Callable[[int], None] = lambda _: None,
) -> str:
    """Add so many executions of a kind; ``told`` hears how many there are. Gives a copy's id."""
    original, twin = await _real(scheduler, kind), await _real(scheduler, kind)
    for first in range(0, amount, BATCH):
        for table, key in TABLES.items():
            await _copy(
                on, prefixed(prefix, table), key, original, first, min(BATCH, amount - first)
            )
        told(min(first + BATCH, amount))
    copy = original[:APART] + format(amount // 2, "012x")
    await _compare(on, prefix, copy, twin)
    return copy


async def _real(scheduler: zart.DurableScheduler, kind: str) -> str:
    """An execution that zart itself has brought to where it stands still."""
    handle = await scheduler.schedule(KINDS[kind])
    if kind == "unknown":
        return handle.id
    async with zart.Worker(scheduler, KNOWN, zart.WorkerConfig(concurrency=4)):
        if kind == "finished":
            await handle.result(timeout="30s")
        else:
            await stands(handle, zart.Status.WAITING)
    return handle.id


async def stands(handle: zart.Handle[Any], status: zart.Status) -> None:
    """Wait until an execution has a status."""
    async with asyncio.timeout(30):
        while (await handle.get()).status is not status:  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0.005)


async def _copy(on: Line, table: str, key: str, original: str, first: int, amount: int) -> None:
    into = await columns(on, table)
    values = [_value(on.kind, column, key, first) for column in into]
    # The series as the product of two short ones: servers bound the depth of a recursion.
    await on.fetch(
        f"INSERT INTO {table} ({', '.join(into)})"
        " WITH RECURSIVE thousand(n) AS"
        " (SELECT 0 UNION ALL SELECT n + 1 FROM thousand WHERE n < 999)"
        f" SELECT {', '.join(values)} FROM {table} o, thousand a, thousand b"
        f" WHERE o.{key} = ? AND b.n <= {(amount - 1) // 1000}"
        f" AND b.n * 1000 + a.n < {amount} ORDER BY b.n, a.n",
        original,
    )


def _value(kind: str, column: str, key: str, first: int) -> str:
    """What a copy has in a column: its own id, times of its own, and otherwise the original's."""
    if column == key:
        number = f"({first} + b.n * 1000 + a.n)"
        head = f"substr(o.{key}, 1, {APART})"
        if kind == "mysql":
            return f"concat({head}, lpad(lower(hex{number}), 12, '0'))"
        if kind == "postgresql":
            return f"{head} || lpad(to_hex{number}, 12, '0')"
        return f"{head} || printf('%012x', {number})"
    if column.endswith("_at"):
        # Multiplied here: as integers of 32 bits the third million would not fit.
        return f"o.{column} + {first * 1000} + (b.n * 1000 + a.n) * 1000"
    return f"o.{column}"


async def _compare(on: Line, prefix: str, copy: str, twin: str) -> None:
    """Raise when a copy's rows differ from those of an execution that zart has run itself."""
    for table, key in TABLES.items():
        names = await columns(on, prefixed(prefix, table))
        sql = f"SELECT {', '.join(names)} FROM {prefixed(prefix, table)} WHERE {key} = ?"
        found = [
            sorted(_alike(names, key, row) for row in await on.fetch(sql, each))
            for each in (copy, twin)
        ]
        if found[0] != found[1]:
            raise RuntimeError(f"copied rows of {table} differ from zart's own: {found}")


def _alike(names: Sequence[str], key: str, row: Row) -> list[str]:
    """A row without what is its own: of ids, seeds and times only that they are there."""
    own = {key, *OWN, *(name for name in names if name.endswith("_at"))}
    return [
        f"{name}: {value is not None if name in own else value}"
        for name, value in zip(names, row, strict=True)
    ]


async def analyze(on: Line, prefix: str = "zart_") -> None:
    """Bring the planner's statistics up to date."""
    word = "ANALYZE TABLE" if on.kind == "mysql" else "ANALYZE"
    for table in TABLES:
        await on.fetch(f"{word} {prefixed(prefix, table)}")
