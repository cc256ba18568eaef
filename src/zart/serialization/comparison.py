"""Where a value and what its JSON reads back as differ."""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import uuid
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from zart.serialization.kinds import (
    ARRAYS,
    COLLECTIONS,
    DICTS,
    SETS,
    class_of,
    fields_of,
    is_tagged,
    name_of,
)

__all__ = ["NON_FINITE_MEND", "Comparison", "Difference", "holds_non_finite", "is_plain"]

NON_FINITE_MEND = "Store None or a text in its place, and declare that."
_SCALARS = (
    str,
    int,
    float,
    bytes,
    bytearray,
    date,
    time,
    timedelta,
    Decimal,
    uuid.UUID,
    enum.Enum,
)
_PLAIN = {types.NoneType, bool, int, str}
_JSON = {*_PLAIN, float, list, dict}


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    path: str
    text: str
    mend: str | None = None

    def inside(self, step: str) -> Difference:
        return dataclasses.replace(self, path=step + self.path)

    def __str__(self) -> str:
        return f"the value at ${self.path} {self.text}" if self.path else f"it {self.text}"


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Finds where a value and what its JSON reads back as differ in a way nobody asked for.

    Plain data that was read as the declared type (a dict as a dataclass, text as a datetime, an
    int as a float) is what was asked for.
    """

    exact: bool
    """Untyped data is among it: a tuple may not become a list, nor an IntEnum an int."""
    taught: tuple[type, ...]

    def difference(self, given: Any, back: Any) -> Difference | None:
        kind = class_of(given)
        if kind is float and not math.isfinite(given):
            return Difference("", f"is {given}, which has no form in JSON", NON_FINITE_MEND)
        if kind is type(back):
            if kind in _PLAIN and given == back:
                return None
            return self._of_one_class(given, back)
        if isinstance(given, DICTS):
            return self._of_plain_dict(given, back)
        if isinstance(given, COLLECTIONS):
            return self._of_collections(given, back)
        return None if self._is_reading(given, back) else _changed(given, back)

    def _is_reading(self, given: Any, back: Any) -> bool:
        """Tell whether what came back is what was given, read as its declared type."""
        if isinstance(given, self.taught):
            # Its codec knows what it reads; where the type is not declared, nobody asks the codec.
            return not (self.exact and class_of(back) in _JSON)
        if isinstance(given, type(back)):
            # A subclass of what came back: harmless only for text, numbers and the like, and
            # where a type says what they come back as.
            return isinstance(back, _SCALARS) and not self.exact and bool(given == back)
        kind = class_of(given)
        if kind is str:
            # Text is base64 for bytes, and nobody means that by giving a str.
            return back is not None and not isinstance(back, (bytes, bytearray))
        if kind is int or kind is float:
            return back is not None and not isinstance(back, str)
        return isinstance(given, (bytes, bytearray, memoryview)) and given == back

    def _of_one_class(self, given: Any, back: Any) -> Difference | None:
        if isinstance(given, _SCALARS):
            if _is_same_scalar(given, back):
                return None
            return Difference("", f"would come back as another {name_of(type(back))}, {back!s}")
        if isinstance(given, DICTS):
            return self._of_keys_and_items(given, back)
        if isinstance(given, ARRAYS):
            return self._of_items(given, back)
        if isinstance(given, SETS):
            lost = [each for each in given - back if each is None or isinstance(each, _SCALARS)]
            if lost or holds_non_finite(given):
                return Difference("", "holds items that would not come back")
            return None
        fields = fields_of(given)
        if fields is None:
            if (
                isinstance(given, self.taught)
                or class_of(given).__eq__ is object.__eq__
                or given == back
            ):
                return None  # a codec knows what it keeps
            return Difference("", f"would come back as another {name_of(type(back))}, {back!s}")
        return self._of_fields(fields, fields_of(back) or {})

    def _of_plain_dict(self, given: dict[Any, Any], back: Any) -> Difference | None:
        if back is None:
            return _changed(given, back)
        if isinstance(back, DICTS):
            if self.exact:
                return _changed(given, back)
            return self._of_keys_and_items(given, back)
        fields = fields_of(back)
        if fields is None:
            return None
        if dataclasses.is_dataclass(back):
            if is_tagged(given) and given.keys() != fields.keys():
                return self.difference(given["value"], back)  # the tagged member of a union
            for name in given:
                if name not in fields:
                    text = f"has the field {name!r}, which a {name_of(type(back))} does not have"
                    return Difference("", text)
        return self._of_fields(given, fields)

    def _of_collections(self, given: Any, back: Any) -> Difference | None:
        if isinstance(back, SETS):
            return self._of_sets(given)
        if isinstance(back, COLLECTIONS):
            in_order = isinstance(given, ARRAYS) and isinstance(back, ARRAYS)
            if not in_order or (self.exact and type(given) is not list):
                return _changed(given, back)
            return self._of_items(given, back)
        # An object that is stored as an array, given as plain data.
        return _changed(given, back) if back is None or isinstance(given, SETS) else None

    def _of_sets(self, given: Any) -> Difference | None:
        if not holds_non_finite(given):
            return None
        text = "holds NaN or an infinity, which have no form in JSON"
        return Difference("", text, NON_FINITE_MEND)

    def _of_items(self, given: Any, back: Any) -> Difference | None:
        if len(given) != len(back):
            return Difference("", f"has {len(given)} items, and {len(back)} would come back")
        for position, (item, item_back) in enumerate(zip(given, back, strict=True)):
            if found := self.difference(item, item_back):
                return found.inside(f"[{position}]")
        return None

    def _of_keys_and_items(self, given: dict[Any, Any], back: dict[Any, Any]) -> Difference | None:
        if len(given) != len(back):
            return Difference("", f"has {len(given)} keys, and {len(back)} would come back")
        for (key, item), (key_back, item_back) in zip(given.items(), back.items(), strict=True):
            if found := self.difference(key, key_back):
                return dataclasses.replace(found, text=f"has a key that {found.text}")
            if found := self.difference(item, item_back):
                return found.inside(f"[{key!r}]")
        return None

    def _of_fields(self, given: Mapping[Any, Any], back: Mapping[str, Any]) -> Difference | None:
        for name, item in given.items():
            if name in back and (found := self.difference(item, back[name])):
                return found.inside(f".{name}")
        return None


def _changed(given: Any, back: Any) -> Difference:
    return Difference(
        "", f"is a {name_of(type(given))} and would come back as a {name_of(type(back))}"
    )


def _is_same_scalar(given: Any, back: Any) -> bool:
    if isinstance(given, Decimal):
        return str(given) == str(back)  # a NaN is not equal to itself
    if not isinstance(given, datetime) or given.utcoffset() is None:
        return bool(given == back)
    # Python calls two aware datetimes unequal whenever one of them falls into the hour that a
    # change of clocks repeats, so they are compared by parts.
    local = given.replace(tzinfo=None, fold=0) == back.replace(tzinfo=None, fold=0)
    return bool(local and given.utcoffset() == back.utcoffset())


def is_plain(value: Any) -> bool:
    """Tell whether a value is made of the exact classes that JSON reads back as."""
    kind = class_of(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or not (type(item) in _PLAIN or is_plain(item)):
                return False
        return True
    if kind is list:
        return all(type(item) in _PLAIN or is_plain(item) for item in value)
    return kind in _PLAIN or (kind is float and math.isfinite(value))


def holds_non_finite(value: Any) -> bool:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                return True
        elif isinstance(item, DICTS):
            pending.extend(item.values())
        elif isinstance(item, COLLECTIONS):
            pending.extend(item)
        elif fields := fields_of(item):
            pending.extend(fields.values())
    return False
