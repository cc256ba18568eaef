"""A worker process is killed before and after each write that it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

import zart.execution.run
from tests.chaos.conftest import Budget
from tests.chaos.forge import IN_PLACE, Life
from tests.chaos.interrupted import AFTER, BEFORE, Point
from tests.chaos.sweep import Sweep, sweep
from tests.databases import Database
from tests.figures import figure
from zart.testing.conformance.harness import guarantee

SAMPLE = 14
"""Crashes on each database in `make test`; `make chaos` makes all of them."""
BATCH = 28
AT_ONCE = 4
KINDS = (
    *("enter worker", "strike worker out", "insert_executions self", "insert_executions child"),
    *("insert_events self early", "take_events self event letter", "ready_due_tasks self"),
    *("claim_tasks self", "claim_tasks self member-1", "claim_tasks child", "park_tasks self"),
    *(
        "record_attempts self hail 2",
        "record_attempts self member-1 1",
        "record_attempts self run 1",
    ),
    *("record_steps self change ok", "record_steps self setting ok", "record_steps self now ok"),
    *("record_steps self pay failed", "record_steps self call timed_out"),
    *("record_steps self again-2 ok", "record_steps self event never timed_out"),
    *("record_steps self left ok", "record_steps self after-branch ok"),
    *("insert_distributed self member-1", "record_steps self member-2 ok", "count_down self"),
    *("record_steps self closure ok", "erase_steps self rounds[1]/step"),
    *("record_steps self rounds ok", "record_steps self move ok", "record_steps self child ok"),
    *("record_steps bad on_failure ok", "record_steps bad on_failure/refund ok"),
    *("record_steps self bad failed", "finish_executions self completed"),
)
"""Some of what an undisturbed life writes, of each kind: the watch overlooks none of them."""


@guarantee(1, 3, 5, 7, 12, 15, 16, 18, 19, 20)
async def test_a_crash_before_or_after_any_write_changes_neither_result_nor_effects(
    database: Database, tmp_path: Path, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finishes with the same result, and runs no step again after its commit."""
    monkeypatch.setattr(zart.execution.run, "IN_PLACE", IN_PLACE)
    async with sweep(database, tmp_path) as lives:
        points = await lives.points(KINDS)
        crashes = [(point, mode) for point in points for mode in (BEFORE, AFTER)]
        if not budget.long:
            crashes = budget.chance.sample(crashes, SAMPLE)
        for start in range(0, len(crashes), BATCH):
            await _crash_at(lives, crashes[start : start + BATCH], f"life-{start}")
    figure(
        f"killed before or after a write: {database.kind}",
        f"{len(crashes)} of {2 * len(points)} places",
    )


async def _crash_at(lives: Sweep, crashes: list[tuple[Point, str]], prefix: str) -> None:
    """One life for each crash; one whose point did not come in company is led there alone."""
    planned = [
        Life(f"{prefix}-{number}", mode, point) for number, (point, mode) in enumerate(crashes)
    ]
    await lives.live(planned, at_once=AT_ONCE)
    await lives.finish([life.execution for life in planned])
    await lives.proves([life.execution for life in planned])
    for life in planned:
        await _lead_there(lives, life)


async def _lead_there(lives: Sweep, life: Life) -> None:
    for again in range(2):
        if life.execution in lives.interruptions():
            return
        life = Life(f"{life.execution}-{again}", life.mode, life.point)
        await lives.live([life], at_once=1)
        await lives.finish([life.execution])
        await lives.proves([life.execution])
    if life.execution not in lives.interruptions():
        # A wait that was over before it began has no park, no alarm and no claim of its own.
        assert life.point is not None
        assert 1 <= lives.count(life) < life.point.number, (life, lives.log(life.execution))
