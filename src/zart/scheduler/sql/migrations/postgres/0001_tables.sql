-- Cold: written once when scheduled, once when finished. The free space lets the second write
-- stay on the page (a HOT update), so that no index is touched by it; as long as no column that
-- it changes stands in an index, nor in the condition of one.
CREATE TABLE {executions} (
    id           text COLLATE "C" PRIMARY KEY,
    task         text NOT NULL,
    queue        text NOT NULL,
    priority     integer NOT NULL,
    input        text NOT NULL,
    status       text,                -- null while the execution is alive
    output       text,
    failure      text,
    run          integer NOT NULL,
    seed         bigint NOT NULL,
    attempt      integer NOT NULL DEFAULT 1,
    crashes      integer NOT NULL DEFAULT 0,
    parent_id    text COLLATE "C",
    parent_run   integer,
    parent_step  text COLLATE "C",
    created_at   bigint NOT NULL,
    started_at   bigint,
    finished_at  bigint
) WITH (fillfactor = 50);
CREATE INDEX {executions}_created ON {executions} (created_at, id);
CREATE INDEX {executions}_failures ON {executions} (created_at, id) WHERE failure IS NOT NULL;

-- The runs that a restart has superseded; the current one is the execution's own row.
CREATE TABLE {runs} (
    execution_id text COLLATE "C" NOT NULL,
    run          integer NOT NULL,
    status       text NOT NULL,
    output       text,
    failure      text,
    attempt      integer NOT NULL,
    started_at   bigint,
    finished_at  bigint,
    PRIMARY KEY (execution_id, run)
);

CREATE TABLE {steps} (
    execution_id text COLLATE "C" NOT NULL,
    run          integer NOT NULL,
    name         text COLLATE "C" NOT NULL,
    kind         text NOT NULL,
    position     integer NOT NULL,
    outcome      text,                -- null until it ends
    value        text,
    due_at       bigint,
    started_at   bigint,
    finished_at  bigint,
    PRIMARY KEY (execution_id, run, name)
);

-- Failed attempts only; step is empty for an attempt at the whole run.
CREATE TABLE {step_attempts} (
    execution_id text COLLATE "C" NOT NULL,
    run          integer NOT NULL,
    step         text COLLATE "C" NOT NULL,
    run_attempt  integer NOT NULL,
    attempt      integer NOT NULL,
    error        text NOT NULL,
    retry_at     bigint NOT NULL,
    deadline_at  bigint,
    started_at   bigint,
    failed_at    bigint NOT NULL,
    PRIMARY KEY (execution_id, run, step, run_attempt, attempt)
);

-- Hot: one row for each live execution (step is empty) or distributed step. At most one of
-- worker (claimed), ready_at (can be claimed) and due_at (sleeps) is set, or none (waits).
-- pending counts the children that a parked task waits for; -1: only due_at may wake it.
CREATE TABLE {tasks} (
    execution_id text COLLATE "C" NOT NULL,
    run          integer NOT NULL,
    step         text COLLATE "C" NOT NULL,
    queue        text COLLATE "C" NOT NULL,
    task         text COLLATE "C" NOT NULL,
    priority     integer NOT NULL,
    ready_at     bigint,
    due_at       bigint,
    worker       text COLLATE "C",
    epoch        bigint NOT NULL DEFAULT 0,
    wake_seq     bigint NOT NULL DEFAULT 0,
    pending      integer NOT NULL DEFAULT 0,
    attempt      integer NOT NULL DEFAULT 1,
    crashes      integer NOT NULL DEFAULT 0,
    started_at   bigint,
    input        text,
    PRIMARY KEY (execution_id, run, step)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX {tasks}_ready ON {tasks} (queue, task, priority, ready_at) WHERE ready_at IS NOT NULL;
CREATE INDEX {tasks}_due ON {tasks} (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX {tasks}_worker ON {tasks} (worker) WHERE worker IS NOT NULL;

CREATE TABLE {events} (
    execution_id text COLLATE "C" NOT NULL,
    sequence     bigint NOT NULL,     -- the task's wake sequence when it was delivered
    delivery     text NOT NULL,       -- tells a repeated delivery from a second event
    name         text NOT NULL,
    payload      text NOT NULL,
    taken_by     text,
    created_at   bigint NOT NULL,
    PRIMARY KEY (execution_id, sequence)
);

CREATE TABLE {workers} (
    id           text COLLATE "C" PRIMARY KEY,
    host         text NOT NULL,
    process      integer NOT NULL,
    concurrency  integer NOT NULL,
    session_lock bigint,              -- held by the heartbeat's session; null where none tells
    locked_at    bigint,
    started_at   bigint NOT NULL,
    beat_at      bigint NOT NULL,
    expires_at   bigint NOT NULL
);
