"""The commands that only look: list and status."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from zart.cli.command import Cli, command
from zart.cli.output import STYLES, Cell, Output, length
from zart.cli.records import (
    as_record,
    attempt_as_record,
    attempt_lines,
    attempt_text,
    next_attempt,
    step_as_record,
    step_cells,
    value_text,
)
from zart.models import Attempt, Execution, Status, StepRecord

__all__ = ["add_to"]


async def list_(
    cli: Cli,
    status: Annotated[Status | None, typer.Option(help="Only those that stand so.")] = None,
    task: Annotated[str | None, typer.Option(help="Only those of this task.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 20,
) -> None:
    """List executions, newest first."""
    async with cli.scheduler() as scheduler:
        found = await scheduler.list(status=status, task=task, limit=limit)
    if cli.out.as_json:
        cli.out.json([as_record(execution) for execution in found])
    elif found or not cli.out.terminal:
        titles = ["id", "task", "status", "created", "took>", "waits for / failed with"]
        if not cli.out.terminal:
            titles[-1] = "note"
        cli.out.table(titles, [_row(cli.out, execution) for execution in found])
    else:
        cli.out.line("no executions", style="dim")


def _row(out: Output, execution: Execution) -> list[Cell]:
    return [
        execution.id,
        execution.task,
        _status(execution),
        _created(out, execution),
        length(_took(execution)),
        _remark(out, execution),
    ]


def _created(out: Output, execution: Execution) -> str:
    if out.terminal:
        return f"{length(_now() - execution.created)} ago"
    return out.moment(execution.created)


def _status(execution: Execution) -> Cell:
    return execution.status.value, STYLES[execution.status.value]


def _now() -> datetime:
    return datetime.now(UTC)


def _took(execution: Execution) -> timedelta | None:
    if execution.started is None:
        return None
    return (execution.finished or _now()) - execution.started


def _remark(out: Output, execution: Execution) -> Cell:
    if execution.failure is not None:
        return f"{execution.failure.type}: {execution.failure.message}", "red"
    until = f" until {out.moment(execution.due)}" if execution.due else ""
    return f"{', '.join(execution.waiting_for)}{until}", "yellow"


async def status(
    cli: Cli,
    id: Annotated[
        str, typer.Argument(metavar="ID", help="The execution's id.", show_default=False)
    ],
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the timeline: each step and attempt.")
    ] = False,
) -> None:
    """Show how an execution stands, and why it is tried again."""
    async with cli.scheduler() as scheduler:
        execution = await scheduler.get(id)
        attempts = await scheduler.attempts(id, run=execution.run)
        steps = list(await scheduler.timeline(id, run=execution.run)) if verbose else None
    if cli.out.as_json:
        record = as_record(execution)
        record["attempts"] = [attempt_as_record(attempt) for attempt in attempts]
        if steps is not None:
            record["steps"] = [step_as_record(step) for step in steps]
        cli.out.json(record)
        return
    cli.out.facts(_facts(cli.out, execution, attempts))
    if steps is not None:
        _timeline(cli.out, execution, steps, attempts)


def _facts(
    out: Output, execution: Execution, attempts: Sequence[Attempt]
) -> list[tuple[str, Cell]]:
    facts: list[tuple[str, Cell | None]] = [
        ("id", (execution.id, "bold")),
        ("task", execution.task),
        ("status", _status(execution)),
        ("waits for", _joined(execution.waiting_for)),
        ("until", out.moment(execution.due) if execution.due else None),
        ("worker", execution.worker),
        ("queue", execution.queue),
        ("priority", str(execution.priority) if execution.priority else None),
        ("parent", execution.parent),
        ("run", f"{execution.run}, attempt {execution.attempt}{_crashes(execution)}"),
        ("last try", _last(out, execution, attempts)),
        ("created", out.moment(execution.created)),
        ("started", out.moment(execution.started) if execution.started else None),
        ("finished", _finished(out, execution)),
        ("input", execution.input),
        ("result", value_text(execution.output) if execution.output is not None else None),
        ("failure", _failure(execution)),
    ]
    return [(name, cell) for name, cell in facts if cell is not None]


def _last(out: Output, execution: Execution, attempts: Sequence[Attempt]) -> Cell | None:
    """Why the run is being tried again, and when; of one that failed its failure tells."""
    if not attempts or execution.failure is not None:
        return None
    again = next_attempt(out, attempts[-1]) if "retry" in execution.waiting_for else ""
    return f"{attempt_text(out, attempts[-1])}{again}", "red"


def _joined(words: Sequence[str]) -> Cell | None:
    return (", ".join(words), "yellow") if words else None


def _crashes(execution: Execution) -> str:
    if not execution.crashes:
        return ""
    return f", its worker died {execution.crashes} time{'s' * (execution.crashes > 1)}"


def _finished(out: Output, execution: Execution) -> str | None:
    if execution.finished is None:
        return None
    return f"{out.moment(execution.finished)}, after {length(_took(execution))}"


def _failure(execution: Execution) -> Cell | None:
    failure = execution.failure
    if failure is None:
        return None
    named = f"step {failure.step!r}" in failure.message
    where = f" (in step {failure.step})" if failure.step and not named else ""
    return f"{failure.type}: {failure.message}{where}", "red"


def _timeline(
    out: Output,
    execution: Execution,
    steps: Sequence[StepRecord],
    attempts: Sequence[Attempt],
) -> None:
    out.line()
    if steps:
        begun = execution.started
        titles: list[Any] = ["step", "kind", "outcome", "began>", "took>", "tries>", "value"]
        out.table(titles, [step_cells(out, step, begun) for step in steps])
    else:
        out.line("no step has been recorded yet", style="dim")
    failed: list[str] = []
    for step in steps:
        goes_on = step.outcome is None and not execution.status.finished
        failed += attempt_lines(out, step.attempts, goes_on=goes_on)
    failed += attempt_lines(out, attempts, goes_on="retry" in execution.waiting_for)
    if failed:
        out.line()
    for line in failed:
        out.line(line, style="red")
    if execution.failure is not None and execution.failure.traceback:
        out.line()
        out.line(execution.failure.traceback.rstrip(), style="dim")


def add_to(app: typer.Typer) -> None:
    """Enter this room's commands."""
    command(app, "status", status)
    command(app, "list", list_)
