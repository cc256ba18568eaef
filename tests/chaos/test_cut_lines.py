"""One connection cut, at every statement and in the moments that are hard to hit."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

import zart
from tests.chaos.conftest import Budget
from tests.chaos.own import REMOTE, Administrator
from tests.chaos.proxy import proxied
from tests.crash.processes import until
from tests.databases import Database
from tests.figures import figure
from zart.scheduler.wakeup import READY, Bell
from zart.testing.conformance.harness import guarantee
from zart.testing.conformance.rows import all_rows

SIDE_BY_SIDE = 6


@pytest.fixture(params=REMOTE)
def remote(request: pytest.FixtureRequest) -> Database:
    """An empty database that is reached over a network."""
    made: Database = request.getfixturevalue(f"{request.param}_database")
    return made


@dataclass(frozen=True)
class Cut:
    """Which requests are cut in turn, and whether before they reach the server."""

    name: str
    answered: bool
    counts: bytes = b""


CUTS = (
    Cut("request", answered=False),
    Cut("answer", answered=True),
    Cut("answer-to-commit", answered=True, counts=b"COMMIT"),
)


@dataclass
class Trip:
    """One workflow through most of what is written, and what its steps really did."""

    runs: Counter[str] = field(default_factory=Counter)

    def tasks(self) -> tuple[object, ...]:
        runs = self.runs

        @zart.step
        async def note(name: str) -> str:
            runs[name] += 1
            return f"{name} {runs[name]}"

        @zart.step
        async def far(name: str) -> str:
            runs[name] += 1
            return f"{name} {runs[name]}"

        @zart.step(retry=zart.RetryConfig.fixed(3, "1ms"))
        async def unsteady(name: str) -> str:
            runs[name] += 1
            if runs[name] == 1:
                raise ConnectionError("once")
            return name

        @zart.durable("trip")
        async def trip() -> list[str]:
            seen = [await note.named("first")("first"), await unsteady("unsteady")]
            left, right = (note.named(name)(name) for name in ("left", "right"))
            seen += await asyncio.gather(left, right)
            seen += await zart.wait_all([far.named(n).schedule(n) for n in ("far-1", "far-2")])
            seen.append(await zart.wait_for_event("letter", type=str))
            await zart.sleep("1ms")
            async for number in zart.durable_loop("rounds", range(2)):
                seen.append(await note.named("round")(f"round {number}"))
            return [*seen, await note.named("last")("last")]

        return trip, far

    ends = (
        *("first 1", "unsteady", "left 1", "right 1", "far-1 1", "far-2 1", "letter"),
        *("round 0 1", "round 1 1", "last 1"),
    )


@guarantee(1, 8, 12, 16, 18, 19)
async def test_a_connection_cut_at_any_request_costs_nothing(
    remote: Database, budget: Budget
) -> None:
    """Each request of a workflow in turn is lost, or its answer: every step runs exactly once.

    The long form goes through all of them, the short one through some.
    """
    async with zart.connect(remote.url) as watcher:
        await watcher.migrate()
        places: list[tuple[Cut, int]] = []
        for cut in CUTS:
            requests = await _travel(remote, watcher, f"{cut.name} none", None, cut)
            places += [(cut, number) for number in range(1, requests + 1)]
        budget.chance.shuffle(places)
        end, done = time.monotonic() + budget.seconds, 0
        while done < len(places) and (time.monotonic() < end or budget.long):
            batch = places[done : done + SIDE_BY_SIDE]
            await asyncio.gather(
                *(_travel(remote, watcher, f"{cut.name} {n}", n, cut) for cut, n in batch)
            )
            done += len(batch)
        rows = await all_rows(watcher)
        assert rows["tasks"] == []
        assert {row[5] for row in rows["executions"]} == {"completed"}
        assert [row[:12] for row in rows["executions"] if row[11]] == []
        assert len(rows["step_attempts"]) == done + len(CUTS)
        figure(f"connection cut at one request: {remote.kind}", f"at {done} of {len(places)}")


async def _travel(
    remote: Database,
    watcher: zart.DurableScheduler,
    name: str,
    number: int | None,
    cut: Cut,
) -> int:
    """One workflow to its end, in a queue of its own; gives how many requests it took."""
    trip = Trip()
    workflow, far = trip.tasks()
    async with proxied(remote.url) as proxy, zart.connect(proxy.url) as scheduler:
        config = zart.WorkerConfig(queues=(name,), poll_interval="20ms")
        async with zart.Worker(scheduler, [workflow, far], config):
            proxy.counts = cut.counts
            begin = proxy.requests
            if number is not None:
                proxy.cut_at(number, answered=cut.answered)
            handle = await scheduler.schedule(workflow, id=name, queue=name)
            await scheduler.offer_event(name, "letter", "letter")
            assert tuple(await watcher.result(name, timeout="30s", type=list[str])) == trip.ends
            requests = proxy.requests - begin
            proxy.spare()
        assert handle.id == name
    assert trip.runs.pop("unsteady") == 2
    assert set(trip.runs.values()) == {1}, trip.runs
    return requests


@pytest.mark.postgres
async def test_a_terminated_connection_whose_end_is_not_yet_seen_is_replaced(
    postgres_database: Database,
) -> None:
    """Between the server's farewell and the end of the stream asyncpg refuses any statement.

    That looked like an error of the caller's, and ended the task that listens for hints.
    """
    async with (
        zart.connect(postgres_database.url) as watcher,
        proxied(postgres_database.url) as proxy,
        zart.connect(proxy.url) as scheduler,
    ):
        await watcher.migrate()
        heard = Bell()
        await scheduler.wakeups.attach(heard, READY)
        await until(lambda: heard.wait(0.01), "the scheduler listens")
        assert await scheduler.list() == []
        proxy.hides_ends = True
        before = proxy.answers
        ended = await Administrator(postgres_database).end_connections()
        await until(lambda: proxy.answers >= before + 2, "both connections are told of their end")
        assert ended >= 2
        assert await scheduler.list() == []
        scheduler.wakeups.ring(READY)  # what is sent finds the other connection dead

        async def hears_again() -> bool:
            watcher.wakeups.ring(READY)
            return await heard.wait(0.1)

        await heard.wait(0)
        await until(hears_again, "hints are heard again", seconds=10)
        proxy.cut()
