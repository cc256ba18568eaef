"""Executions that go on while their worker processes are killed at random moments."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from pathlib import Path

import zart
from tests.chaos.conftest import Budget
from tests.crash import ledger
from tests.crash.ledger import COMMITTED, RAISED, Story
from tests.crash.processes import DEAD_FROM_KILL, Crew, crew, until
from tests.crash.workflow import ROUND_STEPS, STEPS, Journey, journey
from tests.databases import Database
from tests.figures import figure
from zart.testing.conformance.harness import guarantee

EXECUTIONS = 120
KILLS = 8
"""Kills that found step functions at work; executions are scheduled until there were so many."""
AT_ONCE = 60
PROCESSES = 3


@guarantee(1, 5, 8, 10, 12, 16, 18, 19)
async def test_no_step_runs_again_after_its_commit_however_often_workers_are_killed(
    database: Database, tmp_path: Path, budget: Budget
) -> None:
    """Every execution ends with the right result, and the ledger agrees with the database.

    The long form kills on for as long as it may.
    """
    async with (
        zart.connect(database.url) as scheduler,
        crew(database.url, tmp_path, concurrency=12, max_crashes=100) as workers,
    ):
        await scheduler.migrate()
        end = time.monotonic() + budget.seconds if budget.long else 0.0
        journeys = Journeys(scheduler, end)
        for _ in range(PROCESSES):
            workers.start()
        killer = Killer(workers, budget.chance)
        killing = asyncio.create_task(killer.kill_on())
        try:
            await journeys.travel(killer)
        finally:
            killing.cancel()
        proof = Proof(scheduler, tmp_path, journeys)
        await proof.holds(workers)
        exits = [await member.stop() for member in workers.members]
    figure(
        f"workers killed at random moments: {database.kind}",
        f"{killer.kills} kills ({killer.at_work} at work), {len(journeys.letters)} executions,"
        f" {proof.story.runs()} runs of step functions, {proof.story.reruns()} of them again;"
        " none after its commit",
    )
    assert len(journeys.letters) >= EXECUTIONS
    assert killer.at_work >= KILLS
    assert exits == [0] * PROCESSES, workers.logs()


class Killer:
    """Kills worker processes at random moments, and puts a new one in the place of each."""

    def __init__(self, workers: Crew, chance: random.Random) -> None:
        self._workers = workers
        self._chance = chance
        self.kills = 0
        self.at_work = 0

    async def kill_on(self) -> None:
        while True:
            # When there were enough, more of them would only keep a slow machine from the end.
            pause = self._chance.uniform(0.1, 1.2)
            await asyncio.sleep(pause if self.at_work < KILLS else 3 * pause)
            for _ in range(self._chance.choice((1, 1, 1, 2))):
                await self._kill(self._chance.randrange(PROCESSES))

    async def _kill(self, number: int) -> None:
        victim = self._workers.members[number]
        # One that has not begun to work would make a kill of no meaning.
        await until(lambda: victim.lines, "a new worker process begins to work", seconds=60)
        await asyncio.sleep(self._chance.uniform(0, 0.3))
        victim.kill()
        assert victim.exit_code == DEAD_FROM_KILL, self._workers.logs()
        self._workers.replace(victim)
        self.kills += 1
        self.at_work += ledger.in_flight(victim.lines) > 0


class Journeys:
    """The executions, their ids with the letter that each one gets."""

    def __init__(self, scheduler: zart.DurableScheduler, end: float) -> None:
        self.scheduler = scheduler
        self._end = end
        self.letters: dict[str, str] = {}

    async def travel(self, killer: Killer) -> None:
        """Keep so many under way until there were enough of them, and enough kills."""
        under_way: set[asyncio.Task[None]] = set()
        while (
            len(self.letters) < EXECUTIONS or killer.at_work < KILLS or time.monotonic() < self._end
        ):
            while len(under_way) < AT_ONCE:
                under_way.add(asyncio.create_task(self._one()))
            done, under_way = await asyncio.wait(
                under_way, return_when=asyncio.FIRST_COMPLETED, timeout=60
            )
            assert done, "no execution has ended for a minute"
            for task in done:
                task.result()
        await asyncio.gather(*under_way)

    async def _one(self) -> None:
        """Schedule one, send its letter before, while or after it waits for it, see it end."""
        name = f"journey-{len(self.letters)}"
        letter = self.letters[name] = f"letter {secrets.token_hex(8)}"
        handle = await self.scheduler.schedule(journey, id=name)
        await asyncio.sleep(random.choice((0, 0.2, 1.0)))
        await self.scheduler.offer_event(name, "letter", letter)
        try:
            await self.scheduler.wait(handle.id, timeout="40s")
        except zart.WaitTimedOutError:
            stuck = await self.scheduler.get(name), await self.scheduler.timeline(name)
            raise AssertionError(f"stands still: {stuck}") from None


class Proof:
    """Holds the ledger against the database."""

    def __init__(self, scheduler: zart.DurableScheduler, folder: Path, journeys: Journeys) -> None:
        self._scheduler = scheduler
        self._letters = journeys.letters
        self.story = Story(ledger.read(folder))

    async def holds(self, workers: Crew) -> None:
        assert not list(self.story.violations())
        for name, letter in self._letters.items():
            execution = await self._scheduler.get(name)
            assert execution.status == "completed", (execution, workers.logs())
            result = await self._scheduler.result(name, type=Journey)
            assert result.event == letter
            assert result.values.keys() == {*STEPS, *ROUND_STEPS}
            for step, value in result.values.items():
                assert value in self.story.values(name, step), (name, step)
                assert set(self.story.values(name, step, COMMITTED)) == {value}, (name, step)
            await self._matches(name, result)

    async def _matches(self, name: str, result: Journey) -> None:
        """The record of each step is the value of the run that the workflow went on with."""
        shape = zart.Serializer().shape(str)
        recorded = {step.name: step for step in await self._scheduler.timeline(name)}
        for step in STEPS:
            assert shape.decode(recorded[step].value or "null") == result.values[step]
        raised = set(self.story.values(name, "hail", RAISED))
        for attempt in recorded["hail"].attempts:
            assert attempt.failure.message in raised
