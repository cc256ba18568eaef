"""A PostgreSQL URL that names several servers: the primary among them is found."""

from __future__ import annotations

import asyncio
import socket

import pytest

import zart
from tests.databases import Database
from tests.servers import PostgresServer
from tests.servers.server import free_port
from tests.servers.standby import PostgresStandby
from zart.scheduler.sql.hosts import each_host

pytestmark = pytest.mark.postgres


def test_each_host_of_a_url_is_tried_by_itself() -> None:
    """Account, database and options are the same for all."""
    assert each_host("postgresql://u:p%2C@db-1,[::1]:5433/shop?sslmode=require") == [
        "postgresql://u:p%2C@db-1/shop?sslmode=require",
        "postgresql://u:p%2C@[::1]:5433/shop?sslmode=require",
    ]
    assert each_host("postgresql:///shop") == ["postgresql:///shop"]


async def test_hosts_that_are_gone_or_silent_are_passed_over(postgres_database: Database) -> None:
    """One that refuses, and one that takes connections and never answers."""
    user, at, place = postgres_database.url.rpartition("@")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        places = f"127.0.0.1:{free_port()},127.0.0.1:{silent.getsockname()[1]},{place}"
        async with zart.connect(f"{user}{at}{places}") as scheduler:
            await asyncio.wait_for(scheduler.migrate(), 30)


async def test_a_standby_is_left_for_the_primary() -> None:
    """Wherever it stands in the list; when it is promoted it is found without a new start."""
    with PostgresServer() as primary, PostgresStandby(primary) as standby:
        place = f"127.0.0.1:{standby.port},127.0.0.1:{primary.port}"
        async with zart.connect(f"postgresql://postgres@{place}/postgres") as scheduler:
            await scheduler.migrate()
            await scheduler.schedule("work", id="before")
            primary.kill()
            promoting = asyncio.create_task(asyncio.to_thread(standby.promote))
            await scheduler.schedule("work", id="after")
            await promoting
        async with zart.connect(standby.url) as scheduler:
            assert "after" in {found.id for found in await scheduler.list()}
