"""``zart demo``: a workflow survives the kill -9 of its worker, before the reader's eyes."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from zart.cli.command import Cli, ExitCode, command
from zart.cli.demo_report import Evidence, problems, show, summary
from zart.cli.demo_shop import Order, Shipped, checkout, read_ledger
from zart.cli.demo_workers import DemoWorker, DemoWorkers
from zart.cli.output import Output
from zart.models import Status
from zart.scheduler.connect import without_password
from zart.scheduler.durable import DurableScheduler
from zart.scheduler.sql.database import Ddl
from zart.scheduler.sql.engine import SqlEngine
from zart.scheduler.sql.sqlite import SqliteDatabase
from zart.scheduler.sql.statements import TABLES

__all__ = ["add_to"]

EXECUTION = "order-o-1"
TRACKING = "TN-7"
JAMMED = 3600.0
"""Seconds that the first worker's receipt takes: it is killed long before."""
LIMIT = 30.0
"""Seconds after which a beat that does not come is reported; each takes about one."""


class Beats:
    """What happens, a line each, with the time since the start."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._began = time.monotonic()

    def tell(self, text: str, style: str = "") -> None:
        """One beat. In JSON only the summary is printed."""
        if not self._out.as_json:
            self._out.line(f"{time.monotonic() - self._began:6.2f}s  {text}", style)


class Place(msgspec.Struct, frozen=True):
    """Where the demo plays: a database with tables of its own, and a folder for its files."""

    cli: Cli
    folder: Path

    @property
    def ledger(self) -> Path:
        """The file in which the steps note what really ran."""
        return self.folder / "ledger.jsonl"


async def demo(
    cli: Cli,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave tables and files for a look around.")
    ] = False,
) -> ExitCode:
    """Watch a workflow survive the kill -9 of its worker.

    It plays on a temporary SQLite file, or with --url on a database of yours: there in tables of
    its own, which are dropped at the end.
    """
    with _place(cli, keep=keep) as place:
        beats = Beats(cli.out)
        if not cli.out.as_json:
            cli.out.line(f"zart demo on {without_password(place.cli.database_url)}", "bold")
            cli.out.line()
        async with _scheduler(place, keep=keep) as scheduler:
            beats.tell(f"tables {place.cli.prefix}* created")
            async with DemoWorkers(place.cli, place.ledger) as workers:
                evidence = await _play(scheduler, workers, beats, place.ledger)
        found = problems(evidence)
        if cli.out.as_json:
            cli.out.json(summary(evidence, found))
        else:
            show(cli.out, evidence, found)
            if keep:
                _say_where(cli.out, place)
    return ExitCode.FAILURE if found else ExitCode.SUCCESS


async def _play(
    scheduler: DurableScheduler, workers: DemoWorkers, beats: Beats, ledger: Path
) -> Evidence:
    """The story: schedule, kill in the middle of a step, take over, deliver, finish."""
    order = Order("o-1", "visa", 42)
    handle = await scheduler.schedule(checkout, order, id=EXECUTION)
    beats.tell(f"scheduled {checkout.name} of order {order.id} as execution {EXECUTION}")

    first = await workers.start(printer_seconds=JAMMED)
    beats.tell(f"worker {first.process} started")
    await _until(first, beats, "send_receipt", "begin")
    killed_at = await _killed(first, beats)

    second = await workers.start(printer_seconds=0.3)
    beats.tell(f"worker {second.process} started")
    await _until(second, beats, "checkout", "begin")
    beats.tell(
        f"worker {second.process} took over, {time.monotonic() - killed_at:.1f}s after the kill"
    )
    await _until(second, beats, "send_receipt", "end")

    await _until_waiting(handle.id, scheduler, second)
    beats.tell("waits for the event shipped: now it is only a row, no worker holds it")
    await handle.offer_event("shipped", Shipped(TRACKING))
    beats.tell(f"delivered the event shipped, {TRACKING}")
    async with second.in_time("the end of the execution", LIMIT):
        ended = await scheduler.wait(handle.id)
    beats.tell(f"{ended.status.value}: {ended.output}", "bold green")
    await second.stop()
    return Evidence(
        execution=ended,
        steps=tuple(await scheduler.timeline(handle.id)),
        ledger=tuple(read_ledger(ledger)),
        killed=first.process,
        survivor=second.process,
        expected=f'"{TRACKING}"',
    )


async def _killed(worker: DemoWorker, beats: Beats) -> float:
    await asyncio.sleep(0.2)  # well inside the step, which lasts an hour in this worker
    await worker.kill()
    beats.tell(f"kill -9 {worker.process}, in the middle of send_receipt", "bold red")
    return time.monotonic()


async def _until(worker: DemoWorker, beats: Beats, function: str, what: str) -> None:
    """Tell what the worker notes in the ledger, until it has noted this."""
    words = {"begin": "begins", "end": "ends"}
    async with worker.in_time(f"the {what} of {function}", LIMIT):
        async for line in worker.notes():
            if line.function != checkout.name:
                beats.tell(f"worker {line.process}: {line.function} {words[line.what]}")
            if (line.function, line.what) == (function, what):
                return


async def _until_waiting(id: str, scheduler: DurableScheduler, worker: DemoWorker) -> None:
    async with worker.in_time("that the execution waits for its event", LIMIT):
        while (await scheduler.get(id)).status is not Status.WAITING:
            worker.must_live()
            await asyncio.sleep(0.02)


@contextmanager
def _place(cli: Cli, *, keep: bool) -> Generator[Place, None, None]:
    """A folder, and a prefix that no table of the user's has: nothing of theirs can be touched."""
    folder = Path(tempfile.mkdtemp(prefix="zart-demo-"))
    url = cli.url or f"sqlite:///{folder / 'shop.db'}"
    prefix = f"zart_demo_{secrets.token_hex(3)}_"
    try:
        yield Place(Cli(url, prefix, cli.schema, cli.out), folder)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def _scheduler(place: Place, *, keep: bool) -> AsyncGenerator[DurableScheduler, None]:
    """A scheduler with fresh tables, which go away again."""
    made: Path | None = None
    async with place.cli.unchecked_scheduler() as scheduler:
        backend = scheduler.backend
        if isinstance(backend, SqlEngine) and isinstance(backend.database, SqliteDatabase):
            path = backend.database.path
            made = None if path.exists() else path
    async with place.cli.scheduler(may_create=True) as scheduler:
        await scheduler.migrate()
        try:
            yield scheduler
        finally:
            if not keep:
                await _drop_tables(scheduler)
    if made is not None and not keep:
        made.unlink(missing_ok=True)


async def _drop_tables(scheduler: DurableScheduler) -> None:
    assert isinstance(scheduler.backend, SqlEngine)
    database = scheduler.backend.database

    async def job(ddl: Ddl) -> None:
        for table in TABLES:
            await ddl.execute(f"DROP TABLE IF EXISTS {database.tables.named(table)}")

    await database.exclusively(job)


def _say_where(out: Output, place: Place) -> None:
    url = without_password(place.cli.database_url)
    options = f"--prefix {place.cli.prefix}"
    if place.cli.schema:
        options += f" --schema {place.cli.schema}"
    out.line()
    out.line(f"kept: {place.folder}{os.sep} with the ledger and the workers' logs")
    out.line("look around with:")
    out.line(f"  zart status {EXECUTION} --verbose --url {url} {options}")


def add_to(app: typer.Typer) -> None:
    """Enter this room's commands."""
    command(app, "demo", demo, own_tables=True)
