"""What the demo shows at its end, and the check of what it claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from zart.cli.demo_shop import Line
from zart.cli.output import Cell, Output, length
from zart.cli.records import seconds_of, step_label, value_text
from zart.models import Execution, Outcome, Status, StepRecord

__all__ = ["Evidence", "problems", "show", "summary"]

FUNCTIONS = ("charge", "send_receipt")


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the database recorded, and what the ledger beside it says really ran."""

    execution: Execution
    steps: tuple[StepRecord, ...]
    ledger: tuple[Line, ...]
    killed: int
    survivor: int
    expected: str

    def notes(self, function: str, what: str) -> list[int]:
        """The processes in which a function began or ended, in order."""
        return [n.process for n in self.ledger if (n.function, n.what) == (function, what)]


def problems(evidence: Evidence) -> list[str]:
    """Everything that does not hold; nothing is as it should be."""
    found: list[str] = []
    execution = evidence.execution
    if execution.status is not Status.COMPLETED or execution.output != evidence.expected:
        found.append(f"the execution ended as {execution.status.value} with {execution.output}")
    recorded = {step.name for step in evidence.steps if step.outcome is Outcome.OK}
    if recorded != {*FUNCTIONS, "event shipped"}:
        found.append(f"the recorded steps are {', '.join(sorted(recorded))}")
    for function in FUNCTIONS:
        found += _ran_on(evidence, function)
    if evidence.notes("send_receipt", "begin") != [evidence.killed, evidence.survivor]:
        found.append("send_receipt did not begin once in each worker")
    return found


def _ran_on(evidence: Evidence, function: str) -> list[str]:
    """A function that began or ended again after it had ended."""
    what = [note.what for note in evidence.ledger if note.function == function]
    if "end" not in what:
        return [f"{function} never ended"]
    after = what[what.index("end") + 1 :]
    return [f"{function} had finished and ran again"] if after else []


def show(out: Output, evidence: Evidence, found: Sequence[str]) -> None:
    """The timeline as a table, and the verdict."""
    out.line()
    titles = ["step", "kind", "outcome", "took>", "runs>", "in worker"]
    out.table(titles, [_row(evidence, step) for step in evidence.steps])
    out.line()
    out.line(f"result: {value_text(evidence.execution.output)}", "bold")
    if found:
        for problem in found:
            out.line(f"WRONG: {problem}", "bold red")
        return
    replays = len(evidence.notes("checkout", "begin"))
    out.line(
        f"The workflow ran from its top {replays} times; no finished step ran twice.", "bold green"
    )


def _row(evidence: Evidence, step: StepRecord) -> list[Cell]:
    processes = evidence.notes(step.name, "begin")
    return [
        (step.name, "bold"),
        (step.kind, "dim"),
        step_label(step),
        length(seconds_of(step)),
        str(len(processes)) if step.name in FUNCTIONS else "-",
        ", ".join(_process(evidence, step.name, process) for process in processes),
    ]


def _process(evidence: Evidence, function: str, process: int) -> str:
    cut_off = process == evidence.killed and process not in evidence.notes(function, "end")
    return f"{process} (killed)" if cut_off else str(process)


def summary(evidence: Evidence, found: Sequence[str]) -> dict[str, Any]:
    """The same for programs."""
    output = evidence.execution.output
    return {
        "ok": not found,
        "problems": list(found),
        "status": evidence.execution.status.value,
        "result": None if output is None else msgspec.Raw(output.encode()),
        "replays": len(evidence.notes("checkout", "begin")),
        "killed": evidence.killed,
        "survivor": evidence.survivor,
        "steps": [
            {
                "name": step.name,
                "kind": step.kind,
                "outcome": None if step.outcome is None else step.outcome.value,
                "seconds": seconds_of(step),
                "began_in": evidence.notes(step.name, "begin"),
                "ended_in": evidence.notes(step.name, "end"),
            }
            for step in evidence.steps
        ],
    }
