"""``python -m benchmarks``: measures, shows a table, and writes it to ``benchmarks/results``."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.plan import Cell, CellError, cells, measured
from benchmarks.report import Found, table, write
from tests.databases import KINDS
from tests.servers import RunServers


def main() -> int:
    options = _options()
    kinds = [kind for kind in KINDS if kind in options.databases.split(",")]
    rounds = options.rounds or (1 if options.quick else 3)
    seconds = options.seconds or (0.25 if options.quick else 0.8)
    samples = 10 if options.quick else 40
    by_kind = [list(cells(kind, seconds, samples)) for kind in kinds]
    # Cells of the databases alternate within a round, as far as each has one.
    longest = max(map(len, by_kind), default=0)
    one_round = [each[i] for i in range(longest) for each in by_kind if i < len(each)]
    console = Console()
    servers = RunServers({})
    try:
        servers.start(kinds)
        found, failures = _measure(one_round, rounds, servers, console)
    finally:
        servers.close()
    ordered = {key: found[key] for kind in kinds for key in found if key[0] == kind}
    console.print(table(ordered))
    console.print(f"written to {write(ordered, rounds, 'quick' if options.quick else 'latest')}")
    return 1 if failures else 0


def _measure(
    one_round: list[Cell], rounds: int, servers: RunServers, console: Console
) -> tuple[Found, int]:
    found: Found = {}
    failures = 0
    columns = (TextColumn("{task.description:42}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("", total=rounds * len(one_round))
        for _ in range(rounds):
            for cell in one_round:
                progress.update(bar, description=f"{cell.kind}: {cell.label}")
                try:
                    for unit, values in measured(cell, servers).items():
                        found.setdefault((cell.kind, cell.label, unit), []).append(values)
                except CellError as error:
                    failures += 1
                    console.print(f"[red]{error}[/red]")
                progress.advance(bar)
    return found, failures


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    everything = ",".join(KINDS)
    parser.add_argument("--databases", default=everything, help=f"some of {everything}")
    parser.add_argument("--quick", action="store_true", help="one short round, below a minute")
    parser.add_argument("--rounds", type=int, help="how many rounds (3)")
    parser.add_argument("--seconds", type=float, help="how long each cell runs (0.8)")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
