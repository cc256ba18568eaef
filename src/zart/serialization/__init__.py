"""Values as JSON text that reads back as the type they were declared with.

::

    Serializer ── shape(type) ──> Shape ── encode, decode, record
        │                           │
        codecs                      reads with msgspec, then compares what came back

msgspec does the work wherever it can. Four things are added to it here:

- What msgspec refuses, because JSON alone cannot tell it apart (two dataclasses in one union,
  ``datetime | str``, enums with values of any kind), is stored with a tag. A *plan* says how: the
  type that msgspec reads, in which a placeholder class stands wherever zart reads by itself, and
  a function that prepares a value for writing.
- A value is compared with what its JSON reads back as, so a value that JSON would change without
  a word (NaN, a tuple in untyped data, the fields of a subclass) is an error and not a surprise
  after a crash.
- The members of a set are stored in order, so that equal sets have one text in every process.
- Pydantic models and the classes of a `Codec` are read and written by their own means.

Each room may use those below it::

    serializer
    shape                planner
    comparison   order   tagging
    plan                 declaration
    kinds                codec
"""

from zart.serialization.codec import Codec
from zart.serialization.serializer import Serializer
from zart.serialization.shape import Shape

__all__ = ["Codec", "Serializer", "Shape"]
