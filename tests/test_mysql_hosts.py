"""A MySQL URL that names several servers: which one is connected to, and when that changes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncmy
import pytest
from asyncmy import errors

import zart
from tests.databases import Database, mysql_arguments
from tests.servers import MariadbServer
from tests.servers.server import free_port
from zart.scheduler.sql import mysql_hosts
from zart.scheduler.sql.mysql_url import hosts

pytestmark = pytest.mark.mysql


def test_a_url_names_one_host_or_several() -> None:
    """Each with its port, a name, an address of either kind."""
    assert hosts("mysql://root@/shop") == [("127.0.0.1", 3306)]
    assert hosts("mysql://u:p%2C@db-1,db-2:3307,[::1]:3308/shop") == [
        ("db-1", 3306),
        ("db-2", 3307),
        ("::1", 3308),
    ]
    with pytest.raises(ValueError, match="empty place among its hosts"):
        hosts("mysql://root@db-1,,db-2/shop")


async def test_a_host_that_is_not_there_is_passed_over(mysql_database: Database) -> None:
    """Wherever in the list the one that serves stands."""
    user, at, place = mysql_database.url.rpartition("@")
    gone = f"127.0.0.1:{free_port()}"
    for url in (f"{user}{at}{gone},{place}", f"{user}{at}{place.replace('/', f',{gone}/')}"):
        async with zart.connect(url) as scheduler:
            await scheduler.migrate()


async def test_a_host_that_answers_nothing_is_passed_over(mysql_database: Database) -> None:
    """A machine that stands still takes connections and never greets."""
    user, at, place = mysql_database.url.rpartition("@")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"{user}{at}127.0.0.1:{port},{place}?connect_timeout=0.3"
        async with zart.connect(url) as scheduler:
            await asyncio.wait_for(scheduler.migrate(), 20)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[MariadbServer, MariadbServer]]:
    with MariadbServer() as one, MariadbServer() as other:
        yield one, other


async def run(server: MariadbServer, *statements: str) -> None:
    connecting: Any = asyncmy.connect(**mysql_arguments(server.url))
    async with connecting as connection, connection.cursor() as cursor:
        for statement in statements:
            await cursor.execute(statement)


@pytest.fixture
async def shop(pair: tuple[MariadbServer, MariadbServer]) -> AsyncIterator[str]:
    """The URL of a database on the first server, the other one being its replica for now."""
    one, other = pair
    for server in pair:
        await run(
            server,
            "SET GLOBAL read_only = OFF",
            "CREATE DATABASE shop",
            "CREATE USER clerk@'%'",
            "GRANT ALL ON shop.* TO clerk@'%'",
        )
        async with zart.connect(f"{server.url}shop") as scheduler:
            await scheduler.migrate()
    await run(other, "SET GLOBAL read_only = ON")
    yield f"mysql://clerk@127.0.0.1:{other.port},127.0.0.1:{one.port}/shop"
    for server in pair:
        await run(server, "DROP DATABASE shop", "DROP USER clerk@'%'")


async def switch_over(pair: tuple[MariadbServer, MariadbServer]) -> None:
    """The replica becomes the primary; no connection ends."""
    one, other = pair
    await run(other, "SET GLOBAL read_only = OFF")
    await run(one, "SET GLOBAL read_only = ON")


async def test_a_host_that_becomes_read_only_is_left_for_the_one_that_takes_writes(
    pair: tuple[MariadbServer, MariadbServer], shop: str
) -> None:
    """A switch of primary and replica: the connections that are open move, readers too."""
    async with zart.connect(shop) as scheduler:
        await scheduler.schedule("work", id="before")
        assert [execution.id for execution in await scheduler.list()] == ["before"]
        await switch_over(pair)
        await scheduler.schedule("work", id="after")
        assert (await scheduler.get("after")).status == "pending"
        assert [execution.id for execution in await scheduler.list()] == ["after"]
    assert [await ids(server) for server in pair] == [["before"], ["after"]]


async def test_what_the_heartbeat_meets_moves_the_others(
    pair: tuple[MariadbServer, MariadbServer], shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker writes nothing but its beat, and its look for work only reads."""
    monkeypatch.setattr(mysql_hosts, "LOOK", 3600.0)
    async with zart.connect(shop) as scheduler, zart.connect(f"{pair[1].url}shop") as there:
        await scheduler.schedule("work", id="before")
        assert len(await scheduler.list()) == 1
        with pytest.raises(errors.MySQLError, match="read-only"):
            async with scheduler.backend.lease_session() as line:
                await switch_over(pair)
                await there.schedule("work", id="after")
                assert [execution.id for execution in await scheduler.list()] == ["before"]
                await line.beat("worker", 1, None, relocked=True)
        assert [execution.id for execution in await scheduler.list()] == ["after"]


async def test_a_process_that_only_reads_moves_too(
    pair: tuple[MariadbServer, MariadbServer], shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that it says is refused: it asks now and then."""
    monkeypatch.setattr(mysql_hosts, "LOOK", 0.0)
    async with zart.connect(shop) as scheduler, zart.connect(f"{pair[1].url}shop") as there:
        assert await scheduler.list() == []
        await switch_over(pair)
        await there.schedule("work", id="after")
        assert [execution.id for execution in await scheduler.list()] == ["after"]


async def test_a_connection_to_another_host_takes_the_rest_along(
    pair: tuple[MariadbServer, MariadbServer], shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made where the primary is now, with nothing refused: the others move there, too."""
    monkeypatch.setattr(mysql_hosts, "LOOK", 3600.0)
    async with zart.connect(shop) as scheduler:
        assert await scheduler.list() == []
        await switch_over(pair)
        await scheduler.schedule("work", id="after")  # the first that writes, on a new connection
        assert [execution.id for execution in await scheduler.list()] == ["after"]


async def ids(server: MariadbServer) -> list[str]:
    async with zart.connect(f"{server.url}shop") as scheduler:
        return [execution.id for execution in await scheduler.list()]
