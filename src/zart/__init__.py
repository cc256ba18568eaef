"""zart: durable execution in the database you already have.

A workflow is an ordinary function. Each step's result is recorded in PostgreSQL, MySQL/MariaDB or
SQLite; after a crash, restart or deploy the function is run again and finished steps hand back
what they recorded.

Three layers, each usable without the one above it:

``zart.decorators``  ``@durable`` and ``@step``: a function becomes a handler; beside them
                     ``zart.functions``, what its body may call
``zart.execution``   `TaskHandler`, `TaskContext`, `TaskRegistry`: what one run does, replay
``zart.scheduler``   `DurableScheduler`, `Worker`: what survives a crash (claims, leases, fences,
                     the journal, events), over one SQL engine and a dialect for each database

Imports run downwards only. Start reading at ``execution/executor.py`` for what happens to a
claimed task, and at ``scheduler/sql/transitions`` for every change of state.
"""

from zart import errors as _errors
from zart.decorators import Durable, Step, durable, step
from zart.duration import Duration
from zart.errors import *  # noqa: F403
from zart.execution.context import TaskContext
from zart.execution.fanout import ChildHandle, StepHandle
from zart.execution.handler import TaskHandler
from zart.execution.loop import DurableLoop
from zart.execution.registry import TaskRegistry
from zart.execution.retry import RetryConfig
from zart.execution.worker import Worker
from zart.functions import (
    capture,
    context,
    durable_loop,
    now,
    patched,
    random,
    schedule_step,
    sleep,
    sleep_until,
    start_child,
    transaction,
    uuid,
    wait_all,
    wait_for_event,
)
from zart.models import (
    Attempt,
    Execution,
    Failure,
    Outcome,
    Status,
    StepRecord,
    TaskDefinition,
    WorkerRecord,
)
from zart.scheduler.config import WorkerConfig
from zart.scheduler.connect import (
    Connecting,
    MySQLScheduler,
    PostgresScheduler,
    SqliteScheduler,
    connect,
)
from zart.scheduler.durable import DurableScheduler, Handle
from zart.scheduler.findings import Finding, FindingLevel
from zart.scheduler.protocol import Scheduler
from zart.serialization import Codec, Serializer

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "ChildHandle",
    "Codec",
    "Connecting",
    "Durable",
    "DurableLoop",
    "DurableScheduler",
    "Duration",
    "Execution",
    "Failure",
    "Finding",
    "FindingLevel",
    "Handle",
    "MySQLScheduler",
    "Outcome",
    "PostgresScheduler",
    "RetryConfig",
    "Scheduler",
    "Serializer",
    "SqliteScheduler",
    "Status",
    "Step",
    "StepHandle",
    "StepRecord",
    "TaskContext",
    "TaskDefinition",
    "TaskHandler",
    "TaskRegistry",
    "Worker",
    "WorkerConfig",
    "WorkerRecord",
    "capture",
    "connect",
    "context",
    "durable",
    "durable_loop",
    "now",
    "patched",
    "random",
    "schedule_step",
    "sleep",
    "sleep_until",
    "start_child",
    "step",
    "transaction",
    "uuid",
    "wait_all",
    "wait_for_event",
]
__all__ += _errors.__all__
