"""The shapes of types, each made once, and the codecs of classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import msgspec

from zart.errors import DefinitionError
from zart.serialization.codec import Codec
from zart.serialization.comparison import Comparison
from zart.serialization.declaration import Refused, has_fixed_form, unsupported
from zart.serialization.kinds import class_of, is_pydantic, name_of
from zart.serialization.order import holds_set, in_order, may_hold_set
from zart.serialization.plan import Prepare, Readers
from zart.serialization.planner import Planner
from zart.serialization.shape import Shape

__all__ = ["Serializer"]

# What a codec makes of a value most often; there is nothing in it to be put in order.
_SCALARS: tuple[Any, ...] = (str, int, float)


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
        codecs = dict(codecs or {})
        for taught in codecs:
            if has_fixed_form(taught):
                raise DefinitionError(
                    f"A codec for {name_of(taught)} would never be used: it has a fixed form in "
                    "JSON. Wrap the value in a class of its own and give that class the codec."
                )
        self._readers: Readers = {taught: codec.decode for taught, codec in codecs.items()}
        self._writers = {taught: self._writer(codec) for taught, codec in codecs.items()}
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
        planner = Planner(self._writers, self._readers, self._decode_other)
        try:
            plan = planner.plan(Any if untyped else declared)
            decoder = msgspec.json.Decoder(plan.read_as, dec_hook=self._decode_other)
        except RecursionError:
            mend = "Let a dataclass hold itself, or declare Any for JSON of any form."
            raise unsupported(declared, "it holds itself without end", mend) from None
        except (Refused, TypeError) as error:
            if isinstance(error, DefinitionError):
                raise
            raise unsupported(declared, str(error)) from None
        comparison = Comparison(exact=plan.untyped_inside, taught=tuple(self._writers))
        return Shape(declared, plan, self._encoder, decoder, comparison)

    def _writer(self, codec: Codec[Any]) -> Prepare:
        """Give a codec's ``encode`` with the sets in order that it may make of a value."""

        def write(value: Any) -> Any:
            made = codec.encode(value)
            if made is None or isinstance(made, _SCALARS):
                return made
            text = self._encoder.encode(made)
            return msgspec.Raw(in_order(made, text) if holds_set(made) else text)

        return write

    def _encode_other(self, value: Any) -> Any:
        """Write a value of a class that msgspec does not know."""
        for kind in type(value).__mro__:
            if write := self._writers.get(kind):
                return write(value)
        if is_pydantic(class_of(value)):
            # What does not fit its model is found when it is read back: no warning is needed.
            text = value.model_dump_json(by_alias=True, round_trip=True, warnings=False).encode()
            return msgspec.Raw(in_order(value, text) if may_hold_set(class_of(value)) else text)
        for native in (str, int, float):
            if isinstance(value, native):
                return native(value)
        raise TypeError(f"an object of {name_of(type(value))} has no form in JSON that zart knows")

    def _decode_other(self, declared: type, stored: Any) -> Any:
        """Read what stands for a class that msgspec does not know, or for a placeholder."""
        reader = self._readers.get(declared)
        if reader is None:
            # Read as JSON text, not as Python objects: a strict model takes a datetime's text
            # only where it knows that the input is JSON.
            validate: Callable[[bytes], Any] = getattr(declared, "model_validate_json")  # noqa: B009
            return validate(self._encoder.encode(stored))
        return reader(stored)
