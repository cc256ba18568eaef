"""One SQLite file that processes reach by several names."""

from __future__ import annotations

import asyncio
from pathlib import Path

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
