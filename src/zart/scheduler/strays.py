"""Strays: claims that a worker owns in the database and has no run of.

Their claim was committed and its answer lost, or the answer is still on its way: it may be slow, or
wait for the rest of a batch. A stray is given back after a while, and runs again elsewhere; so an
answer that comes later than that must not begin it here.
"""

from __future__ import annotations

import time
from collections.abc import Set as AbstractSet

from zart.models import Claim

__all__ = ["STRAY", "Strays"]

STRAY = 3.0
"""Seconds after which a claim that no run here knows of is given back."""


class Strays:
    """A worker's strays, and those it has given back that an answer may still bring."""

    def __init__(self) -> None:
        self._since: dict[Claim, float] = {}
        self._given_back: set[Claim] = set()

    def __bool__(self) -> bool:
        """True while there are any."""
        return bool(self._since)

    def to_give_back(self, strays: AbstractSet[Claim]) -> list[Claim]:
        """Of those that are strays now, the ones that have been for too long.

        From here on they are not `wanted`: whoever begins one while it is being given back would
        begin what is ready for everyone.
        """
        now = time.monotonic()
        self._since = {claim: self._since.get(claim, now) for claim in strays}
        again = [claim for claim, since in self._since.items() if now - since >= STRAY]
        self._given_back.update(again)
        return again

    def wanted(self, claim: Claim) -> bool:
        """True for a claim that may begin: it has not been given back meanwhile."""
        return claim not in self._given_back

    def all_answered(self) -> None:
        """No answer is on its way that could bring one that was given back."""
        self._given_back.clear()
