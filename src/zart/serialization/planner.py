"""How a type is stored: by msgspec as it stands, or in parts where msgspec refuses it."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import msgspec

from zart.serialization.declaration import (
    MAPPINGS,
    PLAIN_PARTS,
    SEQUENCES,
    SET_PARTS,
    UNIONS,
    Field,
    Refused,
    declared_fields,
    generic,
    inspected,
    is_untyped,
    members_of,
    parts_of,
    runtime_class,
    substituted,
    unchanged_classes,
    unsupported,
    unwrapped,
)
from zart.serialization.kinds import compares_partly, is_pydantic, name_of
from zart.serialization.plan import (
    Plan,
    Prepare,
    Read,
    Readers,
    each_in_turn,
    each_item,
    each_value,
    unless_none,
)
from zart.serialization.tagging import (
    EnumByName,
    FieldPlan,
    Member,
    Placeholder,
    Record,
    Tagged,
    tags_of,
)

__all__ = ["Planner"]

_PLAIN_ENCODER = msgspec.json.Encoder()
_KEYS = (
    msgspec.inspect.AnyType,
    msgspec.inspect.StrType,
    msgspec.inspect.IntType,
    msgspec.inspect.FloatType,
    msgspec.inspect.BytesType,
    msgspec.inspect.DateTimeType,
    msgspec.inspect.DateType,
    msgspec.inspect.TimeType,
    msgspec.inspect.TimeDeltaType,
    msgspec.inspect.UUIDType,
    msgspec.inspect.DecimalType,
    msgspec.inspect.EnumType,
    msgspec.inspect.LiteralType,
)


class Planner:
    """Makes the plan of one type, and registers the readers of its placeholders."""

    def __init__(
        self,
        writers: Mapping[type, Prepare],
        readers: Readers,
        decode_other: Callable[[type, Any], Any],
    ) -> None:
        self._writers = writers
        self._readers = readers
        self._decode_other = decode_other
        self._records: dict[Hashable, Plan] = {}

    def plan(self, declared: Any) -> Plan:
        try:
            return self._native(declared)
        except Refused as refusal:
            reason = str(refusal)
        bare = unwrapped(declared)
        if bare is declared:
            return self._in_parts(declared, reason)
        if any(isinstance(each, msgspec.Meta) for each in getattr(declared, "__metadata__", ())):
            raise unsupported(
                declared,
                f"{reason}; and what zart stores in a form of its own takes no msgspec.Meta",
                "Check the value in the step instead.",
            )
        return self.plan(bare)

    def _in_parts(self, declared: Any, reason: str) -> Plan:
        """Plan a type that msgspec refuses by the plans of what it is made of."""
        origin = typing.get_origin(declared) or declared
        if origin in UNIONS:
            return self._union(declared, reason)
        if origin in self._writers:
            return self._placed(name_of(origin), self._writers[origin], self._readers[origin])
        if origin in MAPPINGS:
            return self._mapping(declared)
        if origin in SEQUENCES or origin is tuple:
            return self._sequence(declared, origin)
        if fields := declared_fields(origin):
            return self._record(declared, origin, fields)
        if isinstance(origin, type) and issubclass(origin, enum.Enum):
            by_name = EnumByName(origin)
            return self._placed(name_of(origin), by_name.prepare, by_name.read)
        raise unsupported(declared, reason)

    def _native(self, declared: Any) -> Plan:
        """Plan a type that msgspec reads and writes by itself, or raise `Refused`."""
        info = inspected(declared)
        plan = Plan(declared, unchanged=unchanged_classes(info), untyped=is_untyped(info))
        parts = list(parts_of(info))
        plan.only_plain = all(type(part) in PLAIN_PARTS for part in parts)
        for part in parts:
            self._check(part)
            plan.untyped_inside |= is_untyped(part)
            plan.sets_inside |= isinstance(part, SET_PARTS)
            cls: Any = getattr(part, "cls", None)
            plan.partly_compared |= cls is not None and compares_partly(cls)
            if isinstance(part, msgspec.inspect.UnionType):
                kinds = {type(member) for member in part.types}
                plan.optional_float |= kinds >= {
                    msgspec.inspect.FloatType,
                    msgspec.inspect.NoneType,
                }
        return plan

    def _check(self, part: msgspec.inspect.Type) -> None:
        cls: Any = getattr(part, "cls", None)
        cls = typing.get_origin(cls) or cls
        if isinstance(part, msgspec.inspect.CustomType):
            if cls not in self._writers and not is_pydantic(cls):
                raise Refused(f"{name_of(cls)} is not a class that zart knows")
        elif isinstance(cls, type) and cls in self._writers:
            raise Refused(f"{name_of(cls)} has a codec")
        elif isinstance(part, msgspec.inspect.DictType):
            key = part.key_type
            keys = key.types if isinstance(key, msgspec.inspect.UnionType) else (key,)
            if not all(isinstance(each, _KEYS) for each in keys):
                raise Refused(
                    "JSON's keys are text, and only str, int, float, bytes, dates and times, UUID, "
                    "Decimal, enums and literals can be read back from it"
                )

    def _mapping(self, declared: Any) -> Plan:
        key, item = typing.get_args(declared)
        try:
            self._native(generic(dict, key, None))
        except Refused as refusal:
            mend = "Store a list of pairs instead: list[tuple[Key, Value]]."
            raise unsupported(declared, str(refusal), mend) from None
        items = self.plan(item)
        plan = Plan(generic(dict, key, items.read_as), each_value(items))
        return plan.with_facts_of(items)

    def _sequence(self, declared: Any, origin: Any) -> Plan:
        members = [self.plan(each) for each in typing.get_args(declared) if each is not ...]
        read_as = [member.read_as for member in members]
        if origin is not tuple:
            plan = Plan(generic(SEQUENCES[origin], *read_as), each_item(members[0]))
            plan.sets_inside = SEQUENCES[origin] is not list
        elif ... in typing.get_args(declared):
            plan = Plan(generic(tuple, *read_as, ...), each_item(members[0]))
        else:
            plan = Plan(generic(tuple, *read_as), each_in_turn(members))
        return plan.with_facts_of(*members)

    def _record(self, declared: Any, cls: Any, fields: Iterable[Field]) -> Plan:
        """Plan a class with named fields, one of which msgspec alone cannot store."""
        if declared in self._records:  # it holds itself
            return self._records[declared]
        record = Record(name_of(declared), cls)
        plan = self._placed(name_of(declared), record.prepare, record.read)
        self._records[declared] = plan
        plan.partly_compared = compares_partly(cls)
        parameters = getattr(cls, "__parameters__", ())
        substitutes = dict(zip(parameters, typing.get_args(declared), strict=False))
        for field in fields:
            part = self.plan(substituted(field.declared, substitutes))
            record.fields[field.name] = FieldPlan(
                part.prepare, self._reader(part), field.required, field.in_init
            )
            plan.with_facts_of(part)
        return plan

    def _union(self, declared: Any, reason: str) -> Plan:
        """Plan a union whose members JSON alone cannot tell apart."""
        groups: dict[type, list[Any]] = {}
        optional = False
        for member in members_of(declared):
            if member is types.NoneType:
                optional = True
            else:
                groups.setdefault(runtime_class(member, declared, reason), []).append(member)
        plans = {kind: self._together(group, declared, reason) for kind, group in groups.items()}
        if len(plans) == 1:
            (plan,) = plans.values()
        else:
            tags = tags_of(list(groups), declared)
            tagged = Tagged(
                {
                    kind: Member(tags[kind], part.prepare, self._reader(part))
                    for kind, part in plans.items()
                },
                self._writers,
            )
            plan = self._placed(name_of(declared), tagged.prepare, tagged.read)
        if not optional:
            return plan.with_facts_of(*plans.values())
        prepare = unless_none(plan.prepare) if plan.prepare else None
        read_as = generic(typing.Optional, plan.read_as)
        return Plan(read_as, prepare).with_facts_of(*plans.values())

    def _together(self, group: list[Any], declared: Any, reason: str) -> Plan:
        """Plan the members of a union that share one class at run time, such as two literals."""
        if len(group) == 1:
            return self.plan(group[0])
        together = generic(typing.Union, *group)
        try:
            return self._native(together)
        except Refused:
            raise unsupported(
                declared,
                f"{reason}, and {name_of(together)} are of one class at run time, so that a value "
                "does not tell which of them it is",
                "Wrap them in dataclasses of different names.",
            ) from None

    def _placed(self, name: str, prepare: Prepare, read: Read) -> Plan:
        placeholder = Placeholder(name, (), {})
        self._readers[placeholder] = read
        return Plan(placeholder, prepare)

    def _reader(self, plan: Plan) -> Read:
        """Give a function that reads, by a plan, a part of what msgspec has read from JSON."""
        decode: Callable[[bytes], Any] | None = None

        def read(stored: Any) -> Any:
            nonlocal decode
            if decode is None:  # not earlier: a plan of a class that holds itself grows meanwhile
                decode = msgspec.json.Decoder(plan.read_as, dec_hook=self._decode_other).decode
            # Through text again, because msgspec.convert works a type out anew at every call.
            return decode(_PLAIN_ENCODER.encode(stored))

        return read
