"""The world of the model: a database, two hosts, a client, and the way to heal and drain it all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

import zart
from tests.chaos.model import END_QUERIES, BrokenPromiseError, Model, Oracle, Picture, Task
from tests.chaos.model_hosts import Faults, Host, database_of
from tests.chaos.model_ledger import Ledger
from tests.chaos.model_tasks import WRITES
from tests.databases import Database
from zart.duration import seconds
from zart.scheduler.sql.statements import TABLES
from zart.testing import pass_time
from zart.testing.conformance.harness import eventually

__all__ = ["World"]

T = TypeVar("T")

HOSTS = 2
PATIENCE = 60.0
"""Seconds that one operation, or the whole drain, may take."""
STALL = 15.0
"""Seconds without any change after which a drain counts as stuck. A suspect's probation is 5."""


class World:
    """One database for many runs of the machine; what each run leaves behind is swept away."""

    def __init__(self, database: Database, runner: asyncio.Runner, ends_at: float) -> None:
        self.kind = database.kind
        self.url = database.url
        self.model = Model(Ledger())
        self.examples = 0
        self.failed = False
        self._runner = runner
        self._ends_at = ends_at
        self.run(self._connect())

    @property
    def over(self) -> bool:
        """Whether time is up; a failure is repeated and made smaller all the same."""
        return time.monotonic() >= self._ends_at and not self.failed

    def run(self, work: Awaitable[T]) -> T:
        """Let the world turn until this is done."""

        async def within() -> T:
            async with asyncio.timeout(PATIENCE):
                return await work

        return self._runner.run(within())

    async def _connect(self) -> None:
        self._quiet = await zart.connect(self.url)
        await self._quiet.migrate()
        self.oracle = Oracle(self._quiet)
        text = "varchar(200)"
        await self.oracle.ask(
            f"CREATE TABLE {WRITES} (execution {text}, run int, step {text}, value {text})"
        )
        self.client = await zart.connect(self.url)
        self.faults = Faults(self.client)
        self.hosts = [await Host.connect(self.url) for _ in range(HOSTS)]

    async def close(self) -> None:
        for host in self.hosts:
            await host.close()
        await self.client.close()
        await self._quiet.close()

    async def begin(self) -> None:
        """A new run of the machine, in an empty database."""
        self.examples += 1
        names = [name for name in TABLES if name != "migrations"]
        await self.oracle.ask(*(f"DELETE FROM {{{name}}}" for name in names))
        await self.oracle.ask(f"DELETE FROM {WRITES}")
        self.model = Model(Ledger())

    async def sweep(self) -> None:
        """Leave nothing at work."""
        self.heal()
        for host in self.hosts:
            await host.stop()

    def heal(self) -> None:
        self.faults.clear()
        for host in self.hosts:
            host.calm()

    async def look(self) -> None:
        self.model.observe(await self.oracle.look())

    async def pass_time(self, duration: str) -> None:
        # Before it is done, so that nobody finds time passed of which the ledger does not know.
        self.model.ledger.shift(seconds(duration))
        await pass_time(self._quiet, duration)

    async def freeze(self, host: Host) -> None:
        self.model.deaths += 1
        await host.freeze(self._quiet)

    # -- everything drains --------------------------------------------------------------------

    async def drain(self) -> None:
        """Heal every fault; with one worker at work, all that can end must end."""
        self.heal()
        if all(host.worker is None for host in self.hosts):
            await self.hosts[0].start(self.model.ledger)
        last: Any = None
        since = time.monotonic()
        while True:
            picture = await self.oracle.look()
            self.model.observe(picture)
            if not picture.alive and not picture.tasks:
                break
            present = (picture.tasks, len(picture.recorded), self.model.ledger.activity)
            if present != last:
                last, since = present, time.monotonic()
            elif time.monotonic() - since > STALL:
                raise BrokenPromiseError(f"stuck: {picture.alive}, {picture.tasks}, {picture.open}")
            if all(task.parked for task in picture.tasks):
                await self._help(picture)
            await asyncio.sleep(0.005)
        await eventually(self._nobody_works, seconds=PATIENCE)
        answers = await self.oracle.ask(*END_QUERIES.values())
        rows = dict(zip(END_QUERIES, answers, strict=True))
        self.model.check_end(await self.oracle.look(), rows)

    async def _nobody_works(self) -> bool:
        """Handlers that have lost their executions are on their way out."""
        return not self.model.ledger.alive

    async def _help(self, picture: Picture) -> None:
        """Give those who wait what they wait for; but what they should have already, they must
        find by themselves."""
        helped = False
        for task in picture.tasks:
            for execution, run, step, kind in picture.open:
                if (execution, run) != (task.execution, task.run) or kind != "event":
                    continue
                event = self.model.ledger.waiting[execution, run, step]
                if self.model.untaken(execution, run, event):
                    return
                if task.due_at is None and not task.step:
                    helped = True
                    await self.offer(execution, event)
        if not helped and any(self._far(task) for task in picture.tasks):
            await self.pass_time("4h")

    def _far(self, task: Task) -> bool:
        now = time.time_ns() // 1000
        return task.due_at is not None and task.due_at > now + 200_000

    async def offer(self, execution: str, event: str, amount: int = 1) -> bool:
        """Offer events, several at once; whether they were accepted."""
        burst = self.model.ledger.line(f"offer {amount} {event} to {execution}")
        numbers = [self.model.ledger.line("an event") for _ in range(amount)]
        schedulers = [self.client, self._quiet]
        answers = await asyncio.gather(
            *(
                schedulers[place % 2].offer_event(execution, event, number)
                for place, number in enumerate(numbers)
            ),
            return_exceptions=True,
        )
        refused = False
        for number, answer in zip(numbers, answers, strict=True):
            if isinstance(answer, zart.ExecutionFinishedError):
                refused = True
            elif answer is not None:
                raise answer
            else:
                self.model.offered(execution, event, number, burst)
        if refused:
            await self.must_have_ended(execution)
        return not refused

    async def must_have_ended(self, execution: str) -> None:
        found = (await self.oracle.look()).executions.get(execution)
        if found is None or found.status is None:
            self.model.ledger.wrong(f"{execution} was said to have ended: {found}")

    async def schedule_within(self, case: Any, *, commits: bool) -> None:
        """Schedule in a transaction of the user's own, which commits or rolls back."""
        database = database_of(self._quiet)
        try:
            async with database.own_transaction(1) as (_, connection):
                await self._quiet.schedule(
                    case.task, case.program, id=case.id, connection=connection
                )
                if not commits:
                    raise _RollBackError
        except _RollBackError:
            return
        self.model.cases.append(case)


class _RollBackError(Exception):
    pass
