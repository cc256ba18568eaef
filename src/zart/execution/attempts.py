"""Attempts at a step: run it, bound it, try it again, and say how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from zart.clock import DatabaseClock
from zart.duration import describe
from zart.errors import EncodeError, PayloadTooLargeError
from zart.execution.failure import failure_of, is_own, write_failure
from zart.execution.step import StepRules
from zart.models import Claim, Failure, Outcome, RecordedAttempt
from zart.scheduler.entries import AttemptRow
from zart.serialization import Serializer, Shape

__all__ = ["Ended", "Surroundings", "attempt_row", "attempts", "recorded_value"]

_log = logging.getLogger("zart.step")


class Ended(msgspec.Struct, frozen=True, gc=False):
    """How a step ended: its outcome, the JSON that is recorded, and the value read back from it."""

    outcome: str
    text: str
    value: Any = None
    attempts: tuple[AttemptRow, ...] = ()


class Surroundings(Protocol):
    """Where attempts are made: an execution's run, or a worker's run of a distributed step."""

    @property
    def clock(self) -> DatabaseClock: ...

    @property
    def serializer(self) -> Serializer: ...

    @property
    def max_payload(self) -> int: ...

    @property
    def stopping(self) -> bool:
        """True when a cancellation comes from zart: nothing is recorded then."""
        ...

    @property
    def claim(self) -> Claim: ...

    @property
    def run_attempt(self) -> int:
        """Which attempt at the run this is; 0 for a distributed step, which counts by itself."""
        ...

    async def record_attempt(self, row: AttemptRow) -> None:
        """Commit a failed attempt at a step that is still recorded; unwinds for a lost claim."""
        ...

    async def back_off(self, step: str, retry_at: int, number: int) -> None:
        """Wait until then; a long wait suspends."""
        ...


def recorded_value(
    around: Surroundings, kind: str, name: str, shape: Shape, value: Any
) -> tuple[str, Any]:
    """A value's JSON and what a replay reads from it; ``kind`` and ``name`` say whose it is.

    Raises `EncodeError` or `PayloadTooLargeError`.
    """
    try:
        text, value = shape.record(value)
    except EncodeError as error:
        raise EncodeError(
            f"{kind} {name!r} returned a value that cannot be recorded: {error}"
        ) from error
    limit = around.max_payload
    if len(text) > limit // 4 and len(text.encode()) > limit:
        raise PayloadTooLargeError(
            f"{kind} {name!r} returned {len(text.encode()):,} bytes of JSON, {limit:,} are allowed:"
            " store it elsewhere and return a reference, or raise max_payload"
        )
    return text, value


async def attempts(
    around: Surroundings,
    name: str,
    call: Callable[[], Awaitable[tuple[str, Any]]],
    rules: StepRules,
    earlier: RecordedAttempt | None = None,
    raised: tuple[BaseException, int] | None = None,
) -> Ended:
    """Try a step until it has an outcome.

    ``call`` gives the recorded text and value; ``earlier`` is the last failed attempt that a
    former life of this run recorded; ``raised`` what a first attempt, made without a timeout, has
    just raised, and when it began.
    """
    clock = around.clock
    number = 1
    deadline: int | None = None
    before: Failure | None = None
    if earlier is not None:
        number, deadline = earlier.attempt + 1, earlier.deadline_at
        await around.back_off(name, earlier.retry_at, number)
        before = msgspec.json.decode(earlier.error, type=Failure)
    elif rules.timeout is not None and not rules.per_attempt:
        deadline = clock.now_at() + int(rules.timeout * 1_000_000)
    while True:
        if raised is not None:
            (error, started), expired = raised, False
            raised = None
        else:
            started = clock.now_at()
            if before is not None and deadline is not None and started >= deadline:
                # Nobody was there in time; another attempt would begin after the step's end.
                return Ended(Outcome.TIMED_OUT, write_failure(_no_time_left(before)))
            limit = rules.timeout if deadline is None else max((deadline - started) / 1_000_000, 0)
            ended = await _one_attempt(call, limit)
            if isinstance(ended, Ended):
                return ended
            error, expired = ended
        if around.stopping:
            raise asyncio.CancelledError from error  # it comes of being stopped, and is no outcome
        timed_out = expired and deadline is not None
        failure, final = _failure(around, name, rules, error, expired)
        last = Outcome.TIMED_OUT if expired else Outcome.FAILED
        if timed_out or final or not rules.retry.allows(error, number):
            return _ended(around, name, last, failure, number, deadline, started)
        retry_at = clock.now_at() + int(rules.retry.delay(number) * 1_000_000)
        if deadline is not None and retry_at >= deadline:
            late = _no_time_left(failure)
            return _ended(around, name, Outcome.TIMED_OUT, late, number, deadline, started)
        _log.info(
            "execution %r: step %r: attempt %d failed: %s: %s",
            around.claim.execution_id,
            name,
            number,
            failure.type,
            failure.message,
        )
        row = attempt_row(around, name, number, write_failure(failure), retry_at, deadline, started)
        await around.record_attempt(row)
        number += 1
        await around.back_off(name, retry_at, number)
        before = failure


def _failure(
    around: Surroundings, name: str, rules: StepRules, error: BaseException, expired: bool
) -> tuple[Failure, bool]:
    """What is recorded of a failed attempt, and whether another one would be pointless."""
    if expired:
        # A deploy may have taken the time-out away; the deadline was recorded with it.
        limit = "its time" if rules.timeout is None else describe(rules.timeout)
        return Failure("TimeoutError", f"it did not end within {limit}"), False
    business = isinstance(error, rules.raises) if rules.raises else False
    failure = failure_of(error, step=name, business=business, serializer=around.serializer)
    return failure, business or isinstance(error, EncodeError | PayloadTooLargeError)


async def _one_attempt(
    call: Callable[[], Awaitable[tuple[str, Any]]], limit: float | None
) -> Ended | tuple[BaseException, bool]:
    """What one attempt gave; or what it raised, and whether that was because its time was over."""
    bound: asyncio.Timeout | None = None
    try:
        if limit is None:
            text, value = await call()
        else:
            bound = asyncio.timeout(limit)
            async with bound:
                text, value = await call()
    except BaseException as error:
        if not is_own(error):
            raise
        late = bound is not None and isinstance(error, TimeoutError) and bound.expired()
        return error, late
    return Ended(Outcome.OK, text, value)


def attempt_row(
    around: Surroundings,
    step: str,
    number: int,
    error: str,
    retry_at: int,
    deadline_at: int | None,
    started_at: int,
) -> AttemptRow:
    """The row of a failed attempt at a step, or at the run itself where ``step`` is empty."""
    claim = around.claim
    return (
        claim.execution_id,
        claim.run,
        step,
        around.run_attempt,
        number,
        error,
        retry_at,
        deadline_at,
        started_at,
    )


def _no_time_left(last: Failure) -> Failure:
    return Failure(
        last.type,
        f"no time is left for another attempt; the last one failed with {last.type}:"
        f" {last.message}",
        last.traceback,
    )


def _ended(
    around: Surroundings,
    name: str,
    outcome: str,
    failure: Failure,
    number: int,
    deadline: int | None,
    started: int,
) -> Ended:
    """The end of a step without a result; its last attempt is kept like the others."""
    text = write_failure(failure)
    row = attempt_row(around, name, number, text, started, deadline, started)
    return Ended(outcome, text, None, (row,))
