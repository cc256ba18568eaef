"""What a worker with nothing to do costs, a second: statements and processor time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.plan import DATABASES, Cell, Scale, Values

__all__ = ["LABEL", "cells", "unit"]

LABEL = "a worker with nothing to do, a second"
SECONDS = 10.0


def unit(form: str, what: str) -> str:
    """The unit of one figure: how many workers or names, and what is counted."""
    return f"{form}: {what}"


def cells(scale: Scale) -> Iterator[Cell]:
    for kind in DATABASES:
        if scale.has("zart", kind):
            yield Cell(
                kind,
                LABEL,
                "idle",
                (str(2.0 if scale.quick else SECONDS),),
                _costs,
                group="idle",
                once=True,
                patience=300,
            )


def _costs(found: dict[str, Any]) -> Values:
    return {
        unit(form, what): [value] for form, costs in found.items() for what, value in costs.items()
    }
