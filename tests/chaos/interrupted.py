"""Stops this process at one of the writes it makes, at the last place before the driver.

A write is a transaction that changes rows of one execution or of its children, or that enters or
strikes out this process's worker. It is known by labels: what each of its statements does to
which row. A `Point` names one label and the how-manieth time it is written, so that it means
the same write in every run, whatever else went along in its transaction.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from tests.crash.ledger import Ledger
from zart.scheduler.durable import DurableScheduler
from zart.scheduler.sql.database import Database
from zart.scheduler.sql.sqlite import SqliteDatabase
from zart.scheduler.sql.transaction import Row, Work
from zart.testing.conformance.rows import database_of

T = TypeVar("T")

NEVER = "never"
"""Let it live, and note its writes."""
BEFORE = "before"
"""SIGKILL when all of the transaction has been said but COMMIT."""
AFTER = "after"
"""SIGKILL when COMMIT has been answered, before anyone here is told."""
LATE = "late"
"""SIGSTOP before the transaction begins; the transaction arrives after SIGCONT."""

INTERRUPTED = "interrupted"
"""The ledger's mark; its step is the point's mode, its value the transaction's labels as JSON."""


class Point(msgspec.Struct, frozen=True):
    """Where a process is stopped: at the ``number``-th write of ``label``, from 1."""

    label: str
    number: int


class Watch:
    """Sees the writes of one process, and stops it at its point."""

    def __init__(self, execution: str, mode: str, point: Point | None, ledger: Ledger) -> None:
        self.execution = execution
        self.mode = mode
        self.writes: list[list[str]] = []
        self.stood_still = False
        self.beating = threading.Lock()
        """Held while the heartbeat's session, or a reader, has a transaction open.

        Not only writers take the lock of SQLite's one writer: a reader that meets a half-written
        index of the log does, for a moment.
        """
        self.writer: Callable[[Callable[[Any], None]], Awaitable[None]] | None = None
        """Runs something in SQLite's writing thread."""
        self._point = point
        self._ledger = ledger
        self._counts: Counter[str] = Counter()
        self._workers: set[str] = set()

    def labels(self, statement: str, values: dict[str, Any]) -> Iterator[str]:
        """What a statement is about to do to rows of this execution, or to this worker's."""
        if statement == "register_worker":
            self._workers.add(values["id"])
            yield "enter worker"
        elif statement == "delete_worker" and values["id"] in self._workers:
            yield "strike worker out"
        elif statement != "take_over_tasks":
            for row in values.get("entries", ()):
                yield from self._of_row(statement, row)

    def _of_row(self, statement: str, row: Sequence[Any]) -> Iterator[str]:
        if statement == "commit_at_once":
            yield from self._of_plain_row(row)
        elif statement == "record_at_once":
            yield from self._of_row("record_steps", row[1:])
        elif statement == "end_steps":
            yield from self._of_row("record_steps", row)
        elif statement == "finish_at_once":
            yield from self._of_row("finish_executions", (row[1], row[4]))
        elif (suffix := self._suffix(row)) is None:
            return
        elif statement == "schedule_at_once":
            yield f"insert_executions {suffix}"
        elif statement == "offer_at_once":
            yield f"insert_events {suffix} {row[2]}"
        else:
            yield " ".join([statement, suffix, *_what(statement, row)])

    def _of_plain_row(self, row: Sequence[Any]) -> Iterator[str]:
        """A row of the statement that writes steps, taken events, plain parks and plain ends."""
        if (suffix := self._suffix(row[1:])) is None:
            return
        name, kind, outcome, taken, status, pending = (row[n] for n in (6, 7, 9, 13, 14, 21))
        if kind is not None:
            yield f"record_steps {suffix} {name} {outcome}"
        elif taken is not None:
            yield f"take_events {suffix} {name}"
        elif status is not None:
            yield f"finish_executions {suffix} {status}"
        elif pending is not None:
            yield f"park_tasks {suffix}"

    def claimed(self, rows: Sequence[Row]) -> Iterator[str]:
        """What a claim in one statement has taken."""
        for row in rows:
            if (suffix := self._suffix(row)) is not None:
                yield " ".join(["claim_tasks", suffix, *_what("claim_tasks", row)])

    def _suffix(self, row: Sequence[Any]) -> str | None:
        """Which of the family a row belongs to; None when it is another's."""
        execution = str(row[0])
        if execution == self.execution:
            return "self"
        if execution.startswith(f"{self.execution}."):
            return execution.removeprefix(f"{self.execution}.")
        return None

    def said(self, labels: list[str]) -> bool:
        """All of a transaction has been said; True when this is the point."""
        if not labels:
            return False
        self._counts.update(labels)
        self.writes.append(labels)
        point = self._point
        return (
            point is not None
            and point.label in labels
            and self._counts[point.label] == point.number
        )

    async def stop_late(self, labels: list[str]) -> None:
        """Stop where no transaction of this process is open.

        SQLite's one writer would stand still with it, and all others with that; elsewhere it may be
        about to take over another that stands still, and keep that one's row.
        """
        if self.writer is None:
            self._stop_between(labels)
        else:
            await self.writer(lambda _: self._stop_between(labels))

    def _stop_between(self, labels: list[str]) -> None:
        with self.beating:
            self.stop_here(labels)

    def stop_here(self, labels: list[str]) -> None:
        text = msgspec.json.encode(labels).decode()
        self._ledger.write(INTERRUPTED, self.execution, self.mode, text)
        if self.mode == LATE:
            self._point = None
            self.stood_still = True
            # To this thread: one sent to the process may wait for another of its threads, and this
            # one goes on for a moment, into the next transaction.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        else:
            os.kill(os.getpid(), signal.SIGKILL)


def _what(statement: str, row: Sequence[Any]) -> list[str]:
    if statement == "record_steps":
        return [row[2], str(row[5])]
    if statement == "record_attempts":
        return [row[2] or "run", str(row[4])]
    if statement == "finish_executions":
        return [row[1]]
    if statement == "insert_events":
        return [row[3]]
    return [row[2]] if statement in _BY_STEP and row[2] else []


_BY_STEP = {
    *("claim_tasks", "park_tasks", "ready_due_tasks", "delete_tasks", "insert_distributed"),
    *("take_events", "erase_steps", "erase_attempts", "erase_taken_events"),
}
"""Statements whose rows name a step."""


_AT_ONCE = ("commit_at_once", "finish_at_once", "offer_at_once", "schedule_at_once")
"""Statements that change rows and give some back."""


class _LaterError(Exception):
    """Rolls back a transaction that is to arrive late."""


class _Write:
    """One transaction under watch."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.labels: list[str] = []
        self.hit = False

    def watching(self, work: Work[T]) -> Work[T]:
        async def watched(tx: Any) -> T:
            self.labels.clear()
            result = await work(_WatchedTransaction(tx, self))
            self.before()
            return result

        return watched

    def before(self) -> None:
        self.hit = self.watch.said(self.labels)
        if self.hit and self.watch.mode == BEFORE:
            self.watch.stop_here(self.labels)
        if self.hit and self.watch.mode == LATE:
            raise _LaterError

    def after(self) -> None:
        if self.hit and self.watch.mode == AFTER:
            self.watch.stop_here(self.labels)


class _WatchedTransaction:
    def __init__(self, tx: Any, write: _Write) -> None:
        self._tx = tx
        self._write = write

    @property
    def attempt(self) -> int:
        attempt: int = self._tx.attempt
        return attempt

    async def execute(self, statement: str, /, **values: Any) -> int:
        self._write.labels.extend(self._write.watch.labels(statement, values))
        changed: int = await self._tx.execute(statement, **values)
        return changed

    async def fetch(self, statement: str, /, **values: Any) -> list[Row]:
        watch = self._write.watch
        if statement in _AT_ONCE:
            self._write.labels.extend(watch.labels(statement, values))
        rows: list[Row] = await self._tx.fetch(statement, **values)
        if statement == "claim_at_once":
            self._write.labels.extend(watch.claimed(rows))
        return rows


class _WatchedSession:
    def __init__(self, session: Any, watch: Watch) -> None:
        self._session = session
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def run(self, work: Work[T]) -> T:
        return await _run(self._watch, self._run_beating, work)

    async def _run_beating(self, work: Work[T]) -> T:
        with self._watch.beating:  # the session has a thread of its own
            result: T = await self._session.run(work)
            return result


async def _run(watch: Watch, run: Callable[[Work[T]], Awaitable[T]], work: Work[T]) -> T:
    """Run a transaction and stop at it, when it is the one."""
    write = _Write(watch)
    try:
        result = await run(write.watching(work))
    except _LaterError:
        await watch.stop_late(write.labels)
        return await run(work)
    write.after()
    return result


class _Interrupted(Database):
    """Mixed into a dialect: every transaction of it is under watch."""

    watch: Watch

    async def _run_once(self, work: Work[T], attempt: int) -> T:
        plain = super()._run_once
        return await _run(self.watch, lambda watched: plain(watched, attempt), work)

    async def _run_alone_once(self, work: Work[T], attempt: int) -> T:
        inherited = super()._run_alone_once
        if self.watch.mode in (BEFORE, LATE) or _has_no_short_way(self):
            # What a statement does alone, it does in a transaction that can be stopped before
            # its COMMIT: to the database that is the same.
            return await self._run_once(work, attempt)
        return await _run(self.watch, lambda watched: inherited(watched, attempt), work)

    @asynccontextmanager
    async def own_transaction(self, attempt: int) -> AsyncGenerator[tuple[Any, Any], None]:
        write = _Write(self.watch)
        if self.watch.mode == LATE and self.watch.said(["own transaction"]):
            await self.watch.stop_late(["own transaction"])
        async with super().own_transaction(attempt) as (tx, connection):
            yield _WatchedTransaction(tx, write), connection
            if self.watch.mode != LATE:
                write.before()
        write.after()

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Any, None]:
        opening = super().session()
        with self.watch.beating:
            session = await opening.__aenter__()
        try:
            yield _WatchedSession(session, self.watch)
        finally:
            await opening.__aexit__(None, None, None)


def _has_no_short_way(database: Database) -> bool:
    dialect = type(database).__mro__[2]
    return dialect._run_alone_once is Database._run_alone_once  # type: ignore[attr-defined]


def interrupt(scheduler: DurableScheduler, watch: Watch) -> None:
    """Put a scheduler's database under watch."""
    database = database_of(scheduler)
    kind = type(database)
    watched: Any = type(f"Interrupted{kind.__name__}", (_Interrupted, kind), {})
    database.__class__ = watched
    database.watch = watch  # type: ignore[attr-defined]
    if isinstance(database, SqliteDatabase):
        watch.writer = database._writer.call
        read = database._reader.call

        async def read_beating(job: Callable[[Any], T]) -> T:
            def beating(connection: Any) -> T:
                with watch.beating:
                    return job(connection)

            return await read(beating)

        database._reader.call = read_beating  # type: ignore[method-assign]
