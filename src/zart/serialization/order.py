"""The order in which the members of sets are stored.

A set gives its members in an order that differs from process to process, and stored text is
compared as text: whoever schedules the same id twice is told when the inputs differ. The keys of
dicts keep the order they came in, because a dict keeps it too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from zart.serialization.kinds import (
    ARRAYS,
    COLLECTIONS,
    DICTS,
    SETS,
    class_of,
    fields_of,
    is_pydantic,
)
from zart.serialization.plan import Unordered

__all__ = ["holds_set", "in_order", "may_hold_set"]

_PLAIN_ENCODER = msgspec.json.Encoder()
_PLAIN_DECODER = msgspec.json.Decoder()
_UNORDERED: tuple[Any, ...] = (*SETS, Unordered)
_NESTED = frozenset({dict, list})
_NUMBERS = frozenset({bool, int, float})
_TEXTS = frozenset({str})


def in_order(written: Any, text: bytes) -> bytes:
    """Give JSON text with the members of each set in order.

    Args:
        written: what the encoder made the text from; it shows which arrays of the text are sets.
        text: JSON, as it was written.
    """
    if b"[" not in text:
        return text
    stored = _PLAIN_DECODER.decode(text)
    sets: list[list[Any]] = []
    pending = [(written, stored)]
    while pending:
        value, form = pending.pop()
        while getattr(value, "__pydantic_root_model__", False) is True:
            value = value.root
        if isinstance(value, _UNORDERED) and isinstance(form, ARRAYS) and len(form) > 1:
            sets.append(form)
        pending.extend(_nested_parts(value, form))
    if not sets:
        return text
    for members in reversed(sets):  # a set inside another one first: the other goes by its text
        _sort(members)
    return _PLAIN_ENCODER.encode(stored)


def _sort(members: list[Any]) -> None:
    kinds = set(map(class_of, members))
    members.sort(key=None if kinds <= _NUMBERS or kinds <= _TEXTS else _rank)


def _rank(member: Any) -> tuple[int, Any]:
    """Give what members of several kinds are sorted by: numbers, then texts, then the rest."""
    if isinstance(member, str):
        return 1, member
    if isinstance(member, (int, float)):
        return 0, member
    return 2, _PLAIN_ENCODER.encode(member)


def _nested_parts(value: Any, form: Any) -> Iterable[tuple[Any, Any]]:
    """Pair the parts of a value with their forms in JSON, where these are arrays or objects.

    Gives none where the two differ in build, as where a class writes its own JSON.
    """
    if class_of(form) not in _NESTED:
        return ()
    forms: Collection[Any] = form.values() if isinstance(form, DICTS) else form
    if _NESTED.isdisjoint(map(class_of, forms)):
        return ()
    if isinstance(value, DICTS):
        parts: Collection[Any] = value.values()
    elif isinstance(value, COLLECTIONS):
        parts = value
    else:
        names = _stored_names(class_of(value))
        parts = [getattr(value, name, None) for name in names]
        if isinstance(form, DICTS):
            forms = [form.get(stored) for stored in names.values()]
        else:  # a Struct stored as an array, where its tag may stand before its fields
            forms = form[-len(names) :]
    if len(parts) != len(forms):
        return ()
    return [pair for pair in zip(parts, forms, strict=True) if class_of(pair[1]) in _NESTED]


@functools.cache
def _stored_names(cls: Any) -> Mapping[str, str]:
    """Give the names of a class's fields, each with the one that it has in JSON."""
    if issubclass(cls, msgspec.Struct):
        return dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    if is_pydantic(cls):
        declared: Mapping[str, Any] = cls.model_fields
        return {name: field.serialization_alias or name for name, field in declared.items()}
    if dataclasses.is_dataclass(cls):
        return {field.name: field.name for field in dataclasses.fields(cls)}
    return {field.name: field.name for field in getattr(cls, "__attrs_attrs__", ())}


def holds_set(value: Any) -> bool:
    """Tell whether a value that was encoded, so does not hold itself, is or holds a set."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, SETS):
            return True
        if isinstance(item, DICTS):
            pending.extend(item.values())
        elif isinstance(item, ARRAYS):
            pending.extend(item)
        elif fields := fields_of(item):
            pending.extend(fields.values())
    return False


@functools.cache
def may_hold_set(model: Any) -> bool:
    """Tell by the schema of a pydantic model whether a set is declared anywhere in it."""
    schema = getattr(model, "__pydantic_core_schema__", None)
    if not isinstance(schema, DICTS):  # not built yet, so nobody knows
        return True
    seen: set[int] = set()
    pending: list[Any] = [schema]
    while pending:
        part = pending.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, DICTS):
            if part.get("type") in ("set", "frozenset"):
                return True
            pending.extend(part.values())
        elif isinstance(part, ARRAYS):
            pending.extend(part)
    return False
