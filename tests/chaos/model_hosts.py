"""The processes of the model, all in this one: schedulers and workers that can be done harm to."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, cast

import apsw
import asyncmy
import asyncpg

import zart
from tests import databases
from tests.chaos.model_ledger import Health, Ledger
from tests.chaos.model_tasks import LIFE, REGISTERED
from zart.models import Claim, ClaimedTask
from zart.scheduler.config import WorkerConfig
from zart.scheduler.protocol import Scheduler
from zart.scheduler.sql.database import Database
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.transaction import Row, Transaction, Work
from zart.testing.conformance.faults import Partition
from zart.testing.conformance.mortal import MortalWorker

__all__ = ["MAX_CRASHES", "Faults", "Host", "cut_connections", "database_of"]

MAX_CRASHES = 5
CONFIG = WorkerConfig(
    concurrency=8,
    shutdown_timeout="1s",
    poll_interval="20ms",
    beat="200ms",
    lease="3s",
    max_crashes=MAX_CRASHES,
)


def database_of(scheduler: zart.DurableScheduler) -> Database:
    assert isinstance(scheduler.backend, SqlEngine)
    return scheduler.backend.database


_operation: ContextVar[str] = ContextVar("operation", default="")
"""What the backend is doing: its method's name."""


class Faults:
    """Breaks transactions of one backend: for each operation the next ones, as they are planned.

    ``0`` breaks the connection before the transaction, a positive number before that statement of
    it, and ``-1`` after its COMMIT, whose answer is lost.
    """

    OF_WORKERS = ("commit", "transact", "claim", "refresh", "give_back", "ready_due")
    OF_CLIENTS = ("schedule", "offer", "cancel", "restart")

    def __init__(self, scheduler: zart.DurableScheduler) -> None:
        backend, database = scheduler.backend, database_of(scheduler)
        self._plans: dict[str, deque[int]] = {}
        errors = (ConnectionResetError("cut by the model"), apsw.BusyError("cut by the model"))
        self._error = next(each for each in errors if database.transient(each))
        for name in (*self.OF_WORKERS, *self.OF_CLIENTS):
            setattr(backend, name, self._told(name, getattr(backend, name)))
        overridden = type(database).__dict__
        for method in ("_run_once", "_run_alone_once", "_read_once"):
            if method in overridden:
                setattr(database, method, self._breaking(getattr(database, method)))
        self._own = database.own_transaction
        database.own_transaction = self._own_transaction  # type: ignore[method-assign]

    @property
    def calm(self) -> bool:
        return not any(self._plans.values())

    def plan(self, operation: str, faults: list[int]) -> None:
        self._plans.setdefault(operation, deque()).extend(faults)

    def clear(self) -> None:
        self._plans.clear()

    def _next(self) -> int | None:
        plan = self._plans.get(_operation.get())
        return plan.popleft() if plan else None

    def _told(self, name: str, method: Any) -> Any:
        async def call(*arguments: Any, **keywords: Any) -> Any:
            token = _operation.set(name)
            try:
                return await method(*arguments, **keywords)
            finally:
                _operation.reset(token)

        return call

    def _breaking(self, once: Any) -> Any:
        async def run(work: Work[Any], attempt: int) -> Any:
            fault = self._next()
            if fault == 0:
                raise self._error
            if fault is None or fault < 0:
                result = await once(work, attempt)
                if fault is not None:
                    raise self._error
                return result

            async def broken(tx: Transaction) -> Any:
                return await work(_Breaking(tx, fault, self._error))

            return await once(broken, attempt)

        return run

    @asynccontextmanager
    async def _own_transaction(self, attempt: int) -> AsyncGenerator[Any, None]:
        fault = self._next()
        if fault == 0:
            raise self._error
        async with self._own(attempt) as (tx, connection):
            if fault is None or fault < 0:
                yield tx, connection
            else:
                yield _Breaking(tx, fault, self._error), connection
        if fault is not None and fault < 0:
            raise self._error


class _Breaking:
    """A transaction whose connection breaks before one of its statements."""

    def __init__(self, tx: Transaction, after: int, error: Exception) -> None:
        self._tx = tx
        self._left = after
        self._error = error

    @property
    def attempt(self) -> int:
        return self._tx.attempt

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            raise self._error

    async def fetch(self, statement: str, /, **values: Any) -> list[Row]:
        self._count()
        return await self._tx.fetch(statement, **values)

    async def execute(self, statement: str, /, **values: Any) -> int:
        self._count()
        return await self._tx.execute(statement, **values)


class ToldWorker(MortalWorker):
    """A worker that tells the ledger of each life that it begins and ends."""

    def __init__(self, scheduler: zart.DurableScheduler, ledger: Ledger) -> None:
        super().__init__(scheduler, REGISTERED, CONFIG)
        self.ledger = ledger
        self.health = Health(ending=self._ending)

    def _start(self, claimed: ClaimedTask) -> None:
        token = LIFE.set(self.ledger.begin_life(claimed, self.health))
        try:
            super()._start(claimed)
        finally:
            LIFE.reset(token)

    def _release(self, claim: Claim) -> None:
        self.ledger.end_life(claim)
        super()._release(claim)


class Grave:
    """Takes over from the dead in a thread, where leases live.

    On SQLite a session's transaction stops the thread that it runs in until the writer is free;
    on the event loop it would wait for a step's transaction that needs the same loop to end.
    """

    def __init__(self, backend: Scheduler) -> None:
        self._backend = backend

    async def take_over(self, worker: str, _still_dead: Any = None) -> int:
        async def bury() -> int:
            async with self._backend.lease_session() as line:
                return await line.take_over(worker, lambda *_: True)

        return await asyncio.to_thread(lambda: asyncio.run(bury()))


class Separation(Partition):
    """A partition for workers that crash on this event loop, and not in a process of their own."""

    @asynccontextmanager
    async def lease_session(self) -> AsyncGenerator[Any, None]:
        if threading.current_thread() is threading.main_thread():
            yield Grave(self._backend)
        else:
            async with super().lease_session() as line:
                yield line


class Host:
    """One process: a scheduler with connections of its own, and at most one worker."""

    def __init__(self, inner: zart.DurableScheduler) -> None:
        self._inner = inner
        self.faults = Faults(inner)
        self.partition = Separation(inner.backend)
        self.scheduler = zart.DurableScheduler(cast("Scheduler", self.partition))
        self.worker: ToldWorker | None = None
        self.frozen = False

    @classmethod
    async def connect(cls, url: str) -> Host:
        return cls(await zart.connect(url))

    async def close(self) -> None:
        await self.scheduler.close()

    async def start(self, ledger: Ledger) -> None:
        self.worker = ToldWorker(self.scheduler, ledger)
        await self.worker.start()

    async def stop(self) -> None:
        """Stop the worker in good order."""
        if worker := self._leaving():
            await worker.stop()

    async def crash(self) -> None:
        """Let the worker die, and be found dead."""
        if worker := self._leaving():
            worker.health.sound = False
            await worker.crash()

    def _leaving(self) -> ToldWorker | None:
        self.thaw()
        worker, self.worker = self.worker, None
        return worker

    async def freeze(self, control: zart.DurableScheduler) -> None:
        """Stop the process, and let others take its executions over meanwhile."""
        if self.worker is None or self.frozen:
            return
        self.worker.health.sound = False
        self.frozen = True
        self.partition.cut()
        await Grave(control.backend).take_over(self.worker.id)

    def thaw(self) -> None:
        """The process goes on; all that it was about to write arrives late."""
        self.frozen = False
        self.partition.heal()

    def unsettle(self) -> None:
        """Something is about to happen after which its claims may be another's."""
        if self.worker is not None:
            self.worker.health.sound = False

    def disturb(self, operation: str, faults: list[int]) -> None:
        self.unsettle()
        self.faults.plan(operation, faults)

    def calm(self) -> None:
        self.faults.clear()
        self.thaw()


async def cut_connections(kind: str, url: str) -> None:
    """Break every other connection to this database, by the server's own means."""
    if kind == "postgres":
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        finally:
            await connection.close()
    elif kind == "mysql":
        connecting = asyncmy.connect(**databases.mysql_arguments(url))
        async with connecting as connection, connection.cursor() as cursor:
            await cursor.execute(
                "SELECT id FROM information_schema.processlist"
                " WHERE db = DATABASE() AND id <> CONNECTION_ID()"
            )
            for (number,) in await cursor.fetchall():
                try:
                    await cursor.execute(f"KILL {number}")
                except asyncmy.errors.OperationalError:
                    await asyncio.sleep(0)  # it has left by itself
