"""The worker's process: how it stops."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess

import pytest

import zart
from tests.cli.command import Zart
from tests.databases import Database


async def until(scheduler: zart.DurableScheduler, id: str, status: str) -> zart.Execution:
    """The execution, once it stands so."""
    deadline = asyncio.get_running_loop().time() + 30
    execution = await scheduler.get(id)
    while execution.status != status:
        assert asyncio.get_running_loop().time() < deadline, execution
        await asyncio.sleep(0.02)
        execution = await scheduler.get(id)
    return execution


async def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code and the log of a process that has to end soon."""
    _, log = await asyncio.to_thread(process.communicate, timeout=30)
    return process.returncode, log


async def test_a_stopped_worker_gives_its_executions_back(database: Database) -> None:
    """SIGTERM ends a worker in good order: what it was running is ready for others at once."""
    async with zart.connect(database.url) as scheduler:
        await scheduler.migrate()
        await scheduler.schedule("long", id="l-1")
        with Zart(database.url).worker("shop:long", "--shutdown-timeout", "100ms") as process:
            await until(scheduler, "l-1", "running")
            process.send_signal(signal.SIGTERM)
            code, log = await ended(process)
        assert code == 0, log
        execution = await scheduler.get("l-1")
        assert (execution.status, execution.crashes) == ("pending", 0)
        assert list(await scheduler.workers()) == []


async def test_a_second_signal_stops_at_once(sqlite_database: Database) -> None:
    """SIGINT twice does not wait for the shutdown time-out, not even for a stubborn handler."""
    async with zart.connect(sqlite_database.url) as scheduler:
        await scheduler.migrate()
        await scheduler.schedule("stubborn", id="s-1")
        with Zart(sqlite_database.url).worker("shop", "--shutdown-timeout", "1h") as process:
            await until(scheduler, "s-1", "running")
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            for line in iter(process.stderr.readline, ""):
                if "stops" in line:
                    break
            process.send_signal(signal.SIGINT)
            code, log = await ended(process)
        assert code == 0, log
        assert (await scheduler.get("s-1")).status == "pending"


async def test_signals_after_its_stop_change_nothing(sqlite_database: Database) -> None:
    """An impatient Ctrl-C, once more and again: a worker that has stopped ends with code 0."""
    async with zart.connect(sqlite_database.url) as scheduler:
        await scheduler.migrate()
    with Zart(sqlite_database.url).worker("shop") as process:
        assert process.stderr is not None
        for line in iter(process.stderr.readline, ""):
            if "started" in line:
                break
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.01)
        code, log = await ended(process)
    assert (code, len(log.splitlines())) == (0, 1), log


@pytest.mark.parametrize("options", [(), ("--processes", "2")])
async def test_the_log_is_json_where_it_is_asked_for(
    sqlite_database: Database, options: tuple[str, ...]
) -> None:
    """Each line is an object, of the supervisor and of each of its processes."""
    async with zart.connect(sqlite_database.url) as scheduler:
        await scheduler.migrate()
        await scheduler.schedule("jam", id="j-1")
        with Zart(sqlite_database.url).worker("shop", "--json", *options) as process:
            await until(scheduler, "j-1", "failed")
            process.send_signal(signal.SIGTERM)
            code, log = await ended(process)
    lines = [json.loads(line) for line in log.splitlines()]
    assert code == 0, log
    assert any("'j-1'" in line["message"] and line["level"] == "WARNING" for line in lines)
    assert all(set(line) >= {"time", "level", "logger", "process", "message"} for line in lines)
