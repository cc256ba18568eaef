"""Lines that say nothing any more, and slow ones."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import zart
from tests.chaos.load import load
from tests.chaos.own import REMOTE
from tests.chaos.proxy import proxied
from tests.crash.processes import until
from tests.databases import Database
from tests.figures import figure, took
from zart.scheduler.wakeup import READY, Bell
from zart.testing.conformance.harness import guarantee
from zart.testing.conformance.rows import database_of

ANSWER = 2.0
"""Seconds that a server may take for an answer in these tests; 30 by default."""
LOCK_WAIT = 10.0
"""Seconds that a statement whose client is gone may wait for a lock, on MariaDB."""
LOCKS = 5.0
"""Seconds that the server lets a transaction stand still, with its locks."""
HEARTBEAT = 5.0
"""Seconds that the heartbeat waits for an answer, a third of the lease, by default."""


@pytest.fixture(params=REMOTE)
def remote(request: pytest.FixtureRequest) -> Database:
    """An empty database that is reached over a network."""
    made: Database = request.getfixturevalue(f"{request.param}_database")
    return made


@guarantee(1, 9, 10)
async def test_lines_that_are_half_open_are_given_up(remote: Database, tmp_path: Path) -> None:
    """Every connection goes dumb at once and none is closed: soon new ones do the work.

    The other end acknowledges what it gets and never answers, so that no kernel can tell.
    """
    async with (
        proxied(remote.url) as proxy,
        load(
            remote.url,
            tmp_path,
            worker_urls=[proxy.url] * 2,
            options={"answer_timeout": ANSWER},
        ) as running,
    ):
        before = await running.rate()
        names = {row.id for row in await running.scheduler.workers()}
        cut_at = time.monotonic()
        proxy.forget()
        seconds = await running.back_to(before, since=cut_at, within=ANSWER + LOCKS + LOCK_WAIT)
        took(f"all lines half-open, answers within 2 s: {remote.kind}, rate back", seconds)

        async def beats() -> bool:
            rows = await running.scheduler.workers()
            return all((row.seen - row.beat).total_seconds() < 3 for row in rows)

        await until(beats, "heartbeats come by new lines", seconds=HEARTBEAT + 5)
        assert {row.id for row in await running.scheduler.workers()} == names
        await running.finish()


@guarantee(1, 10)
async def test_a_slow_network_slows_and_breaks_nothing(remote: Database, tmp_path: Path) -> None:
    """With 5 ms each way and 500 KB a second no lease is lost, and no step runs again."""
    async with proxied(remote.url) as proxy:
        proxy.latency, proxy.speed = 0.005, 500_000
        urls = [proxy.url]
        async with load(remote.url, tmp_path, worker_urls=urls, at_once=2) as running:
            rate = await running.rate()
            figure(f"5 ms each way, 500 KB/s: {remote.kind}", f"{rate:.0f} steps/s")
            await running.finish()


@pytest.mark.postgres
async def test_a_listener_whose_line_is_half_open_hears_again(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for messages and sends none: it must ask by itself whether anyone is there."""
    async with (
        zart.connect(postgres_database.url) as sender,
        proxied(postgres_database.url) as proxy,
        zart.connect(proxy.url, answer_timeout="300ms") as scheduler,
    ):
        monkeypatch.setattr(type(database_of(scheduler).hints), "QUIET", 0.2)
        heard = Bell()
        await scheduler.wakeups.attach(heard, READY)

        async def hears() -> bool:
            sender.wakeups.tell(READY)
            return await heard.wait(0.05)

        await until(hears, "the listener hears")
        proxy.forget()
        connections = proxy.connections
        while await heard.wait(0.2):
            pass  # what was under way
        await until(hears, "it hears again", seconds=10)
        assert proxy.connections > connections
