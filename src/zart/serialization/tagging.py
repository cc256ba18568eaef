"""The forms of zart's own, for what msgspec alone cannot read back: by tag, by field, by name."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Collection, Mapping
from typing import Any

from zart.serialization.declaration import unsupported
from zart.serialization.kinds import (
    DICTS,
    class_of,
    is_tagged,
    is_typed_dict,
    name_of,
    short_name,
)
from zart.serialization.plan import Prepare, Read

__all__ = ["EnumByName", "FieldPlan", "Member", "Placeholder", "Record", "Tagged", "tags_of"]


class Placeholder(type):
    """The class of the classes that stand, in what msgspec reads, for what zart reads itself."""

    def __instancecheck__(cls, instance: object) -> bool:
        # msgspec checks what the hook has read against the placeholder; the reader knows better.
        return True


@dataclasses.dataclass(frozen=True, slots=True)
class FieldPlan:
    prepare: Prepare | None
    read: Read
    required: bool
    in_init: bool


class Record:
    """Writes and reads a class with named fields, field by field."""

    def __init__(self, name: str, cls: Any) -> None:
        self.fields: dict[str, FieldPlan] = {}
        self._name = name
        self._class = cls
        self._is_dict = is_typed_dict(cls)

    def prepare(self, value: Any) -> Any:
        if isinstance(value, DICTS):
            given: Mapping[Any, Any] = value
        elif type(value) is self._class:
            given = {name: getattr(value, name) for name in self.fields if hasattr(value, name)}
        else:
            raise TypeError(f"a {name_of(type(value))} was given where a {self._name} is declared")
        return {name: self._prepare_field(name, item) for name, item in given.items()}

    def _prepare_field(self, name: str, item: Any) -> Any:
        field = self.fields.get(name)
        return item if field is None or field.prepare is None else field.prepare(item)

    def read(self, stored: Any) -> Any:
        if not isinstance(stored, DICTS):
            raise TypeError(f"Expected an object for {self._name}")
        for name, field in self.fields.items():
            if field.required and name not in stored:
                raise ValueError(f"{self._name} misses the required field `{name}`")
        found = {
            name: self.fields[name].read(item)
            for name, item in stored.items()
            if name in self.fields
        }
        if self._is_dict:
            return found
        made = self._class(
            **{name: item for name, item in found.items() if self.fields[name].in_init}
        )
        for name, item in found.items():
            if not self.fields[name].in_init:
                object.__setattr__(made, name, item)  # a frozen dataclass allows no other way
        return made


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    tag: str
    prepare: Prepare | None
    read: Read


class Tagged:
    """Writes and reads a union: each value with the tag of its member."""

    def __init__(self, members: Mapping[type, Member], taught: Collection[type]) -> None:
        self._members = members
        self._by_tag = {member.tag: member for member in members.values()}
        self._taught = [kind for kind in members if kind in taught]
        self._known = ", ".join(sorted(self._by_tag))

    def prepare(self, value: Any) -> Any:
        member = self._members.get(class_of(value)) or self._member_of_other_class(value)
        if member is None and is_tagged(value):  # plain data that names its member already
            member = self._by_tag.get(value["type"])
            value = value["value"]
        if member is None:
            raise TypeError(
                f"a {name_of(type(value))} is none of the union's members ({self._known}); the "
                'exact class counts, and plain data names its member: {"type": "...", "value": ...}'
            )
        return {
            "type": member.tag,
            "value": value if member.prepare is None else member.prepare(value),
        }

    def _member_of_other_class(self, value: Any) -> Member | None:
        if type(value) is int:  # an int may stand for a float, as everywhere in Python's typing
            return self._members.get(float)
        for kind in self._taught:  # often an abstract class: each Path is of a subclass
            if isinstance(value, kind):
                return self._members[kind]
        return None

    def read(self, stored: Any) -> Any:
        if not is_tagged(stored) or stored["type"] not in self._by_tag:
            raise ValueError(
                f'Expected {{"type": ..., "value": ...}} with the type one of {self._known}'
            )
        return self._by_tag[stored["type"]].read(stored["value"])


def tags_of(kinds: list[type], union: Any) -> dict[type, str]:
    for name in (short_name, name_of):
        tags = {kind: name(kind) for kind in kinds}
        if len(set(tags.values())) == len(tags):
            return tags
    raise unsupported(union, "two of its members have the same name", "Rename one.")


@dataclasses.dataclass(frozen=True, slots=True)
class EnumByName:
    """Writes and reads an enum whose values JSON does not have: by the names of its members."""

    members: type[enum.Enum]

    def prepare(self, value: Any) -> Any:
        return value.name if isinstance(value, self.members) else value

    def read(self, stored: Any) -> Any:
        if stored in self.members.__members__:
            return self.members[stored]
        raise ValueError(f"{name_of(self.members)} has no member named {stored!r}")
