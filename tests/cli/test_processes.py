"""Several worker processes under one supervisor: real processes and real signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import zart
from tests.cli.command import FOLDER, Zart
from tests.crash.processes import until
from tests.databases import Database


class Supervised:
    """A supervisor with its log, and the worker processes that it has told of."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    @property
    def started(self) -> list[int]:
        """Process ids of all workers that have begun to work, in order."""
        return [int(pid) for pid in re.findall(r"worker process (\d+) works", self.log)]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def has(self, text: str) -> None:
        """Wait until the log says so."""
        await self.until(lambda: text in self.log, f"{text!r} stands in the log")

    async def works(self, amount: int) -> list[int]:
        """Wait until so many workers have begun to work; gives their process ids."""
        await self.until(lambda: len(self.started) >= amount, f"{amount} processes work")
        return self.started

    async def ended(self) -> int:
        """Wait for the supervisor's end; gives its exit code."""
        await self.until(lambda: self.process.poll() is not None, "the supervisor ends")
        return self.process.returncode

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Look until it is so; shows the log when it does not come."""
        try:
            await until(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None


@contextmanager
def supervised(url: str, folder: Path, target: str, *options: str) -> Iterator[Supervised]:
    """A supervisor in a process group of its own, as a shell starts it; killed at the end."""
    log = folder / "supervisor.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "zart", "worker", target, "--processes=2", *options],
            cwd=FOLDER,
            env=Zart(url).environment,
            stderr=output,
            process_group=0,
        )
    try:
        made = Supervised(process, log)
        yield made
    finally:
        process.kill()
        process.wait()
        for worker in made.started:
            _kill_if_worker(worker)


def _alive(process: int) -> bool:
    """True while the process exists and has not only its exit code left."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def _kill_if_worker(process: int) -> None:
    try:
        if b"zart" in Path(f"/proc/{process}/cmdline").read_bytes():
            os.kill(process, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return


@pytest.fixture
async def scheduler(sqlite_database: Database) -> AsyncIterator[zart.DurableScheduler]:
    async with zart.connect(sqlite_database.url) as made:
        await made.migrate()
        yield made


async def running(scheduler: zart.DurableScheduler, *ids: str) -> None:
    """Wait until these executions run."""
    for each in ids:
        await _stands(scheduler, each, "running")


async def _stands(scheduler: zart.DurableScheduler, id: str, status: str) -> None:
    async def so() -> bool:
        return (await scheduler.get(id)).status == status

    await until(so, f"{id} is {status}")


async def test_several_processes_work_until_sigterm(
    scheduler: zart.DurableScheduler, sqlite_database: Database, tmp_path: Path
) -> None:
    """Each runs executions of its own; SIGTERM stops all in good order, with exit code 0."""
    options = ("--concurrency=1", "--shutdown-timeout=100ms")
    with supervised(sqlite_database.url, tmp_path, "shop", *options) as workers:
        await scheduler.schedule_many("long", [None, None], ids=["l-1", "l-2"])
        await running(scheduler, "l-1", "l-2")
        processes = {row.process for row in await scheduler.workers()}
        assert processes == set(await workers.works(2))
        workers.signal(signal.SIGTERM)
        assert await workers.ended() == 0, workers.log
    executions = [await scheduler.get(each) for each in ("l-1", "l-2")]
    assert [(e.status, e.crashes) for e in executions] == [("pending", 0)] * 2
    assert list(await scheduler.workers()) == []
    assert not any(map(_alive, processes))


async def test_a_process_that_dies_is_replaced(
    scheduler: zart.DurableScheduler, sqlite_database: Database, tmp_path: Path
) -> None:
    """Again and again, and after a longer pause each time; the other goes on undisturbed."""
    with supervised(sqlite_database.url, tmp_path, "shop") as workers:
        first, second = await workers.works(2)
        os.kill(second, signal.SIGKILL)
        await workers.has(f"worker process {second} was killed by SIGKILL; it is replaced in 0.5 s")
        third = (await workers.works(3))[-1]
        os.kill(third, signal.SIGTERM)  # in good order, but nobody has asked the supervisor
        await workers.has(f"worker process {third} ended with exit code 0; it is replaced in 1 s")
        fourth = (await workers.works(4))[-1]
        handle = await scheduler.schedule("who")
        await handle.offer_event("go")
        assert await handle.result(timeout="10s") in (first, fourth)
        assert _alive(first)
        workers.signal(signal.SIGINT)
        assert await workers.ended() == 0, workers.log


async def test_no_process_outlives_a_killed_supervisor(
    scheduler: zart.DurableScheduler, sqlite_database: Database, tmp_path: Path
) -> None:
    """SIGKILL for the supervisor is SIGTERM for its workers: they stop in good order."""
    options = ("--concurrency=1", "--shutdown-timeout=100ms")
    with supervised(sqlite_database.url, tmp_path, "shop", *options) as workers:
        processes = await workers.works(2)
        await scheduler.schedule("long", id="l-1")
        await running(scheduler, "l-1")
        workers.signal(signal.SIGKILL)
        await workers.until(lambda: not any(map(_alive, processes)), "the workers end")
        assert (await scheduler.get("l-1")).crashes == 0
        assert list(await scheduler.workers()) == []


async def test_ctrl_c_lets_running_executions_end(
    scheduler: zart.DurableScheduler, sqlite_database: Database, tmp_path: Path
) -> None:
    """A terminal sends SIGINT to its whole process group: the workers must not hear it twice."""
    with supervised(sqlite_database.url, tmp_path, "shop") as workers:
        await workers.works(2)
        await scheduler.schedule("brief", id="b-1")
        await running(scheduler, "b-1")
        os.killpg(workers.process.pid, signal.SIGINT)
        assert await workers.ended() == 0, workers.log
        assert (await scheduler.get("b-1")).status == "completed"


async def test_a_second_signal_gives_back_and_a_third_kills(
    scheduler: zart.DurableScheduler, sqlite_database: Database, tmp_path: Path
) -> None:
    """A process that can be stopped gives its execution back; one whose loop is blocked is killed.

    The exit code tells that not all went in good order. A busy machine may deliver the first two
    at once.
    """
    options = ("--concurrency=1", "--shutdown-timeout=1h")
    with supervised(sqlite_database.url, tmp_path, "shop", *options) as workers:
        processes = await workers.works(2)
        await scheduler.schedule("stubborn", id="s-1")
        await running(scheduler, "s-1")
        await scheduler.schedule("block", id="b-1")
        await running(scheduler, "b-1")
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        workers.signal(signal.SIGTERM)
        await workers.has("SIGTERM: 2 worker processes have 3600 s to stop")
        workers.signal(signal.SIGTERM)
        await workers.has("SIGTERM again")
        for process in processes:
            os.kill(process, signal.SIGCONT)
        await _stands(scheduler, "s-1", "pending")
        assert workers.process.poll() is None
        workers.signal(signal.SIGTERM)
        assert await workers.ended() == 1
        assert "does not stop: it is killed" in workers.log
        assert "was killed by SIGKILL while it stopped" in workers.log


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere", "there is no module 'nowhere'"),
        ("shop", "zart's tables are missing"),
    ],
)
async def test_what_cannot_work_is_said_once(
    sqlite_database: Database, tmp_path: Path, target: str, said: str
) -> None:
    """Where the first process fails before it works, no other is started: exit code 1."""
    _touch(sqlite_database)
    with supervised(sqlite_database.url, tmp_path, target) as workers:
        assert await workers.ended() == 1
        assert workers.log.count(said) == 1, workers.log
        assert "no others are started" in workers.log
        assert workers.started == []


def _touch(database: Database) -> None:
    """An empty file is a database without tables."""
    Path(database.url.removeprefix("sqlite:///")).touch()
