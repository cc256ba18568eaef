"""One SQLite file that processes reach by several names, and one name for several files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import zart


async def test_workers_that_reach_a_file_by_links_do_not_take_each_other_for_dead(
    tmp_path: Path,
) -> None:
    """Each finds the other's lock, whatever name it has the file by: a step begins once."""
    begun: list[str] = []

    @zart.step
    async def press() -> None:
        begun.append("press")
        await asyncio.sleep(2.0)

    @zart.durable("print")
    async def print_() -> None:
        await press()

    folder = tmp_path / "release"
    folder.mkdir()
    link = folder / "link.db"
    link.symlink_to("../real.db")
    async with (
        zart.connect(f"sqlite:///{tmp_path}/real.db") as one,
        zart.connect(f"sqlite:///{link}") as other,
    ):
        await one.migrate()
        async with zart.Worker(one, [print_]) as first, zart.Worker(other, [print_]) as second:
            names = first.id, second.id
            handle = await one.schedule(print_)
            await handle.result(timeout="30s")
            assert (first.id, second.id) == names
    assert begun == ["press"]


@zart.durable("echo")
async def echo(value: int) -> int:
    return value


@pytest.mark.parametrize("gone", [("", "-wal", "-shm"), ("",)], ids=["whole", "without-its-log"])
async def test_a_file_put_in_the_place_of_another_is_the_one_that_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, gone: tuple[str, ...]
) -> None:
    """Nothing more goes to the one that was deleted, which would take it and keep nothing."""
    path = tmp_path / "shop.db"
    config = zart.WorkerConfig(beat="200ms", lease="2s", poll_interval="100ms")
    async with zart.connect(f"sqlite:///{path}") as scheduler:
        await scheduler.migrate()
        async with zart.Worker(scheduler, [echo], config):
            assert await (await scheduler.schedule(echo, 1)).result(timeout="10s") == 1
            for end in gone:
                path.with_name(f"{path.name}{end}").unlink()
            await asyncio.sleep(1)  # the worker works on
            assert not path.exists()
            async with zart.connect(f"sqlite:///{path}") as fresh:
                await fresh.migrate()
                assert await (await fresh.schedule(echo, 2)).result(timeout="30s") == 2
                handle = await scheduler.schedule(echo, 3)
                assert await handle.result(timeout="30s") == 3
                assert (await fresh.get(handle.id)).output == "3"
    assert "has been deleted or replaced" in caplog.text
