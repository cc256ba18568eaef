"""Measure zart and its peers in one run, show tables, and write them to ``benchmarks/results``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import plot, report
from benchmarks.cells import GROUPS
from benchmarks.found import Found
from benchmarks.plan import DATABASES, SYSTEMS, Cell, Scale
from benchmarks.running import CellError, Servers, interpreter, measured


def main() -> int:
    options = _options()
    rounds = options.rounds or (1 if options.quick else 3)
    scale = Scale(
        databases=tuple(options.databases),
        systems=tuple(options.systems),
        seconds=options.seconds or (0.3 if options.quick else 0.8),
        samples=8 if options.quick else 40,
        minutes=options.minutes,
        quick=options.quick,
    )
    plan = _in_turns(cell for group in options.groups for cell in GROUPS[group](scale))
    console = Console()
    servers = Servers()
    try:
        found = _measure(plan, rounds, servers, console)
    finally:
        servers.close()
    report.show(found, console)
    about = report.facts(rounds)
    name = options.name or ("quick" if options.quick else "latest")
    path = report.write(found, about, _versions(scale.systems), name)
    plot.draw(found, about, path.with_suffix(".svg"))
    console.print(f"written to {path} and its .json and .svg")
    return 1 if found.failures else 0


def _in_turns(cells: Iterable[Cell]) -> list[Cell]:
    """Those that do the same next to each other, so that what disturbs one disturbs all."""
    by_label: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        by_label.setdefault((cell.group, cell.label), []).append(cell)
    return [cell for alike in by_label.values() for cell in alike]


def _measure(plan: list[Cell], rounds: int, servers: Servers, console: Console) -> Found:
    found = Found()
    again = [cell for cell in plan if not cell.once]
    order = again * rounds + [cell for cell in plan if cell.once]
    columns = (TextColumn("{task.description:64}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("", total=len(order))
        for cell in order:
            name = f"{cell.group}: {cell.label}, {cell.system} on {cell.kind}"
            progress.update(bar, description=name)
            try:
                found.add(cell, measured(cell, servers))
            except CellError as error:
                found.fail(cell, str(error))
                console.print(f"{name}: {error}\n{error.notes}", style="red", markup=False)
            progress.advance(bar)
    return found


def _versions(systems: Iterable[str]) -> dict[str, str]:
    """Of each system, as installed where it runs."""
    packages = {"zart": "pyzart", "absurd": "absurd-sdk"}
    found = {}
    for system in systems:
        name = system.split()[0]
        program = (
            f"from importlib.metadata import version; print(version({packages.get(name, name)!r}))"
        )
        try:
            done = subprocess.run(
                [interpreter(system), "-c", program], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            continue
        if done.returncode == 0:
            found[name] = done.stdout.strip()
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    for name, choices in (
        ("groups", tuple(GROUPS)),
        ("systems", SYSTEMS),
        ("databases", DATABASES),
    ):
        parser.add_argument(
            f"--{name}",
            default=list(choices),
            type=lambda text, known=choices: _some(text, known),
            metavar="A,B",
            help=f"some of: {', '.join(choices)}",
        )
    parser.add_argument("--quick", action="store_true", help="one short round, a minute or two")
    parser.add_argument("--rounds", type=int, help="how many rounds (3)")
    parser.add_argument("--seconds", type=float, help="how long each throughput runs (0.8)")
    parser.add_argument(
        "--minutes", type=float, default=2.0, help="how long the steady load lasts (2)"
    )
    parser.add_argument("--name", help="of the files with the results (latest, or quick)")
    return parser.parse_args()


def _some(text: str, known: tuple[str, ...]) -> list[str]:
    named = [word.strip() for word in text.split(",")]
    if unknown := set(named) - set(known):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(known)}")
    return [each for each in known if each in named]


if __name__ == "__main__":
    sys.exit(main())
