"""Values as JSON text that reads back as the type they were declared with.

::

    Serializer ── shape(type) ──> Shape ── encode, decode, record
        │                           │
        codecs                      reads with msgspec, then compares what came back

msgspec does the work wherever it can. Three things are added to it here:

- What msgspec refuses, because JSON alone cannot tell it apart (two dataclasses in one union,
  ``datetime | str``, enums with values of any kind), is stored with a tag. A *plan* says how: the
  type that msgspec reads, in which a placeholder class stands wherever zart reads by itself, and
  a function that prepares a value for writing.
- A value is compared with what its JSON reads back as, so a value that JSON would change without
  a word (NaN, a tuple in untyped data, the fields of a subclass) is an error and not a surprise
  after a crash.
- Pydantic models and the classes of a `Codec` are read and written by their own means.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import inspect
import math
import types
import typing
import uuid
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Generic, TypeVar

import msgspec

from zart.errors import DecodeError, DefinitionError, EncodeError

__all__ = ["Codec", "Serializer", "Shape"]

T = TypeVar("T")

_PLAIN_ENCODER = msgspec.json.Encoder()

_Prepare = Callable[[Any], Any]
_Read = Callable[[Any], Any]
_Readers = dict[type, _Read]

# Typed as Any, so that what passes an isinstance check stays Any: a value of any kind may come in.
_DICTS: tuple[Any, ...] = (dict,)
_ARRAYS: tuple[Any, ...] = (list, tuple)
_SETS: tuple[Any, ...] = (set, frozenset)
_COLLECTIONS: tuple[Any, ...] = (list, tuple, set, frozenset)
_class_of: Callable[[Any], Any] = type
_TAGGED_KEYS = frozenset({"type", "value"})
_UNIONS = (typing.Union, types.UnionType)

_UNTYPED_MEND = (
    "Untyped data keeps only what JSON has: None, bool, int, float, str, list and dict with str "
    "keys. Declare the type, by a return annotation on the step or `type=`, and zart reads it back "
    "as declared; or convert the value yourself."
)
_NON_FINITE_MEND = "Store None or a text in its place, and declare that."
_DEPTH_MEND = "Store a flat list whose items name their parents."
_TYPED_MEND = "Give a value of the declared type, or declare the type of the value."
_TYPE_MEND = (
    "Declare a type that zart can store: None, bool, int, float, str, bytes, datetime, date, time, "
    "timedelta, UUID, Decimal, an enum, a list, dict, set or tuple, a dataclass, TypedDict, "
    "NamedTuple, msgspec Struct or pydantic model; or teach it the class: "
    "Serializer({TheClass: Codec(encode, decode)})."
)


@dataclasses.dataclass(frozen=True)
class Codec(Generic[T]):
    """How values of one class become JSON and come back.

    Args:
        encode: turns a value into something that JSON has, or that zart can store.
        decode: turns what JSON gave back into the value; raises if it does not fit.

    Example:
        >>> serializer = Serializer({Path: Codec(encode=str, decode=Path)})
        >>> serializer.shape(Path).decode('"/tmp"')
        PosixPath('/tmp')
    """

    encode: Callable[[T], Any]
    decode: Callable[[Any], T]


class Serializer:
    """Makes the `Shape` of each type, once, and knows the codecs.

    Args:
        codecs: how to store classes that zart does not know, or dataclasses, Structs and enums
            that shall be stored in another way; by class.

    Raises:
        DefinitionError: a codec is given for what JSON text already has a fixed form for, such
            as ``int`` or ``datetime``.
    """

    def __init__(self, codecs: Mapping[type, Codec[Any]] | None = None) -> None:
        self._codecs = dict(codecs or {})
        for taught in self._codecs:
            if _has_fixed_form(taught):
                raise DefinitionError(
                    f"A codec for {_name(taught)} would never be used: it has a fixed form in "
                    "JSON. Wrap the value in a class of its own and give that class the codec."
                )
        self._readers: _Readers = {taught: codec.decode for taught, codec in self._codecs.items()}
        self._encoder = msgspec.json.Encoder(enc_hook=self._encode_other)
        self._shapes: dict[Hashable, Shape] = {}

    def shape(self, declared: Any) -> Shape:
        """Give the shape of a type: how its values are stored and read.

        Args:
            declared: a type, or ``Any`` or ``inspect.Parameter.empty`` for untyped data.

        Raises:
            DefinitionError: zart cannot store values of this type; the message tells the mend.

        Example:
            >>> Serializer().shape(list[int]).encode([1, 2])
            '[1,2]'
        """
        try:
            found = self._shapes.get(declared)
        except TypeError:  # an annotation that cannot be hashed, so it cannot be remembered
            return self._new_shape(declared)
        if found is None:
            found = self._shapes[declared] = self._new_shape(declared)
        return found

    def _new_shape(self, declared: Any) -> Shape:
        untyped = declared is object or declared is inspect.Parameter.empty
        planner = _Planner(self._codecs, self._readers, self._decode_other)
        try:
            plan = planner.plan(Any if untyped else declared)
            decoder = msgspec.json.Decoder(plan.read_as, dec_hook=self._decode_other)
        except RecursionError:
            mend = "Let a dataclass hold itself, or declare Any for JSON of any form."
            raise _unsupported(declared, "it holds itself without end", mend) from None
        except (_Refused, TypeError) as error:
            if isinstance(error, DefinitionError):
                raise
            raise _unsupported(declared, str(error)) from None
        comparison = _Comparison(exact=plan.untyped_inside, taught=tuple(self._codecs))
        return Shape(declared, plan, self._encoder, decoder, comparison)

    def _encode_other(self, value: Any) -> Any:
        """Write a value of a class that msgspec does not know."""
        for kind in type(value).__mro__:
            if codec := self._codecs.get(kind):
                return codec.encode(value)
        if _is_pydantic(_class_of(value)):
            # What does not fit its model is found when it is read back: no warning is needed.
            text = value.model_dump_json(by_alias=True, round_trip=True, warnings=False)
            return msgspec.Raw(text.encode())
        for native in (str, int, float):
            if isinstance(value, native):
                return native(value)
        raise TypeError(f"a {_name(type(value))} has no form in JSON that zart knows")

    def _decode_other(self, declared: type, stored: Any) -> Any:
        """Read what stands for a class that msgspec does not know, or for a placeholder."""
        reader = self._readers.get(declared)
        if reader is None:
            # Read as JSON text, not as Python objects: a strict model takes a datetime's text
            # only where it knows that the input is JSON.
            validate: Callable[[bytes], Any] = getattr(declared, "model_validate_json")  # noqa: B009
            return validate(self._encoder.encode(stored))
        return reader(stored)


class Shape:
    """How values of one type are stored and read; made by `Serializer.shape`."""

    __slots__ = ("_blind", "_comparison", "_decode", "_encode", "_plan", "_unchanged", "type")

    def __init__(
        self,
        declared: Any,
        plan: _Plan,
        encoder: msgspec.json.Encoder,
        decoder: msgspec.json.Decoder[Any],
        comparison: _Comparison,
    ) -> None:
        self.type = declared
        self._plan = plan
        self._unchanged = plan.unchanged
        self._encode = encoder.encode
        self._decode = decoder.decode
        self._comparison = comparison
        # Where this stands in the stored text, equality does not tell whether all came back:
        # untyped data (anywhere), and a null that may have been a NaN in a field which its class
        # leaves out of the comparison.
        self._blind = b"" if plan.untyped_inside else b"null" if plan.optional_float else None

    def __repr__(self) -> str:
        return f"<Shape of {_name(self.type)}>"

    def record(self, value: Any) -> tuple[str, Any]:
        """Give what is stored for a value, and the value as every replay will see it.

        Args:
            value: fits the declared type, or is plain data that reads as the declared type, such
                as a dict for a dataclass.

        Returns:
            The JSON text, and what it reads back as: a new object, never ``value`` itself unless
            it is an immutable one of JSON's own.

        Raises:
            EncodeError: the value does not fit, or would not come back as it was given.

        Example:
            >>> Serializer().shape(Point).record({"x": 1, "y": 2})
            ('{"x":1,"y":2}', Point(x=1, y=2))
        """
        stored = self._write(value)
        if type(value) in self._unchanged:
            if value is not None and stored == b"null":
                raise self._misfit(f"{value} has no form in JSON", _NON_FINITE_MEND)
            return stored.decode(), value
        try:
            back = self._decode(stored)
        except Exception as error:  # codecs and models raise what they like
            raise self._misfit(str(error)) from error
        # Equality spares nearly every typed value a close look.
        try:
            alike = (self._blind is None or self._blind not in stored) and value == back
        except Exception:  # some classes cannot be compared
            alike = False
        if not alike:
            self._compare(value, back)
        return stored.decode(), back

    def encode(self, value: Any, *, validate: bool = True) -> str:
        """Give the JSON text for a value.

        Args:
            value: fits the declared type, or is plain data that reads as the declared type.
            validate: read the text back and compare, as `record` does. Without it, only what has
                no JSON at all is refused: for values that this shape has decoded.

        Raises:
            EncodeError: the value does not fit, or would not come back as it was given.
        """
        if validate:
            return self.record(value)[0]
        stored = self._write(value)
        if b"null" in stored and _holds_non_finite(value):
            raise self._misfit("NaN and infinity have no form in JSON", _NON_FINITE_MEND)
        return stored.decode()

    def decode(self, text: str) -> Any:
        """Read stored JSON text as the declared type.

        Raises:
            DecodeError: the text is not JSON, or does not fit the declared type.
        """
        try:
            return self._decode(text)
        except Exception as error:  # codecs and models raise what they like
            raise DecodeError(
                f"Stored JSON does not read as {_name(self.type)}: {error}. If the type has "
                "changed since this was stored, let it accept the old form as well: give new "
                "fields a default, and keep the old names."
            ) from error

    def _write(self, value: Any) -> bytes:
        prepare = self._plan.prepare
        try:
            return self._encode(value if prepare is None else prepare(value))
        except UnicodeEncodeError as error:
            raise self._misfit(
                "it holds a str with a lone surrogate, which is no text",
                "Decode the bytes it came from with errors='replace', or store them as bytes.",
            ) from error
        except RecursionError as error:
            raise self._misfit("it is nested too deeply, or holds itself", _DEPTH_MEND) from error
        except Exception as error:  # codecs and models raise what they like
            raise self._misfit(str(error)) from error

    def _compare(self, value: Any, back: Any) -> None:
        """Raise `EncodeError` if what came back differs in a way nobody asked for."""
        if self._plan.only_plain and _is_plain(value):
            return
        try:
            difference = self._comparison.difference(value, back)
        except RecursionError as error:
            raise self._misfit("it is nested too deeply", _DEPTH_MEND) from error
        if difference is not None:
            raise self._misfit(str(difference), difference.mend)

    def _misfit(self, reason: str, mend: str | None = None) -> EncodeError:
        form = "untyped JSON" if self._plan.untyped else _name(self.type)
        usual = _UNTYPED_MEND if self._plan.untyped_inside else _TYPED_MEND
        return EncodeError(f"The value cannot be stored as {form}: {reason}. {mend or usual}")


# -- Plans: what msgspec reads, and what zart does itself ----------------------------------------


@dataclasses.dataclass(slots=True)
class _Plan:
    read_as: Any
    """The type that msgspec reads."""
    prepare: _Prepare | None = None
    """Turns a value into what the encoder shall write; None where the value itself is written."""
    unchanged: frozenset[type] = frozenset()
    """Exact classes whose values are immutable and come back equal, so need no reading back."""
    untyped: bool = False
    untyped_inside: bool = False
    only_plain: bool = False
    """Nothing but what JSON has is declared in it, so plain data comes back as it is."""
    optional_float: bool = False

    def with_facts_of(self, *others: _Plan) -> _Plan:
        self.untyped_inside = self.untyped_inside or any(it.untyped_inside for it in others)
        self.optional_float = self.optional_float or any(it.optional_float for it in others)
        return self


class _Refused(Exception):
    """msgspec alone cannot store this type; the text says why."""


class _Placeholder(type):
    """The class of the classes that stand, in what msgspec reads, for what zart reads itself."""

    def __instancecheck__(cls, instance: object) -> bool:
        # msgspec checks what the hook has read against the placeholder; the reader knows better.
        return True


@dataclasses.dataclass(frozen=True, slots=True)
class _FieldPlan:
    prepare: _Prepare | None
    read: _Read
    required: bool
    in_init: bool


class _Record:
    """Writes and reads a class with named fields, field by field."""

    def __init__(self, name: str, cls: Any) -> None:
        self.fields: dict[str, _FieldPlan] = {}
        self._name = name
        self._class = cls
        self._is_dict = _is_typed_dict(cls)

    def prepare(self, value: Any) -> Any:
        if isinstance(value, _DICTS):
            given: Mapping[Any, Any] = value
        elif type(value) is self._class:
            given = {name: getattr(value, name) for name in self.fields if hasattr(value, name)}
        else:
            raise TypeError(f"a {_name(type(value))} was given where a {self._name} is declared")
        return {name: self._prepare_field(name, item) for name, item in given.items()}

    def _prepare_field(self, name: str, item: Any) -> Any:
        field = self.fields.get(name)
        return item if field is None or field.prepare is None else field.prepare(item)

    def read(self, stored: Any) -> Any:
        if not isinstance(stored, _DICTS):
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
class _Member:
    tag: str
    prepare: _Prepare | None
    read: _Read


class _Tagged:
    """Writes and reads a union: each value with the tag of its member."""

    def __init__(self, members: Mapping[type, _Member], taught: Collection[type]) -> None:
        self._members = members
        self._by_tag = {member.tag: member for member in members.values()}
        self._taught = [kind for kind in members if kind in taught]
        self._known = ", ".join(sorted(self._by_tag))

    def prepare(self, value: Any) -> Any:
        member = self._members.get(_class_of(value)) or self._member_of_other_class(value)
        if member is None and _is_tagged(value):  # plain data that names its member already
            member = self._by_tag.get(value["type"])
            value = value["value"]
        if member is None:
            raise TypeError(
                f"a {_name(type(value))} is none of the union's members ({self._known}); the exact "
                'class counts, and plain data names its member: {"type": "...", "value": ...}'
            )
        return {
            "type": member.tag,
            "value": value if member.prepare is None else member.prepare(value),
        }

    def _member_of_other_class(self, value: Any) -> _Member | None:
        if type(value) is int:  # an int may stand for a float, as everywhere in Python's typing
            return self._members.get(float)
        for kind in self._taught:  # often an abstract class: each Path is of a subclass
            if isinstance(value, kind):
                return self._members[kind]
        return None

    def read(self, stored: Any) -> Any:
        if not _is_tagged(stored) or stored["type"] not in self._by_tag:
            raise ValueError(
                f'Expected {{"type": ..., "value": ...}} with the type one of {self._known}'
            )
        return self._by_tag[stored["type"]].read(stored["value"])


@dataclasses.dataclass(frozen=True, slots=True)
class _EnumByName:
    """Writes and reads an enum whose values JSON does not have: by the names of its members."""

    members: type[enum.Enum]

    def prepare(self, value: Any) -> Any:
        return value.name if isinstance(value, self.members) else value

    def read(self, stored: Any) -> Any:
        if stored in self.members.__members__:
            return self.members[stored]
        raise ValueError(f"{_name(self.members)} has no member named {stored!r}")


_SEQUENCES: dict[Any, Any] = {
    list: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    set: set,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
    frozenset: frozenset,
}
_MAPPINGS: dict[Any, Any] = {
    dict: dict,
    collections.abc.Mapping: dict,
    collections.abc.MutableMapping: dict,
}
_UNCHANGED: dict[type, type] = {
    msgspec.inspect.NoneType: types.NoneType,
    msgspec.inspect.BoolType: bool,
    msgspec.inspect.IntType: int,
    msgspec.inspect.FloatType: float,
    msgspec.inspect.StrType: str,
}
_PLAIN_PARTS = {
    msgspec.inspect.AnyType,
    msgspec.inspect.ListType,
    msgspec.inspect.DictType,
    *_UNCHANGED,
}
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


class _Planner:
    """Makes the plan of one type, and registers the readers of its placeholders."""

    def __init__(
        self,
        codecs: Mapping[type, Codec[Any]],
        readers: _Readers,
        decode_other: Callable[[type, Any], Any],
    ) -> None:
        self._codecs = codecs
        self._readers = readers
        self._decode_other = decode_other
        self._records: dict[Hashable, _Plan] = {}

    def plan(self, declared: Any) -> _Plan:
        try:
            return self._native(declared)
        except _Refused as refusal:
            reason = str(refusal)
        bare = _bare(declared)
        if bare is declared:
            return self._in_parts(declared, reason)
        if any(isinstance(each, msgspec.Meta) for each in getattr(declared, "__metadata__", ())):
            raise _unsupported(
                declared,
                f"{reason}; and what zart stores in a form of its own takes no msgspec.Meta",
                "Check the value in the step instead.",
            )
        return self.plan(bare)

    def _in_parts(self, declared: Any, reason: str) -> _Plan:
        """Plan a type that msgspec refuses by the plans of what it is made of."""
        origin = typing.get_origin(declared) or declared
        if origin in _UNIONS:
            return self._union(declared, reason)
        if origin in self._codecs:
            codec = self._codecs[origin]
            return self._placed(_name(origin), codec.encode, codec.decode)
        if origin in _MAPPINGS:
            return self._mapping(declared)
        if origin in _SEQUENCES or origin is tuple:
            return self._sequence(declared, origin)
        if fields := _declared_fields(origin):
            return self._record(declared, origin, fields)
        if isinstance(origin, type) and issubclass(origin, enum.Enum):
            by_name = _EnumByName(origin)
            return self._placed(_name(origin), by_name.prepare, by_name.read)
        raise _unsupported(declared, reason)

    def _native(self, declared: Any) -> _Plan:
        """Plan a type that msgspec reads and writes by itself, or raise `_Refused`."""
        info = _inspected(declared)
        plan = _Plan(declared, unchanged=_unchanged(info), untyped=_is_untyped(info))
        parts = list(_parts(info))
        plan.only_plain = all(type(part) in _PLAIN_PARTS for part in parts)
        for part in parts:
            self._check(part)
            plan.untyped_inside |= _is_untyped(part)
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
            if cls not in self._codecs and not _is_pydantic(cls):
                raise _Refused(f"{_name(cls)} is not a class that zart knows")
        elif isinstance(cls, type) and cls in self._codecs:
            raise _Refused(f"{_name(cls)} has a codec")
        elif isinstance(part, msgspec.inspect.DictType):
            key = part.key_type
            keys = key.types if isinstance(key, msgspec.inspect.UnionType) else (key,)
            if not all(isinstance(each, _KEYS) for each in keys):
                raise _Refused(
                    "JSON's keys are text, and only str, int, float, bytes, dates and times, UUID, "
                    "Decimal, enums and literals can be read back from it"
                )

    def _mapping(self, declared: Any) -> _Plan:
        key, item = typing.get_args(declared)
        try:
            self._native(_generic(dict, key, None))
        except _Refused as refusal:
            mend = "Store a list of pairs instead: list[tuple[Key, Value]]."
            raise _unsupported(declared, str(refusal), mend) from None
        items = self.plan(item)
        plan = _Plan(_generic(dict, key, items.read_as), _each_value(items))
        return plan.with_facts_of(items)

    def _sequence(self, declared: Any, origin: Any) -> _Plan:
        members = [self.plan(each) for each in typing.get_args(declared) if each is not ...]
        read_as = [member.read_as for member in members]
        if origin is not tuple:
            plan = _Plan(_generic(_SEQUENCES[origin], *read_as), _each_item(members[0]))
        elif ... in typing.get_args(declared):
            plan = _Plan(_generic(tuple, *read_as, ...), _each_item(members[0]))
        else:
            plan = _Plan(_generic(tuple, *read_as), _each_in_turn(members))
        return plan.with_facts_of(*members)

    def _record(self, declared: Any, cls: Any, fields: Iterable[_Field]) -> _Plan:
        """Plan a class with named fields, one of which msgspec alone cannot store."""
        if declared in self._records:  # it holds itself
            return self._records[declared]
        record = _Record(_name(declared), cls)
        plan = self._placed(_name(declared), record.prepare, record.read)
        self._records[declared] = plan
        parameters = getattr(cls, "__parameters__", ())
        substitutes = dict(zip(parameters, typing.get_args(declared), strict=False))
        for field in fields:
            part = self.plan(_substituted(field.declared, substitutes))
            record.fields[field.name] = _FieldPlan(
                part.prepare, self._reader(part), field.required, field.in_init
            )
            plan.with_facts_of(part)
        return plan

    def _union(self, declared: Any, reason: str) -> _Plan:
        """Plan a union whose members JSON alone cannot tell apart."""
        groups: dict[type, list[Any]] = {}
        optional = False
        for member in _members(declared):
            if member is types.NoneType:
                optional = True
            else:
                groups.setdefault(_runtime_class(member, declared, reason), []).append(member)
        plans = {kind: self._together(group, declared, reason) for kind, group in groups.items()}
        if len(plans) == 1:
            (plan,) = plans.values()
        else:
            tags = _tags(list(groups), declared)
            tagged = _Tagged(
                {
                    kind: _Member(tags[kind], part.prepare, self._reader(part))
                    for kind, part in plans.items()
                },
                self._codecs,
            )
            plan = self._placed(_name(declared), tagged.prepare, tagged.read)
        if not optional:
            return plan.with_facts_of(*plans.values())
        prepare = _unless_none(plan.prepare) if plan.prepare else None
        read_as = _generic(typing.Optional, plan.read_as)
        return _Plan(read_as, prepare).with_facts_of(*plans.values())

    def _together(self, group: list[Any], declared: Any, reason: str) -> _Plan:
        """Plan the members of a union that share one class at run time, such as two literals."""
        if len(group) == 1:
            return self.plan(group[0])
        together = _generic(typing.Union, *group)
        try:
            return self._native(together)
        except _Refused:
            raise _unsupported(
                declared,
                f"{reason}, and {_name(together)} are of one class at run time, so that a value "
                "does not tell which of them it is",
                "Wrap them in dataclasses of different names.",
            ) from None

    def _placed(self, name: str, prepare: _Prepare, read: Callable[[Any], Any]) -> _Plan:
        placeholder = _Placeholder(name, (), {})
        self._readers[placeholder] = read
        return _Plan(placeholder, prepare)

    def _reader(self, plan: _Plan) -> Callable[[Any], Any]:
        """Give a function that reads, by a plan, a part of what msgspec has read from JSON."""
        decode: Callable[[bytes], Any] | None = None

        def read(stored: Any) -> Any:
            nonlocal decode
            if decode is None:  # not earlier: a plan of a class that holds itself grows meanwhile
                decode = msgspec.json.Decoder(plan.read_as, dec_hook=self._decode_other).decode
            # Through text again, because msgspec.convert works a type out anew at every call.
            return decode(_PLAIN_ENCODER.encode(stored))

        return read


def _unsupported(declared: Any, reason: str, mend: str = _TYPE_MEND) -> DefinitionError:
    return DefinitionError(f"zart cannot store {_name(declared)}: {reason}. {mend}")


def _inspected(declared: Any) -> msgspec.inspect.Type:
    try:
        return msgspec.inspect.type_info(declared)
    except TypeError as error:
        raise _Refused(str(error).split(" - type ")[0]) from None
    except NameError as error:
        raise _unsupported(
            declared,
            f"its annotations name {error.name!r}, which cannot be found",
            "Define or import it at the top of the module, and not only under `if TYPE_CHECKING:`.",
        ) from error


def _has_fixed_form(cls: type) -> bool:
    try:
        return not hasattr(_inspected(cls), "cls")
    except _Refused:
        return False


def _parts(info: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """Give a type and every type inside it, each once: types may hold themselves."""
    seen: set[int] = set()
    pending: list[Any] = [info]
    while pending:
        part = pending.pop()
        if isinstance(part, _ARRAYS):
            pending.extend(part)
        elif isinstance(part, msgspec.inspect.Field):
            pending.append(part.type)
        elif isinstance(part, msgspec.inspect.Type) and id(part) not in seen:
            seen.add(id(part))
            yield part
            pending.extend(getattr(part, name) for name in part.__struct_fields__)


def _is_untyped(info: msgspec.inspect.Type) -> bool:
    return isinstance(info, msgspec.inspect.AnyType)


def _unchanged(info: msgspec.inspect.Type) -> frozenset[type]:
    if _is_untyped(info):
        return frozenset(_UNCHANGED.values())
    members = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    return frozenset(
        _UNCHANGED[type(member)]
        for member in members
        if type(member) in _UNCHANGED
        and all(getattr(member, name) is None for name in member.__struct_fields__)
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    name: str
    declared: Any
    required: bool
    in_init: bool = True


def _declared_fields(cls: Any) -> list[_Field]:
    """Give the fields of a dataclass, TypedDict or NamedTuple; none for other classes."""
    if dataclasses.is_dataclass(cls):
        hints = _hints(cls)
        missing = dataclasses.MISSING
        return [
            _Field(
                field.name,
                hints[field.name],
                field.default is missing and field.default_factory is missing,
                field.init,
            )
            for field in dataclasses.fields(cls)
        ]
    if _is_typed_dict(cls):
        required = cls.__required_keys__
        return [_typed_dict_field(name, hint, required) for name, hint in _hints(cls).items()]
    if hasattr(cls, "_field_defaults"):
        hints = _hints(cls)
        return [
            _Field(name, hints.get(name, Any), name not in cls._field_defaults)
            for name in cls._fields
        ]
    return []


def _typed_dict_field(name: str, hint: Any, required_keys: Collection[str]) -> _Field:
    required = name in required_keys
    while typing.get_origin(hint) in (typing.Required, typing.NotRequired):
        # Where annotations are text, only resolving them shows which keys may be missing.
        required = typing.get_origin(hint) is typing.Required
        (hint,) = typing.get_args(hint)
    return _Field(name, hint, required)


def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _generic(origin: Any, *arguments: Any) -> Any:
    """Give ``origin[arguments]``, for arguments known at run time only."""
    return origin[arguments if len(arguments) != 1 else arguments[0]]


def _substituted(declared: Any, substitutes: Mapping[Any, Any]) -> Any:
    """Put the arguments of a generic class into the type of one of its fields."""
    if isinstance(declared, TypeVar):
        return substitutes.get(declared, declared)
    parameters = getattr(declared, "__parameters__", ())
    if not parameters or not substitutes or isinstance(declared, type):
        return declared
    return declared[tuple(substitutes.get(each, each) for each in parameters)]


def _each_item(items: _Plan) -> _Prepare | None:
    prepare = items.prepare
    if prepare is None:
        return None

    def prepare_all(value: Any) -> Any:
        if isinstance(value, _COLLECTIONS):
            return [prepare(item) for item in value]
        return value  # reading it back says what is wrong with it

    return prepare_all


def _each_value(items: _Plan) -> _Prepare | None:
    prepare = items.prepare
    if prepare is None:
        return None

    def prepare_all(value: Any) -> Any:
        if isinstance(value, _DICTS):
            return {key: prepare(item) for key, item in value.items()}
        return value

    return prepare_all


def _each_in_turn(members: list[_Plan]) -> _Prepare:
    def prepare_all(value: Any) -> Any:
        if isinstance(value, _ARRAYS) and len(value) == len(members):
            return [
                member.prepare(item) if member.prepare else item
                for member, item in zip(members, value, strict=True)
            ]
        return value

    return prepare_all


def _unless_none(prepare: _Prepare) -> _Prepare:
    def prepare_some(value: Any) -> Any:
        return None if value is None else prepare(value)

    return prepare_some


def _bare(declared: Any) -> Any:
    """Take one wrapping off a type: Annotated, NewType or a named alias."""
    if typing.get_origin(declared) is typing.Annotated:
        return typing.get_args(declared)[0]
    if isinstance(declared, typing.NewType):
        return declared.__supertype__
    if type(declared).__name__ == "TypeAliasType":
        return declared.__value__
    return declared


def _members(declared: Any) -> Iterator[Any]:
    """Give the members of a union, of those inside it too, and one literal type per class."""
    bare = _fully_bare(declared)
    if typing.get_origin(bare) in _UNIONS:
        for member in typing.get_args(bare):
            yield from _members(member)
    elif typing.get_origin(bare) is typing.Literal:
        by_class: dict[type, list[Any]] = {}
        for value in typing.get_args(bare):
            by_class.setdefault(_class_of(value), []).append(value)
        for values in by_class.values():
            yield _generic(typing.Literal, *values)
    else:
        yield declared


def _fully_bare(declared: Any) -> Any:
    while (bare := _bare(declared)) is not declared:
        declared = bare
    return declared


def _runtime_class(member: Any, union: Any, reason: str) -> type:
    """Give the exact class that a value of a union's member has."""
    bare = _fully_bare(member)
    if typing.get_origin(bare) is typing.Literal:
        kind: type = _class_of(typing.get_args(bare)[0])
        return kind
    if _is_typed_dict(bare):
        return dict
    origin = typing.get_origin(bare) or bare
    found = _SEQUENCES.get(origin) or _MAPPINGS.get(origin) or origin
    if isinstance(found, type) and found is not object and found is not Any:
        return found
    raise _unsupported(
        union,
        f"{reason}, and the class of a value does not tell whether it is a {_name(member)}",
        "Name the classes that occur.",
    )


def _tags(kinds: list[type], union: Any) -> dict[type, str]:
    for name in (_short_name, _name):
        tags = {kind: name(kind) for kind in kinds}
        if len(set(tags.values())) == len(tags):
            return tags
    raise _unsupported(union, "two of its members have the same name", "Rename one.")


# -- Comparing: what was given, and what its JSON reads back as ----------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Difference:
    path: str
    text: str
    mend: str | None = None

    def inside(self, step: str) -> _Difference:
        return dataclasses.replace(self, path=step + self.path)

    def __str__(self) -> str:
        return f"the value at ${self.path} {self.text}" if self.path else f"it {self.text}"


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


@dataclasses.dataclass(frozen=True, slots=True)
class _Comparison:
    """Finds where a value and what its JSON reads back as differ in a way nobody asked for.

    Plain data that was read as the declared type (a dict as a dataclass, text as a datetime, an
    int as a float) is what was asked for.
    """

    exact: bool
    """Untyped data is among it: a tuple may not become a list, nor an IntEnum an int."""
    taught: tuple[type, ...]

    def difference(self, given: Any, back: Any) -> _Difference | None:
        kind = _class_of(given)
        if kind is float and not math.isfinite(given):
            return _Difference("", f"is {given}, which has no form in JSON", _NON_FINITE_MEND)
        if kind is type(back):
            if kind in _PLAIN and given == back:
                return None
            return self._of_one_class(given, back)
        if isinstance(given, _DICTS):
            return self._of_plain_dict(given, back)
        if isinstance(given, _COLLECTIONS):
            return self._of_collections(given, back)
        return None if self._is_reading(given, back) else _changed(given, back)

    def _is_reading(self, given: Any, back: Any) -> bool:
        """Tell whether what came back is what was given, read as its declared type."""
        if isinstance(given, self.taught):
            return True
        if isinstance(given, type(back)):
            # A subclass of what came back: harmless only for text, numbers and the like, and
            # where a type says what they come back as.
            return isinstance(back, _SCALARS) and not self.exact and bool(given == back)
        kind = _class_of(given)
        if kind is str:
            # Text is base64 for bytes, and nobody means that by giving a str.
            return back is not None and not isinstance(back, (bytes, bytearray))
        if kind is int or kind is float:
            return back is not None and not isinstance(back, str)
        return isinstance(given, (bytes, bytearray, memoryview)) and given == back

    def _of_one_class(self, given: Any, back: Any) -> _Difference | None:
        if isinstance(given, _SCALARS):
            if _is_same_scalar(given, back):
                return None
            return _Difference("", f"would come back as another {_name(type(back))}, {back!s}")
        if isinstance(given, _DICTS):
            return self._of_keys_and_items(given, back)
        if isinstance(given, _ARRAYS):
            return self._of_items(given, back)
        if isinstance(given, _SETS):
            lost = [each for each in given - back if each is None or isinstance(each, _SCALARS)]
            if lost or _holds_non_finite(given):
                return _Difference("", "holds items that would not come back")
            return None
        fields = _fields_of(given)
        if fields is None:
            return None  # a class with a codec, which knows what it keeps
        return self._of_fields(fields, _fields_of(back) or {})

    def _of_plain_dict(self, given: dict[Any, Any], back: Any) -> _Difference | None:
        if back is None:
            return _changed(given, back)
        if isinstance(back, _DICTS):
            if self.exact:
                return _changed(given, back)
            return self._of_keys_and_items(given, back)
        fields = _fields_of(back)
        if fields is None:
            return None
        if dataclasses.is_dataclass(back):
            if _is_tagged(given) and given.keys() != fields.keys():
                return self.difference(given["value"], back)  # the tagged member of a union
            for name in given:
                if name not in fields:
                    text = f"has the field {name!r}, which a {_name(type(back))} does not have"
                    return _Difference("", text)
        return self._of_fields(given, fields)

    def _of_collections(self, given: Any, back: Any) -> _Difference | None:
        if isinstance(back, _SETS):
            return self._of_sets(given)
        if isinstance(back, _COLLECTIONS):
            in_order = isinstance(given, _ARRAYS) and isinstance(back, _ARRAYS)
            if not in_order or (self.exact and type(given) is not list):
                return _changed(given, back)
            return self._of_items(given, back)
        # An object that is stored as an array, given as plain data.
        return _changed(given, back) if back is None or isinstance(given, _SETS) else None

    def _of_sets(self, given: Any) -> _Difference | None:
        if not _holds_non_finite(given):
            return None
        text = "holds NaN or an infinity, which have no form in JSON"
        return _Difference("", text, _NON_FINITE_MEND)

    def _of_items(self, given: Any, back: Any) -> _Difference | None:
        if len(given) != len(back):
            return _Difference("", f"has {len(given)} items, and {len(back)} would come back")
        for position, (item, item_back) in enumerate(zip(given, back, strict=True)):
            if found := self.difference(item, item_back):
                return found.inside(f"[{position}]")
        return None

    def _of_keys_and_items(self, given: dict[Any, Any], back: dict[Any, Any]) -> _Difference | None:
        if len(given) != len(back):
            return _Difference("", f"has {len(given)} keys, and {len(back)} would come back")
        for (key, item), (key_back, item_back) in zip(given.items(), back.items(), strict=True):
            if found := self.difference(key, key_back):
                return dataclasses.replace(found, text=f"has a key that {found.text}")
            if found := self.difference(item, item_back):
                return found.inside(f"[{key!r}]")
        return None

    def _of_fields(self, given: Mapping[Any, Any], back: Mapping[str, Any]) -> _Difference | None:
        for name, item in given.items():
            if name in back and (found := self.difference(item, back[name])):
                return found.inside(f".{name}")
        return None


def _changed(given: Any, back: Any) -> _Difference:
    return _Difference(
        "", f"is a {_name(type(given))} and would come back as a {_name(type(back))}"
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


def _fields_of(value: Any) -> dict[str, Any] | None:
    """Give the fields of a dataclass, Struct or model by name; None for other classes."""
    cls = _class_of(value)
    if dataclasses.is_dataclass(cls):
        names: list[str] = [field.name for field in dataclasses.fields(cls)]
    elif isinstance(value, msgspec.Struct):
        names = list(value.__struct_fields__)
    elif hasattr(cls, "__attrs_attrs__"):
        names = [attribute.name for attribute in cls.__attrs_attrs__]
    elif _is_pydantic(cls):
        names = list(value.__dict__)
    else:
        return None
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _is_plain(value: Any) -> bool:
    """Tell whether a value is made of the exact classes that JSON reads back as."""
    kind = _class_of(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or not (type(item) in _PLAIN or _is_plain(item)):
                return False
        return True
    if kind is list:
        return all(type(item) in _PLAIN or _is_plain(item) for item in value)
    return kind in _PLAIN or (kind is float and math.isfinite(value))


def _holds_non_finite(value: Any) -> bool:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                return True
        elif isinstance(item, _DICTS):
            pending.extend(item.values())
        elif isinstance(item, _COLLECTIONS):
            pending.extend(item)
        elif fields := _fields_of(item):
            pending.extend(fields.values())
    return False


# -- Names and kinds of classes ------------------------------------------------------------------


@functools.cache
def _is_pydantic(cls: Any) -> bool:
    """Tell a pydantic model class, without importing pydantic."""
    return isinstance(cls, type) and all(
        hasattr(cls, name) for name in ("__pydantic_validator__", "model_validate_json")
    )


def _is_typed_dict(cls: Any) -> bool:
    # Not typing.is_typeddict, which does not know those of typing_extensions.
    return hasattr(cls, "__required_keys__") and dict in getattr(cls, "__mro__", ())


def _is_tagged(value: Any) -> bool:
    return isinstance(value, _DICTS) and value.keys() == _TAGGED_KEYS


def _short_name(declared: type) -> str:
    return declared.__name__


def _name(declared: Any) -> str:
    """Name a type as a person would look for it."""
    if isinstance(declared, type) and typing.get_origin(declared) is None:
        return (
            declared.__qualname__
            if declared.__module__ == "builtins"
            else f"{declared.__module__}.{declared.__qualname__}"
        )
    return repr(declared).removeprefix("typing.")
