"""A process that has imported zart and forks workers: python -m tests.chaos.forge URL FOLDER.

A worker process costs a second to start, most of it for imports; a fork of one that has imported
costs a few milliseconds. It has neither event loop nor thread when it forks. Each line of its
input is a `Life`; for each a process is forked, and when that has ended (or stopped, for one
that is to be late) a line tells. All of them die with it, and it dies with its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

import zart
import zart.execution.run
import zart.scheduler.sql.mysql
import zart.scheduler.sql.postgres
from tests.chaos import everything, interrupted
from tests.chaos.interrupted import LATE, Point, Watch, interrupt
from tests.crash.ledger import Ledger

IN_PLACE = 0.02
"""Seconds: what is longer suspends, so that a short test sees both."""
LONGEST = 90
"""Seconds until a process that should have ended is killed by its alarm."""
_PDEATHSIG = 1


class Life(msgspec.Struct, frozen=True):
    """One worker process: what it runs, and where it is stopped."""

    execution: str
    mode: str
    point: Point | None = None


class News(msgspec.Struct, frozen=True):
    """A process has ended by ``signal``, with ``status``, or stands still."""

    execution: str
    process: int
    signal: int = 0
    status: int = 0
    stopped: bool = False


def die_with_parent() -> None:
    """The kernel kills this process when its parent has ended."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


async def live(url: str, life: Life) -> None:
    """Schedule the execution, serve its queue, and deliver its events."""
    name = life.execution
    watch = Watch(name, life.mode, life.point, everything.Here.ledger)
    short = {"beat": "400ms", "lease": "1500ms"} if life.mode == LATE else {}
    few: dict[str, Any] = {} if url.startswith("sqlite") else {"connections": 3}
    config = zart.WorkerConfig(queues=(name,), poll_interval="20ms", shutdown_timeout="5s", **short)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with zart.connect(url, **few) as scheduler:
        interrupt(scheduler, watch)
        await scheduler.schedule(everything.everything, everything.Place(name), id=name, queue=name)
        await offer(scheduler, name, "early")
        async with zart.Worker(scheduler, everything.TASKS, config):
            await deliver(scheduler, name)
            await scheduler.wait(name, timeout="60s")
            if watch.stood_still:
                await ended.wait()
    path = everything.Here.ledger.folder / f"{name}.writes"
    path.write_bytes(msgspec.json.encode(watch.writes))


async def deliver(scheduler: zart.DurableScheduler, name: str) -> None:
    """Deliver the letter as soon as the execution waits for it."""
    while True:
        execution = await scheduler.get(name)
        if execution.status.finished:
            return
        if "event letter" in execution.waiting_for:
            await offer(scheduler, name, "letter")
            return
        await asyncio.sleep(0.01)


async def offer(scheduler: zart.DurableScheduler, name: str, event: str) -> None:
    """Deliver an event, unless the execution has ended while this process stood still."""
    with contextlib.suppress(zart.ExecutionFinishedError):
        await scheduler.offer_event(name, event, everything.SAID[event])


def fork(url: str, folder: Path, life: Life) -> int:
    """Start a process; gives its id."""
    if process := os.fork():
        return process
    status = 1
    try:
        die_with_parent()
        signal.alarm(LONGEST)
        with (folder / f"{life.execution}.log").open("wb", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        logging.basicConfig(level=logging.INFO)
        everything.Here.ledger = Ledger(folder)
        zart.execution.run.IN_PLACE = IN_PLACE
        asyncio.run(live(url, life))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main(url: str, folder: Path) -> None:
    die_with_parent()
    children: dict[int, str] = {}
    for line in sys.stdin.buffer:
        at_once, lives = msgspec.json.decode(line, type=tuple[int, list[Life]])
        waiting = list(reversed(lives))
        while waiting or children:
            while waiting and len(children) < at_once:
                life = waiting.pop()
                children[fork(url, folder, life)] = life.execution
            process, status = os.waitpid(-1, os.WUNTRACED)
            news = _news(children.pop(process, ""), process, status)
            if news.execution:
                sys.stdout.write(msgspec.json.encode(news).decode() + "\n")
        sys.stdout.write("\n")
        sys.stdout.flush()


def _news(execution: str, process: int, status: int) -> News:
    if os.WIFSTOPPED(status):
        return News(execution, process, stopped=True)
    if os.WIFSIGNALED(status):
        return News(execution, process, signal=os.WTERMSIG(status))
    return News(execution, process, status=os.WEXITSTATUS(status))


__all__ = ["Life", "News", "deliver", "interrupted"]

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
