"""One engine for the three databases: each transition, run in a transaction of its dialect."""

from __future__ import annotations

import builtins
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from zart.clock import DatabaseClock
from zart.errors import ExecutionExistsError
from zart.models import (
    Attempt,
    Claim,
    Claimed,
    ClaimedTask,
    Execution,
    Recorded,
    StepRecord,
    new_stride,
)
from zart.scheduler.entries import Delivery, Entry, NewExecution, Receipt, StepRow
from zart.scheduler.findings import Finding
from zart.scheduler.protocol import LeaseSession
from zart.scheduler.sql import doctor
from zart.scheduler.sql import migrate as migration
from zart.scheduler.sql.database import (
    PATIENCE,
    REPEATABLE,
    Database,
    Session,
    patiently,
)
from zart.scheduler.sql.frontier import Frontier, Place, Stretch
from zart.scheduler.sql.transaction import Note, Transaction, Work
from zart.scheduler.sql.transitions import claim as claiming
from zart.scheduler.sql.transitions import commit as committing
from zart.scheduler.sql.transitions import deliver, read, schedule
from zart.scheduler.sql.transitions import lease as leases

__all__ = ["SqlEngine"]

T = TypeVar("T")


_WITH_ID = "with an id of your own the same call is safe to repeat"
_TWICE = "the same call may deliver the event a second time"
_ANOTHER_RUN = "look at the execution's run first, the same call may begin one more"


class _FencedOutError(Exception):
    """Rolls back a user's transaction whose claim is lost."""


class _RecordedAlreadyError(Exception):
    """Rolls back a user's transaction whose step has an outcome: an earlier COMMIT went through."""


class _RaisedByUserError(Exception):
    """Carries what a user's function let out past those who would take it for the database's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class SqlEngine:
    """The `Scheduler` contract on a SQL database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = DatabaseClock()
        self.hints = database.hints
        self._frontier = Frontier(reads_past_ends=database.reads_past_ends)

    @property
    def poll_interval(self) -> float:
        """Seconds between an idle worker's looks; known for sure from the first connection on."""
        return self.database.poll_interval

    async def schedule(self, executions: Sequence[NewExecution]) -> builtins.list[bool]:
        try:
            return await self.database.run(
                lambda tx: schedule.schedule(tx, executions), repeating=_WITH_ID
            )
        except schedule.Conflict as conflict:
            raise _exists(conflict) from None

    async def schedule_each(
        self, executions: Sequence[NewExecution], note: Note | None = None
    ) -> builtins.list[bool | Exception]:
        database = self.database
        at_once = "schedule_at_once" in database.statements
        inserted: set[str] = set()
        if at_once:
            inserted = await database.run_alone(
                lambda tx: schedule.schedule_at_once(tx, executions, note), repeating=_WITH_ID
            )
            if note is not None and inserted:
                note.carried()
        rest = [e for e in executions if e.id not in inserted]
        if not rest:
            return [True] * len(executions)
        each = await database.run(
            lambda tx: schedule.schedule_each(tx, rest, again=at_once), repeating=_WITH_ID
        )
        found = iter(each)
        answers = [True if e.id in inserted else next(found) for e in executions]
        return [_exists(a) if isinstance(a, schedule.Conflict) else a for a in answers]

    async def schedule_within(
        self, connection: Any, executions: Sequence[NewExecution]
    ) -> list[bool]:
        try:
            return await schedule.schedule(self.database.borrowed(connection), executions)
        except schedule.Conflict as conflict:
            raise _exists(conflict) from None
        except schedule.RaceLostError:
            raise ExecutionExistsError(
                "another transaction has just scheduled one of these ids: roll back and try again"
            ) from None

    async def claim(self, worker: str, names: Sequence[tuple[str, str]], amount: int) -> Claimed:
        stretches, wholly = self._frontier.stretches(names)
        tasks, places, seconds = await self._claim(worker, stretches, amount)
        if wholly and self.database.keeps_dead_entries:
            self._frontier.looked(wholly, places, seconds)
        if tasks:
            self.clock.observe(tasks[-1].now_at)
        return tasks

    async def _claim(
        self, worker: str, stretches: Sequence[Stretch], amount: int
    ) -> tuple[Claimed, builtins.list[Place], float]:
        """What was claimed, where it was found, and how long the database took to find it."""
        database = self.database
        if "claim_at_once" not in database.statements:
            (tasks, places), seconds = await database.run(
                _timed(lambda tx: claiming.claim(tx, worker, stretches, amount))
            )
            return tasks, places, seconds
        stride = new_stride()
        (tasks, places, stale), seconds = await database.run_alone(
            _timed(lambda tx: claiming.claim_at_once(tx, worker, stretches, amount, stride))
        )
        # What comes between the claim and this read is later than the claim's wake sequence, so
        # the run is woken for it once more: never too seldom.
        if stale:
            await database.read(lambda tx: claiming.history(tx, stale))
        return tasks, places, seconds

    async def ready_due(
        self, amount: int, names: Sequence[tuple[str, str]] = ()
    ) -> tuple[int, float | None, bool]:
        stretches, _ = self._frontier.stretches(names)
        now, due, ready = await self.database.read(lambda tx: claiming.look(tx, stretches))
        self.clock.observe(now)
        if due is None:
            return 0, None, ready
        if due > now:
            return 0, (due - now) / 1_000_000, ready
        woken = await self.database.run(lambda tx: claiming.ready_due(tx, amount))
        if woken:
            self._frontier.forget()  # they count as ready since they were due
        return woken, 0.0, ready or woken > 0

    async def commit(self, entries: Sequence[Entry]) -> list[Receipt]:
        if "commit_at_once" not in self.database.statements:
            return await self.database.run(lambda tx: committing.commit(tx, entries))
        done: list[Receipt | None] = [None] * len(entries)
        numbers = [n for n, entry in enumerate(entries) if committing.plain(entry)]
        if numbers:
            some = entries if len(numbers) == len(entries) else [entries[n] for n in numbers]
            written = await self.database.run_alone(lambda tx: committing.commit_at_once(tx, some))
            for number, receipt in zip(numbers, written, strict=True):
                done[number] = receipt
        if rest := [entry for n, entry in enumerate(entries) if done[n] is None]:
            receipts = iter(await self.database.run(lambda tx: committing.commit(tx, rest)))
            return [next(receipts) if each is None else each for each in done]
        return cast("list[Receipt]", done)

    async def transact(
        self, claim: Claim, name: str, work: Callable[[Any], Awaitable[StepRow]]
    ) -> tuple[Receipt, Recorded | None]:
        async def once(_: Work[Any], attempt: int) -> tuple[Receipt, Recorded | None]:
            if attempt > 1 and (recorded := await self._recorded(claim, name)):
                return Receipt.COMMITTED, recorded
            async with self.database.own_transaction(attempt) as (tx, connection):
                try:
                    row = await work(connection)
                except self.database.driver_errors:
                    raise  # maybe a deadlock, or a lost connection: it is run again
                except Exception as error:
                    raise self._by_user(error) from error
                receipts = await committing.commit(tx, [Entry(claim)])
                if receipts[0] is not Receipt.COMMITTED:
                    raise _FencedOutError
                # Under the fence nobody else writes this step. A row count would not tell: what an
                # upsert counts for a row that it leaves alone differs between databases.
                if await tx.fetch("recorded_steps", entries=[row[:3]]):
                    raise _RecordedAlreadyError
                await tx.execute("record_steps", entries=[row])
            return Receipt.COMMITTED, None

        try:
            return await patiently(
                once, self.database.transient, _nothing, PATIENCE, self.database.trouble, REPEATABLE
            )
        except _RaisedByUserError as raised:
            error = raised.error
        except _FencedOutError:
            return Receipt.FENCED, None
        except _RecordedAlreadyError:
            return Receipt.COMMITTED, await self._recorded(claim, name)
        raise error

    def _by_user(self, error: Exception) -> _RaisedByUserError:
        if (words := self.database.words_for(error)) is not None:
            error.args = (words,)
        return _RaisedByUserError(error)

    async def _recorded(self, claim: Claim, name: str) -> Recorded | None:
        for task in await self.refresh([claim]):
            for step in task.steps:
                if step.name == name and step.outcome is not None:
                    return step
        return None

    async def refresh(self, claims: Sequence[Claim]) -> list[ClaimedTask]:
        async def work(tx: Transaction) -> list[ClaimedTask]:
            keys = sorted((c.execution_id, c.run, c.step) for c in claims)
            held = set(claims)
            rows = await tx.fetch("claimed_executions", entries=keys)
            tasks = [t for t in map(claiming.claimed, rows) if t.claim in held]
            await claiming.history(tx, tasks)
            return tasks

        tasks = await self.database.run(work)
        if tasks:
            self.clock.observe(tasks[-1].now_at)
        return tasks

    async def owned(self, worker: str) -> dict[Claim, int]:
        rows = await self.database.read(lambda tx: tx.fetch("worker_tasks", worker=worker))
        return {Claim(*row[:4]): row[4] for row in rows}

    async def give_back(self, worker: str, claims: Sequence[Claim]) -> None:
        await self.database.run(lambda tx: leases.give_back(tx, worker, claims))

    async def offer(
        self, deliveries: Sequence[Delivery], note: Note | None = None
    ) -> builtins.list[deliver.Answer]:
        database = self.database
        targets = {d.execution_id for d in deliveries}
        if "offer_at_once" not in database.statements or len(targets) < len(deliveries):
            return await database.run(lambda tx: deliver.offer(tx, deliveries), repeating=_TWICE)
        delivered = await database.run_alone(
            lambda tx: deliver.offer_at_once(tx, deliveries, note), repeating=_TWICE
        )
        if note is not None and delivered:
            note.carried()
        rest = [d for d in deliveries if d.execution_id not in delivered]
        if not rest:
            return [deliver.Answer.DONE] * len(deliveries)
        others = await database.run(
            lambda tx: deliver.offer(tx, rest, again=True), repeating=_TWICE
        )
        answers = iter(others)
        return [
            deliver.Answer.DONE if d.execution_id in delivered else next(answers)
            for d in deliveries
        ]

    async def cancel(self, execution_id: str) -> deliver.Answer:
        return await self.database.run(lambda tx: deliver.cancel(tx, execution_id))

    async def restart(self, execution_id: str, seed: int) -> int | deliver.Answer:
        found = await self.get([execution_id])
        run = found[0].run if found else None
        return await self.database.run(
            lambda tx: deliver.restart(tx, execution_id, seed, run), repeating=_ANOTHER_RUN
        )

    async def get(self, ids: Sequence[str]) -> list[Execution]:
        return await self.database.read(lambda tx: read.get(tx, ids))

    async def list(
        self, *, task: str, status: str, amount: int, before: tuple[int, str]
    ) -> builtins.list[Execution]:
        return await self.database.read(
            lambda tx: read.executions(tx, task=task, status=status, amount=amount, before=before)
        )

    async def timeline(self, execution_id: str, run: int) -> builtins.list[StepRecord]:
        return await self.database.read(lambda tx: read.timeline(tx, execution_id, run))

    async def attempts(self, execution_id: str, run: int) -> builtins.list[Attempt]:
        return await self.database.read(lambda tx: read.attempts(tx, execution_id, run))

    async def results(self, ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        return await self.database.read(lambda tx: read.results(tx, ids))

    async def workers(self) -> builtins.list[leases.WorkerRow]:
        return await self.database.read(leases.workers)

    async def examine(self) -> builtins.list[Finding]:
        return await doctor.examine(self.database)

    async def check_tables(self) -> None:
        tables = self.database.tables
        rows = await self.database.read(lambda tx: tx.fetch("applied_migrations"))
        known = migration.migrations(self.database.wording.name, tables)
        migration.accept(known, [(row[0], row[1]) for row in rows])

    async def migrate(self) -> builtins.list[str]:
        return [f"{m.number:04d}_{m.name}" for m in await migration.migrate(self.database)]

    @asynccontextmanager
    async def lease_session(self) -> AsyncGenerator[LeaseSession, None]:
        with self.database.telling():
            async with self.database.session() as session:
                yield _SqlLeaseSession(session)

    async def close(self) -> None:
        await self.database.close()


def _timed(work: Work[T]) -> Work[tuple[T, float]]:
    """The same work, with the seconds that it took: not those until a connection was there."""

    async def timed(tx: Transaction) -> tuple[T, float]:
        began = time.monotonic()
        return await work(tx), time.monotonic() - began

    return timed


class _SqlLeaseSession:
    def __init__(self, session: Session) -> None:
        self.session = session

    async def register(
        self, id: str, host: str, process: int, concurrency: int, lock: int | None, lease: int
    ) -> None:
        await self.session.run(
            lambda tx: leases.register(tx, id, host, process, concurrency, lock, lease)
        )

    async def beat(self, id: str, lease: int, lock: int | None, *, relocked: bool) -> bool:
        return await self.session.run(
            lambda tx: leases.beat(tx, id, lease, lock, relocked=relocked)
        )

    async def workers(self) -> list[leases.WorkerRow]:
        return await self.session.run(leases.workers)

    async def orphans(self) -> list[str]:
        return await self.session.run(leases.orphans)

    async def take_over(
        self,
        worker: str,
        still_dead: Callable[[int, int, int], bool],
        *,
        crashed: bool = True,
    ) -> int:
        return await self.session.run(
            lambda tx: leases.take_over(tx, worker, still_dead, crashed=crashed)
        )

    async def remove(self, id: str) -> None:
        await self.session.run(lambda tx: tx.execute("delete_worker", id=id))


async def _nothing(_: Transaction) -> Any:
    return None


def _exists(conflict: schedule.Conflict) -> ExecutionExistsError:
    execution = conflict.execution
    if conflict.task == execution.task:
        return ExecutionExistsError(
            f"execution {execution.id!r} of task {execution.task!r} exists with other input:"
            " use another id, or schedule it with the same input to get the existing one"
        )
    return ExecutionExistsError(
        f"the id {execution.id!r} belongs to an execution of task {conflict.task!r}, so"
        f" {execution.task!r} cannot have it: put the task's name into the id"
    )
