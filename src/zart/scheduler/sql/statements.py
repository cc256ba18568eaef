"""Named SQL statements, read from ``queries/*.sql`` and fitted to one dialect.

A file holds statements under ``-- name: ...`` lines. ``portable.sql`` has each statement once;
the dialect's own file replaces those few that its database has to say differently, with the
reason beside them. What may stand in a statement, besides SQL:

``:name``            a bound parameter
``{tasks}``          a table, with prefix and schema
``{now}``            the database's time in microseconds
``{rows entries: id text, epoch int}``  a batch: the parameter ``entries`` is a list of tuples, and
                     stands in the statement as a table of these columns
``{join}``           JOIN of a batch with a table that is to be found by its key
``{for_update}``, ``{for_share}``, ``{skip_locked}``  locking clauses, empty where there are none
``{listed}``         what stands under ``-- part: listed``, said once for several statements

Everything is fitted once, when a scheduler is made; nothing that a user passes in becomes SQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import msgspec

__all__ = ["TABLES", "Column", "Statement", "Statements", "Tables", "Wording"]

TABLES = (
    "events",
    "executions",
    "migrations",
    "runs",
    "step_attempts",
    "steps",
    "tasks",
    "workers",
)

_HEAD = re.compile(r"^-- (name|part): (\w+)\s*$", re.MULTILINE)
_PLACE = re.compile(r"\{(\w+)\}")
_COMMENT = re.compile(r"--[^\n]*")


class Column(msgspec.Struct, frozen=True):
    """One column of a batch; ``type`` is ``text`` or ``int``."""

    name: str
    type: str


class Statement(msgspec.Struct, frozen=True):
    """A statement ready to run: its SQL, the order of its parameters, which of them are batches."""

    name: str
    sql: str
    parameters: tuple[str, ...]
    batches: frozenset[str]

    def bind(
        self, values: Mapping[str, Any], spread: Callable[[Sequence[Any]], Sequence[Any]]
    ) -> list[Any]:
        """Values in the statement's order; ``spread`` turns a batch into the driver's values."""
        bound: list[Any] = []
        for parameter in self.parameters:
            if parameter in self.batches:
                bound.extend(spread(values[parameter]))
            else:
                bound.append(values[parameter])
        return bound


class Wording(msgspec.Struct, frozen=True):
    """How one dialect says what the statements leave open."""

    name: str
    now: str
    for_update: str
    for_share: str
    skip_locked: str
    placeholder: Callable[[int, str], str]
    """Gives the text for the n-th parameter (from 1) of this name."""
    rows: Callable[[Sequence[Column], Callable[[str], str]], str]
    """Gives the table expression of a batch, taking its placeholder for each value it binds."""
    reuses_parameters: bool
    """True where one placeholder may stand in several places (``$1``), False for ``%s``."""
    join: str = "JOIN"
    """Joins a table to a batch; says the order where a planner may mistake it."""


class Tables(msgspec.Struct, frozen=True):
    """The names of zart's tables under a prefix and, where the database has them, a schema."""

    prefix: str = "zart_"
    schema: str | None = None

    def __post_init__(self) -> None:
        for label, word in (("prefix", self.prefix), ("schema", self.schema)):
            if not _fits_a_name(word):
                raise ValueError(
                    f"{label} {word!r} cannot be part of a table name: use up to 31 lower-case"
                    " letters, digits and underscores, starting with a letter or underscore"
                )

    def named(self, table: str) -> str:
        """The full name of a table."""
        return f"{self.schema}.{self.prefix}{table}" if self.schema else f"{self.prefix}{table}"

    def fill(self, text: str) -> str:
        """The text of a migration with its table names filled in; index names take the prefix."""
        text = re.sub(r"INDEX \{(\w+)\}(\w*)", lambda m: f"INDEX {self.prefix}{m[1]}{m[2]}", text)
        return _PLACE.sub(lambda m: self.named(m[1]) if m[1] in TABLES else m[0], text)


def _fits_a_name(word: Any) -> bool:
    if not isinstance(word, str):
        return word is None
    return re.fullmatch(r"[a-z_][a-z0-9_]{0,30}", word) is not None


class Statements:
    """The statements of one scheduler, by name."""

    def __init__(self, wording: Wording, tables: Tables) -> None:
        self._wording = wording
        self._tables = tables
        texts, parts = _read("portable", wording.name, "doctor", f"doctor_{wording.name}")
        for name, text in texts.items():
            texts[name] = _PLACE.sub(lambda m: parts.get(m[1], m[0]), text)
        self._statements = {name: self._fit(name, text) for name, text in texts.items()}

    def __getitem__(self, name: str) -> Statement:
        return self._statements[name]

    def __contains__(self, name: str) -> bool:
        return name in self._statements

    def __iter__(self) -> Any:
        return iter(self._statements)

    def _fit(self, name: str, text: str) -> Statement:
        wording = self._wording
        words = {
            "now": wording.now,
            "for_update": wording.for_update,
            "for_share": wording.for_share,
            "skip_locked": wording.skip_locked,
            "join": wording.join,
        }
        order: list[str] = []
        batches: set[str] = set()

        def place(parameter: str) -> str:
            if wording.reuses_parameters and parameter in order:
                return wording.placeholder(order.index(parameter) + 1, parameter)
            order.append(parameter)
            return wording.placeholder(len(order), parameter)

        def batch(parameter: str, columns: str) -> str:
            batches.add(parameter)
            first = True

            def next_place(_column: str) -> str:
                nonlocal first
                if first:
                    first = False
                    order.append(parameter)
                else:
                    order.append("")
                return wording.placeholder(len(order), parameter)

            fields = [Column(*column.split()) for column in columns.split(",")]
            return wording.rows(fields, next_place)

        def fit(match: re.Match[str]) -> str:
            if match.lastgroup == "batch":
                return batch(match["rows"], match["columns"])
            if match.lastgroup == "word":
                word = match["word"]
                return words[word] if word in words else self._tables.named(word)
            return place(match["parameter"])

        pattern = re.compile(
            r"(?P<batch>\{rows (?P<rows>\w+): (?P<columns>[^}]*)\})"
            r"|\{(?P<word>\w+)\}"
            r"|(?<![:\w]):(?P<parameter>[a-z_]\w*)"
        )
        sql = pattern.sub(fit, _COMMENT.sub("", text)).strip().rstrip(";")
        return Statement(name, sql, tuple(p for p in order if p), frozenset(batches))


def _read(*names: str) -> tuple[dict[str, str], dict[str, str]]:
    """The statements and the parts of some files; those of a later file replace earlier ones."""
    found: dict[str, dict[str, str]] = {"name": {}, "part": {}}
    for file in names:
        text = (files(__package__) / "queries" / f"{file}.sql").read_text(encoding="utf-8")
        _, *pieces = _HEAD.split(text)
        for kind, name, body in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
            found[kind][name] = body.strip()
    return found["name"], found["part"]
