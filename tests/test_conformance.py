"""The conformance suite against zart's own three databases."""

from __future__ import annotations

from typing import Any

import pytest

import zart
from tests.databases import Database
from zart.testing.conformance import *  # noqa: F403


class OneDatabase:
    """The conformance suite's backend: schedulers on one empty database."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def connect(self, **options: Any) -> zart.DurableScheduler:
        return await zart.connect(self.url, **options)


@pytest.fixture
def backend(database: Database) -> OneDatabase:
    return OneDatabase(database.url)
