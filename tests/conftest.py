"""Databases for the tests: one empty database for each test, of each kind that is selected."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import zart
from tests import databases, figures
from tests.databases import Database
from tests.servers import RunServers, ServerError
from tests.turns import Turns

SELECTED = databases.selected_kinds()
SERVERS = pytest.StashKey[RunServers]()
TURNS = pytest.StashKey[Turns]()
LOCKS = pytest.StashKey[TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Workers are told the URLs by the controller; a run without workers starts servers lazily."""
    worker_input = getattr(config, "workerinput", {})
    servers = RunServers(worker_input.get("servers", databases.given_servers()))
    config.stash[SERVERS] = servers
    if "turns" in worker_input:
        number = int(worker_input["workerid"].removeprefix("gw"))
        folder = Path(worker_input["turns"])
        config.stash[TURNS] = Turns(
            folder, number, worker_input["workercount"], os.cpu_count() or 1
        )
    if _leads_workers(config):
        config.stash[LOCKS] = TemporaryDirectory(prefix="zart-turns-")
        try:
            servers.start(SELECTED)
        except ServerError as error:
            servers.close()
            raise pytest.UsageError(str(error)) from error


def pytest_unconfigure(config: pytest.Config) -> None:
    if servers := config.stash.get(SERVERS, None):
        servers.close()
    if locks := config.stash.get(LOCKS, None):
        locks.cleanup()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["servers"] = dict(node.config.stash[SERVERS].urls)
    node.workerinput["turns"] = node.config.stash[LOCKS].name


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A timed test has a core to itself; the wait for it counts for no time-out."""
    turns = item.config.stash.get(TURNS, None)
    if turns is None:
        return (yield)
    with turns.turn(timed=item.get_closest_marker("timed") is not None):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with the database it uses; leave out those of databases not selected."""
    left_out: list[pytest.Item] = []
    for item in list(items):
        for kind in databases.KINDS:
            if f"{kind}_database" in getattr(item, "fixturenames", ()):
                item.add_marker(kind)
            if item.get_closest_marker(kind) and kind not in SELECTED:
                items.remove(item)
                left_out.append(item)
                break
    if left_out:
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send the figures of a test along with its report."""
    report = yield
    report.user_properties += [(figures.FIGURE, line) for line in figures.take()]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures of all tests together."""
    lines = figures.shown([r for reports in terminalreporter.stats.values() for r in reports])
    if lines:
        terminalreporter.section("figures")
    for line in lines:
        terminalreporter.write_line(line)


@pytest.fixture(params=[pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in SELECTED])
def database(request: pytest.FixtureRequest) -> Database:
    """An empty database; the test runs once for each selected kind."""
    made: Database = request.getfixturevalue(f"{request.param}_database")
    return made


@pytest.fixture
async def scheduler(database: Database) -> AsyncIterator[zart.DurableScheduler]:
    """A scheduler on a database of its own, with its tables."""
    async with zart.connect(database.url) as made:
        await made.migrate()
        yield made


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Database:
    return databases.sqlite_database(tmp_path)


@pytest.fixture(scope="session")
def postgres_pool(pytestconfig: pytest.Config) -> Iterator[databases.Pool]:
    with closing(databases.postgres_pool(pytestconfig.stash[SERVERS].url("postgres"))) as pool:
        yield pool


@pytest.fixture
def postgres_database(postgres_pool: databases.Pool) -> Iterator[Database]:
    with postgres_pool.taken() as made:
        yield made


@pytest.fixture
def mysql_database(pytestconfig: pytest.Config) -> Iterator[Database]:
    with databases.mysql_database(pytestconfig.stash[SERVERS].url("mysql")) as made:
        yield made


def _leads_workers(config: pytest.Config) -> bool:
    if hasattr(config, "workerinput") or config.option.collectonly:
        return False
    return bool(config.getoption("dist", "no") != "no")
