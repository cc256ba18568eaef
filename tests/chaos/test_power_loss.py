"""SQLite and a power cut: whatever was acknowledged lies on the disk."""

from __future__ import annotations

import asyncio
import random
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest

import zart
from tests.chaos.conftest import Budget
from tests.chaos.power import Disk
from tests.figures import figure
from zart.testing.conformance.harness import guarantee

pytestmark = pytest.mark.sqlite
CUTS = 40
AT_ONCE = 16
STEPS = 4
PADDING = 1500
"""Characters of each value: enough that the log is copied back into the file again and again."""


@dataclass(frozen=True)
class Cut:
    """A power cut: the files that were left, and how much had been acknowledged."""

    files: dict[str, bytes]
    steps: int
    ends: int


class Told:
    """What callers and workflows were told is done, in order."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str, str]] = []
        self.ends: list[str] = []


@zart.step
async def work() -> str:
    """A value that no other run of the step gives."""
    return secrets.token_hex(PADDING // 2)


def workflow(told: Told) -> Any:
    @zart.durable("powered")
    async def powered() -> int:
        name = zart.context().execution_id
        for number in range(STEPS):
            value = await work.named(f"step-{number}")()
            told.steps.append((name, f"step-{number}", value))
        return STEPS

    return powered


@guarantee(1, 12, 22)
async def test_nothing_acknowledged_is_lost_by_a_power_cut(tmp_path: Path, budget: Budget) -> None:
    """Cut at any write or sync: the file is whole, and holds every step and end that was told."""
    told, cuts = Told(), Cuts(budget.chance)
    handler = workflow(told)
    (tmp_path / "running").mkdir()
    with Disk(budget.chance) as disk:
        disk.on_change = lambda: cuts.perhaps(disk, told)
        async with zart.connect(f"sqlite:///{tmp_path / 'running' / 'zart.db'}") as scheduler:
            await scheduler.migrate()
            async with zart.Worker(scheduler, [handler]):
                cuts.wanted = CUTS if not budget.long else int(CUTS * budget.seconds / 5)
                await asyncio.gather(
                    *(feed(scheduler, handler, told, cuts, place) for place in range(AT_ONCE))
                )
        assert disk.syncs["zart.db"] > 2, "the log was never copied back into the file"
    restored = tmp_path / "restored"
    for number, cut in enumerate(cuts.made):
        await holds(cut, told, restored / str(number))
    await goes_on(handler, cuts.made[-1], told, restored / "again")
    figure(
        "power cuts: sqlite",
        f"{len(cuts.made)}; none of {cuts.made[-1].steps} acknowledged steps lost",
    )


class Cuts:
    """Cuts the power now and then, wherever a write or a sync is about to begin."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._until_next = 200
        self.wanted = 0
        self.made: list[Cut] = []

    @property
    def enough(self) -> bool:
        return len(self.made) >= self.wanted

    def perhaps(self, disk: Disk, told: Told) -> None:
        self._until_next -= 1
        if self._until_next <= 0 and not self.enough:
            self._until_next = self._chance.randrange(1, 300)
            # Counted first: what is told from here on is not looked for.
            steps, ends = len(told.steps), len(told.ends)
            self.made.append(Cut(disk.cut_power(), steps, ends))


async def feed(
    scheduler: zart.DurableScheduler, handler: Any, told: Told, cuts: Cuts, place: int
) -> None:
    """Schedule one after the other until the power was cut often enough."""
    number = 0
    while not cuts.enough:
        handle = await scheduler.schedule(handler, id=f"e-{place}-{number}")
        assert await handle.result(timeout="60s") == STEPS
        told.ends.append(handle.id)
        number += 1


async def holds(cut: Cut, told: Told, folder: Path) -> None:
    """Hold what was told before a cut against the files that it left."""
    connection = apsw.Connection(str(restore(cut, folder)))
    try:
        assert connection.pragma("integrity_check") == "ok"
        rows = connection.execute("SELECT execution_id, name, value FROM zart_steps").fetchall()
        recorded = {(row[0], row[1]): row[2] for row in rows}
        text = zart.Serializer().shape(str)
        for execution, step, value in told.steps[: cut.steps]:
            found = recorded.get((execution, step))
            assert found is not None, f"lost: {execution} {step}"
            assert text.decode(str(found)) == value
        ended = "SELECT id FROM zart_executions WHERE status = 'completed'"
        missing = set(told.ends[: cut.ends]) - {row[0] for row in connection.execute(ended)}
        assert not missing
    finally:
        connection.close()


def restore(cut: Cut, folder: Path) -> Path:
    """Put the files back as the machine finds them when it starts again."""
    folder.mkdir(parents=True)
    for name, content in cut.files.items():
        (folder / Path(name).name).write_bytes(content)
    return folder / "zart.db"


async def goes_on(handler: Any, cut: Cut, told: Told, folder: Path) -> None:
    """A worker that starts on what is left ends every execution, and runs no told step again."""
    async with zart.connect(f"sqlite:///{restore(cut, folder)}") as scheduler:
        before = {step[:2]: step[2] for step in told.steps[: cut.steps]}
        alive = [
            found.id for found in await scheduler.list(limit=10_000) if not found.status.finished
        ]
        assert alive
        told.steps.clear()
        config = zart.WorkerConfig(beat="200ms", lease="500ms")  # the owners died with the machine
        async with zart.Worker(scheduler, [handler], config):
            for execution_id in alive:
                assert await scheduler.result(execution_id, type=int, timeout="60s") == STEPS
        assert len(told.steps) == STEPS * len(alive)
        for execution, step, value in told.steps:
            assert before.get((execution, step), value) == value
