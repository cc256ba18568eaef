"""What `make bench` is made of holds together; how fast anything is, is not its business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, targets
from benchmarks.cells import GROUPS, growth, idle, recovery, sleepers, steady
from benchmarks.found import Found
from benchmarks.plan import DATABASES, SYSTEMS, Cell, Scale, Values
from tests.databases import Database

ROOT = Path(__file__).parent.parent
MINUTE = {
    "under_load": True,
    "started": 300,
    "completed": 290,
    "start_ms": {"amount": 2, "p50": 5.0, "p99": 9.0, "most": 9.0},
    "claim_ms": {"amount": 2, "p50": 2.0, "p99": 4.0, "most": 4.0},
    "worker_bytes": 1 << 20,
    "tables": {"zart_tasks": {"rows": 9, "dead": 70, "bytes": 1 << 20, "vacuums": 1}},
}


def heavy(found: Found, name: str) -> targets.Target:
    """The one target whose name begins so."""
    (target,) = [each for each in targets.targets(found) if each.name.startswith(name)]
    return target


def of(label: str, kind: str, group: str, values: Values) -> Found:
    found = Found()
    found.add(Cell(kind, label, "", (), lambda _: {}, group=group), values)
    return found


# -- cells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True], ids=("whole", "quick"))
@pytest.mark.parametrize("group", GROUPS)
def test_a_groups_cells_name_what_exists(group: str, quick: bool) -> None:
    """Each runs a module that is there, on a known database, and no two give the same figures."""
    cells = list(GROUPS[group](Scale(quick=quick)))
    assert cells
    for cell in cells:
        assert cell.group == group
        assert cell.kind in DATABASES
        assert cell.system in SYSTEMS
        assert find_spec(f"benchmarks.{cell.module}") is not None
    assert len({(cell.kind, cell.label, cell.system) for cell in cells}) == len(cells)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_gives_only_what_is_asked_for(group: str) -> None:
    scale = Scale(databases=("sqlite",), systems=("zart",), quick=True)
    assert {(cell.kind, cell.system) for cell in GROUPS[group](scale)} <= {("sqlite", "zart")}


def test_a_steady_load_lasts_as_long_as_asked_and_its_cell_longer() -> None:
    (cell,) = steady.cells(Scale(minutes=60))
    assert cell.arguments[0] == "60"
    assert cell.patience > 3600


def test_a_steady_loads_figures_are_those_of_the_time_under_load() -> None:
    """What is seen while the last executions end has no part in the last minute."""
    last = {**MINUTE, "started": 600, "worker_bytes": 2 << 20}
    tail = {**MINUTE, "under_load": False, "start_ms": {"amount": 0}, "claim_ms": {"amount": 0}}
    (cell,) = steady.cells(Scale())
    figures = cell.take({"minutes": [MINUTE, last, tail]})
    assert figures["worker's memory, first minute, MiB"] == [1.0]
    assert figures["worker's memory, last minute, MiB"] == [2.0]
    assert figures["zart_tasks, dead rows, most"] == [70.0]


# -- targets and tables ---------------------------------------------------------------------------


def test_without_figures_no_target_is_reached_nor_missed() -> None:
    assert {target.reached for target in targets.targets(Found())} == {None}


@pytest.mark.parametrize(("value", "reached"), [(-2.0, True), (0.0, True), (16.1, False)])
def test_a_sleeper_holds_no_memory(value: float, reached: bool) -> None:
    label = sleepers.named(1_000_000)
    found = of(label, "postgres", "sleepers", {sleepers.BYTES_EACH: [value]})
    assert heavy(found, label).reached is reached


@pytest.mark.parametrize(("seconds", "reached"), [(2.9, True), (3.1, False)])
@pytest.mark.parametrize("kind", DATABASES)
def test_executions_of_a_killed_worker_go_on(kind: str, seconds: float, reached: bool) -> None:
    found = of(recovery.LABEL, kind, "recovery", {recovery.GONE_ON: [seconds]})
    assert heavy(found, f"{kind}: {recovery.LABEL}").reached is reached


@pytest.mark.parametrize(("analyzed", "reached"), [(2.3, True), (2.5, False)])
def test_a_claim_among_sleepers_is_judged_by_the_worse_statistics(
    analyzed: float, reached: bool
) -> None:
    values = {
        growth.unit(growth.CLAIM, "empty", "as filled"): [2.0],
        growth.unit(growth.CLAIM, "full", "as filled"): [2.1],
        growth.unit(growth.CLAIM, "empty", "analyzed"): [2.0],
        growth.unit(growth.CLAIM, "full", "analyzed"): [analyzed],
    }
    found = of(growth.SLEEPING, "postgres", "growth", values)
    assert heavy(found, "postgres: a claim at 1,000,000 sleeping").reached is reached


def test_each_figure_of_the_heavy_groups_stands_in_a_table() -> None:
    found = Found()
    found.add(next(growth.cells(Scale())), {unit: [7.25] for unit in _growth_units()})
    found.add(next(idle.cells(Scale())), {idle.unit("1 name", "statements"): [31.5]})
    found.add(next(recovery.cells(Scale())), {recovery.GONE_ON: [1.75]})
    shown = {table.title.split(":")[0]: str(table.rows) for table in report.tables(found)}
    assert shown["Growth"].count("7.25 / 7.25") == 4  # the third is a rate
    assert "31.50" in shown["Idle"]
    assert "1.75" in shown["Recovery, sleepers, steady load"]


def _growth_units() -> list[str]:
    return [
        growth.unit(what, place, statistics)
        for what in growth.MEASURED
        for place in growth.PLACES
        for statistics in growth.STATISTICS.values()
    ]


# -- the measurements themselves, small -----------------------------------------------------------


def measured(database: Database, module: str, *arguments: str) -> Mapping[str, Any]:
    """What one prints, run as `make bench` runs it."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", database.url, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_sleepers_go_to_sleep(sqlite_database: Database) -> None:
    found = measured(sqlite_database, "sleepers", "40")
    (cell, *_) = sleepers.cells(Scale(databases=("sqlite",), quick=True))
    assert set(cell.take(found)) == {"until all sleep, s", sleepers.BYTES_EACH}


def test_copied_rows_are_such_as_zart_makes(database: Database) -> None:
    """The filling compares them itself, column by column, in every kind of execution."""
    kinds = ("sleeping", "expecting", "finished", "unknown")
    found = measured(database, "growth", ",".join(f"{kind}=20" for kind in kinds), "2", "20")
    (cell, *_) = growth.cells(Scale(databases=("sqlite",)))
    assert set(cell.take(found)) == set(_growth_units())


def test_a_steady_load_ends_by_itself(postgres_database: Database) -> None:
    found = measured(postgres_database, "steady", "0.05", "20")
    assert found["completed"] >= 50
    (cell,) = steady.cells(Scale())
    assert cell.take(found)["zart_tasks, MiB, most"][0] > 0
