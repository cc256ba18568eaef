"""The ground the other tests stand on: real servers, empty databases, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import apsw
import asyncmy
import asyncpg
import pytest

from tests.databases import Database, mysql_arguments
from tests.servers import MariadbServer, PostgresServer, Server
from tests.turns import Turns

LISTENING = "0A"
ROOT = Path(__file__).parent.parent


@pytest.fixture(
    params=[
        pytest.param(PostgresServer, marks=pytest.mark.postgres, id="postgres"),
        pytest.param(MariadbServer, marks=pytest.mark.mysql, id="mysql"),
    ]
)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with request.param() as started:
        yield started


async def query(database: Database, statement: str) -> list[tuple[object, ...]]:
    """Run one statement through the driver that zart itself uses."""
    match database.kind:
        case "sqlite":
            connection = apsw.Connection(database.url.removeprefix("sqlite:///"))
            try:
                return list(connection.execute(statement))
            finally:
                connection.close()
        case "postgres":
            postgres = await asyncpg.connect(database.url)
            try:
                return [tuple(row) for row in await postgres.fetch(statement)]
            finally:
                await postgres.close()
        case _:
            connecting = asyncmy.connect(**mysql_arguments(database.url))
            async with connecting as mysql, mysql.cursor() as cursor:
                await cursor.execute(statement)
                return list(await cursor.fetchall())


def database_on(server: Server) -> Database:
    return Database("mysql" if isinstance(server, MariadbServer) else "postgres", server.url)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def open_files(pid: int) -> Iterator[str]:
    """What a process has open; what it closes meanwhile may be missing."""
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            yield str(file.readlink())


def listening_addresses(pid: int) -> set[str]:
    """The addresses a process listens on, as Linux writes them: 0100007F is 127.0.0.1."""
    inodes = {file[8:-1] for file in open_files(pid) if file.startswith("socket:[")}
    sockets = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {
        fields[1].partition(":")[0]
        for fields in sockets
        if fields[3] == LISTENING and fields[9] in inodes
    }


async def test_a_query_runs_through_the_real_driver(database: Database) -> None:
    assert await query(database, "SELECT 40 + 2") == [(42,)]


@pytest.mark.parametrize("turn", [1, 2])
async def test_each_test_gets_an_empty_database(database: Database, turn: int) -> None:
    await query(database, f"CREATE TABLE only_here (turn_{turn} INTEGER)")
    assert await query(database, "SELECT * FROM only_here") == []


async def test_mysql_tells_letters_apart_as_the_other_databases_do(
    mysql_database: Database,
) -> None:
    await query(mysql_database, "CREATE TABLE names (name VARCHAR(9))")
    await query(mysql_database, "INSERT INTO names VALUES ('a')")
    assert await query(mysql_database, "SELECT name FROM names WHERE name = 'A'") == []


def test_a_server_listens_on_loopback_only(server: Server) -> None:
    assert listening_addresses(server.pid) == {"0100007F"}


def test_a_stopped_server_is_gone_with_its_data(server: Server) -> None:
    pid = server.pid
    server.stop()
    assert not is_running(pid)
    server.close()
    assert not server.data_dir.parent.exists()


async def test_a_killed_server_comes_back_at_the_same_place_with_its_data(server: Server) -> None:
    database, pid = database_on(server), server.pid
    await query(database, "CREATE DATABASE kept")
    server.kill()
    assert not is_running(pid)
    server.restart()
    assert database == database_on(server)
    kept = Database(database.kind, server.url.rpartition("/")[0] + "/kept")
    assert await query(kept, "SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("PostgresServer", marks=pytest.mark.postgres, id="postgres"),
        pytest.param("MariadbServer", marks=pytest.mark.mysql, id="mysql"),
    ],
)
def test_a_server_does_not_outlive_a_killed_test_run(kind: str) -> None:
    program = (
        f"import time; from tests.servers import {kind}; server = {kind}();"
        "print(server.pid, server.data_dir.parent, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as test_run:
        assert test_run.stdout is not None
        pid, folder = test_run.stdout.readline().split()
        test_run.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while is_running(int(pid)) or Path(folder).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.postgres
def test_a_server_that_cannot_start_says_why() -> None:
    class Misled(PostgresServer):
        def _command(self) -> list[str]:
            return [*super()._command(), "--shared_buffers=much"]

    with pytest.raises(Exception, match="invalid value for parameter"):
        Misled()


def test_a_timed_test_holds_back_as_many_others_as_there_are_too_many(tmp_path: Path) -> None:
    """Of three on two cores one waits until it has ended; the one beside it comes and goes."""
    timed, other, beside = (Turns(tmp_path, number, 3, cores=2) for number in range(3))
    ended: list[str] = []

    def held_back() -> None:
        with other.turn(timed=False):
            ended.append("other")

    def also_timed() -> None:
        with beside.turn(timed=True):
            ended.append("also timed")

    with ThreadPoolExecutor() as threads:
        with timed.turn(timed=True):
            waiting = [threads.submit(held_back), threads.submit(also_timed)]
            with beside.turn(timed=False):
                ended.append("beside")
            ended.append("timed")
        for each in waiting:
            each.result(timeout=10)
    assert ended[:2] == ["beside", "timed"]
    assert sorted(ended[2:]) == ["also timed", "other"]
