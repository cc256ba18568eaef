"""Tables of what was measured: on the terminal, and as JSON and Markdown in ``results/``."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from benchmarks.loops import NAME as LOOP

RESULTS = Path(__file__).parent / "results"

Found = dict[tuple[str, str, str], list[list[float]]]
"""By database, cell and unit: what each round gave."""

HEADINGS = ("database", "what", "unit", "median", "p99", "spread", "of bare inserts")


def lines(found: Found) -> Iterator[tuple[str, ...]]:
    """The rows of the table. The spread is that of the rounds' medians."""
    for (kind, label, unit), rounds in found.items():
        samples = sorted(value for each in rounds for value in each)
        medians = [statistics.median(each) for each in rounds]
        digits = 1 if unit.endswith("ms") else 0
        p99 = ""
        if len(samples) > len(rounds):
            p99 = f"{samples[min(len(samples) - 1, int(len(samples) * 0.99))]:,.{digits}f}"
        ratio = ""
        if unit == "steps/s" and (bare := _bare(found, kind)):
            ratio = f"{statistics.median(medians) / bare:.2f}"
        spread = f"{min(medians):,.{digits}f} to {max(medians):,.{digits}f}"
        yield (kind, label, unit, f"{statistics.median(medians):,.{digits}f}", p99, spread, ratio)


def _bare(found: Found, kind: str) -> float | None:
    rates = [
        statistics.median(value for each in rounds for value in each)
        for (where, _, unit), rounds in found.items()
        if where == kind and unit == "rows/s"
    ]
    return max(rates, default=None)


def table(found: Found) -> Table:
    """The table for a terminal."""
    made = Table(title="zart benchmarks")
    for heading in HEADINGS:
        made.add_column(heading, justify="left" if heading in HEADINGS[:3] else "right")
    for line in lines(found):
        made.add_row(*line)
    return made


def write(found: Found, rounds: int, name: str) -> Path:
    """Write JSON and Markdown; gives the Markdown's path."""
    RESULTS.mkdir(exist_ok=True)
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    load = os.getloadavg()[0]
    facts = f"{machine}, {LOOP}; {rounds} rounds; load average {load:.1f} at the end"
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [
        {"database": kind, "what": label, "unit": unit, "rounds": each}
        for (kind, label, unit), each in found.items()
    ]
    text = json.dumps({"moment": moment, "machine": facts, "measured": rows}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    markdown = [f"Measured {moment} on {facts}.", "", "| " + " | ".join(HEADINGS) + " |"]
    markdown += ["|" + "---|" * len(HEADINGS)]
    markdown += ["| " + " | ".join(line) + " |" for line in lines(found)]
    path = RESULTS / f"{name}.md"
    path.write_text("\n".join(markdown) + "\n")
    return path
