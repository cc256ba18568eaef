"""What a worker with nothing to do costs, a second: statements, transactions and processor time.

``python -m benchmarks.idle URL SECONDS`` prints one line of JSON: for one worker with one name,
for one with five queues of five names each, and for ten worker processes; all per worker. The
database's own processor time is that of the processes that serve this database alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import apsw

import zart
from benchmarks.loops import run
from benchmarks.processes import Child, child, cpu_seconds, questions, tell
from benchmarks.sql import Line, line

SETTLE = 2.5
"""Seconds until a worker that has just begun is idle."""
FORMS = {"1 name": (1, 1), "5 queues of 5 names": (1, 5), "10 workers": (10, 1)}
"""Worker processes, and queues as well as names of each."""

executed = 0
"""Statements that this process has run on SQLite."""


def _task(number: int) -> Any:
    @zart.durable(f"idle-{number}")
    async def idle() -> None:
        """Never scheduled."""

    return idle


async def work(url: str, names: int) -> None:
    """The other process: a worker that is never given anything."""
    apsw.connection_hooks.append(_count)
    config = zart.WorkerConfig(queues=tuple(f"queue-{n}" for n in range(names)))
    tasks = [_task(n) for n in range(names)]
    async with zart.connect(url) as scheduler, zart.Worker(scheduler, tasks, config):
        asked = await questions()
        tell("ready")
        while await asked.readline():
            tell(executed)


def _count(connection: apsw.Connection) -> None:
    def ran(_: Any) -> None:
        global executed  # noqa: PLW0603 one counter for all connections
        executed += 1

    connection.trace_v2(apsw.SQLITE_TRACE_STMT, ran)


async def measure(url: str, seconds: float) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    async with zart.connect(url) as scheduler, line(url) as on:
        await scheduler.migrate()
        # What the server does by itself, and what reading it off costs, is no worker's.
        nobody = await _rates(on, [], seconds)
        for label, (workers, names) in FORMS.items():
            async with AsyncExitStack() as stack:
                entered = [
                    await stack.enter_async_context(child("idle", url, "worker", str(names)))
                    for _ in range(workers)
                ]
                for each in entered:
                    await each.hear()
                await asyncio.sleep(SETTLE)
                rates = await _rates(on, entered, seconds)
            found[label] = {
                unit: max(0.0, rate - nobody.get(unit, 0.0)) / workers
                for unit, rate in rates.items()
            }
    return found


async def _rates(on: Line, workers: list[Child], seconds: float) -> dict[str, float]:
    """What a second takes, of each kind, of all together."""
    servers = await _server_processes(on)
    before, begun = await _counts(on, workers, servers), time.perf_counter()
    await asyncio.sleep(seconds)
    after = await _counts(on, workers, servers)
    took = time.perf_counter() - begun
    return {unit: (after[unit] - before[unit]) / took for unit in before}


async def _counts(on: Line, workers: list[Child], servers: list[int]) -> dict[str, float]:
    counts: dict[str, float] = {"worker CPU, ms": sum(cpu_seconds(w.id) for w in workers) * 1000}
    if on.kind == "sqlite":
        counts["statements"] = sum([await each.ask("how many") for each in workers])
        return counts
    counts["server CPU, ms"] = sum(map(cpu_seconds, servers)) * 1000
    if on.kind == "mysql":
        rows = await on.fetch("SHOW GLOBAL STATUS LIKE 'Questions'")
        counts["statements"] = float(rows[0][1])
        return counts
    # The server's counts come from its sessions with a delay of up to a second, however.
    (row,) = await on.fetch(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database"
        " WHERE datname = current_database()"
    )
    counts["transactions"] = float(row[0])
    return counts


async def _server_processes(on: Line) -> list[int]:
    """The server's processes for this database, where they stand on this machine."""
    if on.kind == "mysql":
        (row,) = await on.fetch("SELECT @@pid_file")
        return [int(await asyncio.to_thread(Path(row[0]).read_text))]
    if on.kind == "sqlite":
        return []
    rows = await on.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )
    return [row[0] for row in rows]


if __name__ == "__main__":
    if sys.argv[2] == "worker":
        run(work(sys.argv[1], int(sys.argv[3])))
    else:
        print(json.dumps(run(measure(sys.argv[1], float(sys.argv[2])))))
