"""How values of one type are stored and read."""

from __future__ import annotations

from typing import Any

import msgspec

from zart.errors import DecodeError, EncodeError
from zart.serialization.comparison import (
    NON_FINITE_MEND,
    Comparison,
    holds_non_finite,
    is_plain,
)
from zart.serialization.kinds import name_of
from zart.serialization.order import in_order
from zart.serialization.plan import Plan

__all__ = ["Shape"]

_UNTYPED_MEND = (
    "Untyped data keeps only what JSON has: None, bool, int, float, str, list and dict with str "
    "keys. Declare the type, by a return annotation on the step or `type=`, and zart reads it back "
    "as declared; or convert the value yourself."
)
_TYPED_MEND = "Give a value of the declared type, or declare the type of the value."
_DEPTH_MEND = "Store a flat list whose items name their parents."


class Shape:
    """How values of one type are stored and read; made by `Serializer.shape`."""

    __slots__ = ("_blind", "_comparison", "_decode", "_encode", "_plan", "_unchanged", "type")

    def __init__(
        self,
        declared: Any,
        plan: Plan,
        encoder: msgspec.json.Encoder,
        decoder: msgspec.json.Decoder[Any],
        comparison: Comparison,
    ) -> None:
        self.type = declared
        self._plan = plan
        self._unchanged = plan.unchanged
        self._encode = encoder.encode
        self._decode = decoder.decode
        self._comparison = comparison
        # Where this stands in the stored text, equality does not tell whether all came back:
        # untyped data and a class that leaves fields out of the comparison (anywhere), and a null
        # that may have been a NaN.
        blind = plan.untyped_inside or plan.partly_compared
        self._blind = b"" if blind else b"null" if plan.optional_float else None

    def __repr__(self) -> str:
        return f"<Shape of {name_of(self.type)}>"

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
                raise self._misfit(f"{value} has no form in JSON", NON_FINITE_MEND)
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
        if b"null" in stored and holds_non_finite(value):
            raise self._misfit("NaN and infinity have no form in JSON", NON_FINITE_MEND)
        return stored.decode()

    def decode(self, text: str, what: str = "Stored JSON", name: str = "") -> Any:
        """Read stored JSON text as the declared type; ``what`` and ``name`` say whose it is.

        Raises:
            DecodeError: the text is not JSON, or does not fit the declared type.
        """
        try:
            return self._decode(text)
        except Exception as error:  # codecs and models raise what they like
            raise DecodeError(
                f"{what}{f' {name!r}' if name else ''} does not read as {name_of(self.type)}: "
                f"{error}. If the type has "
                "changed since this was stored, let it accept the old form as well: give new "
                "fields a default, and keep the old names."
            ) from error

    def _write(self, value: Any) -> bytes:
        prepare = self._plan.prepare
        try:
            prepared = value if prepare is None else prepare(value)
            text = self._encode(prepared)
            return in_order(prepared, text) if self._plan.sets_inside else text
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
        try:
            if self._plan.only_plain and is_plain(value):
                return
            difference = self._comparison.difference(value, back)
        except RecursionError as error:
            raise self._misfit("it is nested too deeply", _DEPTH_MEND) from error
        if difference is not None:
            raise self._misfit(str(difference), difference.mend)

    def _misfit(self, reason: str, mend: str | None = None) -> EncodeError:
        form = "untyped JSON" if self._plan.untyped else name_of(self.type)
        usual = _UNTYPED_MEND if self._plan.untyped_inside else _TYPED_MEND
        return EncodeError(f"The value cannot be stored as {form}: {reason}. {mend or usual}")
