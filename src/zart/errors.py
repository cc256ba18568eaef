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
        ├── MigrationError          the database's tables are missing, older or newer
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
    """The root of every error that zart raises."""


class DurationError(ZartError, ValueError):
    """A duration that zart cannot read."""


class DefinitionError(ZartError, TypeError):
    """A handler, step or retry rule that cannot work as written; raised when it is defined."""


class SerializationError(ZartError):
    """A value does not fit the type it is declared with."""


class EncodeError(SerializationError):
    """A value cannot be written as JSON so that the declared type reads it back."""


class DecodeError(SerializationError):
    """Stored JSON cannot be read as the declared type."""


class TaskError(ZartError):
    """What a workflow can meet while it runs."""


class StepError(TaskError):
    """A step ended without a result.

    ``step`` is its name, ``error_type``, ``message`` and ``traceback`` tell what the step's
    function raised, as it was recorded; a replay raises the same.
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
    """The step's function raised, and its retries are spent."""


class StepTimedOutError(StepError):
    """The step did not end within its timeout; terminal, whatever retries were left."""


class StepCancelledError(StepError):
    """A distributed step was cancelled before it had an outcome."""


class EventTimedOutError(TaskError):
    """The awaited event did not come in time; the execution goes on with this outcome."""

    def __init__(self, text: str, *, event: str) -> None:
        super().__init__(text)
        self.event = event


class ChildFailedError(TaskError):
    """A child execution ended as failed or cancelled; ``child`` is its id."""

    def __init__(self, text: str, *, child: str, error_type: str = "", message: str = "") -> None:
        super().__init__(text)
        self.child = child
        self.error_type = error_type
        self.message = message


class DuplicateStepError(TaskError):
    """One explicit step name was used twice in a run."""


class DivergenceError(TaskError):
    """The handler asks for something else than what its history recorded at this name."""


class SuspensionSwallowedError(TaskError):
    """The handler caught the signal that suspends it, so it cannot give its slot back."""


class NotInExecutionError(TaskError):
    """A durable call was made where no execution is running."""


class SchedulerError(ZartError):
    """What a caller of the scheduler can meet."""


class UnknownTaskError(SchedulerError):
    """The scheduler's registry has no task of this name."""


class InvalidIdError(SchedulerError, ValueError):
    """An execution id, task name, step name or event name that cannot be stored."""


class PayloadError(SchedulerError):
    """A payload does not fit the type that the task or event declares."""


class PayloadTooLargeError(PayloadError):
    """A payload is over the size limit."""


class ExecutionNotFoundError(SchedulerError):
    """No execution has this id."""


class ExecutionExistsError(SchedulerError):
    """The id is taken by another task, or by the same task with other input."""


class ExecutionFinishedError(SchedulerError):
    """The execution has ended; nothing more can be delivered to it."""


class ExecutionFailedError(SchedulerError):
    """The execution failed, so it has no result.

    ``error_type``, ``message`` and ``traceback`` tell what its handler raised.
    """

    def __init__(
        self,
        text: str,
        *,
        execution_id: str,
        error_type: str = "",
        message: str = "",
        traceback: str = "",
    ) -> None:
        super().__init__(text)
        self.execution_id = execution_id
        self.error_type = error_type
        self.message = message
        self.traceback = traceback


class ExecutionCancelledError(SchedulerError):
    """The execution was cancelled, so it has no result."""


class WaitTimedOutError(SchedulerError, TimeoutError):
    """The execution did not end within the time the caller was willing to wait; it goes on."""


class MigrationError(SchedulerError):
    """The database's zart tables are missing, or of another version than this package needs."""


class DatabaseUnavailableError(SchedulerError):
    """The database could not be reached, or kept failing; nothing is known to be written."""
