"""Machines whose clock is wrong by hours, and is set while they work."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

import zart
from tests.crash import ledger
from tests.crash.ledger import BEGIN, COMMITTED, END, Line
from tests.crash.processes import crew, until
from tests.crash.workflow import baton, errand, nap
from tests.databases import Database
from tests.servers import ServerError
from zart.testing.conformance.harness import guarantee

NAP = 1.5
TOIL = 4.5
"""Seconds of a step that is longer than the lease."""
LATE = 8.0
"""Seconds that a busy machine may be late."""
SETTINGS = {"beat": "500ms", "lease": "3s", "concurrency": 6}


class Clock:
    """The date as the processes see it that are started `within` it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set("+0")

    def set(self, offset: str) -> None:
        """Say ``+5h``; all processes see it at once."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset}\n")
        new.replace(self._file)

    @property
    def within(self) -> Sequence[str]:
        return (
            "env",
            f"LD_PRELOAD={library()}",
            f"FAKETIME_TIMESTAMP_FILE={self._file}",
            # All see it at once, as the processes of one machine do.
            "FAKETIME_NO_CACHE=1",
            # A kernel never sets this one.
            "DONT_FAKE_MONOTONIC=1",
        )


def library() -> Path:
    for folder in (Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib")):
        for found in folder.glob("**/faketime/libfaketimeMT.so.1"):
            return found
    raise ServerError(
        "libfaketime is not on this machine. Install it: scripts/install-databases as root does,"
        " or `apt-get install faketime`."
    )


@guarantee(9, 10, 15)
async def test_a_clock_that_is_wrong_and_set_starts_nothing_early_late_or_twice(
    database: Database, tmp_path: Path
) -> None:
    """Hours ahead, then hours behind, under steps that are longer than the lease.

    On SQLite the database's clock is the machine's, so there both workers have it, and nobody
    sleeps while it is set.
    """
    clock = Clock(tmp_path)
    clock.set("+5h")
    async with (
        zart.connect(database.url) as scheduler,
        crew(database.url, tmp_path, **SETTINGS) as workers,
    ):
        await scheduler.migrate()
        wrong = workers.start(within=clock.within)
        other = workers.start(within=clock.within if database.kind == "sqlite" else ())
        await until(lambda: entered(scheduler, 2), "both workers are entered", seconds=60)
        for offset in ("-5h", "+3h") if database.kind == "sqlite" else ("-5h",):
            names = [f"long{offset}-{number}" for number in range(8)]
            for name in names:
                await scheduler.schedule(errand, TOIL, id=name)
            await until(
                lambda names=names: begun(tmp_path, names), "the long steps have begun", seconds=30
            )
            clock.set(offset)
            if database.kind == "sqlite":
                # A sleep that has begun by the old date lasts by it: that is no fault of zart.
                await until(
                    lambda offset=offset: dated(scheduler, offset), "both see the date", seconds=30
                )
            naps = [f"nap{offset}-{number}" for number in range(6)]
            for name in naps:
                await scheduler.schedule(nap, NAP, id=name)
            for name in (*names, *naps):
                await scheduler.wait(name, timeout="40s")
        lines = ledger.read(tmp_path)
        assert all(len(runs(lines, name, "toil")) == 1 for name in ids(lines, "long"))
        pauses = [rest(lines, name) for name in ids(lines, "nap")]
        assert NAP <= min(pauses) < max(pauses) < NAP + LATE, pauses
        assert {line.process for line in lines} == {wrong.id, other.id}
        assert [await member.stop() for member in (wrong, other)] == [0, 0], workers.logs()
        assert "declared dead" not in workers.logs()


@guarantee(10)
async def test_a_worker_that_stands_still_is_replaced_though_the_clock_is_set_back(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """Its lease would last for hours by the date; the others see that it is not renewed."""
    database = sqlite_database
    clock = Clock(tmp_path)
    async with (
        zart.connect(database.url) as scheduler,
        crew(database.url, tmp_path, **SETTINGS) as workers,
    ):
        await scheduler.migrate()
        frozen = workers.start(within=clock.within)
        await scheduler.schedule(baton, id="held")
        await until(
            lambda: any(line.step == "carry" for line in frozen.lines),
            "it is in the step",
            seconds=60,
        )
        heir = workers.start(within=clock.within)
        await until(lambda: entered(scheduler, 2), "both workers are entered", seconds=60)
        await frozen.freeze(database.url)
        since = time.monotonic()
        clock.set("-5h")
        await scheduler.wait("held", timeout="40s")
        assert time.monotonic() - since > 1.0
        (tmp_path / "held.release").touch()
        frozen.signal(signal.SIGCONT)
        assert [await member.stop() for member in (heir, frozen)] == [0, 0], workers.logs()
        told = [line for line in ledger.read(tmp_path) if line.mark == COMMITTED]
        assert len({line.value for line in told if line.step == "carry"}) == 1


async def entered(scheduler: zart.DurableScheduler, amount: int) -> bool:
    return len(await scheduler.workers()) == amount


async def dated(scheduler: zart.DurableScheduler, offset: str) -> bool:
    """Whether all have beaten by a clock that is so far off."""
    ahead = int(offset.removesuffix("h")) * 3600
    rows = await scheduler.workers()
    return all(abs(row.beat.timestamp() - time.time() - ahead) < 600 for row in rows)


def begun(folder: Path, names: Sequence[str]) -> bool:
    lines = ledger.read(folder)
    return all(runs(lines, name, "toil") for name in names)


def runs(lines: Sequence[Line], execution: str, step: str) -> list[Line]:
    return [
        line for line in lines if (line.execution, line.step, line.mark) == (execution, step, BEGIN)
    ]


def ids(lines: Sequence[Line], prefix: str) -> set[str]:
    found = {line.execution for line in lines if line.execution.startswith(prefix)}
    assert found
    return found


def rest(lines: Sequence[Line], execution: str) -> float:
    """Seconds from the end of the step before the sleep to the begin of the one after it."""
    at = {(line.step, line.mark): line.at for line in lines if line.execution == execution}
    return (at["get-up", BEGIN] - at["lie-down", END]) / 1e9
