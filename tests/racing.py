"""Two schedulers on one database, and one transaction held open while another runs into it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncmy
import asyncpg
import msgspec
import pytest

import zart
from tests import databases
from tests.databases import Database
from zart.models import Claim
from zart.scheduler.entries import (
    Delivery,
    Entry,
    Finish,
    FinishStep,
    NewExecution,
    Park,
    Receipt,
    StepRow,
)
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.transaction import Work
from zart.scheduler.sql.transitions import commit as committing
from zart.scheduler.sql.transitions import deliver
from zart.scheduler.sql.transitions.deliver import Answer

A = TypeVar("A")
B = TypeVar("B")

NAMES = [("default", "work"), ("default", "step far"), ("default", "child")]
TABLES_OF_ONE = ("executions", "tasks", "steps", "events")


class RolledBackError(Exception):
    """Ends a held transaction without a commit."""


@dataclass
class Race:
    """Two schedulers on one database, each with connections of its own."""

    database: Database
    holder: zart.DurableScheduler
    other: zart.DurableScheduler

    @property
    def first(self) -> SqlEngine:
        return engine(self.holder)

    @property
    def second(self) -> SqlEngine:
        return engine(self.other)

    async def in_order(
        self,
        held: Work[A],
        behind: Callable[[SqlEngine], Awaitable[B]],
        *,
        blocks: bool = True,
        commits: bool = True,
    ) -> tuple[A, B]:
        """Run ``held`` and, before it is committed, ``behind``; give what both gave.

        ``behind`` must wait for ``held``, unless ``blocks`` is False: then it may also pass it by.
        """
        first: list[A] = []
        tasks: list[asyncio.Task[B]] = []
        with contextlib.suppress(RolledBackError):
            async with self.first.database.own_transaction(1) as (tx, _):
                first.append(await held(tx))
                tasks.append(asyncio.create_task(_await(behind(self.second))))
                await self.stands(tasks[0], blocks=blocks)
                if not commits:
                    raise RolledBackError
        return first[0], await asyncio.wait_for(tasks[0], 20)

    async def stands(self, task: asyncio.Task[Any], *, blocks: bool) -> None:
        """Wait until the database says that the task waits for a lock."""
        async with asyncio.timeout(20):
            while not task.done():
                if self.database.kind == "sqlite":
                    await asyncio.sleep(0.01)  # time to come to BEGIN IMMEDIATE; it goes no further
                    break
                if await _waiting_for_locks(self.database):
                    return
                await asyncio.sleep(0.005)
        if task.done() and blocks:
            raise AssertionError(f"it did not wait for the transaction held open: {task.result()}")

    async def begin(self, *ids: str, task: str = "work") -> dict[str, Claim]:
        """Executions that a ghost has claimed."""
        for execution_id in ids:
            await self.first.schedule([new(execution_id, task)])
        return await self.claim("ghost")

    async def claim(self, worker: str) -> dict[str, Claim]:
        """Claim all that is ready: claims by id, a step's by id/step."""
        tasks = await self.first.claim(worker, NAMES, 100)
        return {
            "/".join(filter(None, (t.claim.execution_id, t.claim.step))): t.claim for t in tasks
        }

    async def status(self, execution_id: str) -> str:
        return (await self.holder.get(execution_id)).status

    async def steps(self, execution_id: str) -> dict[str, str | None]:
        """The recorded outcomes by step."""
        return {s.name: s.outcome for s in await self.holder.timeline(execution_id)}


def engine(scheduler: zart.DurableScheduler) -> SqlEngine:
    assert isinstance(scheduler.backend, SqlEngine)
    return scheduler.backend


async def _await(work: Awaitable[B]) -> B:
    return await work


async def _waiting_for_locks(database: Database) -> bool:
    return await (_waits_on_postgres if database.kind == "postgres" else _waits_on_mysql)(database)


async def _waits_on_postgres(database: Database) -> bool:
    connection = await asyncpg.connect(database.url)
    try:
        waiting = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    finally:
        await connection.close()
    return bool(waiting)


async def _waits_on_mysql(database: Database) -> bool:
    """True when one statement stands at two looks: the holder's session is idle meanwhile.

    information_schema.innodb_trx would say LOCK WAIT, but it is a cache that is filled anew only
    when nobody, in any test on this server, has read it for a tenth of a second.
    """

    async def running() -> set[Any]:
        await cursor.execute(
            "SELECT id, info FROM information_schema.processlist"
            " WHERE db = DATABASE() AND command = 'Query' AND id <> CONNECTION_ID()"
        )
        return set(await cursor.fetchall())

    connecting = asyncmy.connect(**databases.mysql_arguments(database.url))
    async with connecting as connection, connection.cursor() as cursor:
        before = await running()
        await asyncio.sleep(0.05)
        return bool(before & await running())


# -- what is written ------------------------------------------------------------------------------


def new(execution_id: str, task: str = "work", **parts: Any) -> NewExecution:
    return NewExecution(execution_id, task, "default", 0, "null", 1, chosen_id=True, **parts)


def checkpoint(claim: Claim, name: str = "step", outcome: str | None = "ok") -> StepRow:
    value = None if outcome is None else '"value"'
    return (claim.execution_id, claim.run, name, "step", 1, outcome, value, None, 1)


def open_row(claim: Claim, name: str, kind: str, due_at: int | None = None) -> StepRow:
    return (claim.execution_id, claim.run, name, kind, 1, None, None, due_at, 1)


def keys(claim: Claim) -> tuple[str, int, str]:
    """What a claim is on; its epoch is anyone's guess."""
    return claim.execution_id, claim.run, claim.step


def committing_(*entries: Entry) -> Work[list[Receipt]]:
    return lambda tx: committing.commit(tx, entries)


def offering(execution_id: str, key: str = "k1") -> Work[list[Answer]]:
    return lambda tx: deliver.offer(tx, [letter(execution_id, key)])


def letter(execution_id: str, key: str = "k1") -> Delivery:
    return Delivery(execution_id, "event", f'"{key}"', key)


def waiting_for_event(claim: Claim) -> Entry:
    return Entry(claim, steps=(open_row(claim, "wait", "event"),), ending=Park(0, 1))


def timing_out(claim: Claim) -> Entry:
    row = (claim.execution_id, claim.run, "wait", "event", 1, "timed_out", None, 1, None)
    return Entry(claim, steps=(row,), unless_woken=0)


FAILURE = '{"type":"Error","message":"failed"}'
FAST = Finish("completed", '"done"', None, 1, 0, 1, None, has_steps=False)
FULL = Finish("completed", '"done"', None, 1, 0, 1, None)
COMMITTED = [Receipt.COMMITTED]
READY = [Receipt.READY]
FENCED = [Receipt.FENCED]
finishes = pytest.mark.parametrize("finish", [FAST, FULL], ids=("plain", "with steps"))


@dataclass
class Family:
    """A claimed parent whose children, one or two, are claimed too."""

    parent: Claim
    children: list[Claim]
    kind: str

    def end(self, number: int, *, failed: bool = False) -> Entry:
        """The end of a child."""
        claim, outcome = self.children[number], "failed" if failed else "ok"
        if self.kind == "step":
            return Entry(claim, ending=FinishStep(outcome, FAILURE if failed else "1", 1))
        link = (self.parent.execution_id, self.parent.run, f"far-{number}")
        end = Finish("failed", None, FAILURE, 1, 0, 1, link) if failed else FULL
        return Entry(claim, ending=msgspec.structs.replace(end, parent=link))

    @property
    def park(self) -> Entry:
        return Entry(self.parent, ending=Park(0, 1, pending=len(self.children)))


async def family(race: Race, kind: str, amount: int) -> Family:
    parent = (await race.begin("p"))["p"]
    names = [f"far-{number}" for number in range(amount)]
    rows = tuple(open_row(parent, n, "distributed" if kind == "step" else "child") for n in names)
    if kind == "step":
        tasks = tuple(("p", 1, name, "default", "step far", 0, "{}") for name in names)
        entry = Entry(parent, steps=rows, distributed=tasks)
    else:
        children = tuple(new(f"c-{n}", "child", parent=("p", 1, n)) for n in names)
        entry = Entry(parent, steps=rows, children=children)
    assert await race.first.commit([entry]) == COMMITTED
    claims = await race.claim("elsewhere")
    keys = [f"p/{n}" if kind == "step" else f"c-{n}" for n in names]
    return Family(parent, [claims[key] for key in keys], kind)


kinds = pytest.mark.parametrize("kind", ["step", "execution"])
outcomes = pytest.mark.parametrize("failed", [False, True], ids=("ok", "failed"))


async def parent_is_ready_once(race: Race, steps: dict[str, str | None]) -> None:
    assert await race.steps("p") == steps
    tasks = await race.first.claim("next", NAMES, 100)
    assert [keys(t.claim) for t in tasks] == [("p", 1, "")]
    assert {s.name: s.outcome for s in tasks[0].steps} == steps
    assert await race.claim("again") == {}


async def woken_once(race: Race) -> None:
    """The execution is claimed once, with the event in its mailbox."""
    tasks = await race.first.claim("next", NAMES, 100)
    assert [(t.claim.execution_id, [v.payload for v in t.events]) for t in tasks] == [
        ("e", ['"k1"'])
    ]
    assert await race.claim("again") == {}
