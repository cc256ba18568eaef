"""A worker that is cut off from its database and everyone else, and back again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from socket import socket

import pytest

import zart
from tests.chaos.namespaces import possible, wired
from tests.chaos.own import REMOTE
from tests.chaos.proxy import Proxy, proxied
from tests.crash import ledger
from tests.crash.ledger import BEGIN, COMMITTED, Story
from tests.crash.processes import WorkerProcess, crew, until
from tests.crash.workflow import baton, errand
from tests.databases import Database
from tests.figures import took
from zart.testing.conformance.harness import guarantee

_log = logging.getLogger("tests.chaos")

BEAT, LEASE = 1.0, 3.0
SETTINGS = {"beat": BEAT, "lease": LEASE, "options": {"answer_timeout": 3}}
SERVES_AGAIN = 5.0
"""Seconds from the end of a separation until the worker is at work."""


@pytest.fixture(params=REMOTE)
def remote(request: pytest.FixtureRequest) -> Database:
    """An empty database that is reached over a network."""
    made: Database = request.getfixturevalue(f"{request.param}_database")
    return made


@dataclass
class Way:
    """How a worker is put behind a line that can be cut."""

    listener: socket | None
    within: tuple[str, ...]
    pull: Callable[[Proxy], None]
    plug: Callable[[Proxy], None]


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Way]:
    """A network of its own; where the kernel refuses one to this user, a proxy that stands still.

    What the proxy cannot show is how the kernel finds out: its own end still acknowledges.
    """
    with ExitStack() as stack:
        if possible():
            cable = stack.enter_context(wired(tmp_path))
            yield Way(
                cable.listener, tuple(cable.far), lambda _: cable.pull(), lambda _: cable.plug()
            )
        else:
            _log.warning("no namespaces for this user here: the line is cut in a proxy instead")
            yield Way(None, (), Proxy.freeze, Proxy.thaw)


@guarantee(1, 9, 10)
async def test_a_worker_that_was_cut_off_writes_nothing_late_and_serves_again(
    remote: Database, way: Way, tmp_path: Path
) -> None:
    """The other takes over within the lease and a look; the first comes back by itself."""
    async with (
        proxied(remote.url, way.listener) as proxy,
        zart.connect(remote.url) as scheduler,
        crew(remote.url, tmp_path, **SETTINGS) as workers,
    ):
        await scheduler.migrate()
        away = workers.start(url=proxy.url, within=way.within)
        await _in_the_step(scheduler, away, "first")
        name = await _name_of(scheduler, away)
        other = workers.start()
        await until(lambda: _entered(scheduler, other), "the other is entered")

        way.pull(proxy)
        cut_at = time.monotonic_ns()
        (tmp_path / "first.release").touch()  # what it writes now can only arrive late
        result = await scheduler.result("first", timeout="30s")
        taken = next(line.at for line in other.lines if line.mark == BEGIN) - cut_at
        assert taken / 1e9 < LEASE + BEAT

        way.plug(proxy)
        plugged_at = time.monotonic()
        await other.stop()
        later = await scheduler.schedule(errand, 0.0, id="later")
        await later.result(timeout="60s")
        back = time.monotonic() - plugged_at
        took(f"worker cut off, lease {LEASE:g} s: {remote.kind}, taken over", taken / 1e9)
        took(f"worker cut off, lease {LEASE:g} s: {remote.kind}, serves again", back)
        assert back < SERVES_AGAIN
        assert any(line.execution == "later" for line in away.lines)
        assert await _name_of(scheduler, away) != name
        await _holds(scheduler, tmp_path, result, crashes=1)
        assert await away.stop() == 0, workers.logs()


@guarantee(1, 9, 10)
async def test_a_worker_that_was_cut_off_for_a_moment_goes_on(
    remote: Database, way: Way, tmp_path: Path
) -> None:
    """Within the lease nothing is taken over: its steps are recorded once it is back."""
    async with (
        proxied(remote.url, way.listener) as proxy,
        zart.connect(remote.url) as scheduler,
        crew(remote.url, tmp_path, **SETTINGS | {"beat": 5, "lease": 15}) as workers,
    ):
        await scheduler.migrate()
        away = workers.start(url=proxy.url, within=way.within)
        await _in_the_step(scheduler, away, "first")
        name = await _name_of(scheduler, away)
        way.pull(proxy)
        (tmp_path / "first.release").touch()
        await until(lambda: _ended(away), "the step has ended, and cannot be recorded")
        await asyncio.sleep(2)  # the length of the separation
        assert (await scheduler.get("first")).status == "running"
        way.plug(proxy)
        plugged_at = time.monotonic()
        result = await scheduler.result("first", timeout="60s")
        back = time.monotonic() - plugged_at
        took(f"worker cut off for 2 s: {remote.kind}, goes on", back)
        assert back < SERVES_AGAIN
        assert await _name_of(scheduler, away) == name
        await _holds(scheduler, tmp_path, result, crashes=0)
        assert await away.stop() == 0, workers.logs()


async def _in_the_step(
    scheduler: zart.DurableScheduler, member: WorkerProcess, execution: str
) -> None:
    await scheduler.schedule(baton, id=execution)
    await until(lambda: any(line.step == "carry" for line in member.lines), "it is in the step")


async def _entered(scheduler: zart.DurableScheduler, member: WorkerProcess) -> bool:
    return member.id in {row.process for row in await scheduler.workers()}


async def _name_of(scheduler: zart.DurableScheduler, member: WorkerProcess) -> str:
    return next(row.id for row in await scheduler.workers() if row.process == member.id)


def _ended(member: WorkerProcess) -> bool:
    return any(line.step == "carry" and line.mark == "end" for line in member.lines)


async def _holds(
    scheduler: zart.DurableScheduler, folder: Path, result: list[str], *, crashes: int
) -> None:
    """What came out is what was recorded, once, and nothing of it ran again afterwards."""
    story = Story(ledger.read(folder))
    assert not list(story.violations())
    assert len(story.values("first", "carry", BEGIN)) == 1 + crashes
    assert set(story.values("first", "carry", COMMITTED)) == {result[1]}
    assert story.values("first", "finish") == [result[2]]
    assert await scheduler.result("first") == result
    assert (await scheduler.get("first")).crashes == crashes
