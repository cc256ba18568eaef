"""A failover to a standby that was not waited for: what was acknowledged may be gone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import defaultdict
from pathlib import Path

import asyncpg
import pytest

import zart
from tests.crash import ledger
from tests.crash.ledger import COMMITTED, Line
from tests.crash.processes import crew, until
from tests.crash.workflow import baton
from tests.figures import figure
from tests.servers.postgres import PostgresServer
from tests.servers.standby import PostgresStandby
from zart.testing.conformance.harness import guarantee

pytestmark = pytest.mark.postgres

BEHIND = 1.0
"""Seconds of writes that the standby never gets."""
STEPS = ("start", "carry", "finish")


@guarantee(8, 9)
async def test_after_a_failover_that_forgot_commits_each_step_has_one_owner_again(
    tmp_path: Path,
) -> None:
    """What was lost runs again, once; who owned it before writes nothing.

    The application schedules again what it is not sure of, under the same ids: those are all
    that it needs to remember.
    """
    primary, standby = await asyncio.to_thread(pair)
    try:
        place = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        url = f"postgresql://postgres@{place}/postgres"
        async with zart.connect(url) as scheduler, crew(url, tmp_path) as workers:
            await scheduler.migrate()
            workers.start()
            workers.start()
            feeder = Feeder(scheduler, tmp_path)
            feeding = asyncio.create_task(feeder.feed())
            await until(lambda: all(m.lines for m in workers.members), "both are at work")
            await lose(primary)
            feeding.cancel()
            await until(lambda: is_quiet(tmp_path), "what was acknowledged has been written down")
            await asyncio.to_thread(standby.promote)
            promoted = time.monotonic_ns()
            forgotten = await feeder.schedule_again()
            for name in feeder.names:
                await scheduler.wait(name, timeout="60s")
            exits = [await member.stop() for member in workers.members]
            assert exits == [0, 0], workers.logs()
            lines = [line for line in ledger.read(tmp_path) if line.mark == COMMITTED]
            lost = await hold_against(scheduler, lines, promoted)
    finally:
        await asyncio.to_thread(standby.close)
        await asyncio.to_thread(primary.close)
    steps = len({(line.execution, line.step) for line in lines if line.at < promoted})
    figure(
        f"failover to an asynchronous standby, {BEHIND:g} s behind",
        f"{forgotten} of {len(feeder.names)} executions and {lost} of {steps} acknowledged steps"
        " lost; each ran again, once",
    )
    assert forgotten > 0, "nothing was lost: the standby was not behind"
    assert lost > 0, "nothing was lost: the standby was not behind"


class Feeder:
    """Schedules executions until it is stopped, and knows which were acknowledged."""

    def __init__(self, scheduler: zart.DurableScheduler, folder: Path) -> None:
        self._scheduler = scheduler
        self._folder = folder
        self.names: list[str] = []

    async def feed(self) -> None:
        while True:
            name = f"baton-{len(self.names)}"
            (self._folder / f"{name}.held").touch()  # its step does not wait for the test
            await self._scheduler.schedule(baton, id=name)
            self.names.append(name)

    async def schedule_again(self) -> int:
        """Schedule all once more, as an application does; gives how many were unknown."""
        before = {found.id for found in await self._scheduler.list(limit=len(self.names) + 1)}
        for name in self.names:
            await self._scheduler.schedule(baton, id=name)
        return len(set(self.names) - before)


async def lose(primary: PostgresServer) -> None:
    """Let the standby fall behind for a while, and lose the primary with what it alone has."""
    connection = await asyncpg.connect(primary.url)
    try:
        sender = await connection.fetchval("SELECT pid FROM pg_stat_replication")
    finally:
        await connection.close()
    os.kill(sender, signal.SIGSTOP)
    await asyncio.sleep(BEHIND)
    primary.kill()


async def is_quiet(folder: Path) -> bool:
    """Whether the ledger has come to rest: a busy worker may be late with what it was told."""
    before = len(ledger.read(folder))
    await asyncio.sleep(0.3)
    return len(ledger.read(folder)) == before


async def hold_against(scheduler: zart.DurableScheduler, lines: list[Line], promoted: int) -> int:
    """Each step handed out one value since the promotion; gives how many were lost by it."""
    values: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines:
        values[line.execution, line.step].append(line)
    for step, told in values.items():
        since = [line for line in told if line.at > promoted]
        assert len({line.value for line in since}) <= 1, (step, promoted, told)
    lost = 0
    results: dict[str, list[str]] = {}
    for (execution, step), told in values.items():
        if execution not in results:
            results[execution] = await scheduler.result(execution, type=list[str])
        final = results[execution][STEPS.index(step)]
        assert final in {line.value for line in told}, (execution, step)
        lost += any(line.value != final for line in told)
    return lost


def pair() -> tuple[PostgresServer, PostgresStandby]:
    primary = PostgresServer()
    try:
        return primary, PostgresStandby(primary)
    except BaseException:
        primary.close()
        raise
