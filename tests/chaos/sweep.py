"""Many lives of one workflow, each stopped at another of its writes, and the proof of each.

The processes are forked (see `tests.chaos.forge`); this process finishes what they leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

import zart
from tests.chaos import everything
from tests.chaos.everything import SAID, VALUES, Report
from tests.chaos.forge import Life, News
from tests.chaos.interrupted import AFTER, INTERRUPTED, NEVER, Point
from tests.crash import ledger
from tests.crash.ledger import BEGIN, RAISED, Line, Story
from tests.crash.processes import ROOT
from tests.databases import Database
from zart.models import StepRecord
from zart.scheduler.sql.transaction import Row
from zart.testing.conformance.rows import all_rows, run_sql

FAMILY = ("", ".child", ".bad")


class Sweep:
    """The lives on one database, and this process, which finishes them."""

    def __init__(
        self, scheduler: zart.DurableScheduler, folder: Path, forge: asyncio.subprocess.Process
    ) -> None:
        self.scheduler = scheduler
        self.folder = folder
        self._forge = forge

    async def live(self, lives: Sequence[Life], *, at_once: int) -> list[News]:
        """Run the lives until each has ended or stands still."""
        assert self._forge.stdin is not None
        assert self._forge.stdout is not None
        self._forge.stdin.write(msgspec.json.encode((at_once, lives)) + b"\n")
        news: list[News] = []
        while line := (await self._forge.stdout.readline()).strip():
            news.append(msgspec.json.decode(line, type=News))
        if len(news) != len(lives):
            raise AssertionError(f"{len(lives)} lives, but news of {len(news)}: {news}")
        return news

    async def points(self, kinds: Sequence[str]) -> list[Point]:
        """One point for each write of an undisturbed life, which must have written these kinds."""
        name = "undisturbed"
        news = (await self.live([Life(name, NEVER)], at_once=1))[0]
        assert (news.signal, news.status) == (0, 0), self.log(name)
        await self.proves([name])
        writes = self._writes(name)
        seen = {label for labels in writes for label in labels}
        assert not set(kinds) - seen
        return list(_points(writes))

    def count(self, life: Life) -> int:
        """How often a life that came to its end has written the label of its point."""
        assert life.point is not None
        return sum(life.point.label in labels for labels in self._writes(life.execution))

    def _writes(self, name: str) -> list[list[str]]:
        path = self.folder / f"{name}.writes"
        return msgspec.json.decode(path.read_bytes(), type=list[list[str]])

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    # -- finishing ----------------------------------------------------------------------------

    async def finish(self, names: Sequence[str]) -> None:
        """Run to its end, in this process, what the lives have left undone."""
        config = zart.WorkerConfig(queues=tuple(names), poll_interval="20ms", shutdown_timeout="5s")
        async with zart.Worker(self.scheduler, everything.TASKS, config):
            await asyncio.gather(*(self._finish(name) for name in names))

    async def _finish(self, name: str) -> None:
        place = everything.Place(name)
        await self.scheduler.schedule(everything.everything, place, id=name, queue=name)
        delivering = asyncio.create_task(self._deliver(name))
        try:
            await self.scheduler.wait(name, timeout="60s")
        except zart.WaitTimedOutError:
            rows = await all_rows(self.scheduler)
            tasks = [row for row in rows["tasks"] if row[0].startswith(name)]
            stands = tasks, await self.scheduler.workers(), await self.scheduler.timeline(name)
            raise AssertionError(f"{name} stands still: {stands}\n{self.log(name)}") from None
        finally:
            delivering.cancel()

    async def _deliver(self, name: str) -> None:
        """Deliver what it waits for, each event once: the life may have delivered some."""
        for event in ("early", "letter"):
            while f"event {event}" not in (await self.scheduler.get(name)).waiting_for:
                await asyncio.sleep(0.05)
                if event == "early" and await self._has(name, event):
                    break
            else:
                with contextlib.suppress(zart.ExecutionFinishedError):
                    await self.scheduler.offer_event(name, event, SAID[event])

    async def _has(self, name: str, event: str) -> bool:
        steps = await self.scheduler.timeline(name)
        return any(step.name == f"event {event}" and step.outcome for step in steps)

    # -- proving ------------------------------------------------------------------------------

    async def proves(self, names: Iterable[str]) -> None:
        """Each execution ended as it must, and the ledger agrees with the database."""
        lines = ledger.read(self.folder)
        story = Story(lines)
        assert not list(story.violations())
        moves = Counter(await run_sql(self.scheduler, "SELECT execution, token FROM moves"))
        rows = await all_rows(self.scheduler)
        for name in names:
            report = await self.scheduler.result(name, timeout="1s", type=Report)
            assert report.said == SAID, name
            assert report.values.keys() == VALUES, name
            for step, value in report.values.items():
                at = (f"{name}.child", "small") if step == "child" else (name, step)
                assert value in story.values(*at), (name, step)
            moved = {token: n for (execution, token), n in moves.items() if execution == name}
            assert moved == {report.values["move"]: 1}, name
            await self._matches(name, report, story)
            _nothing_is_left(name, rows)
            _nothing_ran_after_its_commit(name, lines)

    async def _matches(self, name: str, report: Report, story: Story) -> None:
        """The records are of the runs that the workflow went on with."""
        steps = {step.name: step for step in await self.scheduler.timeline(name)}
        for step, value in report.values.items():
            if not step.startswith("round"):
                assert _text(steps[step]) == value, (name, step)
        for step in ("hail", "member-1"):
            messages = [attempt.failure.message for attempt in steps[step].attempts]
            assert messages == [m for m in story.values(name, step, RAISED) if m in messages]
        execution = await self.scheduler.get(name)
        assert (execution.attempt, execution.run) == (2, 1), execution
        assert execution.crashes <= 1, execution
        ends = [str((await self.scheduler.get(name + part)).status) for part in FAMILY]
        assert ends == ["completed", "completed", "failed"], name

    def interruptions(self) -> dict[str, Line]:
        """Where each life was stopped, of those that were."""
        lines = ledger.read(self.folder)
        return {line.execution: line for line in lines if line.mark == INTERRUPTED}

    async def rows_of(self, name: str) -> dict[str, list[Row]]:
        """All rows, in every table, that belong to one execution and its children."""
        family = {f"{name}{part}" for part in FAMILY}
        rows = await all_rows(self.scheduler)
        moves = await run_sql(self.scheduler, "SELECT execution, token FROM moves")
        rows["moves"] = sorted(moves)
        return {table: [row for row in found if row[0] in family] for table, found in rows.items()}


def _points(writes: list[list[str]]) -> Iterable[Point]:
    """One point for each write: its most telling label, and which of that label it is."""
    counts: Counter[str] = Counter()
    for labels in writes:
        counts.update(labels)
        label = min(labels, key=_telling)
        yield Point(label, counts[label])


def _telling(label: str) -> int:
    order = ("record_attempts", "record_steps", "finish", "insert")
    return next((n for n, start in enumerate(order) if label.startswith(start)), len(order))


def _text(step: StepRecord) -> str:
    return zart.Serializer().shape(str).decode(step.value or "null")


def _nothing_is_left(name: str, rows: dict[str, list[Row]]) -> None:
    family = {f"{name}{part}" for part in FAMILY}
    for table in ("tasks", "events"):
        assert not [row for row in rows[table] if row[0] in family], (name, table)


def _nothing_ran_after_its_commit(name: str, lines: list[Line]) -> None:
    """What was committed when its process was killed has not begun again since."""
    for stop in lines:
        if (stop.mark, stop.execution, stop.step) == (INTERRUPTED, name, AFTER):
            recorded = set(_recorded(name, msgspec.json.decode(stop.value, type=list[str])))
            again = [
                line
                for line in lines
                if line.mark == BEGIN
                and line.at > stop.at
                and (line.execution, line.step) in recorded
            ]
            assert not again, (stop, again)


def _recorded(name: str, labels: list[str]) -> Iterable[tuple[str, str]]:
    """Execution and step, as the ledger has them, whose outcome a transaction has recorded."""
    for label in labels:
        kind, suffix, *rest = label.split(" ")
        if kind == "record_steps" and rest[-1] != "None":
            step = " ".join(rest[:-1]).removeprefix("on_failure/")
            step = re.sub(r"rounds\[(\d)\]/step", r"round-\1", step)
            yield (name if suffix == "self" else f"{name}.{suffix}"), step


@asynccontextmanager
async def sweep(database: Database, folder: Path) -> AsyncGenerator[Sweep, None]:
    """A sweep on an empty database, which it migrates."""
    everything.Here.ledger = ledger.Ledger(folder)
    command = [sys.executable, "-m", "tests.chaos.forge", database.url, str(folder)]
    forge = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with zart.connect(database.url) as scheduler:
            await scheduler.migrate()
            await run_sql(scheduler, everything.MOVES)
            yield Sweep(scheduler, folder, forge)
    finally:
        with contextlib.suppress(ProcessLookupError):
            forge.send_signal(signal.SIGKILL)
        await forge.communicate()
