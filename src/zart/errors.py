"""Every error that zart raises, in one tree.

::

    ZartError
    ├── DurationError               a duration that cannot be read (also a ValueError)
    ├── DefinitionError             a handler, step or rule that cannot work (also a TypeError)
    ├── SerializationError          a value that does not fit its declared type
    │   ├── EncodeError             ... on the way into the database
    │   └── DecodeError             ... on the way out of it
    ├── TaskError                   what a workflow can meet
    │   ├── StepError               a step ended without a result
    │   │   ├── StepFailedError
    │   │   ├── StepTimedOutError
    │   │   └── StepCancelledError
    │   ├── EventTimedOutError      the awaited event did not come in time
    │   ├── ChildFailedError        a child execution ended without a result
    │   ├── DuplicateStepError      one step name used twice in a run
    │   ├── DivergenceError         the code no longer matches the recorded history
    │   ├── SuspensionSwallowedError  the handler caught the signal that suspends it
    │   └── NotInExecutionError     a durable call outside an execution
    └── SchedulerError              what a caller can meet
        ├── UnknownTaskError
        ├── InvalidIdError          an id or name that cannot be stored
        ├── PayloadError            a payload that does not fit the task's type
        │   └── PayloadTooLargeError
        ├── ExecutionNotFoundError
        ├── ExecutionExistsError    the id is taken by another task or other input
        ├── ExecutionFinishedError  the execution has ended already
        ├── ExecutionFailedError    its result was asked for, and it failed
        ├── ExecutionCancelledError its result was asked for, and it was cancelled
        ├── WaitTimedOutError
        ├── MigrationError          the database's tables are missing, or do not fit this package
        └── DatabaseUnavailableError

Business errors, the ones a step lists in ``raises=``, keep their own class and stand outside this
tree.
"""

from __future__ import annotations

__all__ = [
    "ChildFailedError",
    "DatabaseUnavailableError",
    "DecodeError",
    "DefinitionError",
    "DivergenceError",
    "DuplicateStepError",
    "DurationError",
    "EncodeError",
    "EventTimedOutError",
    "ExecutionCancelledError",
    "ExecutionExistsError",
    "ExecutionFailedError",
    "ExecutionFinishedError",
    "ExecutionNotFoundError",
    "InvalidIdError",
    "MigrationError",
    "NotInExecutionError",
    "PayloadError",
    "PayloadTooLargeError",
    "SchedulerError",
    "SerializationError",
    "StepCancelledError",
    "StepError",
    "StepFailedError",
    "StepTimedOutError",
    "SuspensionSwallowedError",
    "TaskError",
    "UnknownTaskError",
    "WaitTimedOutError",
    "ZartError",
]


class ZartError(Exception):
    """Any error that zart raises about executions and their definition.

    Not under it: business errors of ``raises=``, `ValueError` and `TypeError` for wrong arguments,
    and what a driver says of a wrong password or missing rights.
    """


class DurationError(ZartError, ValueError):
    """A duration that is no length of time, negative, or over 1000 years: ``timeout="soon"``.

    Give a timedelta, seconds, or text such as ``"30s"``, ``"1h30m"``, ``"2d12h"``.
    """


class DefinitionError(ZartError, TypeError):
    """A handler, step, type or retry rule that cannot work as written; the message says what to do.

    Raised where it is defined or registered, at the latest where it is first used.
    """


class SerializationError(ZartError):
    """A value does not fit the type it is declared with, on the way in or out of the database."""


class EncodeError(SerializationError):
    """A value cannot be written as JSON so that the declared type reads it back.

    A step that returns such a value fails at once with a `StepFailedError`
    whose ``error_type`` names this class, and a workflow's own result or a loop's state fails the
    execution; an input or event is refused as a `PayloadError`. Mend the annotation, or give the
    `Serializer` a `Codec`.
    """


class DecodeError(SerializationError):
    """Stored JSON cannot be read as the declared type.

    An input, event or result of another type, or one that older code wrote. A run that ends with
    it is not tried again. Let the type accept the old form too: new fields with a default.
    """


class TaskError(ZartError):
    """What a workflow can meet while it runs: catch it there, or let the execution fail."""


class StepError(TaskError):
    """A step ended without a result; a replay raises the same again.

    ``step`` is its name. ``error_type`` (``"ValueError"``, ``"shop.NoStock"``), ``message`` and
    ``traceback`` are text, as recorded of what the step's function raised.
    """

    def __init__(
        self, text: str, *, step: str, error_type: str = "", message: str = "", traceback: str = ""
    ) -> None:
        super().__init__(text)
        self.step = step
        self.error_type = error_type
        self.message = message
        self.traceback = traceback


class StepFailedError(StepError):
    """The step's function raised, and its retries are spent.

    Raise another error ``from`` it where you must: only then do the execution's own retries run
    the step again.
    """


class StepTimedOutError(StepError):
    """The step did not end within its ``timeout``; final, whatever retries were left.

    With ``per_attempt=True`` it is raised when the last attempt was late. A plain ``def`` step
    runs on in its thread, its result ignored.
    """


class StepCancelledError(StepError):
    """A step that a worker ran by itself (`schedule_step`) was cancelled: it has no outcome."""


class EventTimedOutError(TaskError):
    """No event came within a wait's ``timeout``; recorded, so a replay raises it again.

    ``event`` is the event's name. Catch it where the workflow goes on without.
    """

    def __init__(self, text: str, *, event: str) -> None:
        super().__init__(text)
        self.event = event


class ChildFailedError(TaskError):
    """A child execution ended without a result; raised where its handle is awaited.

    ``child`` is its id. ``error_type`` and ``message`` tell what its handler raised, and are empty
    for one that was cancelled. An ``error_type`` of ``ExecutionExistsError`` says that its id
    belonged to another execution.
    """

    def __init__(self, text: str, *, child: str, error_type: str = "", message: str = "") -> None:
        super().__init__(text)
        self.child = child
        self.error_type = error_type
        self.message = message


class DuplicateStepError(TaskError):
    """One name was used twice in a run, of a step, wait, loop, child or patch.

    Each name stands for one record: put what the call is about into it (``f"page {n}"``).
    """


class DivergenceError(TaskError):
    """The code asks for another kind of thing than is recorded under a name.

    It was changed under a running execution. Bring the old code back, or guard the change with
    `patched`; `DurableScheduler.restart` runs from the top what has failed.
    """


class SuspensionSwallowedError(TaskError):
    """The handler caught the signal that suspends it, so it cannot give its slot back.

    Catch `Exception`, not `BaseException`, and re-raise in a bare ``except``.
    """


class NotInExecutionError(TaskError):
    """A durable call was made where no execution is running, or inside a step's function.

    Make it in the body of a workflow that a worker runs.
    """


class SchedulerError(ZartError):
    """What a caller of the scheduler can meet."""


class UnknownTaskError(SchedulerError):
    """No such task: neither a durable function, a handler, nor a name that the registry has.

    Names are only checked where the scheduler was given a ``registry``; without one, an execution
    of an unknown name waits for a worker that knows it.
    """


class InvalidIdError(SchedulerError, ValueError):
    """An id or a name that cannot be stored.

    It must be text of 1 to 200 characters, without control characters, and without white space at
    its ends. In a workflow ``on_failure`` is kept for zart's own record.
    """


class PayloadError(SchedulerError):
    """An input, argument or event does not fit its declared type; nothing was written.

    `schedule_many` raises it too for a number of ``ids`` other than that of the items.
    """


class PayloadTooLargeError(PayloadError):
    """An input, argument or event is over the size limit, 1 MiB of JSON unless set otherwise.

    Store it elsewhere and pass a reference, or raise ``max_payload`` of `connect`.
    """


class ExecutionNotFoundError(SchedulerError):
    """No execution has this id, or it has no such run: check the id, the URL and the table prefix.

    One that was scheduled in a transaction of yours, by ``connection=``, exists once you have
    committed.
    """


class ExecutionExistsError(SchedulerError):
    """The id is taken by another task, or by the same task with other input; give another id."""


class ExecutionFinishedError(SchedulerError):
    """The execution has ended: no event can be delivered, and nothing cancelled.

    `DurableScheduler.restart` begins a new run of it.
    """


class ExecutionFailedError(SchedulerError):
    """The execution failed, so it has no result.

    ``error_type``, ``message`` and ``traceback`` are text, as recorded of what its handler raised;
    the type is ``ExecutionTimedOut`` when its time was over, ``CrashLoop`` when it had taken its
    worker down too often. Where it failed for a step, ``step`` is that one's name and
    ``step_type`` what its function raised, as in `Failure`.
    """

    def __init__(
        self,
        text: str,
        *,
        execution_id: str,
        error_type: str = "",
        message: str = "",
        traceback: str = "",
        step: str = "",
        step_type: str = "",
    ) -> None:
        super().__init__(text)
        self.execution_id = execution_id
        self.error_type = error_type
        self.message = message
        self.traceback = traceback
        self.step = step
        self.step_type = step_type


class ExecutionCancelledError(SchedulerError):
    """The execution, ``execution_id``, was cancelled, so it has no result."""

    def __init__(self, text: str, *, execution_id: str) -> None:
        super().__init__(text)
        self.execution_id = execution_id


class WaitTimedOutError(SchedulerError, TimeoutError):
    """The execution did not end within the time that you gave; it goes on, so wait again."""


class MigrationError(SchedulerError):
    """The database's zart tables are missing or older than this package needs: migrate.

    Also raised where a newer zart has changed them so that this one cannot go on: bring the
    package up to date. Newer tables are otherwise no error.
    """


class DatabaseUnavailableError(SchedulerError):
    """The database could not be reached, or kept failing for 30 seconds.

    Whether the last try was committed is not known; the message says what a repeated call does.
    """
