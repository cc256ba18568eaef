"""How long the chaos may last, and the seed that its choices come from."""

from __future__ import annotations

import os
import random
import secrets
from dataclasses import dataclass, field

import pytest

SHORT = 4.0
"""Seconds of faults for each test in `make test`."""
SEED = pytest.StashKey[int]()
SECONDS = pytest.StashKey[float]()


@dataclass(frozen=True)
class Budget:
    """How many seconds a test may keep its faults up, and where its random choices come from."""

    seconds: float
    seed: int
    chance: random.Random = field(repr=False)

    @property
    def long(self) -> bool:
        """Whether this is `make chaos` rather than `make test`."""
        return self.seconds > SHORT


def pytest_configure(config: pytest.Config) -> None:
    given = os.environ.get("ZART_CHAOS_SEED")
    config.stash[SEED] = int(given) if given else secrets.randbits(32)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Share out the minutes among the tests that take a budget."""
    takers = sum("budget" in getattr(item, "fixturenames", ()) for item in items)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    minutes = float(os.environ.get("ZART_CHAOS_MINUTES", "0"))
    config.stash[SECONDS] = max(SHORT, 60 * minutes * workers / max(takers, 1))


@pytest.fixture
def budget(request: pytest.FixtureRequest) -> Budget:
    """The time and the chance of this test; the seed stands in what a failing test prints."""
    seed = request.config.stash[SEED]
    print(f"repeat this chaos with: make chaos SEED={seed}")  # noqa: T201 shown when a test fails
    chance = random.Random(f"{seed} {request.node.name}")
    return Budget(request.config.stash[SECONDS], seed, chance)
