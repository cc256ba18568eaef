"""Retry rules."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any, Self

from zart.duration import Duration, seconds
from zart.errors import DefinitionError

__all__ = ["RetryConfig", "checked_retries", "checked_rule"]


@dataclass(frozen=True)
class RetryConfig:
    """How often and when a failed step or execution is tried again.

    Made by `none`, `fixed` and `exponential`. ``max_retries`` counts the tries after the first;
    ``only`` lists the error types that are worth another try (all `Exception` by default) and
    ``never`` those that are not. ``initial`` and ``max_delay`` are in seconds here. Raises
    `DefinitionError` for a count that is none, a ``jitter`` outside of 0 to 1, a ``factor`` that
    is not above 0, and what is no exception class among ``only`` and ``never``.

    ::

        RetryConfig.exponential(5, "1s", max_delay="1m", jitter=0.2, never=(ValueError,))
    """

    max_retries: int = 0
    initial: float = 0.0
    factor: float = 1.0
    max_delay: float = 3600.0
    jitter: float = 0.0
    only: tuple[type[BaseException], ...] = (Exception,)
    never: tuple[type[BaseException], ...] = field(default=())

    def __post_init__(self) -> None:
        checked_retries(self.max_retries)
        for name in ("factor", "jitter"):
            if not isinstance(given := getattr(self, name), int | float):
                raise DefinitionError(f"{name} is a number, not {given!r:.80}")
        if not 0 <= self.jitter <= 1:
            raise DefinitionError(f"jitter is a share between 0 and 1, not {self.jitter}")
        if not 0 < self.factor < math.inf:
            raise DefinitionError(f"factor is a number above 0, not {self.factor}")
        _exceptions("only", self.only)
        _exceptions("never", self.never)

    @classmethod
    def none(cls) -> Self:
        """No retry: the first failure counts. The rule of a step about which nothing is said."""
        return cls()

    @classmethod
    def fixed(
        cls,
        max_retries: int,
        delay: Duration,
        *,
        jitter: float = 0.0,
        only: tuple[type[BaseException], ...] = (Exception,),
        never: tuple[type[BaseException], ...] = (),
    ) -> Self:
        """Up to ``max_retries`` more tries, each after the same delay, a duration.

        ``jitter`` is the share of it that is left to chance, between 0 and 1; it only shortens.
        Raises `DurationError`, `DefinitionError`.

        ::

            RetryConfig.fixed(5, "10s", only=(ConnectionError,))
        """
        pause = seconds(delay, what="delay")
        return cls(max_retries, pause, 1.0, max(pause, 3600.0), jitter, only, never)

    @classmethod
    def exponential(
        cls,
        max_retries: int,
        initial: Duration,
        *,
        max_delay: Duration = "1h",
        factor: float = 2.0,
        jitter: float = 0.0,
        only: tuple[type[BaseException], ...] = (Exception,),
        never: tuple[type[BaseException], ...] = (),
    ) -> Self:
        """Up to ``max_retries`` more tries, the delay growing by ``factor`` up to ``max_delay``.

        The first delay is ``initial``; both are durations. ``jitter`` is the share of each delay
        that is left to chance, between 0 and 1; it only shortens. Raises `DurationError`,
        `DefinitionError`.

        ::

            RetryConfig.exponential(4, "1s")  # after 1, 2, 4 and 8 seconds
        """
        return cls(
            max_retries,
            seconds(initial, what="initial"),
            factor,
            seconds(max_delay, what="max_delay"),
            jitter,
            only,
            never,
        )

    def allows(self, error: BaseException, attempt: int) -> bool:
        """True when this error of this attempt (from 1) is worth another try."""
        return (
            attempt <= self.max_retries
            and isinstance(error, self.only)
            and not isinstance(error, self.never)
        )

    def delay(self, attempt: int) -> float:
        """Seconds to wait after the failure of this attempt (from 1), chance included."""
        try:
            pause = min(self.max_delay, self.initial * self.factor ** (attempt - 1))
        except OverflowError:
            pause = self.max_delay
        return pause * (1 - self.jitter * random.random())


def checked_retries(value: Any, what: str = "max_retries") -> None:
    """Expect a number of retries; raises `DefinitionError`."""
    if type(value) is not int or value < 0:
        raise DefinitionError(f"{what} is a whole number from 0 on, not {value!r:.80}")


def checked_rule(value: Any, what: str = "retry") -> None:
    """Expect a rule for retries, or none; raises `DefinitionError`."""
    if not isinstance(value, RetryConfig | None):
        raise DefinitionError(
            f"{what} is a RetryConfig, such as RetryConfig.fixed(3, '2s'), not {value!r:.80}"
        )


def _exceptions(what: str, given: Any) -> None:
    for kind in given if isinstance(given, tuple) else (given,):  # pyright: ignore[reportUnknownVariableType]
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise DefinitionError(f"{what} lists exception classes; {kind!r} is none")
