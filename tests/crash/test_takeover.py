"""What happens to the executions of a worker that is killed, stopped, or kills itself."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

import zart
from tests.crash import ledger
from tests.crash.ledger import BEGIN, COMMITTED, END, Story
from tests.crash.processes import Crew, WorkerProcess, crew, until
from tests.crash.workflow import baton, errand, poison
from tests.databases import Database
from zart.testing.conformance.harness import guarantee

SHORT = {"beat": "500ms", "lease": "1500ms"}


@guarantee(1, 9, 10)
async def test_a_worker_that_stood_still_beyond_its_lease_writes_nothing_and_goes_on(
    database: Database, tmp_path: Path
) -> None:
    """SIGSTOP, takeover after the lease, SIGCONT: fenced out, then at work under a new name."""
    async with (
        zart.connect(database.url) as scheduler,
        crew(database.url, tmp_path, **SHORT) as workers,
    ):
        await scheduler.migrate()
        sleeper = await _holder(scheduler, workers, "first")
        name = await _name_of(scheduler, sleeper)
        other = workers.start()
        await _entered(scheduler, sleeper, other)
        await sleeper.freeze(database.url)
        result = await scheduler.result("first", timeout="30s")
        (tmp_path / "first.release").touch()
        sleeper.signal(signal.SIGCONT)

        await other.stop()
        later = await scheduler.schedule(errand, 0.0, id="later")
        await later.result(timeout="30s")
        await until(lambda: _ends(sleeper, "later"), "the stopped worker has run what came later")
        story = Story(ledger.read(tmp_path))
        assert len(story.values("first", "carry", BEGIN)) == 2
        assert set(story.values("first", "carry", COMMITTED)) == {result[1]}
        assert result[1] == _ends(other, "first", "carry")[0]
        assert (await scheduler.result("first")) == result
        assert story.values("first", "finish") == [result[2]]
        assert not list(story.violations())
        assert await _name_of(scheduler, sleeper) != name
        assert (await scheduler.get("first")).crashes == 1
        assert await sleeper.stop() == 0, workers.logs()


@guarantee(11)
async def test_an_execution_that_kills_its_workers_stops_and_the_others_complete(
    database: Database, tmp_path: Path
) -> None:
    """After max_crashes it fails with the reason; those beside it, long or short, end well."""
    crashes = 3
    async with (
        zart.connect(database.url) as scheduler,
        crew(database.url, tmp_path, max_crashes=crashes) as workers,
    ):
        await scheduler.migrate()
        bad = await scheduler.schedule(poison, id="bad")
        good = [await scheduler.schedule(errand, n * 0.3, id=f"good-{n}") for n in range(10)]
        workers.start()
        workers.start()
        deaths = await _supervised(workers, scheduler, bad.id)
        with pytest.raises(zart.ExecutionFailedError, match="worker died") as failed:
            await bad.result(timeout="1s")
        assert failed.value.error_type == "CrashLoop"
        assert deaths == crashes + 1
        for handle in good:
            await handle.result(timeout="30s")
        await _entered(scheduler, *workers.members)  # the last one may just have begun
        exits = [await member.stop() for member in workers.members]
        assert exits == [0, 0], workers.logs()
        assert len(Story(ledger.read(tmp_path)).values("bad", "poison", BEGIN)) == crashes + 1


async def _supervised(workers: Crew, scheduler: zart.DurableScheduler, execution: str) -> int:
    """Replace each process that dies, until the execution has ended; gives how many died."""
    deaths = 0
    deadline = time.monotonic() + 60
    while not (await scheduler.get(execution)).status.finished:
        deaths += workers.replace_dead()
        assert time.monotonic() < deadline, (deaths, workers.logs())
        await asyncio.sleep(0.02)
    return deaths


async def _holder(scheduler: zart.DurableScheduler, workers: Crew, execution: str) -> WorkerProcess:
    """A worker process that is in the middle of an execution's step."""
    holder = workers.start()
    await scheduler.schedule(baton, id=execution)
    await until(
        lambda: any(line.step == "carry" for line in holder.lines), "a worker is in the step"
    )
    return holder


async def _entered(scheduler: zart.DurableScheduler, *members: WorkerProcess) -> None:
    async def all_entered() -> bool:
        entered = {row.process for row in await scheduler.workers()}
        return entered.issuperset(member.id for member in members)

    await until(all_entered, "both workers are entered")


async def _name_of(scheduler: zart.DurableScheduler, member: WorkerProcess) -> str:
    return next(row.id for row in await scheduler.workers() if row.process == member.id)


def _ends(member: WorkerProcess, execution: str, step: str = "toil") -> list[str]:
    lines = [line for line in member.lines if (line.execution, line.step) == (execution, step)]
    return [line.value for line in lines if line.mark == END]
