"""The conformance suite against zart's own three databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

import zart
from tests import databases
from tests.conftest import SERVERS
from tests.databases import Database
from zart.testing import conformance
from zart.testing.conformance import *  # noqa: F403


class OneDatabase:
    """The conformance suite's backend: schedulers on one empty database."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def connect(self, **options: Any) -> zart.DurableScheduler:
        return await zart.connect(self.url, **options)


@pytest.fixture(scope="session")
def postgres_pool(pytestconfig: pytest.Config) -> Iterator[databases.Pool]:
    """Databases that are empty but for zart's tables: half of the suite's time went into those."""
    server = pytestconfig.stash[SERVERS].url("postgres")
    with closing(databases.postgres_pool(server, tables_stay=True)) as pool:
        yield pool


@pytest.fixture(scope="session")
def mysql_pool(pytestconfig: pytest.Config) -> Iterator[databases.Pool]:
    """The same on MariaDB."""
    with closing(databases.mysql_pool(pytestconfig.stash[SERVERS].url("mysql"))) as pool:
        yield pool


@pytest.fixture
def mysql_database(mysql_pool: databases.Pool) -> Iterator[Database]:
    with mysql_pool.taken() as made:
        yield made


@pytest.fixture
def backend(database: Database) -> OneDatabase:
    return OneDatabase(database.url)


def test_every_guarantee_has_a_test() -> None:
    """Each number of the design's section 4 is named by at least one test of the suite."""
    named = {
        number
        for suite in (getattr(conformance, name) for name in conformance.__all__)
        for test in vars(suite).values()
        for mark in getattr(test, "pytestmark", ())
        if mark.name == "guarantee"
        for number in mark.args
    }
    assert set(range(1, 24)) - named == set()
