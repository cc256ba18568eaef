"""Taking new executions in: many in one commit, and some of them begun at once in this process.

Where a worker of this process has a handler and a free slot, and nothing older is known to be
ready, an execution is inserted as that worker's own and begins when the commit has returned: no
claim, and no hint to other processes. It is a claim like any other: it has an epoch, its worker's
death gives it to another one, and when the answer to the commit is lost, the worker finds it among
its claims and gives it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from zart.scheduler.entries import NewExecution
from zart.scheduler.journal import Journal
from zart.scheduler.protocol import Scheduler
from zart.scheduler.wakeup import DUE, READY, WakeUps

__all__ = ["Host", "Intake"]


class Host(Protocol):
    """A worker of this process."""

    def reserve(self, new: NewExecution) -> NewExecution | None:
        """Keep a slot for an execution and give it as claimed by this worker; None if it may not.

        `begin` or `release` follows for each that is given.
        """
        ...

    def begin(self, new: NewExecution) -> None:
        """Begin an execution whose insertion as claimed is committed."""
        ...

    def release(self) -> None:
        """Free the slot that was kept for an execution that is not begun here."""
        ...

    def runs(self, execution_id: str) -> bool:
        """True while an execution is at work there: its end will be told of."""
        ...


class Intake:
    """Inserts executions, each as if it had a transaction of its own."""

    def __init__(self, backend: Scheduler, wakeups: WakeUps) -> None:
        self._backend = backend
        self._wakeups = wakeups
        self._journal: Journal[NewExecution, bool] = Journal(self._write)
        self._hosts: list[Host] = []

    def add(self, host: Host) -> None:
        """Let a worker of this process begin what is scheduled here."""
        self._hosts.append(host)

    def remove(self, host: Host) -> None:
        """Offer it nothing any more."""
        if host in self._hosts:
            self._hosts.remove(host)

    def runs_here(self, execution_id: str) -> bool:
        """True while a worker of this process is at work on an execution."""
        for host in self._hosts:  # noqa: SIM110 each wait asks, and `any` takes three times as long
            if host.runs(execution_id):
                return True
        return False

    async def schedule(self, new: NewExecution) -> bool:
        """Insert an execution; False when it was there. Raises `ExecutionExistsError`."""
        return await self._journal.submit(new)

    async def drain(self) -> None:
        """Wait until everything is written."""
        await self._journal.drain()

    async def _write(self, executions: Sequence[NewExecution]) -> Sequence[bool | Exception]:
        batch = list(executions)
        hosts: dict[int, Host] = {}
        for host in self._hosts:
            for number, new in enumerate(batch):
                if number not in hosts and (claimed := host.reserve(new)) is not None:
                    batch[number] = claimed
                    hosts[number] = host
        waiting = [n for n, e in enumerate(batch) if e.starts_at_once and n not in hosts]
        note = self._wakeups.note(READY) if waiting else None
        answers: Sequence[bool | Exception] = ()
        try:
            answers = await self._backend.schedule_each(batch, note)
        finally:
            for number, host in hosts.items():
                if answers and answers[number] is True:
                    host.begin(batch[number])
                else:
                    host.release()
        if any(answers[number] is True for number in waiting):
            self._wakeups.ring(READY, told=note)
        if any(
            answer is True and not e.starts_at_once
            for answer, e in zip(answers, batch, strict=True)
        ):
            self._wakeups.ring(DUE)
        return answers
