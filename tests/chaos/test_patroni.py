"""PostgreSQL with standbys under Patroni: the primary killed, and one cut off, under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos.conftest import Budget
from tests.chaos.load import Load, commits, load, longest_pause
from tests.crash.processes import WorkerProcess, until
from tests.figures import figure, took
from tests.servers.patroni import PatroniCluster

pytestmark = pytest.mark.postgres

GOES_ON = 60.0
"""Seconds within which a new primary is there and the workers have found it."""


@pytest.mark.timeout(1800)
async def test_no_acknowledged_checkpoint_is_lost_with_a_synchronous_standby(
    tmp_path: Path, budget: Budget
) -> None:
    """Killed, frozen, cut off: a standby goes on, and the workers find it by themselves.

    One worker goes through HAProxy, the other has a URL with all the nodes.
    """
    harms = [freeze, cut_off]
    cluster = await asyncio.to_thread(PatroniCluster)
    try:
        urls = [cluster.url, cluster.nodes_url]
        async with load(cluster.url, tmp_path, worker_urls=urls) as running:
            before = await running.rate()
            deadline = time.monotonic() + budget.seconds
            done = 0
            while not done or (budget.long and time.monotonic() < deadline):
                tell("killed", await kill(cluster, running))
                if not budget.long:
                    await retire(running, 1)  # see `freeze`
                    harms = [budget.chance.choice(harms)]
                for harm in harms:
                    tell({freeze: "frozen", cut_off: "cut off"}[harm], await harm(cluster, running))
                done += 1
            story = await running.finish(crashes=cut_off in harms)
    finally:
        await asyncio.to_thread(cluster.close)
    figure(
        "Patroni, synchronous standby",
        f"{before:.0f} steps/s; {len(running.letters)} executions, {story.runs()} runs of step"
        " functions; no acknowledged step lost",
    )


def tell(harm: str, pauses: Sequence[float]) -> None:
    """Note how long each worker stood still: the one behind HAProxy first."""
    for way, pause in zip(("HAProxy", "list of hosts"), pauses, strict=False):
        took(f"Patroni, primary {harm}: pause by {way}", pause)


async def kill(cluster: PatroniCluster, running: Load) -> list[float]:
    """Kill the primary and wait until another has taken its place."""
    for node in cluster.nodes:
        if not node.is_running:
            await asyncio.to_thread(node.start)
    await asyncio.to_thread(cluster.wait_until_safe)
    primary = await asyncio.to_thread(cluster.primary)
    since = time.monotonic_ns()
    primary.kill()
    return await all_go_on(running, since)


async def freeze(cluster: PatroniCluster, running: Load) -> list[float]:
    """Let the primary stand still until another has taken its place, then go on unaware.

    HAProxy cuts the connections to it; without it a worker waits for as long as an answer may
    take, 30 seconds by default.
    """
    await asyncio.to_thread(cluster.wait_until_safe)
    primary = await asyncio.to_thread(cluster.primary)
    since = time.monotonic_ns()
    primary.freeze()
    try:
        pauses = await all_go_on(running, since)
    finally:
        primary.thaw()
    await running.rate()
    return pauses


async def cut_off(cluster: PatroniCluster, running: Load) -> list[float]:
    """Keep the primary from the other nodes until another is promoted, then let it back.

    Its clients still reach it: so there are two primaries for a while, and what the old one has
    not replicated it must not acknowledge. HAProxy leads away from it; a worker with a list of
    hosts may find it again, and stands still until the cut is over.
    """
    await asyncio.to_thread(cluster.wait_until_safe)
    primary = await asyncio.to_thread(cluster.primary)
    since = time.monotonic_ns()
    primary.cut_off()
    try:
        await all_go_on(running, since, running.workers.members[:1])
        await running.rate()
        assert await asyncio.to_thread(cluster.claimants) == 2, "the old primary gave up by itself"
    finally:
        primary.rejoin()
    return await all_go_on(running, since)


async def retire(running: Load, number: int) -> None:
    """Let a worker stop in good order; the others go on."""
    worker = running.workers.members.pop(number)
    running.workers.gone.append(worker)
    assert await worker.stop() == 0, running.workers.logs()


async def all_go_on(running: Load, since: int, some: Sequence[WorkerProcess] = ()) -> list[float]:
    """Wait until every worker commits again; gives each one's longest pause in seconds."""
    workers = some or running.workers.members

    def go_on() -> bool:
        return all(len(commits(worker, since + 1_000_000_000)) > 10 for worker in workers)

    await until(go_on, "the workers go on with another primary", seconds=GOES_ON)
    return [longest_pause(worker, since) for worker in workers]
