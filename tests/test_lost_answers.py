"""A COMMIT that was executed while its answer was lost: the retry must find its work done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import apsw
import asyncmy
import asyncpg
import msgspec
import pytest

import zart
from tests.databases import Database
from tests.marks import servers_only
from tests.racing import (
    COMMITTED,
    FAST,
    READY,
    TABLES_OF_ONE,
    A,
    Race,
    checkpoint,
    engine,
    family,
    finishes,
    kinds,
    letter,
    new,
    open_row,
    parent_is_ready_once,
    waiting_for_event,
    woken_once,
)
from zart.scheduler.entries import (
    Entry,
    Finish,
    Receipt,
    StepRow,
)
from zart.scheduler.journal import Journal
from zart.scheduler.sql.engine import _SqlLeaseSession
from zart.scheduler.sql.transaction import Transaction, Work
from zart.scheduler.sql.transitions.deliver import Answer
from zart.testing.conformance.rows import all_rows, on_driver, run_sql


@pytest.fixture
async def race(database: Database) -> AsyncIterator[Race]:
    async with zart.connect(database.url) as holder, zart.connect(database.url) as other:
        await holder.migrate()
        yield Race(database, holder, other)


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


@pytest.mark.guarantee(22)
async def test_a_lost_answer_to_calls_of_their_own_schedules_once(race: Race, lost: Any) -> None:
    """One whose id nobody else can know is this caller's own, and said to be new."""
    losses = lost()
    chosen = msgspec.structs.replace(new("e"), claimed=("worker", 7))
    drawn = msgspec.structs.replace(new("f"), chosen_id=False, claimed=("worker", 8))
    assert await race.second.schedule_each([chosen, drawn]) == [False, True]
    assert len(losses) == 1
    owned = {claim.execution_id: claim.epoch for claim in await race.second.owned("worker")}
    assert owned == {"e": 7, "f": 8}
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
    database: Any = race.second.database

    def with_event(once: Callable[[Work[A], int], Awaitable[A]]) -> Any:
        async def running(work: Work[A], attempt: int) -> A:
            if attempt == 2:  # between the lost COMMIT and the retry
                await race.first.offer([letter("e")])
            return await once(work, attempt)

        return running

    method = "_run_alone_once" if "commit_at_once" in database.statements else "_run_once"
    setattr(database, method, with_event(getattr(database, method)))
    assert await race.second.commit([waiting_for_event(claim)]) == READY
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


@pytest.mark.guarantee(20)
async def test_a_users_transaction_that_the_server_gives_up_is_run_again(race: Race) -> None:
    """What the driver says is no failure of the user's function."""
    await _is_run_again(race, lost_line=False)


@servers_only
@pytest.mark.guarantee(20)
async def test_a_users_transaction_whose_connection_is_lost_is_run_again(race: Race) -> None:
    """A file's connection has no line to lose."""
    await _is_run_again(race, lost_line=True)


async def _is_run_again(race: Race, *, lost_line: bool) -> None:
    await run_sql(race.holder, "CREATE TABLE ledger (amount integer)")
    claim = (await race.begin("e"))["e"]
    calls: list[int] = []
    given_up = {
        "sqlite": apsw.BusyError("busy"),
        "postgres": asyncpg.SerializationError("could not serialize access"),
        "mysql": asyncmy.errors.OperationalError(1213, "deadlock"),
    }[race.database.kind]

    async def work(connection: Any) -> StepRow:
        calls.append(1)
        await on_driver(connection, "INSERT INTO ledger (amount) VALUES (1)")
        if len(calls) == 1:
            if not lost_line:
                raise given_up
            if race.database.kind == "postgres":
                await on_driver(connection, "SELECT pg_terminate_backend(pg_backend_pid())")
            else:
                await on_driver(connection, "KILL CONNECTION_ID()")
        return checkpoint(claim)

    assert await race.second.transact(claim, "step", work) == (Receipt.COMMITTED, None)
    assert len(calls) == 2
    assert await run_sql(race.holder, "SELECT * FROM ledger") == [(1,)]


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


async def test_a_lost_answer_enters_a_worker_once(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start whose row is committed unseen goes on with it, under the same name."""
    lost: list[str] = []
    register = _SqlLeaseSession.register

    async def losing(line: _SqlLeaseSession, id: str, *rest: Any) -> None:
        await register(line, id, *rest)
        if not lost:
            lost.append(id)
            raise ConnectionResetError("lost")

    monkeypatch.setattr(_SqlLeaseSession, "register", losing)
    worker = zart.Worker(race.holder, [])
    await asyncio.wait_for(worker.start(), 10)
    assert [row.id for row in await race.holder.workers()] == lost == [worker.id]
    await worker.stop()
    assert await race.holder.workers() == []


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


async def test_an_outage_says_what_the_same_call_once_more_would_do(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience runs out after a COMMIT whose answer was lost: some calls are safe to repeat."""
    await race.begin("e")
    monkeypatch.setattr("zart.scheduler.sql.database.PATIENCE", 0.0)
    database = race.second.database

    async def unanswered(_: Transaction) -> None:
        raise apsw.BusyError if race.database.kind == "sqlite" else ConnectionResetError

    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "may deliver the event a second time": lambda: race.other.offer_event("e", "event"),
        "may begin one more": lambda: race.second.restart("e", 2),
        "with an id of your own the same call is safe": lambda: race.other.schedule("work"),
        "not known: the same call is safe to repeat": lambda: race.other.cancel("e"),
        "Nothing was to be written": lambda: database.read(unanswered, patience=0.0),
    }
    for told, call in calls.items():
        with monkeypatch.context() as patch:
            lose_answers(database, patch)
            with pytest.raises(zart.DatabaseUnavailableError, match=told):
                await call()


async def test_an_end_is_told_though_nothing_can_be_listened_to(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hints are hints: who waits for a result gets it by a look, and the next one listens."""
    claims = await race.begin("e", "f")
    starts: list[str] = []

    class Deaf:
        async def start(self, _received: Callable[[str], None]) -> None:
            starts.append("start")
            raise OSError("no descriptors left")

        def send(self, message: str) -> None: ...

        async def close(self) -> None: ...

    monkeypatch.setattr(race.other.wakeups, "_hints", Deaf())
    for execution_id in ("e", "f"):
        assert await race.first.commit([Entry(claims[execution_id], ending=FAST)]) == COMMITTED
        assert await race.other.result(execution_id, timeout="5s") == "done"
        assert race.other._results._task is not None
        await race.other._results._task
    assert len(starts) == 2


async def test_an_outage_fails_a_batch_at_once() -> None:
    """A batch is split for one bad item; a database that does not answer is no item's fault."""
    sizes: list[int] = []

    async def unreachable(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        raise zart.DatabaseUnavailableError("no answer")

    journal: Journal[int, int] = Journal(unreachable)
    answers = await asyncio.gather(*map(journal.submit, range(5)), return_exceptions=True)
    assert [type(a) for a in answers] == [zart.DatabaseUnavailableError] * 5
    assert sizes == [5]
