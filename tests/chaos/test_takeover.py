"""How long it takes from the end of a worker to the first step on another."""

from __future__ import annotations

import signal
import statistics
from pathlib import Path

from tests.chaos.conftest import Budget
from tests.chaos.takeovers import AT_ONCE, KILLS, MANY, lease_tells, takeovers
from tests.databases import Database
from tests.figures import percentile, took
from zart.testing.conformance.harness import guarantee

WITHIN = 2.0
"""Seconds: the promise. It holds for 99 of 100; in `make test`, on a busy machine, for the half."""
AT_WORST = 4.0
WITHOUT_LOCKS = "prepared_statements,listen,skip_locked,read_committed"


@guarantee(10)
async def test_another_worker_goes_on_within_two_seconds_of_a_kill(
    database: Database, tmp_path: Path, budget: Budget
) -> None:
    """With the default beat and lease: the lock of the dead process's session tells."""
    amount = MANY if budget.long else KILLS
    times = await takeovers(
        database.url, tmp_path, signal.SIGKILL, amount, budget.chance, at_once=min(amount, AT_ONCE)
    )
    for seconds in times:
        took(f"takeover after SIGKILL, the lock tells: {database.kind}", seconds)
    if budget.long:
        assert percentile(times, 0.99) < WITHIN, sorted(times)
    else:
        assert statistics.median(times) < WITHIN, times
        assert max(times) < AT_WORST, times


@guarantee(10)
async def test_another_worker_goes_on_within_the_lease_where_only_that_tells(
    database: Database, tmp_path: Path, budget: Budget
) -> None:
    """A process that stands still keeps its connections and its locks, on every database."""
    what = f"takeover after SIGSTOP, the lease tells: {database.kind}"
    await lease_tells(what, database.url, tmp_path, signal.SIGSTOP, budget)


@guarantee(10)
async def test_another_worker_goes_on_within_the_lease_without_session_locks(
    postgres_database: Database, tmp_path: Path, budget: Budget
) -> None:
    """As behind a pooler, or on what only resembles PostgreSQL."""
    url = f"{postgres_database.url}?zart_capabilities={WITHOUT_LOCKS}"
    what = "takeover after SIGKILL, the lease tells: postgres without locks"
    await lease_tells(what, url, tmp_path, signal.SIGKILL, budget)
