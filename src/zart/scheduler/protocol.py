"""The contract of a backend, written once.

A backend holds the state of executions and changes it in transactions. Everything above it (the
typed API of `DurableScheduler`, the journal, the worker, the execution layer) is the same for
all. ``zart.testing.conformance`` is this contract as tests; a fourth backend runs them unchanged.
"""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from zart.clock import DatabaseClock
from zart.models import Attempt, Claim, Claimed, ClaimedTask, Execution, Recorded, StepRecord
from zart.scheduler.entries import Delivery, Entry, NewExecution, Receipt, StepRow
from zart.scheduler.findings import Finding
from zart.scheduler.sql.database import Hints, Session
from zart.scheduler.sql.transaction import Note
from zart.scheduler.sql.transitions.deliver import Answer
from zart.scheduler.sql.transitions.lease import WorkerRow

__all__ = ["LeaseSession", "Scheduler"]


class LeaseSession(Protocol):
    """A worker's own line to the backend, used by its heartbeat thread alone."""

    async def register(
        self, id: str, host: str, process: int, concurrency: int, lock: int | None, lease: int
    ) -> None:
        """Enter a worker; ``lease`` in microseconds."""
        ...

    async def beat(self, id: str, lease: int, lock: int | None, *, relocked: bool) -> bool:
        """Renew the lease; False when the worker has been declared dead."""
        ...

    async def workers(self) -> list[WorkerRow]:
        """Every worker that is entered, whether it lives or not."""
        ...

    async def orphans(self) -> list[str]:
        """Owners of tasks that are not entered as workers."""
        ...

    async def take_over(
        self,
        worker: str,
        still_dead: Callable[[int, int, int], bool],
        *,
        crashed: bool = True,
    ) -> int:
        """Make a batch of a dead worker's tasks ready; gives how many, 0 when none was left.

        Asks ``still_dead`` under a lock, for each batch; strikes the worker out with the last.
        ``crashed`` says whether that counts as a crash of each task.
        """
        ...

    async def remove(self, id: str) -> None:
        """Strike out a worker that stops in good order."""
        ...

    @property
    def session(self) -> Session:
        """The session beneath it, for locks and the server's start."""
        ...


class Scheduler(Protocol):
    """What survives a crash. Every method is one transaction unless it says otherwise."""

    clock: DatabaseClock
    hints: Hints | None

    @property
    def poll_interval(self) -> float:
        """Seconds between an idle worker's looks, where hints do not come earlier."""
        ...

    async def schedule_each(
        self, executions: Sequence[NewExecution], note: Note | None = None
    ) -> builtins.list[bool | Exception]:
        """Insert executions, each as if it were alone; the error of one is its answer.

        A note may go along, and says then that it did.
        """
        ...

    async def schedule(self, executions: Sequence[NewExecution]) -> builtins.list[bool]:
        """Insert executions; False for those that were there, `ExecutionExistsError` for others."""
        ...

    async def schedule_within(
        self, connection: Any, executions: Sequence[NewExecution]
    ) -> list[bool]:
        """The same inside the caller's open transaction on its own driver connection."""
        ...

    async def claim(self, worker: str, names: Sequence[tuple[str, str]], amount: int) -> Claimed:
        """Make up to ``amount`` ready tasks of these (queue, task) names the worker's own.

        Each gets a new epoch, and comes with its run's history and its unconsumed events.
        """
        ...

    async def ready_due(
        self, amount: int, names: Sequence[tuple[str, str]] = ()
    ) -> tuple[int, float | None, bool]:
        """Make due sleepers ready: how many, and seconds until the next one is due.

        Says too whether a task of these (queue, task) names may be ready to claim: one query is
        all that an idle worker costs.
        """
        ...

    async def commit(self, entries: Sequence[Entry]) -> list[Receipt]:
        """Write a batch of entries, each whole or not at all, only under claims that hold."""
        ...

    async def transact(
        self, claim: Claim, name: str, work: Callable[[Any], Awaitable[StepRow]]
    ) -> tuple[Receipt, Recorded | None]:
        """Run ``work`` in a transaction that its step's row and outcome share."""
        ...

    async def refresh(self, claims: Sequence[Claim]) -> list[ClaimedTask]:
        """The present history of claimed tasks; those whose claim is lost are left out."""
        ...

    async def owned(self, worker: str) -> dict[Claim, int]:
        """What the worker owns as the backend sees it, with each task's wake sequence."""
        ...

    async def give_back(self, worker: str, claims: Sequence[Claim]) -> None:
        """Make claimed tasks ready again, without counting a crash."""
        ...

    async def offer(
        self, deliveries: Sequence[Delivery], note: Note | None = None
    ) -> builtins.list[Answer]:
        """Put events into mailboxes and wake their executions; a note may go along."""
        ...

    async def cancel(self, execution_id: str) -> Answer:
        """End a live execution as cancelled, and move the epoch that its worker writes under.

        ``DONE`` for one that was cancelled before, too; ``FINISHED`` for one that ended otherwise.
        """
        ...

    async def restart(self, execution_id: str, seed: int) -> int | Answer:
        """Begin a new run from the top and give its number; ``NOT_FOUND`` where there is none.

        The old run is kept as history, cancelled if it was alive; its mailbox is emptied.
        """
        ...

    async def get(self, ids: Sequence[str]) -> list[Execution]:
        """The executions of these ids, in any order; those that do not exist are left out."""
        ...

    async def list(
        self, *, task: str, status: str, amount: int, before: tuple[int, str]
    ) -> builtins.list[Execution]:
        """Executions, newest first, after the place (created, in microseconds, and id) ``before``.

        An empty task or status means any.
        """
        ...

    async def timeline(self, execution_id: str, run: int) -> builtins.list[StepRecord]:
        """A run's steps in the order they were begun, with failed attempts; none is no error."""
        ...

    async def attempts(self, execution_id: str, run: int) -> builtins.list[Attempt]:
        """The failed attempts at a run itself, the first first; none is no error."""
        ...

    async def results(self, ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """By id (status, output, failure), the last two as JSON; the status is None while it lives.

        Ids that do not exist are left out.
        """
        ...

    async def workers(self) -> builtins.list[WorkerRow]:
        """Every worker that is entered, whether it lives or not."""
        ...

    async def examine(self) -> builtins.list[Finding]:
        """Look for what is wrong or could be: `DurableScheduler.doctor`."""
        ...

    async def check_tables(self) -> None:
        """Raise `MigrationError` unless the tables are there and this package can work on them."""
        ...

    async def migrate(self) -> builtins.list[str]:
        """Bring the tables up to date; gives the names of the migrations applied."""
        ...

    def lease_session(self) -> AbstractAsyncContextManager[LeaseSession]:
        """A line of its own for a worker's heartbeat, which enters it in another thread's loop."""
        ...

    async def close(self) -> None:
        """Close every connection; whoever uses the backend afterwards gets an error."""
        ...
