"""Measures takeovers: from the end of a worker process to the first step on another.

times = await takeovers(url, folder, signal.SIGKILL, 100, budget.chance, at_once=10)
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zart
from tests.chaos.conftest import Budget
from tests.crash import ledger
from tests.crash.ledger import BEGIN, Story
from tests.crash.processes import Crew, crew, until
from tests.crash.workflow import baton
from tests.figures import took

__all__ = ["AT_ONCE", "KILLS", "MANY", "lease_tells", "takeovers"]

KILLS = 3
"""Of each kind in `make test`."""
MANY = 100
SHORT = {"beat": 1.0, "lease": 2.0}
DEFAULTS = {"beat": 5.0, "lease": 15.0}
AT_ONCE = 10
"""Workers that are ended one after the other while one heir watches."""
PAUSE = 0.5
"""Seconds at most from one end to the next: they fall anywhere between two beats and two looks."""


async def takeovers(
    url: str,
    folder: Path,
    how: signal.Signals,
    amount: int,
    chance: random.Random,
    *,
    at_once: int,
    **settings: Any,
) -> list[float]:
    """End so many workers that are in a step; gives the seconds until another is in that step.

    ``at_once`` of them end one after the other, with one heir for all; then come new ones.
    """
    times: list[float] = []
    async with zart.connect(url) as scheduler, crew(url, folder, **settings) as workers:
        await scheduler.migrate()
        while len(times) < amount:
            some = min(at_once, amount - len(times))
            names = [f"baton-{len(times) + number}" for number in range(some)]
            times += await _round(scheduler, workers, names, how, chance)
        assert not list(Story(ledger.read(folder)).violations())
    return times


async def lease_tells(
    what: str, url: str, folder: Path, how: signal.Signals, budget: Budget
) -> None:
    """Hold takeovers to the lease and a beat, and note them.

    The long form has the default settings; the other a lease that is over soon.
    """
    settings: dict[str, Any] = DEFAULTS if budget.long else SHORT
    amount = MANY if budget.long else KILLS
    times = await takeovers(
        url, folder, how, amount, budget.chance, at_once=min(amount, AT_ONCE), **settings
    )
    for seconds in times:
        took(f"{what}, {settings['lease']:g} s", seconds)
    # A beat may have come right before the end, and the heir looks twice a second.
    assert max(times) < settings["lease"] + settings["beat"], sorted(times)


async def _round(
    scheduler: zart.DurableScheduler,
    workers: Crew,
    names: Sequence[str],
    how: signal.Signals,
    chance: random.Random,
) -> list[float]:
    holders = [workers.start(concurrency=1) for _ in names]
    for name in names:
        await scheduler.schedule(baton, id=name)
    await until(
        lambda: all(any(line.step == "carry" for line in m.lines) for m in holders),
        "every worker is in a step",
        seconds=60,
    )
    heir = workers.start()
    await until(lambda: _entered(scheduler, heir.id), "the heir is entered", seconds=60)
    ended: dict[str, int] = {}
    for holder in holders:
        await asyncio.sleep(chance.uniform(0, PAUSE))
        stops = how is signal.SIGSTOP
        at = await holder.freeze(workers.url) if stops else holder.signal(how)
        ended[holder.lines[0].execution] = at
    for name in names:
        await scheduler.wait(name, timeout="60s")
    began: dict[str, int] = {}
    for line in heir.lines:
        if line.mark == BEGIN:
            began.setdefault(line.execution, line.at)
    for holder in holders:
        holder.end()
    assert await heir.stop() == 0, workers.logs()
    workers.gone += workers.members
    workers.members.clear()
    return [(began[name] - ended[name]) / 1e9 for name in names]


async def _entered(scheduler: zart.DurableScheduler, process: int) -> bool:
    return process in {row.process for row in await scheduler.workers()}
