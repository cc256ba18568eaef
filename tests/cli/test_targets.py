"""What a worker can be told to run."""

from __future__ import annotations

import sys

import pytest

from tests.cli.command import FOLDER
from zart.cli.targets import registry_of
from zart.errors import DefinitionError


@pytest.fixture(autouse=True)
def _in_the_shop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("shop:registry", {"print", "jam", "stall"}),
        ("shop:several", {"print", "bind"}),
        ("shop:print_order", {"print"}),
        ("shop:Bind", {"bind"}),
        ("shop:press", {"step press"}),
        (
            "shop",
            {"print", "jam", "long", "stubborn", "bind", "block", "brief", "who", "stall"}
            | {"step press", "step refuse", "step press_long"},
        ),
    ],
)
def test_a_target_gives_its_tasks(target: str, names: set[str]) -> None:
    """A registry, a list, one task, or a module alone: each gives the tasks that are in it."""
    assert set(registry_of(target).names) == names


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("shpo", "there is no module 'shpo'"),
        ("shop:regstry", "has no 'regstry'; it has"),
        ("shop:number", "is of type int"),
        ("shop:", "names nothing"),
        ("./shop.py", "is a file's path"),
        ("dataclasses", "has nothing to run"),
    ],
)
def test_a_wrong_target_is_told(target: str, said: str) -> None:
    """A target that cannot be run is an error that says what would be right."""
    with pytest.raises(DefinitionError, match=said):
        registry_of(target)
