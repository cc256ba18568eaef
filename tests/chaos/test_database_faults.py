"""A database that dies, ends every connection, takes no writes, or lets nobody in."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.conftest import Budget
from tests.chaos.load import load
from tests.chaos.outages import FEW, Ended, Killed, NoConnections, Outage, ReadOnly, ride_out
from tests.chaos.own import Administrator, each_server, own_server
from tests.databases import Database
from zart.testing.conformance.harness import guarantee


@pytest.mark.timed
@guarantee(1, 8, 10)
@each_server
async def test_a_database_that_is_gone_for_a_while_costs_no_step_and_no_worker(
    kind: str, tmp_path: Path, budget: Budget
) -> None:
    """Under load, one outage after the other: the rate is back each time, by itself and soon.

    No step is lost or runs again, no worker is started again or taken for dead, and of each
    outage that lasts the log says a little.
    """
    async with own_server(kind, FEW[kind]) as (server, database):
        outages: list[Callable[[], Outage]] = [
            lambda: Killed(server, budget.chance),
            lambda: Ended(database),
            lambda: ReadOnly(database),
            lambda: NoConnections(database),
        ]
        end = time.monotonic() + budget.seconds
        async with load(await _as_application(database), tmp_path) as running:
            before = await running.rate()
            while True:
                budget.chance.shuffle(outages)
                for outage in outages:
                    await ride_out(running, outage(), before)
                if not budget.long or time.monotonic() > end:
                    break
            await running.finish()


async def _as_application(database: Database) -> str:
    """The URL of a user without special rights: an administrator may write to what is read-only."""
    if database.kind == "postgres":
        return database.url
    administrator = Administrator(database)
    await administrator.run("CREATE USER app IDENTIFIED BY 'app'")
    await administrator.run("GRANT ALL ON zart.* TO app")
    return database.url.replace("root@", "app:app@")
