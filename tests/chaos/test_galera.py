"""MariaDB Galera: three nodes, all written to; what two of them think at once, and lost ones."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncmy
import pytest
from asyncmy import errors

from tests.chaos.conftest import Budget
from tests.chaos.load import Load, commits, load, longest_pause
from tests.chaos.takeovers import lease_tells
from tests.crash.processes import WorkerProcess, until
from tests.databases import mysql_arguments
from tests.figures import figure, took
from tests.racing import NAMES, checkpoint, engine, keys, new
from tests.servers.galera import GaleraCluster, GaleraNode
from zart.scheduler.connect import MySQLScheduler
from zart.scheduler.entries import Entry, Receipt
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.frontier import whole
from zart.scheduler.sql.transaction import Work
from zart.scheduler.sql.transitions import claim as claiming
from zart.scheduler.sql.transitions import commit as committing
from zart.scheduler.sql.transitions import lease as leases
from zart.testing.conformance.harness import guarantee

pytestmark = pytest.mark.mysql

CONFLICT = 1213
"""Galera's word for a transaction that another node's has overtaken."""
TAKES_OVER = 10.0
"""Seconds within which a worker whose node has gone is at work on another."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[GaleraCluster]:
    with GaleraCluster() as made:
        yield made


async def query(node: GaleraNode, sql: str) -> list[tuple[Any, ...]]:
    connecting: Any = asyncmy.connect(**mysql_arguments(node.url))
    async with connecting as connection, connection.cursor() as cursor:
        await cursor.execute(sql)
        return list(await cursor.fetchall() or ())


async def conflicts(node: GaleraNode) -> int:
    """How many of a node's transactions lost against another node's."""
    names = ("wsrep_local_cert_failures", "wsrep_local_bf_aborts")
    return sum([int(await status(node, name)) for name in names])


async def status(node: GaleraNode, name: str) -> str:
    rows = await query(node, f"SHOW GLOBAL STATUS LIKE '{name}'")
    return str(rows[0][1])


# -- two nodes at once ----------------------------------------------------------------------------


class Nodes:
    """A scheduler on each of two nodes, on one database of their own."""

    def __init__(self, cluster: GaleraCluster, first: SqlEngine, second: SqlEngine) -> None:
        self.cluster = cluster
        self.first = first
        self.second = second

    async def both(self, here: Work[Any], there: Work[Any]) -> tuple[Any, Any, BaseException]:
        """Run both on a node each, and commit when both have answered, ``here`` first.

        Gives their answers, and what the second's COMMIT raised.
        """
        answers: list[Any] = []
        with pytest.raises(errors.OperationalError) as raised:
            async with (
                self.second.database.own_transaction(1) as (late, _),
                self.first.database.own_transaction(1) as (early, _),
            ):
                answers += [await here(early), await there(late)]
        return answers[0], answers[1], raised.value


@asynccontextmanager
async def nodes(cluster: GaleraCluster, name: str) -> AsyncGenerator[Nodes, None]:
    await query(cluster.nodes[0], f"CREATE DATABASE {name}")
    async with AsyncExitStack() as stack:
        made: list[SqlEngine] = []
        for node in cluster.nodes[:2]:
            scheduler = await MySQLScheduler.connect(f"{node.url}{name}")
            stack.push_async_callback(scheduler.close)
            made.append(engine(scheduler))
        await made[0].migrate()
        yield Nodes(cluster, made[0], made[1])


async def test_of_two_nodes_that_hand_out_one_task_one_keeps_it(cluster: GaleraCluster) -> None:
    """Both say that the row is theirs; the later COMMIT is refused, and so is no claim at all."""
    async with nodes(cluster, "claims") as two:
        await two.first.schedule([new("e")])
        (here, _), (there, _), refusal = await two.both(
            lambda tx: claiming.claim(tx, "here", whole(NAMES), 1),
            lambda tx: claiming.claim(tx, "there", whole(NAMES), 1),
        )
        assert [keys(t.claim) for t in (*here, *there)] == [("e", 1, "")] * 2
        assert refusal.args[0] == CONFLICT
        assert two.second.database.transient(refusal)
        assert await two.second.owned("here") == {here[0].claim: 0}
        assert await two.second.owned("there") == {}
        assert await two.second.claim("there", NAMES, 1) == []


@pytest.mark.parametrize("first", ["takeover", "write"])
async def test_a_fenced_write_and_a_takeover_on_another_node_do_not_both_commit(
    cluster: GaleraCluster, first: str
) -> None:
    """Each passes its own check; whichever commits later is refused, run again, and sees."""
    async with nodes(cluster, f"fence_{first}") as two:
        await two.first.schedule([new("e")])
        (task,) = await two.first.claim("worker", NAMES, 1)
        entry = Entry(task.claim, steps=(checkpoint(task.claim),))

        async def take_over(tx: Any) -> int:
            return await leases.take_over(tx, "worker", lambda *_: True)

        async def write(tx: Any) -> list[Receipt]:
            return await committing.commit(tx, [entry])

        if first == "takeover":
            taken, receipts, refusal = await two.both(take_over, write)
        else:
            receipts, taken, refusal = await two.both(write, take_over)
        assert (taken, receipts) == (1, [Receipt.COMMITTED])
        assert refusal.args[0] == CONFLICT
        # What the engine does with such an error: the whole transaction once more.
        if first == "takeover":
            assert await two.second.commit([entry]) == [Receipt.FENCED]
        else:
            assert await two.second.database.run(take_over) == 1
        (again,) = await two.first.claim("other", NAMES, 1)
        recorded = {step.name: step.outcome for step in again.steps}
        assert recorded == ({} if first == "takeover" else {"step": "ok"})
        assert await two.first.commit([entry]) == [Receipt.FENCED]


async def test_one_entry_written_on_two_nodes_is_recorded_once(cluster: GaleraCluster) -> None:
    """A COMMIT without an answer, tried again on another node before it arrived there."""
    async with nodes(cluster, "twice") as two:
        await two.first.schedule([new("e")])
        (task,) = await two.first.claim("worker", NAMES, 1)
        mine = Entry(task.claim, steps=(checkpoint(task.claim),))
        await two.both(
            lambda tx: committing.commit(tx, [mine]), lambda tx: committing.commit(tx, [mine])
        )
        assert await two.second.commit([mine]) == [Receipt.COMMITTED]
        (step,) = await two.first.timeline("e", 1)
        assert (step.name, step.outcome, step.value) == ("step", "ok", '"value"')


async def test_a_node_that_lags_behind_waits_before_it_answers(cluster: GaleraCluster) -> None:
    """A worker that changes its node finds there what it has committed on the other."""
    async with nodes(cluster, "causal") as two:
        await two.second.workers()  # its connection is there before the lock
        connecting: Any = asyncmy.connect(**mysql_arguments(cluster.nodes[1].url))
        async with connecting as blocker, blocker.cursor() as cursor:
            await cursor.execute("FLUSH TABLES WITH READ LOCK")  # nothing is applied any more
            await two.first.schedule([new("e")])
            reading = asyncio.create_task(two.second.get(["e"]))
            done, _ = await asyncio.wait([reading], timeout=0.5)
            assert not done
            await cursor.execute("UNLOCK TABLES")
            assert [found.id for found in await asyncio.wait_for(reading, 20)] == ["e"]


# -- nodes that are lost under load ---------------------------------------------------------------


async def test_workers_on_all_nodes_go_on_when_one_is_cut_off_and_one_is_killed(
    cluster: GaleraCluster, tmp_path: Path, budget: Budget
) -> None:
    """Nothing is lost or done twice; a worker whose node has gone is at work on another soon."""
    await query(cluster.nodes[0], "CREATE DATABASE loaded")
    urls = [cluster.url("loaded", first) for first in range(len(cluster.nodes))]
    async with load(urls[0], tmp_path, worker_urls=urls) as running:
        before = await running.rate()
        deadline = time.monotonic() + budget.seconds
        pauses: list[tuple[float, float]] = []
        while not pauses or (budget.long and time.monotonic() < deadline):
            one = 1 + budget.chance.randrange(2)
            other = 3 - one
            for node in cluster.nodes:
                if not node.is_running:
                    await asyncio.to_thread(node.start)
            members = running.workers.members
            cut = await cut_off(cluster.nodes[one], running, members[one])
            pauses.append((cut, await kill(cluster.nodes[other], running, members[other])))
        story = await running.finish()
    refused = [await conflicts(node) for node in cluster.nodes if node.is_running]
    for cut, killed in pauses:
        took("Galera, node cut off: its worker's pause", cut)
        took("Galera, node killed: its worker's pause", killed)
    figure(
        "Galera, three nodes written to",
        f"{before:.0f} steps/s; {len(running.letters)} executions, {story.runs()} runs of step"
        f" functions; {sum(refused)} COMMITs refused for another node's",
    )
    assert max(map(max, pauses)) < TAKES_OVER
    assert sum(refused) > 0, "the nodes were never in each other's way"


@guarantee(10)
async def test_a_worker_that_is_killed_is_replaced_within_the_lease(
    cluster: GaleraCluster, tmp_path: Path, budget: Budget
) -> None:
    """A node does not know the locks of the others' sessions: so only the lease tells."""
    await query(cluster.nodes[0], "CREATE DATABASE taken_over")
    for node in cluster.nodes:
        if not node.is_running:
            await asyncio.to_thread(node.start)
    what = "takeover after SIGKILL, the lease tells: Galera"
    url = cluster.url("taken_over")
    await lease_tells(what, url, tmp_path, signal.SIGKILL, budget)


async def cut_off(node: GaleraNode, running: Load, worker: WorkerProcess) -> float:
    """Keep a node from its group for a while; gives its worker's longest pause in seconds."""
    at = time.monotonic_ns()
    await query(node, "SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'")

    async def says(name: str, value: str) -> bool:
        return await status(node, name) == value

    await until(lambda: says("wsrep_ready", "OFF"), "the node finds itself alone")
    alone = time.monotonic_ns()
    await until(lambda: goes_on(worker, alone), "its worker works on another node")
    await running.rate()
    await query(node, "SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'")
    await until(lambda: says("wsrep_ready", "ON"), "the node is back in its group", seconds=60)
    return longest_pause(worker, at)


async def kill(node: GaleraNode, running: Load, worker: WorkerProcess) -> float:
    """Kill a node; gives its worker's longest pause in seconds."""
    at = time.monotonic_ns()
    node.kill()
    await until(lambda: goes_on(worker, at), "its worker works on another node")
    await running.rate()
    return longest_pause(worker, at)


def goes_on(worker: WorkerProcess, since: int) -> bool:
    return len(commits(worker, since + 100_000_000)) > 10
