"""What msgspec reads and writes for a type, and what zart prepares for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from zart.serialization.kinds import ARRAYS, COLLECTIONS, DICTS, SETS

__all__ = [
    "Plan",
    "Prepare",
    "Read",
    "Readers",
    "Unordered",
    "each_in_turn",
    "each_item",
    "each_value",
    "unless_none",
]

Prepare = Callable[[Any], Any]
Read = Callable[[Any], Any]
Readers = dict[type, Read]


@dataclasses.dataclass(slots=True)
class Plan:
    read_as: Any
    """The type that msgspec reads."""
    prepare: Prepare | None = None
    """Turns a value into what the encoder shall write; None where the value itself is written."""
    unchanged: frozenset[type] = frozenset()
    """Exact classes whose values are immutable and come back equal, so need no reading back."""
    untyped: bool = False
    untyped_inside: bool = False
    only_plain: bool = False
    """Nothing but what JSON has is declared in it, so plain data comes back as it is."""
    optional_float: bool = False
    partly_compared: bool = False
    """A class is declared in it whose equality does not tell of all its fields."""
    sets_inside: bool = False
    """Sets may be among what the encoder writes, whose members have no order of their own."""

    def with_facts_of(self, *others: Plan) -> Plan:
        self.untyped_inside = self.untyped_inside or any(it.untyped_inside for it in others)
        self.optional_float = self.optional_float or any(it.optional_float for it in others)
        self.partly_compared = self.partly_compared or any(it.partly_compared for it in others)
        self.sets_inside = self.sets_inside or any(it.sets_inside for it in others)
        return self


class Unordered(list[Any]):
    """The prepared members of a set, which cannot be a set: what stands for them has no hash."""


def each_item(items: Plan) -> Prepare | None:
    prepare = items.prepare
    if prepare is None:
        return None

    def prepare_all(value: Any) -> Any:
        if isinstance(value, SETS):
            return Unordered(prepare(item) for item in value)
        if isinstance(value, COLLECTIONS):
            return [prepare(item) for item in value]
        return value  # reading it back says what is wrong with it

    return prepare_all


def each_value(items: Plan) -> Prepare | None:
    prepare = items.prepare
    if prepare is None:
        return None

    def prepare_all(value: Any) -> Any:
        if isinstance(value, DICTS):
            return {key: prepare(item) for key, item in value.items()}
        return value

    return prepare_all


def each_in_turn(members: list[Plan]) -> Prepare:
    def prepare_all(value: Any) -> Any:
        if isinstance(value, ARRAYS) and len(value) == len(members):
            return [
                member.prepare(item) if member.prepare else item
                for member, item in zip(members, value, strict=True)
            ]
        return value

    return prepare_all


def unless_none(prepare: Prepare) -> Prepare:
    def prepare_some(value: Any) -> Any:
        return None if value is None else prepare(value)

    return prepare_some
