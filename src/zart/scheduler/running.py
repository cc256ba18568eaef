"""The worker's contract with what it runs: claimed task in, the entry that ends it out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from zart.models import Claim, ClaimedTask
from zart.scheduler.config import WorkerConfig
from zart.scheduler.durable import DurableScheduler
from zart.scheduler.entries import Entry, Receipt

__all__ = ["GRACE", "Executor", "Ledger", "RunningTask", "Stop"]

GRACE = 5.0
"""Seconds that a stopped handler has to end before its slot goes to another."""


class Stop(Enum):
    """Why a running task must end now."""

    LOST = "lost"
    """Its claim is gone: cancelled, restarted or taken over. Nothing it writes is accepted."""
    SHUTDOWN = "shutdown"
    """The worker stops; another one will run it again."""


class Ledger(Protocol):
    """Where a running task writes, and what it can ask of its worker."""

    @property
    def scheduler(self) -> DurableScheduler: ...

    @property
    def config(self) -> WorkerConfig: ...

    @property
    def holds(self) -> bool:
        """True while the worker's lease is known to hold."""
        ...

    loop_ends: Callable[[], int]
    """Gives more than 0 when the event loop is being torn down, as `asyncio.run` does when its main
    function has ended: every task is cancelled then, before any of them runs again, and nobody has
    stopped the worker. What handlers do from there on is not of their own accord."""

    async def hold(self) -> None:
        """Return once the worker's lease is known to hold: before that no effect may begin."""
        ...

    def commit(self, entry: Entry) -> asyncio.Future[Receipt]:
        """Write an entry; the future has its receipt after the commit."""
        ...

    def look(self) -> None:
        """Look soon for what has come for the running: a hint of it may have come too early.

        It is passed on to those that wait in place, and one that begins to was none of them then.
        """
        ...

    async def answered(self, claim: Claim) -> None:
        """Return once nothing that was to be written under a claim is under way any more."""
        ...

    def abandon(self, claim: Claim, entry: Entry | None) -> None:
        """Give up on a handler that cannot be stopped: write its end and free its slot."""
        ...


class RunningTask(Protocol):
    """One claimed task at work."""

    @property
    def claim(self) -> Claim: ...

    @property
    def watching(self) -> int | None:
        """The wake sequence it has seen, while it waits in place for a wake; None otherwise."""
        ...

    async def run(self) -> Entry | None:
        """Do the work and give the entry that ends it, or None when its claim is lost."""
        ...

    async def refused(self, entry: Entry, error: Exception) -> Entry | None:
        """What ends it instead of an entry that cannot be written; None when its claim is lost.

        Raises the error where nothing else would end it.
        """
        ...

    def stop(self, why: Stop) -> None:
        """Tell it why it is about to be cancelled."""
        ...

    def wake(self, fresh: ClaimedTask) -> None:
        """Hand it what has come since it last looked."""
        ...


class Executor(Protocol):
    """Turns claimed tasks into running ones."""

    @property
    def names(self) -> Sequence[str]:
        """The task names it has handlers for."""
        ...

    def start(self, task: ClaimedTask, ledger: Ledger) -> RunningTask: ...
