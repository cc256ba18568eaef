"""What a worker that was declared dead still does before it has heard of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import zart
from tests.databases import Database
from tests.test_conformance import OneDatabase
from zart.testing.conformance.faults import SHORT_LEASE, separable_worker
from zart.testing.conformance.harness import eventually, guarantee, open_scheduler, working


@guarantee(1, 9)
async def test_no_step_begins_between_the_worker_s_new_name_and_the_end_of_its_old_tasks(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease has its new name and holds again: what ran under the old one still waits."""
    runs: list[str] = []
    parted, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @zart.durable("renamed")
    async def renamed() -> str:
        runs.append("body")
        if len(runs) == 1:
            parted.set()
            await go_on.wait()
            try:
                await zart.context().step("pay", lambda: runs.append("late effect"))
            finally:
                ended.set()
        return await zart.context().step("pay", lambda: "heir")

    backend = OneDatabase(database.url)
    async with (
        open_scheduler(backend) as scheduler,
        separable_worker(backend, renamed) as (worker, partition),
    ):
        heard = asyncio.Event()
        monkeypatch.setattr(worker, "_reconcile", _looks_later)  # or that look finds out first
        _hear_late(worker, heard, monkeypatch)
        handle = await scheduler.schedule(renamed)
        await asyncio.wait_for(parted.wait(), 10)
        name = worker.id
        partition.cut()
        async with working(scheduler, renamed, config=SHORT_LEASE):
            assert await handle.result(timeout="10s") == "heir"
        partition.heal()
        await eventually(lambda: _answer(worker.id != name and worker._lease.valid))
        go_on.set()
        await asyncio.sleep(0.1)  # the handler goes on and comes to its step, which must not begin
        assert not ended.is_set()
        heard.set()
        await asyncio.wait_for(ended.wait(), 10)
        assert runs == ["body", "body"]


def _hear_late(worker: Any, heard: asyncio.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """The news of the death waits in the event loop until ``heard``."""
    lost = worker._lost_lease
    waiting: set[asyncio.Task[None]] = set()

    async def later(dead: str) -> None:
        await heard.wait()
        lost(dead)

    def heard_of(dead: str) -> None:
        waiting.add(asyncio.create_task(later(dead)))

    monkeypatch.setattr(worker._lease, "_on_lost", heard_of)


async def _looks_later() -> None:
    """Nothing is compared with the database."""


async def _answer(value: Any) -> Any:
    return value


@guarantee(8, 10)
async def test_a_worker_whose_beats_are_refused_for_a_moment_keeps_its_lock(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers that it takes no writes; who has no beat due meanwhile sees no death."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    @zart.durable("refused")
    async def refused() -> str:
        entered.set()
        await go_on.wait()
        return "done"

    backend = OneDatabase(database.url)
    config = zart.WorkerConfig(beat="2s", lease="6s", poll_interval="20ms")
    async with (
        open_scheduler(backend) as scheduler,
        separable_worker(backend, refused, config=config) as (worker, _),
        working(scheduler, refused, config=zart.WorkerConfig(queues=("another",))),
    ):
        handle = await scheduler.schedule(refused)
        await asyncio.wait_for(entered.wait(), 10)
        name, beat, refusals = worker.id, worker._lease._beat, 0

        async def refuse(*_: Any, **__: Any) -> None:
            nonlocal refusals
            refusals += 1
            raise RuntimeError("no writes at present")

        monkeypatch.setattr(worker._lease, "_beat", refuse)
        await eventually(lambda: _answer(refusals))
        await asyncio.sleep(1.6)  # the other looks for locks every half a second
        monkeypatch.setattr(worker._lease, "_beat", beat)
        go_on.set()
        assert await handle.result(timeout="10s") == "done"
        assert refusals > 1
        assert worker.id == name
        assert (await handle.get()).crashes == 0
