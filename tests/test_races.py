"""Races, forced: one transaction is held open while another runs into it, in both orders.

No test here sleeps and hopes. The one that comes second is known to wait because the database says
so; on SQLite it cannot do otherwise, since `BEGIN IMMEDIATE` waits for the one writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import apsw
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
from zart.scheduler.sql.database import Ddl
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.transaction import Transaction, Work
from zart.scheduler.sql.transitions import claim as claiming
from zart.scheduler.sql.transitions import commit as committing
from zart.scheduler.sql.transitions import deliver, lease, schedule
from zart.scheduler.sql.transitions.deliver import Answer
from zart.testing.conformance.rows import all_rows, on_driver, run_sql

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


@pytest.fixture
async def race(database: Database) -> AsyncIterator[Race]:
    async with zart.connect(database.url) as holder, zart.connect(database.url) as other:
        await holder.migrate()
        yield Race(database, holder, other)


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
FENCED = [Receipt.FENCED]
finishes = pytest.mark.parametrize("finish", [FAST, FULL], ids=("plain", "with steps"))


# -- claim against claim --------------------------------------------------------------------------


@pytest.mark.guarantee(8)
async def test_claim_against_claim(race: Race) -> None:
    """What one claim holds, not yet committed, another does not get; nothing is left over."""
    for number in range(6):
        await race.first.schedule([new(f"e{number}")])

    async def held(tx: Transaction) -> list[Any]:
        if "claim_at_once" in race.first.database.statements:
            return await claiming.claim_at_once(tx, "a", NAMES, 4)
        return await claiming.claim(tx, "a", NAMES, 4)

    a, b = await race.in_order(held, lambda e: e.claim("b", NAMES, 4), blocks=False)
    c = await race.first.claim("c", NAMES, 100)
    ids = [task.claim.execution_id for task in (*a, *b, *c)]
    assert len(a) == 4
    assert sorted(ids) == [f"e{number}" for number in range(6)]


@pytest.mark.guarantee(8)
async def test_claim_against_a_claim_that_is_rolled_back(race: Race) -> None:
    """A claim that does not commit leaves its tasks to others."""
    await race.first.schedule([new("e")])
    _, b = await race.in_order(
        lambda tx: claiming.claim(tx, "a", NAMES, 4),
        lambda e: e.claim("b", NAMES, 4),
        blocks=False,
        commits=False,
    )
    c = await race.first.claim("c", NAMES, 100)
    assert [task.claim for task in (*b, *c)] == [Claim("e", 1, "", 1)]


@pytest.mark.guarantee(8, 23)
async def test_claim_against_cancel(race: Race) -> None:
    """Whichever comes first, the execution is cancelled and no claim on it holds."""
    await race.first.schedule([new("e")])
    tasks, answer = await race.in_order(
        lambda tx: claiming.claim(tx, "a", NAMES, 4), lambda e: e.cancel("e")
    )
    assert answer is Answer.DONE
    assert await race.first.commit([Entry(tasks[0].claim, ending=FAST)]) == FENCED
    await race.first.schedule([new("f")])
    _, claimed = await race.in_order(
        lambda tx: deliver.cancel(tx, "f"), lambda e: e.claim("b", NAMES, 4), blocks=False
    )
    assert claimed == []
    assert await race.claim("c") == {}
    assert [await race.status(i) for i in ("e", "f")] == ["cancelled", "cancelled"]


# -- event against park and time-out --------------------------------------------------------------


async def woken_once(race: Race) -> None:
    """The execution is claimed once, with the event in its mailbox."""
    tasks = await race.first.claim("next", NAMES, 100)
    assert [(t.claim.execution_id, [v.payload for v in t.events]) for t in tasks] == [
        ("e", ['"k1"'])
    ]
    assert await race.claim("again") == {}


@pytest.mark.guarantee(16)
async def test_an_event_before_the_park_is_not_lost(race: Race) -> None:
    """The event commits between the run's last look and its park."""
    claim = (await race.begin("e"))["e"]
    assert await race.second.offer([letter("e")]) == [Answer.DONE]
    assert await race.first.commit([waiting_for_event(claim)]) == COMMITTED
    await woken_once(race)


@pytest.mark.guarantee(16)
async def test_an_event_under_way_before_the_park_is_not_lost(race: Race) -> None:
    """The park waits for the event's commit and finds the wake sequence moved."""
    claim = (await race.begin("e"))["e"]
    answers, receipts = await race.in_order(
        offering("e"), lambda e: e.commit([waiting_for_event(claim)])
    )
    assert (answers, receipts) == ([Answer.DONE], COMMITTED)
    await woken_once(race)


@pytest.mark.guarantee(16)
async def test_an_event_behind_the_park_is_not_lost(race: Race) -> None:
    """The event waits for the park's commit and wakes the execution."""
    claim = (await race.begin("e"))["e"]
    receipts, answers = await race.in_order(
        committing_(waiting_for_event(claim)), lambda e: e.offer([letter("e")])
    )
    assert (answers, receipts) == ([Answer.DONE], COMMITTED)
    await woken_once(race)


@pytest.mark.guarantee(16)
async def test_two_events_at_once_are_both_taken_in_order(race: Race) -> None:
    """The one that commits first has the lower place in the mailbox."""
    await race.begin("e")
    await race.in_order(offering("e", "k1"), lambda e: e.offer([letter("e", "k2")]))
    events = sorted((await all_rows(race.holder))["events"])
    assert [(row[1], row[2]) for row in events] == [(1, "k1"), (2, "k2")]


@pytest.mark.guarantee(16)
async def test_a_time_out_before_an_event(race: Race) -> None:
    """The time-out is recorded; the event stays in the mailbox for the next wait."""
    claim = (await race.begin("e"))["e"]
    receipts, answers = await race.in_order(
        committing_(timing_out(claim)), lambda e: e.offer([letter("e")])
    )
    assert (receipts, answers) == (COMMITTED, [Answer.DONE])
    assert await race.steps("e") == {"wait": "timed_out"}
    assert [row[5] for row in (await all_rows(race.holder))["events"]] == [None]


@pytest.mark.guarantee(16)
async def test_an_event_before_a_time_out(race: Race) -> None:
    """The time-out is refused, and nothing of it is recorded."""
    claim = (await race.begin("e"))["e"]
    answers, receipts = await race.in_order(offering("e"), lambda e: e.commit([timing_out(claim)]))
    assert (answers, receipts) == ([Answer.DONE], [Receipt.WOKEN])
    assert await race.steps("e") == {}


@pytest.mark.guarantee(15, 16)
@pytest.mark.parametrize("event_first", [True, False], ids=("event first", "due time first"))
async def test_an_event_against_the_due_time(race: Race, event_first: bool) -> None:
    """A parked execution whose time has come just as an event arrives becomes ready once."""
    claim = (await race.begin("e"))["e"]
    parked = Entry(claim, steps=(open_row(claim, "wait", "event", 1),), ending=Park(0, 1, 1))
    assert await race.first.commit([parked]) == COMMITTED
    if event_first:
        await race.in_order(offering("e"), lambda e: e.ready_due(10), blocks=False)
    else:
        await race.in_order(lambda tx: claiming.ready_due(tx, 10), lambda e: e.offer([letter("e")]))
    await race.first.ready_due(10)
    await woken_once(race)


@pytest.mark.guarantee(12, 16)
@finishes
async def test_an_event_before_the_finish_leaves_nothing(race: Race, finish: Finish) -> None:
    """An event that nobody waited for goes with the execution."""
    claim = (await race.begin("e"))["e"]
    answers, receipts = await race.in_order(
        offering("e"), lambda e: e.commit([Entry(claim, ending=finish)])
    )
    assert (answers, receipts) == ([Answer.DONE], COMMITTED)
    rows = await all_rows(race.holder)
    assert (await race.status("e"), rows["tasks"], rows["events"]) == ("completed", [], [])


@pytest.mark.guarantee(12, 16)
@finishes
async def test_an_event_behind_the_finish_is_refused(race: Race, finish: Finish) -> None:
    """Its sender hears that the execution has ended."""
    claim = (await race.begin("e"))["e"]
    receipts, answers = await race.in_order(
        committing_(Entry(claim, ending=finish)), lambda e: e.offer([letter("e")])
    )
    assert (receipts, answers) == (COMMITTED, [Answer.FINISHED])
    assert (await all_rows(race.holder))["events"] == []


# -- finish against cancel and restart ------------------------------------------------------------


@pytest.mark.guarantee(12, 23)
@finishes
async def test_a_finish_before_a_cancel(race: Race, finish: Finish) -> None:
    """The result stands, and who cancels hears so."""
    claim = (await race.begin("e"))["e"]
    receipts, answer = await race.in_order(
        committing_(Entry(claim, ending=finish)), lambda e: e.cancel("e")
    )
    assert (receipts, answer) == (COMMITTED, Answer.FINISHED)
    execution = await race.holder.get("e")
    assert (execution.status, execution.output) == ("completed", '"done"')


@pytest.mark.guarantee(12, 23)
@finishes
async def test_a_cancel_before_a_finish(race: Race, finish: Finish) -> None:
    """The execution is cancelled; its result changes no row."""
    claim = (await race.begin("e"))["e"]
    entry = Entry(claim, steps=(checkpoint(claim),), ending=finish)
    answer, receipts = await race.in_order(
        lambda tx: deliver.cancel(tx, "e"), lambda e: e.commit([entry])
    )
    assert (answer, receipts) == (Answer.DONE, FENCED)
    execution = await race.holder.get("e")
    assert (execution.status, execution.output) == ("cancelled", None)
    assert await race.steps("e") == {}


@pytest.mark.guarantee(12)
@finishes
async def test_a_restart_before_the_old_runs_finish(race: Race, finish: Finish) -> None:
    """The old run writes nothing; the new one is ready."""
    claim = (await race.begin("e"))["e"]
    entry = Entry(claim, steps=(checkpoint(claim),), ending=finish)
    run, receipts = await race.in_order(
        lambda tx: deliver.restart(tx, "e", 2, 1), lambda e: e.commit([entry])
    )
    assert (run, receipts) == (2, FENCED)
    assert await race.steps("e") == {}
    assert await race.claim("next") == {"e": Claim("e", 2, "", 1)}


@pytest.mark.guarantee(12)
@finishes
async def test_the_old_runs_finish_before_a_restart(race: Race, finish: Finish) -> None:
    """The old run's result is kept in its history, and the new run begins."""
    claim = (await race.begin("e"))["e"]
    receipts, run = await race.in_order(
        committing_(Entry(claim, ending=finish)), lambda e: e.restart("e", 2)
    )
    assert (receipts, run) == (COMMITTED, 2)
    kept = (await all_rows(race.holder))["runs"]
    assert [row[:4] for row in kept] == [("e", 1, "completed", '"done"')]
    assert await race.claim("next") == {"e": Claim("e", 2, "", 1)}


# -- children against their parent ----------------------------------------------------------------


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
    assert [t.claim for t in tasks] == [Claim("p", 1, "", 2)]
    assert {s.name: s.outcome for s in tasks[0].steps} == steps
    assert await race.claim("again") == {}


@pytest.mark.guarantee(18)
@kinds
@outcomes
async def test_the_last_child_before_the_parents_park(race: Race, kind: str, failed: bool) -> None:
    """The park waits for the child's end and makes the parent ready at once."""
    kin = await family(race, kind, 1)
    receipts = await race.in_order(
        committing_(kin.end(0, failed=failed)), lambda e: e.commit([kin.park])
    )
    assert receipts == (COMMITTED, COMMITTED)
    await parent_is_ready_once(race, {"far-0": "failed" if failed else "ok"})


@pytest.mark.guarantee(18)
@kinds
@outcomes
async def test_the_last_child_behind_the_parents_park(race: Race, kind: str, failed: bool) -> None:
    """The child's end waits for the park and wakes the parent."""
    kin = await family(race, kind, 1)
    receipts = await race.in_order(
        committing_(kin.park), lambda e: e.commit([kin.end(0, failed=failed)])
    )
    assert receipts == (COMMITTED, COMMITTED)
    await parent_is_ready_once(race, {"far-0": "failed" if failed else "ok"})


@pytest.mark.guarantee(18)
@kinds
async def test_two_children_that_end_at_once(race: Race, kind: str) -> None:
    """They count down one after the other; only the last one wakes the parked parent."""
    kin = await family(race, kind, 2)
    assert await race.first.commit([kin.park]) == COMMITTED

    async def first_ends(tx: Transaction) -> list[Any]:
        assert await committing.commit(tx, [kin.end(0)]) == COMMITTED
        return await claiming.ready_keys(tx, NAMES, 10)

    ready, receipts = await race.in_order(first_ends, lambda e: e.commit([kin.end(1)]))
    assert (ready, receipts) == ([], COMMITTED)
    await parent_is_ready_once(race, {"far-0": "ok", "far-1": "ok"})


@pytest.mark.guarantee(18)
@kinds
async def test_the_first_failure_wakes_and_the_other_child_does_not_again(
    race: Race, kind: str
) -> None:
    """The parent is ready with the failure; a child that ends behind it leaves it ready once."""
    kin = await family(race, kind, 2)
    assert await race.first.commit([kin.park]) == COMMITTED
    receipts = await race.in_order(
        committing_(kin.end(0, failed=True)), lambda e: e.commit([kin.end(1)])
    )
    assert receipts == (COMMITTED, COMMITTED)
    await parent_is_ready_once(race, {"far-0": "failed", "far-1": "ok"})


@pytest.mark.guarantee(18, 23)
@kinds
async def test_a_child_against_its_parents_cancel(race: Race, kind: str) -> None:
    """A cancelled parent stays cancelled; a distributed step's late end changes no row."""
    kin = await family(race, kind, 1)
    answer, receipts = await race.in_order(
        lambda tx: deliver.cancel(tx, "p"),
        lambda e: e.commit([kin.end(0)]),
        blocks=kind == "step",
    )
    assert (answer, receipts) == (Answer.DONE, FENCED if kind == "step" else COMMITTED)
    assert await race.status("p") == "cancelled"
    assert (await all_rows(race.holder))["tasks"] == []


@pytest.mark.guarantee(18, 23)
@kinds
async def test_a_parents_cancel_against_a_childs_end(race: Race, kind: str) -> None:
    """The child's outcome stands, and the parent is cancelled."""
    kin = await family(race, kind, 1)
    receipts, answer = await race.in_order(committing_(kin.end(0)), lambda e: e.cancel("p"))
    assert (receipts, answer) == (COMMITTED, Answer.DONE)
    assert await race.steps("p") == {"far-0": "ok"}
    assert (await all_rows(race.holder))["tasks"] == []


# -- takeover against the old owner ---------------------------------------------------------------


def taking_over(worker: str = "ghost") -> Work[int]:
    return lambda tx: lease.take_over(tx, worker, lambda *_: True)


@pytest.mark.guarantee(9, 10)
@pytest.mark.parametrize("attempts", [False, True], ids=("plain", "with attempts"))
async def test_a_takeover_before_a_checkpoint(race: Race, attempts: bool) -> None:
    """The old owner's checkpoint waits for the takeover and changes no row."""
    claim = (await race.begin("e"))["e"]
    row = ("e", 1, "step", 1, 1, "{}", 1, None, 1)
    entry = Entry(claim, steps=(checkpoint(claim),), attempts=(row,) if attempts else ())
    amount, receipts = await race.in_order(taking_over(), lambda e: e.commit([entry]))
    assert (amount, receipts) == (1, FENCED)
    rows = await all_rows(race.holder)
    assert (rows["steps"], rows["step_attempts"]) == ([], [])
    assert await race.claim("heir") == {"e": Claim("e", 1, "", 3)}


@pytest.mark.guarantee(9, 10)
async def test_a_checkpoint_before_a_takeover(race: Race) -> None:
    """The takeover waits for the checkpoint, and the heir finds it in the history."""
    claim = (await race.begin("e"))["e"]
    receipts, amount = await race.in_order(
        committing_(Entry(claim, steps=(checkpoint(claim),))),
        lambda e: e.database.run(taking_over()),
    )
    assert (receipts, amount) == (COMMITTED, 1)
    tasks = await race.first.claim("heir", NAMES, 10)
    assert [(t.claim.epoch, t.crashes, [s.name for s in t.steps]) for t in tasks] == [
        (3, 1, ["step"])
    ]
    assert await race.first.commit([Entry(claim, ending=FAST)]) == FENCED


@pytest.mark.guarantee(9, 20)
async def test_a_takeover_before_the_end_of_a_users_transaction(race: Race) -> None:
    """What the old owner wrote to the user's table is rolled back."""
    await run_sql(race.holder, "CREATE TABLE ledger (amount integer)")
    claim = (await race.begin("e"))["e"]

    async def work(connection: Any) -> StepRow:
        await on_driver(connection, "INSERT INTO ledger (amount) VALUES (1)")
        return checkpoint(claim)

    amount, (receipt, _) = await race.in_order(
        taking_over(), lambda e: e.transact(claim, "step", work)
    )
    assert (amount, receipt) == (1, Receipt.FENCED)
    assert await run_sql(race.holder, "SELECT * FROM ledger") == []
    assert await race.steps("e") == {}


@pytest.mark.guarantee(10)
async def test_a_beat_before_a_takeover(race: Race) -> None:
    """A beat that comes while another worker is about to take over keeps the lease."""
    await race.first.database.run(
        lambda tx: lease.register(tx, "ghost", "host", 1, 1, None, -1_000_000)
    )
    await race.begin("e")
    alive, amount = await race.in_order(
        lambda tx: lease.beat(tx, "ghost", 60_000_000, None, relocked=False),
        lambda e: e.database.run(
            lambda tx: lease.take_over(tx, "ghost", lambda expires, now, _: expires < now)
        ),
    )
    assert (alive, amount) == (True, 0)
    assert await race.claim("heir") == {}


@pytest.mark.guarantee(10)
async def test_a_takeover_before_a_beat(race: Race) -> None:
    """The dead worker's beat hears that it has been declared dead."""
    await race.first.database.run(
        lambda tx: lease.register(tx, "ghost", "host", 1, 1, None, -1_000_000)
    )
    await race.begin("e")
    amount, alive = await race.in_order(
        taking_over(),
        lambda e: e.database.run(
            lambda tx: lease.beat(tx, "ghost", 60_000_000, None, relocked=False)
        ),
    )
    assert (amount, alive) == (1, False)


@pytest.mark.guarantee(10)
async def test_two_takeovers_at_once(race: Race) -> None:
    """A crash is counted once, however many workers see it."""
    await race.first.database.run(
        lambda tx: lease.register(tx, "ghost", "host", 1, 1, None, -1_000_000)
    )
    await race.begin("e")
    amounts = await race.in_order(taking_over(), lambda e: e.database.run(taking_over()))
    assert amounts == (1, 0)
    tasks = await race.first.claim("heir", NAMES, 10)
    assert [(t.claim.epoch, t.crashes) for t in tasks] == [(3, 1)]


# -- two schedules of one id ----------------------------------------------------------------------


@pytest.mark.guarantee(22)
@pytest.mark.parametrize("commits", [True, False], ids=("committed", "rolled back"))
async def test_two_schedules_of_one_id(race: Race, commits: bool) -> None:
    """The second waits for the first; if that one rolls back, the second schedules."""
    first, second = await race.in_order(
        lambda tx: schedule.schedule(tx, [new("e")]),
        lambda e: e.schedule([new("a"), new("e")]),
        commits=commits,
    )
    assert (first, second) == ([True], [True, not commits])
    rows = await all_rows(race.holder)
    assert sorted(row[0] for row in rows["executions"]) == ["a", "e"]
    assert sorted(row[0] for row in rows["tasks"]) == ["a", "e"]


@pytest.mark.guarantee(22)
async def test_two_schedules_of_one_id_for_different_tasks(race: Race) -> None:
    """The second is an error, and nothing of what it brought is written."""

    async def behind(second: SqlEngine) -> Any:
        with pytest.raises(zart.ExecutionExistsError, match="belongs to an execution of task"):
            await second.schedule([new("a"), new("e", "other")])

    await race.in_order(lambda tx: schedule.schedule(tx, [new("e")]), behind)
    rows = await all_rows(race.holder)
    assert [row[:2] for row in rows["executions"]] == [("e", "work")]


@pytest.mark.guarantee(21, 22)
async def test_a_schedule_within_a_transaction_against_another(race: Race) -> None:
    """The one in the caller's transaction is told to roll back, or finds the other's execution."""

    async def behind(second: SqlEngine) -> Any:
        with contextlib.suppress(zart.ExecutionExistsError):  # roll back and try again
            async with second.database.own_transaction(1) as (_, connection):
                return await second.schedule_within(connection, [new("e")])
        return await second.schedule([new("e")])

    first, second = await race.in_order(lambda tx: schedule.schedule(tx, [new("e")]), behind)
    assert (first, second) == ([True], [False])
    rows = await all_rows(race.holder)
    assert [len(rows[table]) for table in TABLES_OF_ONE] == [1, 1, 0, 0]


# -- two processes that migrate -------------------------------------------------------------------


async def test_two_processes_that_migrate_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits for the first and finds nothing left to do."""
    async with zart.connect(database.url) as holder, zart.connect(database.url) as other:
        race = Race(database, holder, other)
        done, release = threading.Event(), threading.Event()
        exclusively = race.first.database.exclusively

        async def held(job: Callable[[Ddl], Awaitable[A]]) -> A:
            async def stays(ddl: Ddl) -> A:
                result = await job(ddl)
                done.set()
                if database.kind == "sqlite":  # in the writer's thread, which may stand still
                    release.wait(20)
                else:
                    await asyncio.to_thread(release.wait, 20)
                return result

            return await exclusively(stays)

        monkeypatch.setattr(race.first.database, "exclusively", held)
        first = asyncio.create_task(race.first.migrate())
        try:
            assert await asyncio.to_thread(done.wait, 20)
            second = asyncio.create_task(race.second.migrate())
            await race.stands(second, blocks=True)
        finally:
            release.set()
        applied = await asyncio.wait_for(first, 20)
        assert applied
        assert await asyncio.wait_for(second, 20) == []
        assert await other.migrate() == []
        assert (await other.schedule("work", None)).created


# -- a COMMIT whose answer was lost ---------------------------------------------------------------


def lose_answers(database: Any, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> list[str]:
    """Let the connection break right after COMMIT was executed, so often; gives what was lost."""
    lost: list[str] = []
    error = next(
        e for e in (ConnectionResetError("lost"), apsw.BusyError("lost")) if database.transient(e)
    )

    def losing(method: str) -> None:
        once = getattr(database, method)

        async def run(work: Work[Any], attempt: int) -> Any:
            result = await once(work, attempt)
            if len(lost) < times:
                lost.append(method)
                raise error
            return result

        monkeypatch.setattr(database, method, run)

    own_transaction = database.own_transaction

    @asynccontextmanager
    async def own(attempt: int) -> AsyncIterator[Any]:
        async with own_transaction(attempt) as pair:
            yield pair
        if len(lost) < times:
            lost.append("own_transaction")
            raise error

    own_once = "_run_alone_once" in type(database).__dict__
    for method in ("_run_once", "_run_alone_once") if own_once else ("_run_once",):
        losing(method)
    monkeypatch.setattr(database, "own_transaction", own)
    return lost


@pytest.fixture
def lost(race: Race, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """From its call on, the second scheduler loses the answer of one COMMIT."""
    return lambda: lose_answers(race.second.database, monkeypatch)


@pytest.mark.guarantee(22)
async def test_a_lost_answer_schedules_once(race: Race, lost: Any) -> None:
    """With an id of one's own or not, with one or many: the retry finds its work done."""
    losses = lost()
    chosen = new("e")
    drawn = msgspec.structs.replace(new("f"), chosen_id=False)
    assert await race.second.schedule([chosen, drawn]) is not None
    assert len(losses) == 1
    rows = await all_rows(race.holder)
    assert [len(rows[table]) for table in TABLES_OF_ONE] == [2, 2, 0, 0]


@pytest.mark.guarantee(16)
async def test_a_lost_answer_delivers_once(race: Race, lost: Any) -> None:
    """The event lies in the mailbox once, and the execution is woken once."""
    await race.begin("e")
    losses = lost()
    assert await race.second.offer([letter("e", "k1"), letter("e", "k2")]) == [Answer.DONE] * 2
    assert await race.second.offer([letter("e", "k3")]) == [Answer.DONE]
    assert len(losses) == 1
    events = sorted((await all_rows(race.holder))["events"])
    assert [(row[1], row[2]) for row in events] == [(1, "k1"), (2, "k2"), (3, "k3")]


@pytest.mark.guarantee(1)
async def test_a_lost_answer_records_once(race: Race, lost: Any) -> None:
    """Steps, attempts, distributed rows, children and taken events are there once."""
    claim = (await race.begin("e"))["e"]
    await race.first.offer([letter("e")])
    entry = Entry(
        claim,
        steps=(checkpoint(claim), open_row(claim, "far-0", "distributed")),
        attempts=(("e", 1, "step", 1, 1, "{}", 1, None, 1),),
        distributed=(("e", 1, "far-0", "default", "step far", 0, "{}"),),
        children=(new("c", "child", parent=("e", 1, "child")),),
        taken=((1, "wait"),),
    )
    losses = lost()
    assert await race.second.commit([entry]) == COMMITTED
    assert len(losses) == 1
    rows = await all_rows(race.holder)
    counts = {name: len(rows[name]) for name in (*TABLES_OF_ONE, "step_attempts")}
    assert counts == {"executions": 2, "tasks": 3, "steps": 2, "events": 1, "step_attempts": 1}


@pytest.mark.guarantee(1, 12)
@finishes
async def test_a_lost_answer_finishes_once(race: Race, lost: Any, finish: Finish) -> None:
    """The result stands; the retry finds the task gone and changes nothing."""
    claim = (await race.begin("e"))["e"]
    losses = lost()
    await race.second.commit([Entry(claim, steps=(checkpoint(claim),), ending=finish)])
    assert len(losses) == 1
    assert (await race.status("e"), await race.steps("e")) == ("completed", {"step": "ok"})
    assert (await all_rows(race.holder))["tasks"] == []


@pytest.mark.guarantee(18)
@kinds
async def test_a_lost_answer_counts_a_child_down_once(race: Race, lost: Any, kind: str) -> None:
    """The parent goes on waiting for the child that has not ended."""
    kin = await family(race, kind, 2)
    assert await race.first.commit([kin.park]) == COMMITTED
    losses = lost()
    await race.second.commit([kin.end(0)])
    assert len(losses) == 1
    assert await race.claim("early") == {}
    await race.second.commit([kin.end(1)])
    await parent_is_ready_once(race, {"far-0": "ok", "far-1": "ok"})


@pytest.mark.guarantee(16)
async def test_a_lost_answer_parks_once(race: Race, lost: Any) -> None:
    """A park that is committed twice, with an event in between, is ready once."""
    claim = (await race.begin("e"))["e"]
    losses = lost()
    run_once = race.second.database._run_once

    async def with_event(work: Work[A], attempt: int) -> A:
        if attempt == 2:  # between the lost COMMIT and the retry
            await race.first.offer([letter("e")])
        return await run_once(work, attempt)

    race.second.database._run_once = with_event  # type: ignore[method-assign]
    assert await race.second.commit([waiting_for_event(claim)]) == COMMITTED
    assert len(losses) == 1
    await woken_once(race)


@pytest.mark.guarantee(20)
async def test_a_lost_answer_transacts_once(race: Race, lost: Any) -> None:
    """The user's rows and the outcome are there once, and the retry gives what was recorded."""
    await run_sql(race.holder, "CREATE TABLE ledger (amount integer)")
    claim = (await race.begin("e"))["e"]
    calls: list[int] = []

    async def work(connection: Any) -> StepRow:
        calls.append(1)
        await on_driver(connection, "INSERT INTO ledger (amount) VALUES (1)")
        return (*checkpoint(claim)[:6], f'"call {len(calls)}"', None, 1)

    losses = lost()
    receipt, recorded = await race.second.transact(claim, "step", work)
    assert losses == ["own_transaction"]
    assert receipt is Receipt.COMMITTED
    assert recorded is not None
    assert (recorded.value, len(calls)) == ('"call 1"', 1)
    assert await run_sql(race.holder, "SELECT * FROM ledger") == [(1,)]
    assert await race.steps("e") == {"step": "ok"}


@pytest.mark.guarantee(12, 23)
async def test_a_lost_answer_cancels_and_restarts_once(race: Race, lost: Any) -> None:
    """The retry of a cancel is no error; that of a restart begins no third run."""
    await race.begin("e", "f")
    losses = lost()
    assert await race.second.cancel("e") is Answer.DONE
    assert len(losses) == 1
    assert await race.status("e") == "cancelled"
    losses.clear()
    assert await race.second.restart("f", 2) == 2
    assert len(losses) == 1
    assert (await race.holder.get("f")).run == 2


@pytest.mark.guarantee(16)
async def test_a_lost_answer_of_a_time_out_is_not_undone_by_an_event(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time-out that is committed unseen stays one, though an event came before the retry."""

    @zart.durable("work")
    async def work() -> list[str]:
        seen: list[str] = []
        for _ in range(2):  # what the run sees now and what its replay sees
            try:
                seen.append(await zart.wait_for_event("event", timeout="30ms"))
            except zart.EventTimedOutError:
                seen.append("timed out")
                break
        await zart.wait_for_event("go")
        return seen

    async with zart.connect(database.url) as watcher, zart.connect(database.url) as scheduler:
        await watcher.migrate()
        backend = engine(scheduler).database
        run_once = backend._run_once
        transient = next(
            e for e in (ConnectionResetError(), apsw.BusyError()) if backend.transient(e)
        )
        interfered = asyncio.Event()

        async def interfering(job: Work[A], attempt: int) -> A:
            result = await run_once(job, attempt)
            if not interfered.is_set() and "timed_out" in str((await all_rows(watcher))["steps"]):
                interfered.set()
                await watcher.offer_event("e", "event", "too late")
                raise transient
            return result

        monkeypatch.setattr(backend, "_run_once", interfering)
        handle = await scheduler.schedule(work, id="e")
        async with zart.Worker(scheduler, [work], zart.WorkerConfig(poll_interval="20ms")):
            await asyncio.wait_for(interfered.wait(), 10)
            await scheduler.offer_event("e", "go")
            assert await handle.result(timeout="10s") == ["timed out"]
