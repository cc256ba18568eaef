-- Cold: written once when scheduled, once when finished.
CREATE TABLE {executions} (
    id           text PRIMARY KEY,
    task         text NOT NULL,
    queue        text NOT NULL,
    priority     integer NOT NULL,
    input        text NOT NULL,
    status       text,                -- null while the execution is alive
    output       text,
    failure      text,
    run          integer NOT NULL,
    seed         integer NOT NULL,
    attempt      integer NOT NULL DEFAULT 1,
    crashes      integer NOT NULL DEFAULT 0,
    parent_id    text,
    parent_run   integer,
    parent_step  text,
    created_at   integer NOT NULL,
    started_at   integer,
    finished_at  integer
) WITHOUT ROWID;
CREATE INDEX {executions}_created ON {executions} (created_at, id);
CREATE INDEX {executions}_failures ON {executions} (created_at, id) WHERE failure IS NOT NULL;

-- The runs that a restart has superseded; the current one is the execution's own row.
CREATE TABLE {runs} (
    execution_id text NOT NULL,
    run          integer NOT NULL,
    status       text NOT NULL,
    output       text,
    failure      text,
    attempt      integer NOT NULL,
    started_at   integer,
    finished_at  integer,
    PRIMARY KEY (execution_id, run)
) WITHOUT ROWID;

CREATE TABLE {steps} (
    execution_id text NOT NULL,
    run          integer NOT NULL,
    name         text NOT NULL,
    kind         text NOT NULL,
    position     integer NOT NULL,
    outcome      text,                -- null until it ends
    value        text,
    due_at       integer,
    started_at   integer,
    finished_at  integer,
    PRIMARY KEY (execution_id, run, name)
) WITHOUT ROWID;

-- Failed attempts only; step is empty for an attempt at the whole run.
CREATE TABLE {step_attempts} (
    execution_id text NOT NULL,
    run          integer NOT NULL,
    step         text NOT NULL,
    run_attempt  integer NOT NULL,
    attempt      integer NOT NULL,
    error        text NOT NULL,
    retry_at     integer NOT NULL,
    deadline_at  integer,
    started_at   integer,
    failed_at    integer NOT NULL,
    PRIMARY KEY (execution_id, run, step, run_attempt, attempt)
) WITHOUT ROWID;

-- Hot: one row for each live execution (step is empty) or distributed step. At most one of
-- worker (claimed), ready_at (can be claimed) and due_at (sleeps) is set, or none (waits).
-- pending counts the children that a parked task waits for; -1: only due_at may wake it.
CREATE TABLE {tasks} (
    execution_id text NOT NULL,
    run          integer NOT NULL,
    step         text NOT NULL,
    queue        text NOT NULL,
    task         text NOT NULL,
    priority     integer NOT NULL,
    ready_at     integer,
    due_at       integer,
    worker       text,
    epoch        integer NOT NULL DEFAULT 0,
    wake_seq     integer NOT NULL DEFAULT 0,
    pending      integer NOT NULL DEFAULT 0,
    attempt      integer NOT NULL DEFAULT 1,
    crashes      integer NOT NULL DEFAULT 0,
    started_at   integer,
    input        text,
    PRIMARY KEY (execution_id, run, step)
) WITHOUT ROWID;
CREATE INDEX {tasks}_ready ON {tasks} (queue, task, priority, ready_at) WHERE ready_at IS NOT NULL;
CREATE INDEX {tasks}_due ON {tasks} (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX {tasks}_worker ON {tasks} (worker) WHERE worker IS NOT NULL;

CREATE TABLE {events} (
    execution_id text NOT NULL,
    sequence     integer NOT NULL,     -- the task's wake sequence when it was delivered
    delivery     text NOT NULL,       -- tells a repeated delivery from a second event
    name         text NOT NULL,
    payload      text NOT NULL,
    taken_by     text,
    created_at   integer NOT NULL,
    PRIMARY KEY (execution_id, sequence)
) WITHOUT ROWID;

CREATE TABLE {workers} (
    id           text PRIMARY KEY,
    host         text NOT NULL,
    process      integer NOT NULL,
    concurrency  integer NOT NULL,
    session_lock integer,              -- held by the heartbeat's session; null where none tells
    locked_at    integer,
    started_at   integer NOT NULL,
    beat_at      integer NOT NULL,
    expires_at   integer NOT NULL
) WITHOUT ROWID;
