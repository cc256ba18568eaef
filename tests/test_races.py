"""Races, forced: one transaction is held open while another runs into it, in both orders.

No test here sleeps and hopes. The one that comes second is known to wait because the database says
so; on SQLite it cannot do otherwise, since `BEGIN IMMEDIATE` waits for the one writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import zart
from tests.databases import Database
from tests.marks import servers_only
from tests.racing import (
    COMMITTED,
    FAST,
    FENCED,
    NAMES,
    READY,
    TABLES_OF_ONE,
    A,
    Race,
    checkpoint,
    committing_,
    family,
    finishes,
    keys,
    kinds,
    letter,
    new,
    offering,
    open_row,
    outcomes,
    parent_is_ready_once,
    timing_out,
    waiting_for_event,
    woken_once,
)
from zart.models import new_stride
from zart.scheduler.entries import (
    Entry,
    Finish,
    Park,
    Receipt,
    StepRow,
)
from zart.scheduler.sql.database import Ddl
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.frontier import whole
from zart.scheduler.sql.transaction import Transaction, Work
from zart.scheduler.sql.transitions import claim as claiming
from zart.scheduler.sql.transitions import commit as committing
from zart.scheduler.sql.transitions import deliver, lease, schedule
from zart.scheduler.sql.transitions.deliver import Answer
from zart.testing.conformance.harness import eventually
from zart.testing.conformance.rows import all_rows, on_driver, run_sql


@pytest.fixture
async def race(database: Database) -> AsyncIterator[Race]:
    async with zart.connect(database.url) as holder, zart.connect(database.url) as other:
        await holder.migrate()
        yield Race(database, holder, other)


# -- claim against claim --------------------------------------------------------------------------


@pytest.mark.guarantee(8)
async def test_claim_against_claim(race: Race) -> None:
    """What one claim holds, not yet committed, another does not get; nothing is left over."""
    for number in range(6):
        await race.first.schedule([new(f"e{number}")])

    async def held(tx: Transaction) -> list[Any]:
        if "claim_at_once" in race.first.database.statements:
            stride = new_stride()
            return (await claiming.claim_at_once(tx, "a", whole(NAMES), 4, stride))[0]
        return (await claiming.claim(tx, "a", whole(NAMES), 4))[0]

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
        lambda tx: claiming.claim(tx, "a", whole(NAMES), 4),
        lambda e: e.claim("b", NAMES, 4),
        blocks=False,
        commits=False,
    )
    c = await race.first.claim("c", NAMES, 100)
    assert [keys(task.claim) for task in (*b, *c)] == [("e", 1, "")]


@pytest.mark.guarantee(8, 23)
async def test_claim_against_cancel(race: Race) -> None:
    """Whichever comes first, the execution is cancelled and no claim on it holds."""
    await race.first.schedule([new("e")])
    (tasks, _), answer = await race.in_order(
        lambda tx: claiming.claim(tx, "a", whole(NAMES), 4), lambda e: e.cancel("e")
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


@pytest.mark.guarantee(16)
async def test_an_event_before_the_park_is_not_lost(race: Race) -> None:
    """The event commits between the run's last look and its park."""
    claim = (await race.begin("e"))["e"]
    assert await race.second.offer([letter("e")]) == [Answer.DONE]
    assert await race.first.commit([waiting_for_event(claim)]) == READY
    await woken_once(race)


@pytest.mark.guarantee(16)
async def test_an_event_under_way_before_the_park_is_not_lost(race: Race) -> None:
    """The park waits for the event's commit and finds the wake sequence moved."""
    claim = (await race.begin("e"))["e"]
    answers, receipts = await race.in_order(
        offering("e"), lambda e: e.commit([waiting_for_event(claim)])
    )
    assert (answers, receipts) == ([Answer.DONE], READY)
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
    assert keys((await race.claim("next"))["e"]) == ("e", 2, "")


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
    assert keys((await race.claim("next"))["e"]) == ("e", 2, "")


# -- children against their parent ----------------------------------------------------------------


@pytest.mark.guarantee(18)
@kinds
@outcomes
async def test_the_last_child_before_the_parents_park(race: Race, kind: str, failed: bool) -> None:
    """The park waits for the child's end and makes the parent ready at once."""
    kin = await family(race, kind, 1)
    receipts = await race.in_order(
        committing_(kin.end(0, failed=failed)), lambda e: e.commit([kin.park])
    )
    assert receipts == (COMMITTED, READY)
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
        return await tx.fetch("ready_tasks", names=whole(NAMES), amount=10)

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


@pytest.mark.guarantee(18, 19)
@kinds
@pytest.mark.parametrize("ends_first", [True, False], ids=("end first", "drop first"))
async def test_a_childs_end_in_the_flush_that_drops_its_record(
    race: Race, kind: str, ends_first: bool
) -> None:
    """A loop that has finished its iteration drops it for good, in whichever order they come."""
    kin = await family(race, kind, 1)
    mark = open_row(kin.parent, "loop", "loop")
    called_off = ("far-0",) if kind == "step" else ()
    drops = Entry(kin.parent, steps=(mark,), erased=("far-0",), called_off=called_off)
    entries = [kin.end(0), drops] if ends_first else [drops, kin.end(0)]
    assert await race.first.commit(entries) == COMMITTED * 2
    assert await race.steps("p") == {"loop": None}


# -- takeover against the old owner ---------------------------------------------------------------


def taking_over(worker: str = "ghost") -> Work[int]:
    return lambda tx: lease.take_over(tx, worker, lambda *_: True)


def beating(worker: str = "ghost") -> Work[bool]:
    return lambda tx: lease.beat(tx, worker, 60_000_000, None, relocked=False)


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
    heir = (await race.claim("heir"))["e"]
    assert keys(heir) == ("e", 1, "")
    assert heir.epoch > claim.epoch + 1


async def enter(race: Race, worker: str = "ghost") -> None:
    """Enter a worker whose lease runs out at once."""
    await race.first.database.run(lambda tx: lease.register(tx, worker, "host", 1, 1, None, 1))


def passes_locked_rows(race: Race) -> bool:
    """Whether a row that is locked can be passed by; SQLite locks the whole file."""
    return "SKIP LOCKED" in race.first.database.wording.skip_locked


@pytest.mark.guarantee(9, 10)
async def test_a_checkpoint_before_a_takeover(race: Race) -> None:
    """The takeover leaves the task for later, and the heir finds the checkpoint in the history."""
    claim = (await race.begin("e"))["e"]
    receipts, amount = await race.in_order(
        committing_(Entry(claim, steps=(checkpoint(claim),))),
        lambda e: e.database.run(taking_over()),
        blocks=False,
    )
    assert receipts == COMMITTED
    assert amount + await race.second.database.run(taking_over()) == 1
    tasks = await race.first.claim("heir", NAMES, 10)
    assert [(t.crashes, [s.name for s in t.steps]) for t in tasks] == [(1, ["step"])]
    assert tasks[0].claim.epoch > claim.epoch + 1
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


@servers_only
@pytest.mark.guarantee(10, 20)
async def test_a_users_transaction_that_stands_still_is_ended(race: Race) -> None:
    """Its process may be stopped for ever: what it has locked is taken over all the same.

    A file stays locked for as long as a process that stands still keeps it.
    """
    race.first.database.standstill = 1
    claim = (await race.begin("e"))["e"]
    with contextlib.suppress(Exception):  # what it says next, on a connection that is gone
        async with race.first.database.own_transaction(1) as (tx, _):
            assert await committing.commit(tx, [Entry(claim)]) == COMMITTED
            assert await race.second.database.run(taking_over()) == 0
            await eventually(lambda: race.second.database.run(taking_over()), seconds=20)
    heir = (await race.claim("heir"))["e"]
    assert heir.epoch > claim.epoch


@pytest.mark.guarantee(10)
async def test_a_beat_before_a_takeover(race: Race) -> None:
    """A beat that comes while another worker is about to take over keeps the lease."""
    await enter(race)
    await race.begin("e")
    alive, amount = await race.in_order(
        beating(),
        lambda e: e.database.run(
            lambda tx: lease.take_over(tx, "ghost", lambda expires, now, _: expires < now)
        ),
        blocks=False,
    )
    assert (alive, amount) == (True, 0)
    assert await race.claim("heir") == {}


@pytest.mark.guarantee(10)
async def test_a_takeover_before_a_beat(race: Race) -> None:
    """The dead worker's beat hears that it has been declared dead."""
    await enter(race)
    await race.begin("e")
    amount, alive = await race.in_order(
        taking_over(),
        lambda e: e.database.run(beating()),
    )
    assert (amount, alive) == (1, False)


@pytest.mark.guarantee(9, 10)
async def test_a_takeover_passes_by_a_task_that_stays_locked(race: Race) -> None:
    """It takes the others, and the dead worker's name goes with the last of its tasks."""
    await enter(race)
    claims = await race.begin("locked", "free")

    async def bury() -> tuple[int, int, bool]:
        taken, again = [await race.second.database.run(taking_over()) for _ in range(2)]
        return taken, again, await race.second.database.run(beating())

    async with race.first.database.own_transaction(1) as (tx, _):
        assert await committing.commit(tx, [Entry(claims["locked"])]) == COMMITTED
        if passes_locked_rows(race):
            # A beat must not bring back a worker that has lost some of its tasks.
            assert await asyncio.wait_for(bury(), 20) == (1, 0, False)
            assert [w.id for w in await race.second.workers()] == ["ghost"]
    assert sum((await bury())[:2]) == (1 if passes_locked_rows(race) else 2)
    assert await race.second.workers() == []
    assert {t.crashes for t in await race.first.claim("heir", NAMES, 10)} == {1}


@pytest.mark.guarantee(10)
async def test_a_takeover_in_batches_is_not_ended_by_a_beat(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has lost the first of its tasks hears so, before the last is taken."""
    monkeypatch.setattr(lease, "_BATCH", 2)
    await enter(race)
    await race.begin("a", "b", "c")
    database = race.first.database
    assert await database.run(taking_over()) == 2
    assert not await database.run(beating())
    assert [w.id for w in await race.first.workers()] == ["ghost"]
    assert [await database.run(taking_over()) for _ in range(2)] == [1, 0]
    assert await race.first.workers() == []


@pytest.mark.guarantee(10)
async def test_two_takeovers_at_once(race: Race) -> None:
    """A crash is counted once, however many workers see it."""
    await enter(race)
    await race.begin("e")
    amounts = await race.in_order(
        taking_over(), lambda e: e.database.run(taking_over()), blocks=False
    )
    assert amounts == (1, 0)
    tasks = await race.first.claim("heir", NAMES, 10)
    assert [t.crashes for t in tasks] == [1]


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


# -- a child's end against the restart of its parent -----------------------------------------------


async def _adopting(by: SqlEngine) -> Entry:
    """The parent's second run, which starts the first one's child and parks."""
    await by.restart("p", 1)
    (task,) = [t for t in await by.claim("ghost", NAMES, 100) if t.claim.execution_id == "p"]
    claim = task.claim
    child = new("c-far-0", "child", parent=("p", 2, "far-0"))
    rows = (open_row(claim, "far-0", "child"),)
    return Entry(claim, steps=rows, children=(child,), ending=Park(0, 1, pending=1))


async def _restarted(by: SqlEngine) -> list[Receipt]:
    return await by.commit([await _adopting(by)])


async def _second_run_is_told(race: Race, outcome: str) -> None:
    assert await race.steps("p") == {"far-0": outcome}
    tasks = await race.first.claim("next", NAMES, 100)
    assert [keys(t.claim) for t in tasks] == [("p", 2, "")]


@pytest.mark.guarantee(18)
@outcomes
async def test_a_childs_end_before_the_restarted_parent_asks_for_it(
    race: Race, failed: bool
) -> None:
    """Its parent has no task when it ends; a new run that starts it meanwhile is told."""
    children = await family(race, "execution", 1)
    await race.first.cancel("p")

    await race.in_order(committing_(children.end(0, failed=failed)), _restarted)
    await _second_run_is_told(race, "failed" if failed else "ok")


@pytest.mark.guarantee(18)
async def test_a_childs_end_that_has_looked_for_its_parent_is_waited_for(race: Race) -> None:
    """Which run it tells is decided under a lock that the parent's new run asks for, too."""
    children = await family(race, "execution", 1)
    await race.first.cancel("p")

    await race.in_order(lambda tx: tx.fetch("lock_children", entries=[("c-far-0",)]), _restarted)
    assert await race.first.commit([children.end(0)]) == COMMITTED
    assert await race.steps("p") == {"far-0": "ok"}


@pytest.mark.guarantee(18)
@outcomes
async def test_a_childs_end_after_the_restarted_parent_asked_for_it(
    race: Race, failed: bool
) -> None:
    """It was claimed as the first run's child, and its end is told to the second run."""
    children = await family(race, "execution", 1)
    adopts = await _adopting(race.first)
    await race.in_order(committing_(adopts), lambda e: e.commit([children.end(0, failed=failed)]))
    await _second_run_is_told(race, "failed" if failed else "ok")
