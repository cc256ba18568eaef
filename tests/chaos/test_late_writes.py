"""A worker process is stopped right before a write, and goes on when its work is another's."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import zart.execution.run
from tests.chaos import everything
from tests.chaos.conftest import Budget
from tests.chaos.forge import IN_PLACE, Life, News
from tests.chaos.interrupted import LATE, Point
from tests.chaos.sweep import FAMILY, Sweep, sweep
from tests.crash import ledger
from tests.crash.ledger import BEGIN
from tests.crash.processes import until
from tests.databases import Database
from tests.figures import figure
from zart.testing.conformance.harness import guarantee

KINDS = {
    "a step": "record_steps self pack ok",
    "a failed attempt": "record_attempts self hail 1",
    "a failed attempt of a run": "record_attempts self run 1",
    "a park": "record_steps self event letter None",
    "an event taken": "record_steps self event letter ok",
    "an event's time-out": "record_steps self event never timed_out",
    "distributed steps": "record_steps self member-1 None",
    "a distributed step's end": "record_steps self member-2 ok",
    "a loop's compaction": "erase_steps self rounds[1]/step",
    "a transaction": "own transaction",
    "a child's start": "record_steps self child None",
    "a child's end": "record_steps self child ok",
    "an end": "finish_executions self completed",
    "a claim": "claim_tasks self",
}
"""Every kind of write of a worker, with a point of it."""
NEVER_LATE = {"strike worker out", "record_steps self move ok"}
"""Writes of a process that ends, and of a user's transaction, which is stopped where it begins."""
BATCH = 14
AT_ONCE = 4


@guarantee(9, 10)
async def test_every_kind_of_late_write_is_rejected_and_its_worker_goes_on_serving(
    database: Database, tmp_path: Path, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP before a write, takeover after the lease, SIGCONT: no row of any table changes."""
    monkeypatch.setattr(zart.execution.run, "IN_PLACE", IN_PLACE)
    async with sweep(database, tmp_path) as lives:
        points = [Point(label, 1) for label in KINDS.values()]
        if budget.long:
            written = await lives.points([])
            points += [point for point in written if point.label not in NEVER_LATE]
        rejected = 0
        for start in range(0, len(points), BATCH):
            batch = enumerate(points[start : start + BATCH])
            late = [Life(f"late-{start + n}", LATE, p) for n, p in batch]
            rejected += await _are_rejected(lives, late)
    figure(f"late writes of a paused worker: {database.kind}", f"{rejected}, all rejected")


async def _are_rejected(lives: Sweep, late: list[Life]) -> int:
    """Stop, take over, let go on; gives how many there were to be rejected."""
    stopped = await _stand_still(lives, late)
    names = [news.execution for news in stopped]
    await lives.finish(names)
    await lives.proves(names)
    before = {name: await lives.rows_of(name) for name in names}
    resumed_at = time.monotonic_ns()
    for news in stopped:
        os.kill(news.process, signal.SIGCONT)
    for news in stopped:
        name = news.execution
        await _serves(lives, news)
        assert await lives.rows_of(name) == before[name], lives.log(name)
        _does_nothing_more(lives, news, resumed_at)
        os.kill(news.process, signal.SIGTERM)
    for name in names:
        ended = lives.folder / f"{name}.writes"
        await until(ended.exists, f"the process of {name} ends in good order: {lives.log(name)}")
    return len(stopped)


async def _stand_still(lives: Sweep, late: list[Life]) -> list[News]:
    """Lead each life to its point; one that missed it among the others is led there alone."""
    stopped: list[News] = []
    points = {life.execution: life.point for life in late}
    for first in await lives.live(late, at_once=AT_ONCE):
        name, news = first.execution, first
        for number in range(3):
            if news.stopped:
                break
            assert (news.signal, news.status) == (0, 0), lives.log(news.execution)
            again = Life(f"{name}-{number}", LATE, points[name])
            news = (await lives.live([again], at_once=1))[0]
        if news.stopped:
            stopped.append(news)
        else:  # what it waits for came together this time: a further write is not made in each life
            point = points[name]
            assert lives.count(again) < point.number > 1, (point, lives.log(name))
    return stopped


async def _serves(lives: Sweep, news: News) -> None:
    """The process runs what comes for its queue now; no other serves that queue."""
    name = news.execution
    later = await lives.scheduler.schedule(
        everything.small, everything.Place(name), id=f"{name}.later", queue=name
    )
    try:
        await later.result(timeout="20s")
    except zart.WaitTimedOutError:
        raise AssertionError(f"{name} does not serve again: {lives.log(name)}") from None
    lines = ledger.read(lives.folder, news.process)
    assert [line for line in lines if line.execution == later.id]


def _does_nothing_more(lives: Sweep, news: News, resumed_at: int) -> None:
    """Its handlers have been stopped: they begin no step.

    One may still be handed the answer to what was committed before the process stood still.
    """
    family = {f"{news.execution}{part}" for part in FAMILY}
    late = [
        line
        for line in ledger.read(lives.folder, news.process)
        if line.at > resumed_at and line.execution in family and line.mark == BEGIN
    ]
    assert not late, (late, lives.log(news.execution))
