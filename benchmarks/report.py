"""Tables of what was measured: on the terminal, and as JSON and Markdown in ``results/``."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.cells import growth
from benchmarks.found import Figure, Found
from benchmarks.loops import NAME as LOOP
from benchmarks.plan import SYSTEMS
from benchmarks.targets import targets

__all__ = ["RESULTS", "Table", "facts", "show", "tables", "write"]

RESULTS = Path(__file__).parent / "results"
TITLES = {
    "throughput": "Started directly: callers in the worker's process await each result",
    "queue": "Through the queue: scheduled by another process",
    "disk": "On a disk whose flush takes 2 ms more (10 steps; Absurd through the queue)",
}
TABLES = ("latency", "growth", "idle")
"""Groups whose tables have a form of their own."""


@dataclass(frozen=True)
class Table:
    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    words: int = 1
    """How many of the first columns are words rather than figures."""


def tables(found: Found) -> Iterator[Table]:
    """What there is to show, each with at least one row."""
    made = [_targets(found)]
    made += [_side_by_side(found, group) for group in TITLES]
    made += [_latencies(found), _growth(found), _idle(found), _others(found)]
    failed = [(*key, message) for key, message in found.failures.items()]
    made.append(Table("Failed", ("group", "database", "what", "system", "error"), failed, 5))
    return (table for table in made if table.rows)


def _targets(found: Found) -> Table:
    """A line for each target; those that this run did not measure share one."""
    every = list(targets(found))
    rows = [
        (target.name, target.needed, target.found, "yes" if target.reached else "no")
        for target in every
        if target.reached is not None
    ]
    if missing := len(every) - len(rows):
        rows.append((f"{missing} others", "", "not measured", ""))
    return Table("Targets", ("", "target", "found", "reached"), rows)


def _side_by_side(found: Found, group: str) -> Table:
    """A line for each load and database, a column for each system."""
    figures = dict(found.of(group))
    failed = [key for key in found.failures if key[0] == group]
    known = {key.system for key in figures} | {system for *_, system in failed}
    systems = [system for system in SYSTEMS if system in known]
    lines = list(dict.fromkeys((key.kind, key.label, key.unit) for key in figures))
    rows = []
    for kind, label, unit in sorted(lines, key=lambda line: line[0] != "postgres"):
        cells = []
        for system in systems:
            figure = found.get(group, kind, label, system, unit)
            lost = (group, kind, label, system) in found.failures
            cells.append(_spread(figure, unit) if figure else "failed" if lost else "")
        rows.append((kind, label, unit, *cells))
    return Table(TITLES[group], ("database", "", "unit", *systems), rows, 3)


def _latencies(found: Found) -> Table:
    units = list(dict.fromkeys(key.unit for key, _ in found.of("latency")))
    sources = list(dict.fromkeys((key.system, key.kind) for key, _ in found.of("latency")))
    figures = {(key.system, key.kind, key.unit): figure for key, figure in found.of("latency")}
    rows = []
    for system, kind in sources:
        cells = []
        for unit in units:
            figure = figures.get((system, kind, unit))
            cells.append(
                f"{figure.percentile(0.5):.1f} / {figure.percentile(0.99):.1f}" if figure else ""
            )
        rows.append((system, kind, *cells))
    title = "Latency at idle, across processes: p50 / p99"
    return Table(title, ("system", "database", *units), rows, 2)


def _growth(found: Found) -> Table:
    """A line for what a database is filled with and its statistics: medians, empty and full."""
    rows = []
    for kind, label in dict.fromkeys((key.kind, key.label) for key, _ in found.of("growth")):
        for statistics in growth.STATISTICS.values():
            cells = []
            for what in growth.MEASURED:
                units = [growth.unit(what, place, statistics) for place in growth.PLACES]
                figures = [found.get("growth", kind, label, "zart", unit) for unit in units]
                cells.append(
                    " / ".join(_number(f.median, what) if f is not None else "" for f in figures)
                )
            rows.append((kind, label, statistics, *cells))
    title = "Growth: medians with empty tables / with full ones"
    headings = ("database", "filled with", "statistics", *growth.MEASURED)
    return Table(title, headings, rows, 3)


def _idle(found: Found) -> Table:
    """A line for each database and form of workers, a column for each cost."""
    figures = dict(found.of("idle"))
    split = {key: key.unit.split(": ", 1) for key in figures}
    costs = list(dict.fromkeys(cost for _, cost in split.values()))
    lines = list(dict.fromkeys((key.kind, key.label, form) for key, (form, _) in split.items()))
    rows = []
    for kind, label, form in lines:
        found_here = [found.get("idle", kind, label, "zart", f"{form}: {cost}") for cost in costs]
        cells = [
            "" if f is None else _number(f.median, c)
            for f, c in zip(found_here, costs, strict=True)
        ]
        rows.append((kind, form, *cells))
    return Table(
        "Idle: what a worker with nothing to do costs, a second", ("database", "", *costs), rows, 2
    )


def _others(found: Found) -> Table:
    """Whatever other groups have found, one line for each figure."""
    rows = [
        (
            key.kind,
            key.label,
            key.system,
            key.unit,
            _spread(figure, key.unit),
            _number(figure.percentile(0.99), key.unit) if figure.is_sampled else "",
        )
        for key, figure in found.figures.items()
        if key.group not in (*TITLES, *TABLES)
    ]
    headings = ("database", "", "system", "unit", "median (lowest to highest)", "p99")
    return Table("Recovery, sleepers, steady load", headings, rows, 4)


def _spread(figure: Figure, unit: str) -> str:
    """The median, and between which the rounds' medians lay."""
    text = _number(figure.median, unit)
    if len(figure.rounds) == 1:
        return text
    lowest, highest = min(figure.medians), max(figure.medians)
    return f"{text} ({_number(lowest, unit)} to {_number(highest, unit)})"


def _number(value: float, unit: str) -> str:
    if unit.endswith("/s"):
        places = 1 if value < 10 else 0
    else:
        places = 0 if abs(value) >= 100 else 2
    return f"{value:,.{places}f}"


def facts(rounds: int) -> str:
    """The machine and the run, in a line."""
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    load = os.getloadavg()[2]
    times = f"{rounds} round{'s' * (rounds != 1)}"
    return f"Measured {moment} on {machine}, {LOOP}; {times}; load average {load:.1f} of 15 minutes"


def show(found: Found, console: Console) -> None:
    """On the terminal."""
    for table in tables(found):
        made = RichTable(title=table.title)
        for number, heading in enumerate(table.headings):
            made.add_column(heading, justify="left" if number < table.words else "right")
        for row in table.rows:
            made.add_row(*row)
        console.print(made)


def write(found: Found, about: str, versions: dict[str, str], name: str) -> Path:
    """Write JSON and Markdown; gives the Markdown's path."""
    RESULTS.mkdir(exist_ok=True)
    document = {
        "about": about,
        "versions": versions,
        "targets": [asdict(target) for target in targets(found)],
        "measured": [
            {**asdict(key), "rounds": figure.rounds} for key, figure in found.figures.items()
        ],
        "failed": [[*key, message] for key, message in found.failures.items()],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    against = ", ".join(f"{system} {version}" for system, version in versions.items())
    lines = [about + ".", "", f"Versions: {against}. Medians, and the spread of the rounds."]
    for table in tables(found):
        lines += ["", f"## {table.title}", "", "| " + " | ".join(table.headings) + " |"]
        lines.append("|" + "---|" * table.words + "---:|" * (len(table.headings) - table.words))
        lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in table.rows]
    path = RESULTS / f"{name}.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
