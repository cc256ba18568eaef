"""Answers: coloured on a terminal, plain in a pipe, JSON where it was asked for.

Plain output has no colour codes, and a value is never cut or wrapped: one row is one line.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["STYLES", "Cell", "Output", "length", "printable"]

Cell: TypeAlias = str | tuple[str, str]
"""A text, or a text with the style it has on a terminal."""

STYLES = {
    "pending": "dim",
    "running": "cyan",
    "waiting": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
    "ok": "green",
    "timed_out": "red",
    "open": "yellow",
}
"""How statuses and outcomes look."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """A text from outside without what a terminal would take as a command."""
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def length(seconds: float | timedelta | None) -> str:
    """A length of time as a reader wants it: two or three digits that matter."""
    if seconds is None:
        return "-"
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    seconds = max(seconds, 0.0)
    if seconds < 0.0995:
        return f"{seconds * 1000:.1f}ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    return "".join([f"{count}{unit}" for count, unit in parts if count][:2])


class Output:
    """Where one command's answers go."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, emoji=False, markup=False)
        self.terminal = self.console.is_terminal and not as_json

    def json(self, value: Any) -> None:
        """One JSON document: indented for eyes, on one line for a pipe."""
        text = msgspec.json.encode(value)
        if self.console.is_terminal:
            text = msgspec.json.format(text, indent=2)
        print(text.decode())

    def line(self, text: str = "", style: str = "") -> None:
        """One line, at once: whoever watches sees it when it happens."""
        if self.terminal:
            self.console.print(Text(printable(text), style=style), soft_wrap=True)
        else:
            print(text, flush=True)

    def note(self, text: str) -> None:
        """A remark beside the answer, on stderr, where it cannot be taken for a part of it."""
        sys.stderr.write(f"{text}\n")

    def facts(self, pairs: Iterable[tuple[str, Cell]]) -> None:
        """Names and values, one pair a line."""
        rows = [(name, *_split(cell)) for name, cell in pairs]
        width = max(len(name) for name, _, _ in rows) + 2
        for name, text, style in rows:
            if self.terminal:
                label, value = Text(name.ljust(width), style="dim"), Text(printable(text), style)
                self.console.print(label + value, soft_wrap=True)
            else:
                print(f"{name.ljust(width)}{_one_line(text)}")

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Rows under titles. Columns whose title ends in ``>`` are set to the right."""
        heads = [title.rstrip(">") for title in titles]
        right = [title.endswith(">") for title in titles]
        if self.terminal:
            self._drawn_table(heads, right, rows)
        else:
            _plain_table(heads, right, rows)

    def _drawn_table(
        self, heads: Sequence[str], right: Sequence[bool], rows: Sequence[Sequence[Cell]]
    ) -> None:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
        for head, is_right in zip(heads, right, strict=True):
            table.add_column(head, justify="right" if is_right else "left", overflow="fold")
        for row in rows:
            cells = [_split(cell) for cell in row]
            table.add_row(*(Text(printable(text), style) for text, style in cells))
        self.console.print(table)

    def moment(self, moment: datetime | None) -> str:
        """A time: in UTC, to the second on a terminal, in ISO form and full in a pipe."""
        if moment is None:
            return "-"
        moment = moment.astimezone(UTC)
        if self.terminal:
            return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
        return moment.isoformat().replace("+00:00", "Z")


def _split(cell: Cell) -> tuple[str, str]:
    return (cell, "") if isinstance(cell, str) else cell


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _plain_table(
    heads: Sequence[str], right: Sequence[bool], rows: Sequence[Sequence[Cell]]
) -> None:
    """Columns with two blanks between them; an empty cell is a dash, so that fields count."""
    texts = [[_one_line(_split(cell)[0]) or "-" for cell in row] for row in rows]
    lines = [[head.replace(" ", "_") for head in heads], *texts]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        cells = [
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(line, widths, right, strict=True)
        ]
        print("  ".join(cells).rstrip())
