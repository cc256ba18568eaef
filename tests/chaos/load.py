"""A load of executions on real worker processes, and the proof that nothing of it went wrong.

    async with load(database.url, tmp_path) as running:
        before = await running.rate()                  # steps committed a second, undisturbed
        ...                                            # the fault, and its end
        seconds = await running.back_to(before)        # from now until there are as many again
        await running.finish()                         # none is lost, nothing was done twice

The feeder keeps so many executions under way at once: an execution that is lost or stands still
is one that the rate misses, and that `finish` names. What the step functions really did stands
in the ledger, outside of any database (see `tests.crash.ledger`).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import secrets
import statistics
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import zart
from tests.crash import ledger
from tests.crash.ledger import COMMITTED, RAISED, Story
from tests.crash.processes import Crew, WorkerProcess, crew, until
from tests.crash.workflow import ROUND_STEPS, STEPS, Journey, journey
from zart.testing.conformance.rows import all_rows

T = TypeVar("T")

PROCESSES = 2
AT_ONCE = 12
STEP = 0.25
"""Seconds of one reading of the meter."""
WINDOW = 2.0
"""Seconds over which a rate must hold, so that a burst does not pass for a recovery."""
PARTLY = 0.95
"""The part of the rate before the fault at which the load counts as recovered."""
_LINE = msgspec.json.Decoder(ledger.Line)
PATIENCE = "90s"
"""How long an execution may take before it counts as lost."""


class Rate(float):
    """Steps a second, with how much single readings of the meter differ."""

    spread: float

    @classmethod
    def of(cls, readings: Sequence[int]) -> Rate:
        made = cls(statistics.mean(readings) / STEP)
        made.spread = statistics.pstdev(readings) / STEP
        return made

    def floor(self) -> float:
        """What another measurement reaches over `WINDOW` if as many end as before.

        That is 95 percent, less what chance takes from so short a look.
        """
        return PARTLY * self - 2 * self.spread / math.sqrt(WINDOW / STEP)


class Meter:
    """When steps were committed, as the ledger of their workers tells, by CLOCK_MONOTONIC."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._ends: list[float] = []

    def _look(self) -> list[float]:
        """All so far; reads what has come since the last look."""
        for path in self._folder.glob("*.ledger"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text.rpartition(b"\n")[0]
            self._read[path] = self._read.get(path, 0) + len(whole) + bool(whole)
            for line in whole.splitlines():
                if b'"committed"' in line:
                    self._ends.append(_LINE.decode(line).at / 1e9)
        self._ends.sort()
        return self._ends

    def rate(self, start: float, end: float) -> float:
        """Steps committed a second between two times."""
        return sum(start <= at < end for at in self._look()) / (end - start)

    def readings(self, start: float, end: float) -> list[int]:
        """How many were committed in each quarter of a second."""
        bins = Counter(int((at - start) / STEP) for at in self._look() if start <= at < end)
        return [bins[number] for number in range(int((end - start) / STEP))]

    def longest_pause(self, start: float, end: float) -> float:
        """The longest time in which none was, in seconds."""
        marks = [start, *(at for at in self._look() if start <= at < end), end]
        return max(b - a for a, b in itertools.pairwise(marks))


class Load:
    """Executions that are kept under way; made by `load`."""

    def __init__(self, scheduler: zart.DurableScheduler, workers: Crew, at_once: int) -> None:
        self.scheduler = scheduler
        self.workers = workers
        self.meter = Meter(workers.folder)
        self.letters: dict[str, str] = {}
        """The ids of all executions, and the letter that each one gets."""
        self._at_once = at_once
        self._feeders: list[asyncio.Task[None]] = []
        self._feeding = True

    # -- the load -----------------------------------------------------------------------------

    def begin(self) -> None:
        self._feeders = [asyncio.create_task(self._feed()) for _ in range(self._at_once)]

    async def _feed(self) -> None:
        while self._feeding:
            await self._one()

    async def _one(self) -> None:
        """Schedule one, send its letter before, while or after it waits for it, see it end."""
        name = f"journey-{len(self.letters)}"
        letter = self.letters[name] = f"letter {secrets.token_hex(8)}"
        await insist(lambda: self.scheduler.schedule(journey, id=name))
        await asyncio.sleep(random.choice((0, 0.1, 0.3)))
        # One that was sent before its answer was lost may have brought the execution to its end.
        with suppress(zart.ExecutionFinishedError):
            await insist(lambda: self.scheduler.offer_event(name, "letter", letter))
        try:
            await insist(lambda: self.scheduler.wait(name, timeout=PATIENCE))
        except zart.WaitTimedOutError:
            stuck = await self.scheduler.get(name), await self.scheduler.timeline(name)
            raise AssertionError(f"stands still: {stuck}\n{self.workers.logs()}") from None

    async def break_off(self) -> None:
        """Stop feeding, whatever is under way."""
        for feeder in self._feeders:
            feeder.cancel()
        await asyncio.gather(*self._feeders, return_exceptions=True)

    def check(self) -> None:
        """Raise what a feeder has met."""
        for feeder in self._feeders:
            if feeder.done():
                feeder.result()

    # -- its rate -----------------------------------------------------------------------------

    async def warm(self, seconds: float = 30) -> None:
        """Wait until every worker is at work."""
        members = self.workers.members
        await until(lambda: all(m.lines for m in members), "every worker works", seconds=seconds)
        await until(lambda: len(self.letters) > 2 * self._at_once, "executions end", seconds=30)

    async def rate(self, seconds: float = WINDOW) -> Rate:
        """Steps that are committed in a second, from now on for so long."""
        start = time.monotonic()
        await asyncio.sleep(seconds)
        self.check()
        return Rate.of(self.meter.readings(start, start + seconds))

    async def back_to(
        self, before: Rate, *, since: float | None = None, within: float = 10.0
    ) -> float:
        """Wait until the rate is back at what it was; gives the seconds that it took.

        ``since`` is when the fault ended by ``time.monotonic``, now unless given. The seconds are
        those until the rate begins to hold over `WINDOW`.
        """
        ended = time.monotonic() if since is None else since
        start = ended
        while start - ended <= within:
            await asyncio.sleep(max(0.0, start + WINDOW - time.monotonic()))
            self.check()
            if self.meter.rate(start, start + WINDOW) >= before.floor():
                return start - ended
            start += STEP
        readings = self.meter.readings(ended, time.monotonic())
        raise AssertionError(
            f"{before:.0f} steps a second before the fault, and {before.floor():.0f} not again"
            f" within {within:g} s; in each quarter of a second since: {readings}\n"
            f"{self.workers.logs()}"
        )

    # -- the proof ----------------------------------------------------------------------------

    async def finish(self, *, crashes: bool = False, stops: bool = True) -> Story:
        """Let every execution end and hold what is recorded against the ledger.

        ``crashes`` says whether executions may have been taken over from a dead worker. All
        workers must be alive still and end in good order, unless ``stops`` is False.
        """
        self._feeding = False
        await asyncio.gather(*self._feeders)
        alive = [member.alive for member in self.workers.members]
        assert all(alive), f"a worker ended\n{self.workers.logs()}"
        story = Story(ledger.read(self.workers.folder))
        assert not list(story.violations())
        rows = await insist(lambda: all_rows(self.scheduler))
        self._nothing_is_lost(rows, story)
        self._no_attempt_is_doubled(rows, story)
        if not crashes:
            self._no_worker_was_taken_for_dead(rows, story)
        if stops:
            exits = [await member.stop() for member in self.workers.members]
            assert exits == [0] * len(exits), self.workers.logs()
        return story

    def _nothing_is_lost(self, rows: dict[str, list[Any]], story: Story) -> None:
        """Every execution has the right result, and what was recorded is what really happened."""
        results, texts = zart.Serializer().shape(Journey), zart.Serializer().shape(str)
        executions = {row[0]: row for row in rows["executions"]}
        assert executions.keys() == self.letters.keys()
        assert rows["tasks"] == []
        recorded = {(row[0], row[2]): (row[5], row[6]) for row in rows["steps"]}
        for name, letter in self.letters.items():
            assert executions[name][5] == "completed", (executions[name], self.workers.logs())
            result = results.decode(executions[name][6])
            assert result.event == letter
            assert result.values.keys() == {*STEPS, *ROUND_STEPS}
            for step, value in result.values.items():
                assert value in story.values(name, step), (name, step)
                assert set(story.values(name, step, COMMITTED)) == {value}, (name, step)
            for step in STEPS:
                outcome, text = recorded[name, step]
                assert (outcome, texts.decode(text)) == ("ok", result.values[step]), (name, step)

    @staticmethod
    def _no_attempt_is_doubled(rows: dict[str, list[Any]], story: Story) -> None:
        """Each failed attempt that is recorded has really failed, and is recorded once."""
        errors = [(row[0], row[5]) for row in rows["step_attempts"] if row[2] == "hail"]
        assert len(errors) == len(set(errors))
        for execution, error in errors:
            assert any(reason in error for reason in story.values(execution, "hail", RAISED))

    @staticmethod
    def _no_worker_was_taken_for_dead(rows: dict[str, list[Any]], story: Story) -> None:
        """No crash is counted, and no step function ran again but for its own failure."""
        assert [row[:12] for row in rows["executions"] if row[11]] == []
        assert story.runs_without_need() == []


@asynccontextmanager
async def load(
    url: str,
    folder: Path,
    *,
    worker_urls: Sequence[str] = (),
    processes: int = PROCESSES,
    at_once: int = AT_ONCE,
    **settings: Any,
) -> AsyncGenerator[Load, None]:
    """Migrate, start workers and feed them; the feeder itself connects by ``url``.

    ``worker_urls`` has one for each worker, where they differ from the feeder's; otherwise there
    are so many ``processes`` with its URL. ``settings`` are those of `zart.WorkerConfig`.
    """
    async with zart.connect(url) as scheduler, crew(url, folder, **settings) as workers:
        await scheduler.migrate()
        for worker_url in worker_urls or [url] * processes:
            workers.start(url=worker_url)
        made = Load(scheduler, workers, at_once)
        made.begin()
        try:
            await made.warm()
            yield made
        finally:
            await made.break_off()


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """What a user does whose database is away for long: the same call again."""
    while True:
        try:
            return await call()
        except zart.DatabaseUnavailableError:
            await asyncio.sleep(0.2)


def commits(worker: WorkerProcess, since: int) -> list[int]:
    """When steps of this worker were known to be committed."""
    return [line.at for line in worker.lines if line.mark == COMMITTED and line.at > since]


def longest_pause(worker: WorkerProcess, since: int) -> float:
    """Seconds between two commits of this worker, at most; counted from ``since`` on."""
    marks = [since, *commits(worker, since)]
    return max(b - a for a, b in itertools.pairwise(marks)) / 1e9
