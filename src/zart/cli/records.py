"""Executions and steps as the command line shows them: as JSON, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from zart.cli.output import STYLES, Cell, Output, length, printable
from zart.models import Attempt, Execution, Failure, Outcome, StepRecord

__all__ = [
    "as_record",
    "attempt_as_record",
    "attempt_lines",
    "attempt_text",
    "next_attempt",
    "seconds_of",
    "step_as_record",
    "step_cells",
    "step_label",
    "value_text",
]


def as_record(execution: Execution) -> dict[str, Any]:
    """An execution with stable keys; input and output stand in it as the JSON they are."""
    return {
        "id": execution.id,
        "task": execution.task,
        "queue": execution.queue,
        "status": execution.status.value,
        "input": _raw(execution.input),
        "output": _raw(execution.output),
        "failure": _failure(execution.failure),
        "run": execution.run,
        "attempt": execution.attempt,
        "crashes": execution.crashes,
        "priority": execution.priority,
        "worker": execution.worker,
        "parent": execution.parent,
        "waiting_for": execution.waiting_for,
        "created": execution.created,
        "started": execution.started,
        "finished": execution.finished,
        "due": execution.due,
    }


def step_as_record(step: StepRecord) -> dict[str, Any]:
    """One line of a timeline with stable keys."""
    return {
        "name": step.name,
        "kind": step.kind,
        "run": step.run,
        "outcome": None if step.outcome is None else step.outcome.value,
        "value": _raw(step.value),
        "failure": _failure(step.failure),
        "started": step.started,
        "finished": step.finished,
        "due": step.due,
        "seconds": seconds_of(step),
        "tries": tries(step),
        "attempts": [attempt_as_record(attempt) for attempt in step.attempts],
    }


def attempt_as_record(attempt: Attempt) -> dict[str, Any]:
    """A failed attempt with stable keys."""
    return {
        "attempt": attempt.attempt,
        "run_attempt": attempt.run_attempt,
        "failure": _failure(attempt.failure),
        "started": attempt.started,
        "failed": attempt.failed,
        "retry": attempt.retry,
    }


def _failure(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    return {
        "type": failure.type,
        "message": failure.message,
        "step": failure.step or None,
        "step_type": failure.step_type or None,
        "traceback": failure.traceback or None,
    }


def _raw(text: str | None) -> msgspec.Raw | None:
    """Stored JSON goes out as it is: decoding it could only change its numbers."""
    return None if text is None else msgspec.Raw(text.encode())


def value_text(text: str | None) -> str:
    """A stored value as a person or a shell wants it: a JSON string without its quotes."""
    if text is None:
        return ""
    if text.startswith('"'):
        return str(msgspec.json.decode(text))
    return text


def tries(step: StepRecord) -> int:
    """How many attempts a step is known to have had.

    Those that failed are kept one by one. None is kept of one that was cut off: by a cancellation,
    or by the end of its worker.
    """
    if step.outcome is Outcome.OK:
        return len(step.attempts) + 1
    return max(len(step.attempts), 1 if step.outcome is not None else 0)


def seconds_of(step: StepRecord) -> float | None:
    if step.started is None or step.finished is None:
        return None
    # The start is the worker's estimate of the database's time: it may be a hair ahead.
    return max((step.finished - step.started).total_seconds(), 0.0)


def step_label(step: StepRecord) -> Cell:
    """How a step ended, as a cell."""
    word = "open" if step.outcome is None else step.outcome.value
    return word, STYLES.get(word, "")


def step_cells(out: Output, step: StepRecord, begun: datetime | None) -> list[Cell]:
    """A step's row in a timeline: name, kind, outcome, when, how long, tries, value."""
    offset = step.started - begun if step.started is not None and begun is not None else None
    return [
        (step.name, "bold"),
        (step.kind, "dim"),
        step_label(step),
        "-" if offset is None else f"+{length(offset)}",
        length(seconds_of(step)),
        str(tries(step)) if step.kind in _TRIED else "-",
        _shown(out, step),
    ]


_TRIED = ("step", "transaction", "distributed", "child")
_SHORT = 60


def _shown(out: Output, step: StepRecord) -> Cell:
    if step.failure is not None:
        return f"{step.failure.type}: {step.failure.message}", "red"
    if step.outcome is None:
        return f"until {out.moment(step.due)}" if step.due is not None else ""
    text = step.value or ""
    if step.kind == "failure":  # what `on_failure` was given; its traceback stands below the table
        failure = msgspec.json.decode(text, type=Failure)
        text = f"{failure.type}: {failure.message}"
    if out.terminal and len(text) > _SHORT:
        text = text[: _SHORT - 3] + "..."
    return text


def attempt_lines(out: Output, attempts: Sequence[Attempt], *, goes_on: bool) -> list[str]:
    """A line for each failed attempt at a step or a run; ``goes_on`` when it has no outcome yet."""
    lines: list[str] = []
    for attempt in attempts:
        line = f"{attempt.step or 'the run'}: {attempt_text(out, attempt)}"
        if goes_on and attempt is attempts[-1]:
            line += next_attempt(out, attempt)
        lines.append(line)
    return lines


def attempt_text(out: Output, attempt: Attempt) -> str:
    """A failed attempt in one line: which, when, how long it took, and why it failed."""
    took = again = ""
    if attempt.started is not None and attempt.failed is not None:
        took = f" at {out.moment(attempt.failed)} after {length(attempt.failed - attempt.started)}"
    if attempt.run_attempt > 1 and attempt.run_attempt != attempt.attempt:
        again = f" (attempt {attempt.run_attempt} of the run)"
    cause = f"{attempt.failure.type}: {attempt.failure.message}"
    line = f"attempt {attempt.attempt} failed{took}{again}: {cause}"
    return printable(line).replace("\n", " ")


def next_attempt(out: Output, attempt: Attempt) -> str:
    """What to add about the attempt that follows."""
    return "" if attempt.retry is None else f"; the next one at {out.moment(attempt.retry)}"
